"""What vizsage-tiny is trained on: drawn paintings and texts about them, as arrays."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

import numpy as np
from PIL import Image
from transformers import PreTrainedTokenizerFast

from vizsage.demo import paintings
from vizsage.demo.tiny import corpus
from vizsage.demo.tiny.architecture import BOS, EOT, IMAGE_PX, IMAGE_TOKEN

ATTRIBUTES = {
    "background": len(paintings.BACKGROUNDS),
    "left_shape": len(paintings.SHAPES),
    "left_colour": len(paintings.COLOURS),
    "right_shape": len(paintings.SHAPES),
    "right_colour": len(paintings.COLOURS),
    "thing": len(paintings.THINGS),
    "count": len(paintings.COUNTS),
    "row": 2,
}


@dataclass(frozen=True)
class Schedule:
    """How much is trained. The defaults made the weights in the package."""

    scenes: int = 150_000
    visual_texts: int = 8  # examples per scene without a description
    fact_texts: int = 5  # examples per scene with one
    vision_steps: int = 1_500
    steps: int = 2_409
    batch_size: int = 512
    lr: float = 1.5e-3
    seed: int = 0


@dataclass(frozen=True)
class Material:
    """Pre-training data: N images and M examples, whose T tokens are in one array."""

    pixels: np.ndarray  # (N, 3, IMAGE_PX, IMAGE_PX) uint8
    attributes: np.ndarray  # (N, len(ATTRIBUTES)) int64
    image_of: np.ndarray  # (M,) int64
    tokens: np.ndarray  # (T,) int16
    starts: np.ndarray  # (M,) int64, where an example begins in tokens
    lengths: np.ndarray  # (M,) int64
    prompt_lengths: np.ndarray  # (M,) int64


def _scene_attributes(scene: paintings.Scene) -> list[int]:
    return [
        list(paintings.BACKGROUNDS).index(scene.background),
        paintings.SHAPES.index(scene.left_shape),
        list(paintings.COLOURS).index(scene.left_colour),
        paintings.SHAPES.index(scene.right_shape),
        list(paintings.COLOURS).index(scene.right_colour),
        paintings.THINGS.index(scene.thing),
        scene.count - 1,
        int(scene.row == "top"),
    ]


Block = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def _make_block(job: tuple[str, range, Schedule, PreTrainedTokenizerFast]) -> Block:
    """Draw the scenes with these numbers: pixels, attributes, tokens, lengths and prompt lengths."""
    name, numbers, plan, tokenizer = job
    pixels, attributes, prompts, replies = [], [], [], []
    for number in numbers:
        rng = Random(f"{name}-{plan.seed}-{number}")
        scene = paintings.random_scene(rng)
        image = paintings.draw(scene, rng).resize((IMAGE_PX, IMAGE_PX), Image.Resampling.BILINEAR)
        pixels.append(np.asarray(image).transpose(2, 0, 1))
        attributes.append(_scene_attributes(scene))
        for text in range(plan.visual_texts + plan.fact_texts):
            parts, reply = corpus.exchange(scene, rng, with_description=text >= plan.visual_texts)
            user = "".join(part.get("text", IMAGE_TOKEN) for part in parts)
            prompts.append(
                f"{BOS}<|start_header_id|>user<|end_header_id|>\n\n{user}{EOT}"
                "<|start_header_id|>assistant<|end_header_id|>\n\n"
            )
            replies.append(reply + EOT)
    prompt_ids = tokenizer(prompts, add_special_tokens=False)["input_ids"]
    reply_ids = tokenizer(replies, add_special_tokens=False)["input_ids"]
    examples = [prompt + reply for prompt, reply in zip(prompt_ids, reply_ids, strict=True)]
    return (
        np.stack(pixels),
        np.array(attributes),
        np.concatenate([np.array(example, np.int16) for example in examples]),
        np.array([len(example) for example in examples]),
        np.array([len(prompt) for prompt in prompt_ids]),
    )


def make_material(name: str, plan: Schedule, scenes: int, tokenizer: PreTrainedTokenizerFast) -> Material:
    """Draw and describe scenes on all cores. They depend on `name` and seed, not on the number of cores."""
    block = 250
    jobs = [(name, range(first, min(first + block, scenes)), plan, tokenizer) for first in range(0, scenes, block)]
    with multiprocessing.get_context("spawn").Pool(max(1, (os.cpu_count() or 2) - 1)) as pool:
        made = pool.imap(_make_block, jobs)
        pixels, attributes, tokens, lengths, prompt_lengths = map(np.concatenate, zip(*made, strict=True))
    return Material(
        pixels=pixels,
        attributes=attributes,
        image_of=np.repeat(np.arange(scenes), plan.visual_texts + plan.fact_texts),
        tokens=tokens,
        starts=np.cumsum(lengths) - lengths,
        lengths=lengths,
        prompt_lengths=prompt_lengths,
    )


def batches(material: Material, batch_size: int, seed: int) -> Iterator[np.ndarray]:
    """Endless batches of indices of examples; those of a batch have similar lengths. Raises ValueError for too few."""
    rng = np.random.default_rng(seed)
    together = min(64, len(material.lengths) // batch_size)  # batches whose examples are sorted by length together
    if together == 0:
        raise ValueError(f"{len(material.lengths)} examples do not fill a batch of {batch_size}")
    while True:
        order = rng.permutation(len(material.lengths))
        for start in range(0, len(order) - together * batch_size + 1, together * batch_size):
            chunk = order[start : start + together * batch_size]
            chunk = chunk[np.argsort(material.lengths[chunk], kind="stable")].reshape(together, batch_size)
            yield from chunk[rng.permutation(together)]
