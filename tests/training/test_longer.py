"""A run that is given more steps: what it trains, with which learning rate, and that interruptions change nothing."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.training.test_continuation import curves, train_with_signal
from tests.training.test_train import adapter_bytes, outcome
from vizsage.config import Config, build_config
from vizsage.contract.run_files import Extension
from vizsage.errors import ConfigError, Interrupted
from vizsage.json_lines import read_jsonl
from vizsage.training import attempt
from vizsage.training.longer import rate_factor
from vizsage.training.train import train

MakeConfig = Callable[..., Config]


def copied(config: Config, name: str, **changes: Any) -> Config:
    """A copy of the run, with some settings changed."""
    folder = config.output_dir.with_name(name)
    shutil.copytree(config.output_dir, folder)
    return config.model_copy(update={"output_dir": folder, **changes})


def rates(config: Config) -> list[float]:
    return [line["lr"] for line in read_jsonl(config.output_dir / "metrics.jsonl") if "loss" in line]


def last_weights(config: Config) -> bytes:
    return (config.output_dir / "checkpoint-9" / "adapter_model.safetensors").read_bytes()


def scored(monkeypatch: pytest.MonkeyPatch, *scores: float) -> None:
    """Validations have these scores."""
    validate, left = attempt.validate, iter(scores)

    def validated(*args: Any, **kwargs: Any) -> dict[str, Any]:
        return {**(validate(*args, **kwargs) or {}), "exact_match_score": next(left)}

    monkeypatch.setattr(attempt, "validate", validated)


def test_more_steps_continue_a_finished_run_and_an_interruption_changes_nothing(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first = make_config(max_steps=4, logging_steps=1, eval_steps=100, warmup_steps=2, n_saves=4, val_samples=1)
    train(first)
    delivered = adapter_bytes(first)
    more = {"max_steps": 8, "longer_schedule": "rewarm"}
    whole = copied(first, "whole", **more)
    with caplog.at_level("INFO"):
        train(whole)
    assert (
        "trained to step 4 with a schedule for 4 steps; now to step 8, longer_schedule: rewarm: the learning rate of "
        "the next step is 0, that of the last one was 0.005" in caplog.text
    )
    assert outcome(whole) == {"exit_code": 0, "reason": "done", "step": 8, "attempt": 2}
    assert rates(whole) == pytest.approx([0, 0.005, 0.01, 0.005] * 2)
    assert adapter_bytes(whole) != delivered
    record = json.loads((whole.output_dir / "run.json").read_text())
    assert record["identity"]["extensions"] == [{"at_step": 4, "from_steps": 4, "to_steps": 8, "schedule": "rewarm"}]
    assert record["total_steps"] == 8
    assert "from 4 to 8 steps, longer_schedule: rewarm" in (whole.adapter_dir / "README.md").read_text()

    stopped = copied(first, "stopped", **more)
    with pytest.raises(Interrupted, match="after step 6 of 8"):
        train_with_signal(monkeypatch, stopped, 6, signal.SIGTERM)
    assert adapter_bytes(stopped) == delivered, "it is replaced when the longer run delivers"
    harmed = copied(stopped, "harmed")
    train(stopped)
    assert adapter_bytes(stopped) == adapter_bytes(whole)
    assert curves(stopped) == curves(whole)
    # Checkpoint 3 is from before the extension, which run.json has at step 4.
    for name in ("checkpoint-4", "checkpoint-6"):
        (harmed.output_dir / name / "adapter_model.safetensors").unlink()
    train(harmed)
    assert adapter_bytes(harmed) == adapter_bytes(whole)
    assert rates(harmed) == rates(whole)
    assert train(stopped).step == 8, "done"
    assert outcome(stopped)["attempt"] == 3


def test_where_the_schedule_has_no_horizon_a_longer_run_is_one_that_was_planned_so(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    """Samples, dropout, optimizer and learning rate of every step; the number of questions per pass may change."""
    settings = {
        "scheduler": "constant_with_warmup",
        "warmup_steps": 2,
        "use_streaming": True,
        "logging_steps": 1,
        "val_samples": 1,
    }
    planned = make_config(**settings, epochs=2, output_dir=str(tmp_path / "planned"))
    train(planned)
    longer = make_config(**settings, epochs=1)
    train(longer)
    assert outcome(longer)["step"] == 5
    train(longer.model_copy(update={"epochs": 2.0}))
    assert outcome(longer) == {"exit_code": 0, "reason": "done", "step": 9, "attempt": 2}
    assert last_weights(longer) == last_weights(planned)
    losses = [[line for line in curves(config) if "loss" in line] for config in (longer, planned)]
    assert losses[0] == losses[1]


def test_what_early_stopping_ended_goes_on_with_more_patience(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Validated at each step, no better score since step 2; a patience of 0.25 is 3 steps of 9, and of 12."""
    scored(monkeypatch, *[0.1, 0.6, *[0.5] * 7], 0.1, 0.6, *[0.5] * 10)
    quick = {"eval_steps": 1, "scheduler": "constant", "val_samples": 1, "max_new_tokens": 1, "lora_dropout": 0.0}
    plain = make_config(**quick, output_dir=str(make_config().output_dir) + "-plain")
    train(plain)
    patience = {"use_early_stopping": True, "early_stopping_patience_ratio": 0.25}
    config = make_config(**quick, **patience)
    assert train(config).step == 5
    assert train(config).step == 5, "done"
    with pytest.raises(
        ConfigError, match=r"early stopping ended this run at step 5.*patience_ratio \(now 0.25\) above"
    ):
        train(config.model_copy(update={"max_steps": 12}))
    assert outcome(config)["attempt"] == 1
    on = config.model_copy(update={"use_early_stopping": False})
    assert train(on).step == 9
    assert last_weights(on) == last_weights(plain)
    assert curves(on) == curves(plain)
    assert train(on.model_copy(update={"max_steps": 10})).best_step == 2, "it still competes"


