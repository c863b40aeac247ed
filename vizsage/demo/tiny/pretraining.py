"""How vizsage-tiny learns: the vision tower to classify what a painting shows, then the whole model to describe it."""

from __future__ import annotations

import logging
import time
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import MllamaConfig, MllamaForConditionalGeneration

from vizsage.demo.tiny.material import ATTRIBUTES, Material, Schedule, batches

log = logging.getLogger(__name__)


def vision_inputs(pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    """What Mllama's processor makes of images of one tile each, from uint8 pixels (B, 3, H, W)."""
    count = pixels.shape[0]
    return {
        "pixel_values": (pixels.float() / 127.5 - 1).view(count, 1, 1, *pixels.shape[1:]),
        "aspect_ratio_ids": torch.ones(count, 1, dtype=torch.long, device=pixels.device),
        "aspect_ratio_mask": torch.ones(count, 1, 1, dtype=torch.long, device=pixels.device),
    }


def text_inputs(material: Material, rows: np.ndarray, config: MllamaConfig, device: str) -> dict[str, torch.Tensor]:
    """Token ids, masks and labels (of replies only) of the examples `rows`, padded to a multiple of 8."""
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
    """Classifies a scene's attributes from the vision tower's output, one attention query per attribute; not saved."""

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
    """Teach the vision tower to recognise the attributes of a scene. `pixels` is material.pixels on the device."""
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
    """Mean loss per token on the examples of `material`, with their images or with grey ones."""
    device = str(model.device)
    losses = []
    for rows in np.array_split(np.arange(len(material.lengths)), max(1, len(material.lengths) // 256)):
        images = torch.from_numpy(material.pixels[material.image_of[rows]]).to(device)
        if blank:
            images = torch.full_like(images, 128)
        inputs = text_inputs(material, rows, model.config, device)
        losses.append(model(**inputs, **vision_inputs(images), use_cache=False).loss.item())
    return float(np.mean(losses))
