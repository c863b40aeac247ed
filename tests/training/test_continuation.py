"""A run that was stopped or killed anywhere ends with the very adapter of a run that was not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.event_files import read_scalars
from tests.families.data import damage_adapter
from tests.training.test_train import adapter_bytes, outcome
from vizsage.config import Config
from vizsage.errors import CheckpointError, Interrupted
from vizsage.files import sha256_file
from vizsage.json_lines import read_jsonl
from vizsage.training import attempt, checkpoints
from vizsage.training.flow import Flow
from vizsage.training.metrics_log import metrics_lines
from vizsage.training.train import train

MakeConfig = Callable[..., Config]
STEPS = 9


def curves(config: Config) -> list[dict[str, Any]]:
    """metrics.jsonl without what a clock or a restart may change; a step's loss before its validation."""
    lines = read_jsonl(config.output_dir / "metrics.jsonl")
    plain = (
        {k: v for k, v in line.items() if k not in ("attempt", "samples_per_s", "data_wait_share")} for line in lines
    )
    return sorted(plain, key=lambda line: (line["step"], "exact_match" in line))


def train_with_signal(monkeypatch: pytest.MonkeyPatch, config: Config, step: int, number: int) -> None:
    """Train, and be sent the signal while `step` is under way."""
    original = Flow.on_step_begin if "on_step_begin" in vars(Flow) else None

    def on_step_begin(self: Flow, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        if state.global_step == step - 1:
            os.kill(os.getpid(), number)
        return control

    with monkeypatch.context() as patch:
        patch.setattr(Flow, "on_step_begin", on_step_begin, raising=original is not None)
        train(config)


@pytest.fixture
def uninterrupted(make_config: MakeConfig, tmp_path: Path) -> Callable[..., Config]:
    """Train once without interruption, with the given changes."""

    def run(**changes: Any) -> Config:
        config = make_config(output_dir=str(tmp_path / "whole"), **changes)
        train(config)
        return config

    return run


@pytest.mark.parametrize("use_streaming", [False, True])
def test_interrupted_at_every_single_step(
    make_config: MakeConfig,
    uninterrupted: Callable[..., Config],
    monkeypatch: pytest.MonkeyPatch,
    use_streaming: bool,
) -> None:
    """Stopped in step 1, continued, stopped in step 2, ...: nine attempts, one adapter, one set of curves."""
    changes = {"use_streaming": use_streaming, "val_at_start": True, "trackers": ["tensorboard"]}
    whole = uninterrupted(**changes)
    config = make_config(**changes)
    for step in range(1, STEPS):
        with pytest.raises(Interrupted, match=f"after step {step} of {STEPS}"):
            train_with_signal(monkeypatch, config, step, signal.SIGTERM)
        assert outcome(config) | {"reason": ""} == {"exit_code": 75, "reason": "", "step": step, "attempt": step}
    train(config)
    assert outcome(config)["attempt"] == STEPS
    assert adapter_bytes(config) == adapter_bytes(whole)
    assert curves(config) == curves(whole)
    assert len(list((config.output_dir / "tensorboard").iterdir())) == STEPS
    shown = read_scalars(config.output_dir / "tensorboard")
    for kind, name in (("training", "loss"), ("validation", "exact_match"), ("validation", "val_loss")):
        written = [(line["step"], pytest.approx(line[name])) for line in curves(whole) if name in line]
        assert shown[f"{kind}/{name}"] == written


@pytest.mark.parametrize("name", ["SIGINT", "SIGUSR1", "SIGUSR2"])
def test_each_signal_saves_and_continues(
    make_config: MakeConfig, uninterrupted: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    whole = uninterrupted(num_proc=1)
    config = make_config(num_proc=1, val_at_start=True)  # which changes no weights
    with pytest.raises(Interrupted, match=name):
        train_with_signal(monkeypatch, config, 4, getattr(signal, name))  # a step whose validation is due
    train(config)
    assert adapter_bytes(config) == adapter_bytes(whole)


def test_a_signal_during_the_validation_before_the_first_step(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """During the generated answers, then during the loss; it is done once in the end, and is not the best."""
    config = make_config(val_at_start=True, max_steps=1)
    for name in ("validate", "validation_loss"):
        original = getattr(attempt, name)

        def interrupted(*args: Any, original: Any = original, **kwargs: Any) -> Any:
            os.kill(os.getpid(), signal.SIGTERM)
            return original(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(attempt, name, interrupted)
            with pytest.raises(Interrupted, match="SIGTERM after step 0 of 1"):
                train(config)
        assert metrics_lines(config.output_dir) == []
    train(config)
    assert [line["step"] for line in curves(config) if "exact_match" in line] == [0, 1]
    assert json.loads((config.output_dir / "run.json").read_text())["best_step"] == 1


KILL = """
import os, signal, sys
from pathlib import Path
from vizsage.config import load_config
from vizsage.training import attempt, checkpoints, train
from vizsage.training.flow import Flow
place, step = sys.argv[2], int(sys.argv[3])
def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
if place == "step":
    Flow.on_step_begin = lambda self, args, state, control, **_: die() if state.global_step == step else control
elif place == "saving":
    seal = checkpoints._seal
    checkpoints._seal = lambda partial, final: die() if final.name == f"checkpoint-{step}" else seal(partial, final)
else:
    attempt.write_card = die
train.train(load_config(Path(sys.argv[1])))
"""


@pytest.mark.parametrize(("place", "step"), [("step", 2), ("step", 8), ("saving", 6), ("delivering", 9)])
def test_killed_and_continued(
    make_config: MakeConfig, uninterrupted: Callable[..., Config], tmp_path: Path, place: str, step: int
) -> None:
    """SIGKILL before the first checkpoint, between two, while one is written, while the adapter is delivered."""
    from vizsage.config import config_to_yaml

    whole = uninterrupted()
    config = make_config()
    path = tmp_path / "run.yaml"
    path.write_text(config_to_yaml(config))
    command = [sys.executable, "-c", KILL, str(path), place, str(step)]
    killed = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    train(config)
    assert adapter_bytes(config) == adapter_bytes(whole)
    assert curves(config) == curves(whole)
    assert not list(config.output_dir.glob(".checkpoint*"))


def test_a_damaged_newest_checkpoint_is_set_aside(
    make_config: MakeConfig, uninterrupted: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = uninterrupted()
    config = make_config()
    with pytest.raises(Interrupted):
        train_with_signal(monkeypatch, config, 7, signal.SIGTERM)
    weights = config.output_dir / "checkpoint-7" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    train(config)
    assert (config.output_dir / "damaged-checkpoint-7").is_dir()
    attempts = json.loads((config.output_dir / "run.json").read_text())["attempts"]
    assert [a["resumed_from_step"] for a in attempts] == [0, 6]
    assert adapter_bytes(config) == adapter_bytes(whole)


def test_a_whole_checkpoint_with_unusable_weights_is_refused(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config()
    with pytest.raises(Interrupted):
        train_with_signal(monkeypatch, config, 2, signal.SIGTERM)
    newest = checkpoints.checkpoints(config.output_dir)[-1]
    said = damage_adapter(newest, "four left")
    sums = json.loads((newest / checkpoints.MANIFEST).read_text())
    sums["sha256"]["adapter_model.safetensors"] = sha256_file(newest / "adapter_model.safetensors")
    (newest / checkpoints.MANIFEST).write_text(json.dumps(sums))
    with pytest.raises(CheckpointError) as caught:
        train(config)
    assert said in str(caught.value)
    assert outcome(config)["exit_code"] == 3


def test_workers_change_nothing(make_config: MakeConfig, uninterrupted: Callable[..., Config]) -> None:
    whole = uninterrupted(use_streaming=True)
    config = make_config(use_streaming=True, num_proc=3)
    train(config)
    assert adapter_bytes(config) == adapter_bytes(whole)


def test_a_run_begun_by_an_earlier_version_goes_on(
    make_config: MakeConfig, uninterrupted: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its identity has settings that have become free since, and not those that came later; done, it is done."""
    whole = uninterrupted()
    config = make_config()
    with pytest.raises(Interrupted):
        train_with_signal(monkeypatch, config, 4, signal.SIGTERM)
    records = (config.output_dir / "run.json", config.output_dir / "checkpoint-4" / "identity.json")

    def as_before() -> None:
        for path in filter(Path.exists, records):
            content = json.loads(path.read_text())
            identity = content.get("identity", content)
            assert not {"share_images", "torch_compile"} & identity.keys()
            identity["use_gradient_checkpointing"] = False
            path.write_text(json.dumps(content))

    monkeypatch.setattr("vizsage.training.checkpoints.damage", lambda folder: None)
    as_before()
    train(config)
    assert outcome(config) == {"exit_code": 0, "reason": "done", "step": STEPS, "attempt": 2}
    assert adapter_bytes(config) == adapter_bytes(whole)
    as_before()
    train(config)
    assert outcome(config)["attempt"] == 2


@pytest.mark.parametrize(
    "changes", [{"share_images": False}, {"torch_compile": False}, {"use_gradient_checkpointing": True}]
)
def test_what_only_makes_a_step_faster_may_change(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    with pytest.raises(Interrupted):
        train_with_signal(monkeypatch, make_config(), 2, signal.SIGTERM)
    config = make_config(**changes)
    train(config)
    assert outcome(config)["step"] == STEPS
