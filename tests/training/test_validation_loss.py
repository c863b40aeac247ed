"""The validation loss is the mean over the answer tokens, whichever way the samples are cut into batches."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from vizsage.config import Config
from vizsage.data.collate import IGNORED, TrainCollator
from vizsage.data.sample import Sample
from vizsage.data.sources import open_split
from vizsage.models.adapters.lora import add_adapter
from vizsage.models.loading.backends import load_base
from vizsage.models.loading.hardware import resolve_for_hardware
from vizsage.models.shared_image.sharing import share_images
from vizsage.training.validation import LossSum, choose_samples, validation_loss


@pytest.fixture
def config(make_config: Callable[..., Config], data_dir: Path) -> Config:
    """Answers of different lengths, so that a mean over samples would be another number."""
    path = data_dir / "Dots" / "val.json"
    records = json.loads(path.read_text())
    for number, record in enumerate(records):
        record["answer"] = " ".join(["square"] * (1 + number % 3))
    path.write_text(json.dumps(records))
    return resolve_for_hardware(make_config())[0]


@pytest.fixture
def loaded(config: Config) -> tuple[Any, Any, list[Sample]]:
    """The model with an adapter that changes its answers, in train mode with dropout; processor and samples."""
    base = load_base(config)
    model = add_adapter(base, config)
    torch.manual_seed(0)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    model.train()
    return model, base.processor, choose_samples(open_split(config, "val").load(), 6)


def plain_loss(model: Any, processor: Any, samples: list[Sample], config: Config) -> float:
    """One row per question, all logits, no dropout."""
    collate = TrainCollator(processor, config.model_copy(update={"share_images": False}))
    losses: list[torch.Tensor] = []
    model.eval()
    for sample in samples:
        batch = collate.plain([sample])
        labels = batch.pop("labels")
        batch.pop("left_out")
        with torch.no_grad():
            logits = model(**batch).logits
        each = cross_entropy(logits[0, :-1], labels[0, 1:], ignore_index=IGNORED, reduction="none")
        losses += each[labels[0, 1:] != IGNORED]
    model.train()
    return float(torch.stack(losses).mean())


@pytest.mark.parametrize("share", [True, False])
def test_it_is_that_of_one_row_per_question_and_leaves_the_model_as_it_was(
    config: Config, loaded: tuple[Any, Any, list[Sample]], share: bool
) -> None:
    model, processor, samples = loaded
    sharing = share_images(model.get_base_model(), processor, config) if share else None
    assert (sharing is not None) is share
    collate = TrainCollator(processor, config, share_images=share)
    expected = plain_loss(model, processor, samples, config)
    before = torch.get_rng_state()
    for batch_size in (1, 2, 8):
        found = validation_loss(model, samples, collate, sharing, batch_size=batch_size)
        assert found is not None
        assert found.mean == pytest.approx(expected, rel=1e-5)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    assert all(weight.grad is None for weight in model.parameters())
    too_long = replace(samples[0], question="what " * 5000)  # left out, as training leaves it out
    found = validation_loss(model, [*samples[1:], too_long], collate, sharing, batch_size=2)
    assert found is not None
    assert found.mean == pytest.approx(plain_loss(model, processor, samples[1:], config), rel=1e-5)
    assert validation_loss(model, [too_long], collate, sharing, batch_size=2) == LossSum(0.0, 0)
    assert LossSum(0.0, 0).mean is None


def test_a_signal_ends_it_and_a_loss_that_is_not_finite_is_none(
    config: Config, loaded: tuple[Any, Any, list[Sample]], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, processor, samples = loaded
    collate = TrainCollator(processor, config)
    assert validation_loss(model, samples, collate, None, batch_size=2, stop=lambda: True) is None
    monkeypatch.setattr("vizsage.training.validation.summed_loss", lambda *_: (torch.tensor(float("nan")), None))
    found = validation_loss(model, samples, collate, None, batch_size=2)
    assert found is not None
    assert found.total is found.mean is None
    assert found.tokens > 0
