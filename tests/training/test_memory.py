"""Running out of GPU memory anywhere in a run: exit 4, one line, the same in outcome.json, and no process that hangs.

A hook on the real model raises PyTorch's own error at a place; tests/gpu does it with real memory.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.test_distributed import launch
from tests.training.test_train import outcome
from vizsage.config import Config, config_to_yaml
from vizsage.errors import RepeatingError
from vizsage.models.adapters.lora import add_adapter
from vizsage.training import attempt
from vizsage.training.train import train

MakeConfig = Callable[..., Config]
NO_MEMORY = "CUDA out of memory. Tried to allocate 2.00 GiB."


def fail_when(monkeypatch: pytest.MonkeyPatch, condition: Callable[[Any, int], bool]) -> None:
    """Out of memory in the forward pass for which `condition`, given the model and the number of the pass, is true."""

    def hooked(*args: Any) -> Any:
        model, passes = add_adapter(*args), []

        def refuse(module: Any, _: Any) -> None:
            passes.append(1)
            if condition(module, len(passes)):
                raise torch.OutOfMemoryError(NO_MEMORY)

        model.get_base_model().register_forward_pre_hook(refuse)
        return model

    monkeypatch.setattr(attempt, "add_adapter", hooked)


def test_in_training(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_config(num_proc=0, save_steps=1)
    seen: list[int] = []

    def third_step(module: Any, number: int) -> bool:
        seen.extend([1] if module.training else [])
        return module.training and len(seen) == 2 * 2 + 1  # two forward passes a step at most

    fail_when(monkeypatch, third_step)
    with pytest.raises(RepeatingError, match="exceeded during training") as caught:
        train(config)
    found = outcome(config)
    assert found | {"step": 0} == {"exit_code": 4, "reason": str(caught.value), "step": 0, "attempt": 1}
    assert found["step"] >= 2
    # What the message advises continues the run.
    monkeypatch.undo()
    train(make_config(batch_size=1, grad_accum=4, use_gradient_checkpointing=True))
    assert outcome(config)["step"] == 9
    assert json.loads((config.output_dir / "run.json").read_text())["attempts"][1]["resumed_from_step"] == found["step"]


def test_in_a_validation(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The steps before it are saved."""
    config = make_config(save_steps=100, eval_batch_size=6)
    passes: list[int] = []

    def first_answer_after_training(module: Any, number: int) -> bool:
        passes.extend([1] if module.training else [])
        return bool(passes) and not module.training

    fail_when(monkeypatch, first_answer_after_training)
    with pytest.raises(RepeatingError, match=r"during a validation.*max_new_tokens .*lower max_seq_length"):
        train(config)
    assert outcome(config)["exit_code"] == 4
    assert outcome(config)["step"] == 4
    assert (config.output_dir / "checkpoint-4").is_dir()


def test_while_the_base_model_is_loaded(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise torch.OutOfMemoryError(NO_MEMORY)

    monkeypatch.setattr(attempt, "load_base", fail)
    config = make_config()
    with pytest.raises(RepeatingError, match=r"during loading the base model.*set load_in_4bit: true"):
        train(config)
    assert outcome(config)["exit_code"] == 4


# --- several processes -----------------------------------------------------------------------------------------------

# Python runs this file when it starts; only the processes that train have a RANK.
PROLOGUE = """
import os
if "RANK" in os.environ and os.environ.get("VIZSAGE_TEST_RANKS"):
    import time
    import torch
    from vizsage.models.adapters.lora import add_adapter
    from vizsage.training import attempt
    from vizsage.training import train as training

    rank = int(os.environ["RANK"])
    what = os.environ["VIZSAGE_TEST_RANKS"].split(",")[rank]

    def hooked(*args):
        model, passes = add_adapter(*args), []
        def hook(module, args, kwargs):
            if not module.training:
                return
            passes.append(1)
            if what.isdigit() and kwargs["input_ids"].numel() > int(what):
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            if what == "fails" and len(passes) == 7:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            if what == "waits" and len(passes) == 7:  # as one that waits in NCCL: signals are not heard
                while True:
                    time.sleep(1)
        model.get_base_model().register_forward_pre_hook(hook, with_kwargs=True)
        return model

    attempt.add_adapter = hooked
    if what.isdigit():
        training.memory_is_limited = lambda config: True
"""


@pytest.fixture
def ranks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Sets what the two processes do: a number of tokens that fits, "fails", "waits" or "works"."""
    (tmp_path / "prologue").mkdir()
    (tmp_path / "prologue" / "sitecustomize.py").write_text(PROLOGUE)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'prologue'}:{Path(__file__).parents[2]}")

    def set_ranks(text: str) -> None:
        monkeypatch.setenv("VIZSAGE_TEST_RANKS", text)

    return set_ranks


@pytest.mark.slow
def test_processes_agree_on_the_smallest_number(
    make_config: MakeConfig, tmp_path: Path, ranks: Callable[[str], None]
) -> None:
    """Of 18 samples two processes with grad_accum 2 try 4, 2, 1. The first has no limit, the second fits no 4."""
    from tests.training.test_batch_size import trial_of

    config = make_config(batch_size="auto", max_steps=2)
    trial, _ = trial_of(config)
    ranks(f"1000000,{max(batch['input_ids'].numel() for batch in trial.batches(2))}")
    printed, _ = launch(config, tmp_path / "two.yaml").communicate(timeout=300)
    assert outcome(config) == {"exit_code": 0, "reason": "done", "step": 2, "attempt": 1}, printed
    content = json.loads((config.output_dir / "run.json").read_text())
    assert content["settings"]["batch_size"] == 2
    assert content["identity"]["batch_size x grad_accum x processes"] == 8
    # If one of them cannot fit it at all, all report that.
    ranks("1000000,5")
    config = make_config(batch_size="auto", output_dir=str(tmp_path / "none"))
    printed, _ = launch(config, tmp_path / "none.yaml").communicate(timeout=300)
    assert outcome(config)["exit_code"] == 4, printed
    assert "exceeded during training" in outcome(config)["reason"]


@pytest.mark.slow
@pytest.mark.parametrize("what", ["works,fails", "fails,works", "waits,fails"])
def test_one_process_of_two_runs_out_of_memory(
    make_config: MakeConfig,
    tmp_path: Path,
    ranks: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    what: str,
) -> None:
    """The launcher returns 4 and outcome.json has the reason, whichever it is and whether the other learns it."""
    ranks(what)
    monkeypatch.setenv("PROCESSES_PER_NODE", "2")
    config = make_config(batch_size=1, grad_accum=2)
    path = tmp_path / "two.yaml"
    path.write_text(config_to_yaml(config))
    began = time.monotonic()
    command = [sys.executable, "-m", "jobs.run", "train", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 4, done.stdout + done.stderr
    found = outcome(config)
    assert found["exit_code"] == 4
    assert found["attempt"] == 1
    assert found["reason"].startswith("GPU memory exceeded during training")
    assert time.monotonic() - began < 200
