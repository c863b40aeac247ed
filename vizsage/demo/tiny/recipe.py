"""Train vizsage-tiny from scratch: `python -m vizsage.demo.tiny.recipe --out DIR`.

First the vision tower learns to tell what a drawn painting shows, then the whole model learns to write about it.
Needs torch, transformers and Pillow only. Ten minutes on one GPU; hours on a CPU. README.md beside this file says how
the weights in the package were made.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from transformers import MllamaConfig, MllamaForConditionalGeneration, PreTrainedTokenizerFast

from vizsage.demo import paintings
from vizsage.demo.tiny import corpus
from vizsage.demo.tiny.architecture import (
    BOS,
    EOT,
    IMAGE_PX,
    IMAGE_TOKEN,
    build_model,
    build_processor,
    build_tokenizer,
    save,
)

log = logging.getLogger(__name__)

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
    visual_texts: int = 8  # examples without a description for each scene
    fact_texts: int = 5  # and with one
    vision_steps: int = 1_500
    steps: int = 2_409
    batch_size: int = 512
    lr: float = 1.5e-3
    seed: int = 0


# --- images and texts ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Material:
    """Pre-training data in arrays: N images, M examples, whose T tokens stand in one row."""

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
    """Scenes `numbers` of the stream `name`: pixels, attributes, tokens, lengths and prompt lengths."""
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
    """Draw and describe `scenes` scenes on all cores. They depend on `name` and seed, not on the number of cores."""
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
    """Endless batches of example indices, of like length within a batch."""
    rng = np.random.default_rng(seed)
    together = min(64, len(material.lengths) // batch_size)  # so many batches are sorted by length together
    if together == 0:
        raise ValueError(f"{len(material.lengths)} examples do not fill a batch of {batch_size}")
    while True:
        order = rng.permutation(len(material.lengths))
        for start in range(0, len(order) - together * batch_size + 1, together * batch_size):
            chunk = order[start : start + together * batch_size]
            chunk = chunk[np.argsort(material.lengths[chunk], kind="stable")].reshape(together, batch_size)
            yield from chunk[rng.permutation(together)]


# --- training --------------------------------------------------------------------------------------------------------


def vision_inputs(pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    """uint8 pixels (B, 3, H, W) -> what Mllama's processor makes of an image that fills one tile."""
    count = pixels.shape[0]
    return {
        "pixel_values": (pixels.float() / 127.5 - 1).view(count, 1, 1, *pixels.shape[1:]),
        "aspect_ratio_ids": torch.ones(count, 1, dtype=torch.long, device=pixels.device),
        "aspect_ratio_mask": torch.ones(count, 1, 1, dtype=torch.long, device=pixels.device),
    }


