"""Several processes with the same global batch train as one."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.training.test_train import outcome
from vizsage.config import Config, config_to_yaml
from vizsage.json_lines import read_jsonl
from vizsage.training.train import train


def launch(config: Config, path: Path) -> subprocess.Popen[str]:
    """`vizsage train` in two processes that talk through gloo."""
    path.write_text(config_to_yaml(config))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={port}"]
    command += ["--master-addr=127.0.0.1", "-m", "vizsage", "train", str(path)]
    return subprocess.Popen(command, env=os.environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def losses(config: Config) -> list[float]:
    return [line["loss"] for line in read_jsonl(config.output_dir / "metrics.jsonl") if "loss" in line]


@pytest.mark.slow
def test_two_processes_have_the_losses_of_one_and_stop_together(
    make_config: Callable[..., Config], tmp_path: Path
) -> None:
    """The same samples per step: 1 process x 2 x 2 = 2 processes x 1 x 2. One gets SIGTERM, both save and end."""
    changes = {"lora_dropout": 0.0, "logging_steps": 1, "val_at_start": True, "trackers": ["tensorboard"]}
    one = make_config(**changes)
    train(one)
    two = make_config(**changes, batch_size=1, output_dir=str(tmp_path / "two"))
    process = launch(two, tmp_path / "two.yaml")
    log = two.output_dir / "metrics.jsonl"
    while process.poll() is None and not (log.exists() and log.read_text().count("loss") >= 2):
        time.sleep(0.05)
    assert process.poll() is None, process.stdout and process.stdout.read()
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True).stdout
    os.kill(int(children.split()[-1]), signal.SIGTERM)  # one rank alone: the other learns of it from the first
    printed, _ = process.communicate(timeout=300)
    found = outcome(two)
    assert found["exit_code"] == 75, printed
    assert 2 <= found["step"] < 9
    printed, _ = launch(two, tmp_path / "two.yaml").communicate(timeout=300)
    assert outcome(two) == {"exit_code": 0, "reason": "done", "step": 9, "attempt": 2}, printed
    assert losses(two) == pytest.approx(losses(one), abs=1e-4)
    scores = [line for line in read_jsonl(log) if "exact_match" in line]
    assert [(line["step"], line["val_samples"]) for line in scores] == [(0, 6), (4, 6), (8, 6), (9, 6)]
    alone = [line["val_loss"] for line in read_jsonl(one.output_dir / "metrics.jsonl") if "val_loss" in line]
    assert [line["val_loss"] for line in scores] == pytest.approx(alone, abs=1e-4)
    assert scores[0]["val_loss"] == pytest.approx(alone[0], rel=1e-6)  # of the same weights
    assert len(list((two.output_dir / "tensorboard").iterdir())) == 2  # of the main process, for each attempt
    hashes = [(run.output_dir / "sample_hashes.json").read_bytes() for run in (one, two)]
    assert hashes[0] == hashes[1]
    attempts = json.loads((two.output_dir / "run.json").read_text())["attempts"]
    assert attempts[1]["resumed_from_step"] == found["step"]
    # One of them alone finds the run done. The other need not come any more, and is not waited for.
    without = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "9"}
    command = [sys.executable, "-m", "vizsage", "train", str(tmp_path / "two.yaml")]
    again = subprocess.run(command, env=os.environ | without, capture_output=True, text=True, timeout=120, check=False)
    assert again.returncode == 0, again.stderr
    assert "already done after 9 steps" in again.stdout + again.stderr
    other = subprocess.run([*command, "lr=0.5"], env=os.environ | without, capture_output=True, text=True, check=False)
    assert other.returncode == 2, other.stderr
