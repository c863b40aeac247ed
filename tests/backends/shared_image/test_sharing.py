"""Sharing a picture gives the loss and the gradients of a row for each question: every family, in fp32."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Any

import pytest
import torch

from tests.families import BUILDERS
from tests.families.data import picture, samples, settings
from vizsage.backends.hf import load_base
from vizsage.backends.lora import add_adapter
from vizsage.backends.shared_image.sharing import Sharing, share_images
from vizsage.config import Config
from vizsage.data.collate import TrainCollator
from vizsage.data.sample import Sample
from vizsage.training.loss import count_targets, summed_loss

FAMILIES = sorted(BUILDERS)
WORDS = "what which colour woman couch baby light painting left right two green see blue".split()
LORA_LOSS, LORA_GRADIENT = 1e-5, 1e-4


@functools.cache
def model_of(family: str, vision: bool) -> tuple[Any, Any, Config]:
    """A model whose adapter is no longer the zero that it begins as, and its processor."""
    config = settings(family, finetune_vision_layers=vision, use_gradient_checkpointing=False)
    loaded = load_base(config)
    model = add_adapter(loaded, config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model.train(), loaded.processor, config


def sharing_of(model: Any, processor: Any, config: Config) -> Sharing:
    sharing = share_images(model.get_base_model(), processor, config)
    assert sharing is not None
    return sharing


def group(size: int, seed: int, *, descriptions: bool) -> list[Sample]:
    """`size` questions of random length on one picture, some with its description."""
    rng = Random(seed)
    shape = rng.choice([(40, 30), (30, 90), (64, 64), (90, 20)])
    image = replace(picture(rng.choice(["red", "blue", "green"]), *shape), name=f"{seed}.png")
    found = []
    for number in range(size):
        question = " ".join(rng.choice(WORDS) for _ in range(rng.randint(1, 12)))
        answer = " ".join(rng.choice(WORDS) for _ in range(rng.randint(1, 4)))
        description = "The painting shows a woman sitting on a couch." if descriptions and number % 2 else None
        found.append(Sample(f"{seed}-{number}", image, question, answer, description is not None, description))
    return found


def gradients(model: Any) -> dict[str, torch.Tensor]:
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad and p.grad is not None}
    model.zero_grad()
    return found


def run(
    model: Any, batches: Sequence[dict[str, Any]], sharing: Sharing | None
) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of the mean over the answer tokens of all `batches`."""
    tokens, total = sum(count_targets(batch) for batch in batches), 0.0
    for batch in batches:
        batch = {name: value for name, value in batch.items() if name != "left_out"}
        loss, _ = summed_loss(model, sharing.with_positions(batch) if sharing else batch, sharing)
        (loss / tokens).backward()
        total += loss.item() / tokens
    return total, gradients(model)


def assert_same(family: str, asked: Sequence[Sample], *, vision: bool = False) -> None:
    model, processor, config = model_of(family, vision)
    plain, expected = run(model, [TrainCollator(processor, config)(asked)], None)
    sharing = sharing_of(model, processor, config)
    shared, found = run(model, [TrainCollator(processor, config, share_images=True)(asked)], sharing)
    assert shared == pytest.approx(plain, abs=LORA_LOSS)
    assert expected.keys() == found.keys()
    for name in expected:
        distance = (found[name] - expected[name]).norm() / expected[name].norm().clamp(min=1e-12)
        assert distance < LORA_GRADIENT, f"{name}: {distance:.2e}"


@pytest.mark.parametrize("vision", [False, True], ids=["language", "vision"])
@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_gradients_are_those_of_plain_rows(family: str, vision: bool) -> None:
    """9 questions on 4 pictures of different shapes, some with descriptions."""
    assert_same(family, samples(), vision=vision)


@pytest.mark.parametrize("size", range(1, 12))
@pytest.mark.parametrize("family", FAMILIES)
def test_groups_of_each_size(family: str, size: int) -> None:
    assert_same(family, group(size, seed=size, descriptions=size % 2 == 0))


@pytest.mark.parametrize("vision", [False, True], ids=["language", "vision"])
@pytest.mark.parametrize("family", FAMILIES)
def test_mixed_groups_with_and_without_descriptions(family: str, vision: bool) -> None:
    asked = [s for seed, size in ((20, 11), (21, 1), (22, 4)) for s in group(size, seed, descriptions=seed != 21)]
    assert_same(family, asked, vision=vision)
