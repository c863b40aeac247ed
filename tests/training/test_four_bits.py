"""Training on a base whose weights are held in 4 bits, as on a GPU: bitsandbytes computes on a CPU, too."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText

from vizsage.config import Config
from vizsage.models.loading.hf import quantisation
from vizsage.training import attempt
from vizsage.training.train import train


def test_what_is_trained_is_kept_in_float32(
    make_config: Callable[..., Config], data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In bfloat16 a norm's weights would stay what they are at this learning rate."""
    in_4_bits = {"quantization_config": quantisation(torch.float32), "device_map": {"": "cpu"}}
    load = partial(AutoModelForImageTextToText.from_pretrained, **in_4_bits)
    monkeypatch.setattr(AutoModelForImageTextToText, "from_pretrained", load)
    # Its kernels for one row, which generation needs, are not for sizes as small as these.
    monkeypatch.setattr(attempt.TrainingAttempt, "_show_example", lambda *_: "")
    (data_dir / "Dots" / "val.json").unlink()
    trainers: list[Any] = []
    before: dict[str, torch.Tensor] = {}

    class Kept(attempt.VisionTrainer):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            trainers.append(self)
            before.update({n: p.detach().clone() for n, p in self.model.named_parameters() if p.requires_grad})

    monkeypatch.setattr(attempt, "VisionTrainer", Kept)
    train(make_config(max_steps=3, finetune_norm_layers=True, lr=2e-4))
    [trainer] = trainers
    assert trainer.model.is_loaded_in_4bit
    after = {name: p for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert {p.dtype for p in after.values()} == {torch.float32}
    assert {state["exp_avg"].dtype for state in trainer.optimizer.state.values()} == {torch.float32}
    norms = [name for name in after if "norm" in name]
    assert norms
    assert all((after[name] != before[name]).any() for name in norms)