def test_an_interrupted_run_is_made_longer_from_where_it_is(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = make_config(max_steps=4, logging_steps=1, eval_steps=100, warmup_steps=0, val_samples=1)
    with pytest.raises(Interrupted):
        train_with_signal(monkeypatch, config, 2, signal.SIGTERM)
    train(config.model_copy(update={"max_steps": 5}))
    assert rates(config) == pytest.approx([0.01, 0.0075, 0.006, 0.004, 0.002])
    train(config.model_copy(update={"max_steps": 7, "longer_schedule": "constant"}))
    assert rates(config)[5:] == [0.01, 0.01]
    record = json.loads((config.output_dir / "run.json").read_text())
    assert [one["at_step"] for one in record["identity"]["extensions"]] == [2, 5]


@pytest.mark.parametrize(
    ("schedule", "since_9"),
    [("stretch", [6, 5, 4, 3, 2, 1]), ("rewarm", [0, 5, 10, 7.5, 5, 2.5]), ("constant", [10] * 6)],
)
def test_the_rate_of_each_step(schedule: str, since_9: list[float]) -> None:
    """A linear schedule of 9 steps with a warm-up, made longer at step 9 to 15; then by 2 steps at a constant rate."""
    config = build_config({"scheduler": "linear", "warmup_steps": 3 if schedule != "rewarm" else 2, "lr": 1e-3})
    before = [rate_factor(config, 9, ())(step) for step in range(9)]
    more = [
        Extension(at_step=9, from_steps=9, to_steps=15, schedule=schedule),
        Extension(at_step=15, from_steps=15, to_steps=17, schedule="constant"),
    ]
    factor = rate_factor(config, 17, more)
    if schedule == "stretch":
        since_9 = [10 * (15 - step) / 12 for step in range(9, 15)]
    found = [factor(step) for step in range(17)]
    assert found[:9] == before
    assert found[9:] == pytest.approx([rate / 10 for rate in since_9] + [1, 1])
