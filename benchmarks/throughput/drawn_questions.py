"""The generated data set of a measurement: images and questions in the layout of AQUA."""

from __future__ import annotations

import json
import os
import random
from itertools import cycle
from pathlib import Path
from typing import Any

from PIL import Image, ImageFilter

from benchmarks.throughput.words import WORDS
from vizsage.config import Config, build_config
from vizsage.data.sample import Sample
from vizsage.data.sources import open_split
from vizsage.files import write_text

DRAWN = 24  # images that are drawn; the others are links to them, which every contender treats as different images
ANSWERS = ("a woman", "two", "the river", "red")
SPREAD_WORDS = 8


def group_sizes(mean: float) -> list[int]:
    """Questions of each of ten images: small and large groups, `mean` exactly on average (in tenths)."""
    total = round(10 * mean)
    if total < 10:
        raise ValueError(f"{mean:g} questions per image: an image has one at least")
    base, more = divmod(total, 10)
    sizes = [base] * (10 - more) + [base + 1] * more
    if base > 1:
        for i in (0, 1):
            sizes[i] -= 1
            sizes[-1 - i] += 1
    return sizes


def write_questions(folder: Path, *, mean: float, questions: int, words: int, size: tuple[int, int]) -> Path:
    """Write at least `questions` questions of about `words` words, `mean` per image of `size` pixels; returns `folder`.

    All of the text is the question's own, so that nothing but the image and the instruction can be shared.
    """
    generator = random.Random(0)
    images = folder / "Images"
    images.mkdir(parents=True)
    _draw(images, size, generator)
    records: list[dict[str, Any]] = []
    for number, group in enumerate(cycle(group_sizes(mean))):
        if len(records) >= questions:
            break
        name = f"{number:05d}.jpg"
        if number >= DRAWN:
            os.link(images / f"{number % DRAWN:05d}.jpg", images / name)
        for _ in range(group):
            length = max(1, words + generator.randint(-SPREAD_WORDS, SPREAD_WORDS))
            question = " ".join(generator.choice(WORDS) for _ in range(length))
            answer = generator.choice(ANSWERS)
            records.append({"image": name, "question": question, "answer": answer, "need_external_knowledge": False})
    write_text(folder / "AQUA" / "train.json", json.dumps(records))
    return folder


def data_settings(folder: Path) -> dict[str, Any]:
    """The settings that read it."""
    return {"base_path": str(folder), "dataset": "AQUA"}


def read_samples(folder: Path) -> tuple[Config, list[Sample]]:
    """Settings and samples, read as this project reads them, so that every contender has the very same text."""
    config = build_config(data_settings(folder))
    return config, open_split(config, "train").load()


def _draw(images: Path, size: tuple[int, int], generator: random.Random) -> None:
    """Smooth images with some grain, which compress like photographs."""
    grain = Image.effect_noise(size, 24).filter(ImageFilter.GaussianBlur(1)).convert("RGB")
    for number in range(DRAWN):
        coarse = Image.frombytes("RGB", (8, 6), generator.randbytes(144)).resize(size, Image.Resampling.BICUBIC)
        Image.blend(coarse, grain, 0.3).save(images / f"{number:05d}.jpg", quality=88)
