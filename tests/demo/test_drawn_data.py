"""The demo data set: AQUA's layout, the real table's header and encoding, answers that can be known, nothing shared."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pytest
from PIL import Image, ImageChops, ImageStat

from vizsage.demo import paintings
from vizsage.demo.drawn_data import HEADER, SPLIT_IMAGES, describe, write_demo
from vizsage.errors import DataError

SHARED = Path(__file__).parents[3] / "shared" / "data" / "aqua" / "semart_val.csv"
Records = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    write_demo(folder)
    return folder


@pytest.fixture(scope="module")
def records(folder: Path) -> Records:
    return {split: json.loads((folder / "Demo" / f"{split}.json").read_text("utf-8")) for split in SPLIT_IMAGES}


@pytest.fixture(scope="module")
def table(folder: Path) -> dict[str, list[str]]:
    lines = (folder / "semart.csv").read_text("latin-1").splitlines()
    return {line.split("\t")[0]: line.split("\t") for line in lines}


def test_counts_and_fields(tmp_path: Path, records: Records) -> None:
    counts = write_demo(tmp_path, seed=0)
    for split, images in SPLIT_IMAGES.items():
        samples = records[split]
        assert {tuple(sample) for sample in samples} == {("image", "question", "answer", "need_external_knowledge")}
        assert counts[split] == {
            "images": images,
            "samples": len(samples),
            "with_external_knowledge": sum(sample["need_external_knowledge"] for sample in samples),
        }
        assert set(Counter(sample["image"] for sample in samples).values()) <= {4, 5}
        assert len({sample["image"] for sample in samples}) == images
    assert 200 <= len(records["test"]) <= 300


def test_visual_questions_stand_first_and_neighbours_share_an_image(records: Records) -> None:
    for samples in records.values():
        needs = [sample["need_external_knowledge"] for sample in samples]
        assert needs == sorted(needs)
        for need in (False, True):
            images = [sample["image"] for sample in samples if sample["need_external_knowledge"] == need]
            assert images == sorted(images)


def test_no_image_in_two_splits(folder: Path, records: Records) -> None:
    names = [{sample["image"] for sample in samples} for samples in records.values()]
    assert len(set.union(*names)) == sum(map(len, names))
    files = list((folder / "Images").iterdir())
    assert {file.name for file in files} == set.union(*names)
    assert len({file.read_bytes() for file in files}) == len(files)


def test_images_are_images(folder: Path) -> None:
    with Image.open(folder / "Images" / "00001-painting.jpg") as image:
        assert image.format == "JPEG"
        assert image.convert("RGB").size == (paintings.SIZE_PX, paintings.SIZE_PX)


def test_table_is_like_the_real_one(folder: Path, table: dict[str, list[str]]) -> None:
    raw = (folder / "semart.csv").read_bytes()
    assert raw.split(b"\n")[0].decode() == "\t".join(HEADER)
    assert {len(row) for row in table.values()} == {len(HEADER)}
    assert len(table) == 1 + sum(SPLIT_IMAGES.values())
    with pytest.raises(UnicodeDecodeError):
        raw.decode("utf-8")
    assert any("é" in row[2] or "É" in row[2] for row in table.values())


def test_header_is_the_real_one() -> None:
    if not SHARED.exists():
        pytest.skip("needs ../shared/data/aqua")
    assert SHARED.read_text("latin-1").splitlines()[0] == "\t".join(HEADER)


def test_knowledge_answers_stand_in_the_description(records: Records, table: dict[str, list[str]]) -> None:
    for sample in (sample for samples in records.values() for sample in samples):
        description = table[sample["image"]][HEADER.index("DESCRIPTION")]
        told = re.search(rf"\b{re.escape(sample['answer'])}\b", description, re.IGNORECASE) is not None
        assert told == sample["need_external_knowledge"], sample


def test_blind_guessing_is_poor(records: Records) -> None:
    """The most frequent answer to each question in training, given to every such question in test."""
    for need, most in ((False, 0.3), (True, 0.2)):
        train = [s for s in records["train"] if s["need_external_knowledge"] == need]
        test = [s for s in records["test"] if s["need_external_knowledge"] == need]
        answers: dict[str, Counter[str]] = {}
        for sample in train:
            answers.setdefault(sample["question"], Counter())[sample["answer"]] += 1
        guesses = {question: counter.most_common(1)[0][0] for question, counter in answers.items()}
        hits = sum(guesses.get(sample["question"]) == sample["answer"] for sample in test)
        assert hits / len(test) < most


def test_same_seed_same_bytes_other_seed_other_data(folder: Path, tmp_path: Path) -> None:
    write_demo(tmp_path / "same", seed=0)
    write_demo(tmp_path / "other", seed=1)
    files = [file.relative_to(folder) for file in sorted(folder.rglob("*")) if file.is_file()]
    assert all((folder / file).read_bytes() == (tmp_path / "same" / file).read_bytes() for file in files)
    assert all((folder / file).read_bytes() != (tmp_path / "other" / file).read_bytes() for file in files)
    assert not list((tmp_path / "same").rglob(".*"))


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="cannot be written"):
        write_demo(tmp_path / "file")


def test_painting_follows_its_scene() -> None:
    """Left and right shape are where the scene has them, in its colours."""
    for number in range(20):
        rng = Random(number)
        scene = paintings.random_scene(rng)
        image = paintings.draw(scene, rng)
        for side, colour in ((range(20, 90), scene.left_colour), (range(105, 175), scene.right_colour)):
            wanted = paintings.COLOURS[colour]
            pixels = [image.getpixel((x, y)) for x in side for y in range(50, 145)]
            near = sum(max(abs(a - b) for a, b in zip(pixel, wanted, strict=True)) <= 10 for pixel in pixels)
            assert near > 300, (number, scene)


def test_painting_scales() -> None:
    scene = paintings.random_scene(Random(3))
    small = paintings.draw(scene, Random(3), 96)
    large = paintings.draw(scene, Random(3), 192).resize((96, 96))
    assert small.size == (96, 96)
    assert ImageStat.Stat(ImageChops.difference(small.convert("L"), large.convert("L"))).mean[0] < 12


def test_descriptions_tell_what_they_say_they_tell() -> None:
    for number in range(50):
        rng = Random(number)
        scene = paintings.random_scene(rng)
        text, told = describe(scene.facts, rng)
        assert 4 <= len(told) <= 5
        assert {"author", "year"} <= set(told)
        for fact, value in scene.facts.items():
            assert (value.lower() in text.lower()) == (fact in told)
