"""`python -m jobs.run`: exit codes unchanged, signals passed on, and what counts as a step forward."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jobs import run
from vizsage.errors import ConfigError

# `vizsage` as the launcher sees it: a program in its place that does what WORKER says.
WORKER = """
import json, os, pathlib, signal, sys, time
rank, folder = int(os.environ.get("RANK", "0")), pathlib.Path(os.environ["FOLDER"])
def attempt(before, after, code):
    (folder / "run.json").write_text(json.dumps({"attempts": [{"resumed_from_step": before, "step": after}]}))
    (folder / "outcome.json").write_text(json.dumps({"exit_code": code, "attempt": time.time_ns()}))
def wait_for_signal(seconds):
    got = []
    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, lambda n, frame: got.append(signal.Signals(n).name))
    (folder / f"ready-{rank}").touch()
    while not got:
        time.sleep(0.05)
    time.sleep(seconds)
    (folder / f"got-{rank}").write_text(got[0])
"""


class Launch:
    """jobs.run in a folder, with a stand-in `vizsage` package before the real one."""

    def __init__(self, folder: Path, body: str, *, command: str = "train", processes: int = 1) -> None:
        self.folder = folder
        (folder / "worker").mkdir()
        (folder / "worker" / "sitecustomize.py").write_text(
            f"import sys\nif '-m' in sys.orig_argv and 'vizsage' in sys.orig_argv:\n"
            f"    exec(compile({(WORKER + body)!r}, 'worker', 'exec'))\n    sys.exit(0)\n"
        )
        (folder / "settings.yaml").write_text(f"output_dir: {folder}\n")
        environment = os.environ | {
            "PYTHONPATH": str(folder / "worker"),
            "FOLDER": str(folder),
            "PROCESSES_PER_NODE": str(processes),
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "jobs.run", command, str(folder / "settings.yaml")],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )

    def signal_when_ready(self, number: signal.Signals, processes: int = 1) -> None:
        end = time.monotonic() + 60
        while not all((self.folder / f"ready-{i}").exists() for i in range(processes)):
            assert time.monotonic() < end, self.process.poll()
            time.sleep(0.05)
        self.process.send_signal(number)

    def end(self) -> tuple[int, str]:
        _, printed = self.process.communicate(timeout=120)
        return self.process.returncode, printed


@pytest.mark.parametrize("code", [0, 1, 2, 3, 4, 42])
def test_an_exit_code_comes_back_unchanged(tmp_path: Path, code: int) -> None:
    assert Launch(tmp_path, f"os._exit({code})").end()[0] == code


def test_a_killed_process_is_128_and_its_signal(tmp_path: Path) -> None:
    assert Launch(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)").end()[0] == 137


def test_a_process_killed_after_its_attempt_had_ended_counts_as_it_ended(tmp_path: Path) -> None:
    assert Launch(tmp_path, "attempt(0, 9, 0); os.kill(os.getpid(), signal.SIGUSR2)").end()[0] == 0


def test_the_first_failing_process_decides(tmp_path: Path) -> None:
    """Rank 1 ends with 3; rank 0 is then stopped, and ends with 75."""
    body = "os._exit(3) if rank else (wait_for_signal(1.5), os._exit(75))"
    assert Launch(tmp_path, body, processes=2).end()[0] == 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_signals_reach_every_process_and_they_get_time(tmp_path: Path, number: signal.Signals) -> None:
    body = "wait_for_signal(2); attempt(0, 5, 75) if rank == 0 else None; os._exit(75)"
    launch = Launch(tmp_path, body, processes=2)
    launch.signal_when_ready(number, processes=2)
    assert launch.end()[0] == 75
    assert [(tmp_path / f"got-{i}").read_text() for i in range(2)] == [number.name, number.name]


@pytest.mark.parametrize(("before", "after", "code"), [(4, 5, 75), (5, 5, 1)])
def test_an_interruption_without_a_step_forward_is_a_failure(
    tmp_path: Path, before: int, after: int, code: int
) -> None:
    (tmp_path / "outcome.json").write_text(json.dumps({"exit_code": 75, "attempt": 1}))  # of the attempt before
    found, printed = Launch(tmp_path, f"attempt({before}, {after}, 75); os._exit(75)").end()
    assert found == code
    assert ("before the first step" in printed) == (code == 1)


@pytest.mark.parametrize(("appends", "code"), [(True, 75), (False, 1)])
def test_an_evaluation_goes_forward_when_it_has_answered(tmp_path: Path, appends: bool, code: int) -> None:
    predictions = tmp_path / "evaluation_results" / "test" / "predictions.jsonl"
    predictions.parent.mkdir(parents=True)
    predictions.write_text("{}\n")
    body = f"open({str(predictions)!r}, 'a').write('{{}}\\n' * {int(appends)}); os._exit(75)"
    assert Launch(tmp_path, body, command="eval").end()[0] == code


def test_one_process_in_all_joins_nobody() -> None:
    assert run.worker_environments({}, 1) == [{}]


def test_processes_of_two_nodes() -> None:
    given = {"NNODES": "2", "NODE_RANK": "1", "MASTER_ADDR": "n1", "MASTER_PORT": "15001", "OMP_NUM_THREADS": "1"}
    first, second = run.worker_environments(given, 2)
    common = {
        "WORLD_SIZE": "4",
        "LOCAL_WORLD_SIZE": "2",
        "GROUP_RANK": "1",
        "MASTER_ADDR": "n1",
        "MASTER_PORT": "15001",
    }
    assert first == common | {"RANK": "2", "LOCAL_RANK": "0"}
    assert second == common | {"RANK": "3", "LOCAL_RANK": "1"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"NNODES": "2", "NODE_RANK": "2"}, "NODE_RANK: expected 0 to 1"),
        ({"NNODES": "two"}, "whole numbers"),
        ({"NNODES": "2"}, "MASTER_ADDR and MASTER_PORT"),
    ],
)
def test_variables_that_describe_no_node(given: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run.worker_environments(given, 1)


def test_a_wrong_command_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["dance"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
