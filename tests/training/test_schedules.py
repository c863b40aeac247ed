"""The learning rate over a run, for every scheduler and settings at their bounds."""

from __future__ import annotations

from itertools import product
from typing import get_args

import pytest
import torch
from transformers import get_scheduler

from vizsage.config import SCHEDULERS, build_config
from vizsage.errors import ConfigError
from vizsage.training.trainer_arguments import trainer_arguments


@pytest.mark.parametrize("scheduler", get_args(SCHEDULERS))
def test_every_schedule_that_is_allowed_can_be_followed(scheduler: str) -> None:
    """Its rates are between 0 and `lr`, which is reached; where that cannot be, the settings are refused."""
    refused = []
    for lr, steps, warmup in product((5e-324, 1e-7, 1.1e-7, 1.0), (1, 2, 5), (0, 1, 10**15)):
        settings = {"scheduler": scheduler, "lr": lr, "warmup_steps": warmup, "device": "cpu", "use_bf16": False}
        try:
            config = build_config(settings)
        except ConfigError:
            refused.append(lr)
            continue
        arguments = trainer_arguments(config, total_steps=steps, seed=0)
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
        schedule = get_scheduler(arguments.lr_scheduler_type, optimizer, int(arguments.warmup_steps), steps)
        rates = []
        for _ in range(steps):
            rates.append(schedule.get_last_lr()[0])
            optimizer.step()
            schedule.step()
        assert max(rates) == lr
        assert min(rates) >= 0
    assert set(refused) == ({5e-324, 1e-7} if scheduler == "polynomial" else set())