def text_inputs(material: Material, rows: np.ndarray, config: MllamaConfig, device: str) -> dict[str, torch.Tensor]:
    """Token ids, masks and labels (reply only) of the examples `rows`, padded to a multiple of 8."""
    width = -(-int(material.lengths[rows].max()) // 8) * 8
    place = np.arange(width)
    inside = place < material.lengths[rows, None]
    reply = inside & (place >= material.prompt_lengths[rows, None])
    ids = material.tokens[np.where(inside, material.starts[rows, None] + place, 0)].astype(np.int64)
    text: Any = config.text_config
    ids[~inside] = text.pad_token_id
    inputs = {
        "input_ids": ids,
        "attention_mask": inside.astype(np.int64),
        "cross_attention_mask": (ids == config.image_token_index).cumsum(1)[:, :, None, None],
        "labels": np.where(reply, ids, -100),
    }
    return {name: torch.from_numpy(array).to(device) for name, array in inputs.items()}


class AttributeReader(nn.Module):
    """Reads a scene's attributes off the vision tower, one attention query each; thrown away after training."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(len(ATTRIBUTES), width) * width**-0.5)
        self.keys = nn.Linear(width, width)
        self.heads = nn.ModuleList(nn.Linear(width, size) for size in ATTRIBUTES.values())

    def forward(self, states: torch.Tensor) -> list[torch.Tensor]:
        """For each attribute its logits (B, classes), from states (B, patches, width)."""
        weights = torch.softmax(self.queries @ self.keys(states).transpose(1, 2), dim=-1)
        return [head(pooled) for head, pooled in zip(self.heads, (weights @ states).unbind(1), strict=True)]


def _optimizer(parameters: list[nn.Parameter], lr: float, steps: int) -> tuple[Any, Any]:
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": 0.05},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98))
    warmup = min(200, steps // 10 + 1)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, 0.5 + 0.5 * np.cos(np.pi * min(1, step / steps)) + 1e-3)
    )
    return optimizer, schedule


def train_vision(
    model: MllamaForConditionalGeneration, pixels: torch.Tensor, material: Material, plan: Schedule
) -> None:
    """Teach the vision tower to tell the attributes of a scene. `pixels` is material.pixels on the device."""
    tower, device = model.model.vision_model, pixels.device
    vision: Any = model.config.vision_config
    reader = AttributeReader(vision.vision_output_dim).to(device)
    attributes = torch.from_numpy(material.attributes).to(device)
    optimizer, schedule = _optimizer([*tower.parameters(), *reader.parameters()], plan.lr, plan.vision_steps)
    generator = torch.Generator().manual_seed(plan.seed)
    for step in range(plan.vision_steps):
        rows = torch.randint(len(pixels), (plan.batch_size,), generator=generator).to(device)
        states = tower(**vision_inputs(pixels[rows])).last_hidden_state.flatten(1, 3)
        logits = reader(states)
        losses = [nn.functional.cross_entropy(found, attributes[rows, i]) for i, found in enumerate(logits)]
        torch.stack(losses).sum().backward()
        nn.utils.clip_grad_norm_(tower.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 250 == 0 or step == plan.vision_steps - 1:
            hits = [(found.argmax(-1) == attributes[rows, i]).float().mean().item() for i, found in enumerate(logits)]
            log.info("vision step %d: right %s", step, " ".join(map("{} {:.2f}".format, ATTRIBUTES, hits)))


def train_model(
    model: MllamaForConditionalGeneration, pixels: torch.Tensor, material: Material, plan: Schedule
) -> None:
    """Teach the whole model to write the reply of each example."""
    device = str(pixels.device)
    optimizer, schedule = _optimizer(list(model.parameters()), plan.lr, plan.steps)
    stream = batches(material, plan.batch_size, plan.seed)
    started = time.monotonic()
    for step in range(plan.steps):
        rows = next(stream)
        images = pixels[torch.from_numpy(material.image_of[rows]).to(pixels.device)]
        inputs = text_inputs(material, rows, model.config, device)
        loss = model(**inputs, **vision_inputs(images), use_cache=False).loss
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 250 == 0 or step == plan.steps - 1:
            log.info("step %d: loss %.4f, %.0f s", step, loss.item(), time.monotonic() - started)


@torch.no_grad()
def caption_loss(model: MllamaForConditionalGeneration, material: Material, *, blank: bool) -> float:
    """Mean loss a token on the examples of `material`, with their images or with grey ones."""
    device = str(model.device)
    losses = []
    for rows in np.array_split(np.arange(len(material.lengths)), max(1, len(material.lengths) // 256)):
        images = torch.from_numpy(material.pixels[material.image_of[rows]]).to(device)
        if blank:
            images = torch.full_like(images, 128)
        inputs = text_inputs(material, rows, model.config, device)
        losses.append(model(**inputs, **vision_inputs(images), use_cache=False).loss.item())
    return float(np.mean(losses))


def run(out: Path, plan: Schedule) -> dict[str, float]:
    """Train and save the model. Returns the caption loss on held-out images, with the image and with a blank."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(plan.seed)
    torch.set_float32_matmul_precision("high")
    tokenizer = build_tokenizer(plan.seed)
    processor = build_processor(tokenizer)
    started = time.monotonic()
    material = make_material("pretrain", plan, plan.scenes, tokenizer)
    held_out = make_material("held-out", plan, 100, tokenizer)
    log.info("%d examples of %.0f tokens in %.0f s", *_sizes(material), time.monotonic() - started)
    model = build_model(tokenizer).train()
    model.to(device=device)
    log.info("%d parameters on %s", sum(p.numel() for p in model.parameters()), device)
    pixels = torch.from_numpy(material.pixels).to(device)
    train_vision(model, pixels, material, plan)
    train_model(model, pixels, material, plan)
    model.eval()
    figures = {
        "loss": caption_loss(model, held_out, blank=False),
        "loss_blank": caption_loss(model, held_out, blank=True),
    }
    log.info("held out: %s, %.0f s in all", figures, time.monotonic() - started)
    save(model, processor, out)
    return figures


def _sizes(material: Material) -> tuple[int, float]:
    return len(material.lengths), float(material.lengths.mean())


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description="Train vizsage-tiny from scratch.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "weights", help="folder for the weights")
    for name, value in vars(Schedule()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value, help=f"default {value}")
    arguments = vars(parser.parse_args())
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    run(arguments.pop("out"), Schedule(**arguments))


if __name__ == "__main__":
    main()
