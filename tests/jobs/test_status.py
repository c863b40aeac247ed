"""The state of a job: what the scheduler reports, the files that the job left, and its last error."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.status import state_of, state_of_run
from jobs.submissions import note
from tests.jobs.command import sent
from tests.jobs.conftest import SILENT

Standin = Callable[[str, str], None]
FORGOTTEN = SILENT["squeue"]


def outcome(run_dir: Path, code: int, **more: Any) -> None:
    (run_dir / "outcome.json").write_text(json.dumps({"exit_code": code, "reason": "", "step": 4, "attempt": 1} | more))


@pytest.mark.parametrize(
    ("end", "cancelled", "state", "words"),
    [
        ("0 RUNNING", False, "completed", "exit code 0"),
        ("0 RUNNING", True, "completed", "exit code 0"),  # it was done before the cancellation came
        ("75 RUNNING", False, "interrupted", "exit code 75"),
        ("75 COMPLETING", False, "interrupted", "exit code 75, stopped from outside"),
        ("75 COMPLETING", True, "cancelled", "python -m jobs cancel"),
        ("1 RUNNING", False, "failed", "exit code 1"),
        ("2 UNKNOWN", False, "failed", "exit code 2"),
        (None, True, "cancelled", "python -m jobs cancel"),
        (None, False, "unknown", "no outcome"),
        ("half a li", False, "unknown", "no outcome"),
    ],
)
def test_a_forgotten_job_is_known_by_its_files(
    standin: Standin, tmp_path: Path, end: str | None, cancelled: bool, state: str, words: str
) -> None:
    job = sent(tmp_path / "run")
    if end:
        (job.folder / "7.end").write_text(end + "\n")
    if cancelled:
        (job.folder / "7.cancelled").touch()
    found = state_of(job)
    assert found.state == state
    assert found.detail.endswith(words) or words in found.detail
    assert ("stopped from outside" in found.detail) == ("outside" in words)
    assert not found.active


@pytest.mark.parametrize(("code", "state"), [(0, "completed"), (75, "interrupted"), (3, "failed")])
def test_a_script_that_was_killed_leaves_the_word_to_the_run(
    standin: Standin, tmp_path: Path, code: int, state: str
) -> None:
    job = sent(tmp_path / "run", submitted="2020-01-01T00:00:00+00:00")
    outcome(tmp_path / "run", code, reason="a reason")
    found = state_of(job)
    assert (found.state, found.step) == (state, 4)
    assert found.error == (None if code == 0 else "a reason")


@pytest.mark.parametrize("code", [0, 4])
def test_the_outcome_of_an_earlier_job_does_not_count(standin: Standin, tmp_path: Path, code: int) -> None:
    job = sent(tmp_path / "run")
    outcome(tmp_path / "run", code, reason="of another job")
    os.utime(tmp_path / "run" / "outcome.json", (1_500_000_000, 1_500_000_000))
    found = state_of(job)
    assert (found.state, found.error) == ("unknown", None)


@pytest.mark.parametrize("code", [0, 4])
def test_the_outcome_of_a_training_is_not_that_of_an_evaluation(standin: Standin, tmp_path: Path, code: int) -> None:
    job = sent(tmp_path / "run", kind="eval", submitted="2020-01-01T00:00:00+00:00")
    outcome(tmp_path / "run", code, reason="of the training")
    found = state_of(job)
    assert (found.state, found.error) == ("unknown", None)


def test_a_training_that_is_done_is_no_error(standin: Standin, tmp_path: Path) -> None:
    """What ended the job then came after it."""
    standin("squeue", "echo 'NODE_FAIL|None'")
    job = sent(tmp_path / "run")
    outcome(tmp_path / "run", 0, reason="done")
    found = state_of(job)
    assert (found.state, found.error) == ("failed", None)


def test_a_job_that_is_tried_again_tells_why(standin: Standin, tmp_path: Path) -> None:
    job = sent(tmp_path / "run")
    (job.folder / "7.failures").write_text("2\n")
    Path(job.log).write_text("=== attempt 2 of job 7\nTraceback\nRuntimeError: it broke\n=== job 7 failed\n")
    standin("squeue", "echo 'PENDING|BeginTime'")
    found = state_of(job)
    assert (found.state, found.detail) == ("pending", "BeginTime, after 2 failed attempts")
    assert found.error == "RuntimeError: it broke"
    assert found.active


def test_a_failed_job_tells_its_exit_code(standin: Standin, tmp_path: Path) -> None:
    job = sent(tmp_path / "run")
    (job.folder / "7.end").write_text("3 RUNNING\n")
    Path(job.log).write_text("=== attempt 1 of job 7\nvizsage: error: data/x.json: not there\n")
    standin("squeue", "echo 'FAILED|None'")
    found = state_of(job)
    assert (found.state, found.detail) == ("failed", "FAILED, exit code 3")
    assert found.error == "vizsage: error: data/x.json: not there"


@pytest.mark.parametrize("word", ["COMPLETED", "RUNNING", "CANCELLED by 0"])
def test_an_old_error_in_the_log_of_a_job_that_goes_well_is_not_told(
    standin: Standin, tmp_path: Path, word: str
) -> None:
    job = sent(tmp_path / "run")
    Path(job.log).write_text("=== attempt 1 of job 7\nvizsage: error: once\n")
    standin("squeue", f"echo '{word}|None'")
    assert state_of(job).error is None


def test_the_step_is_that_of_the_newest_checkpoint_or_line_of_metrics_while_the_run_goes_on(
    standin: Standin, tmp_path: Path
) -> None:
    job = sent(tmp_path / "run")
    assert state_of(job).step is None
    metrics = tmp_path / "run" / "metrics.jsonl"
    for text, step in (('{"ste', None), ('{"step": 3, "loss": 1.5}\n', 3), ('{"step": 3}\n{"step": 4}\n{"st', 4)):
        metrics.write_text(text)
        assert state_of(job).step == step
    for name in (*(f"checkpoint-{i}" for i in range(1, 11)), ".checkpoint-11.tmp", "checkpoint-old"):
        (tmp_path / "run" / name).mkdir()
    assert state_of(job).step == 10
    metrics.write_text("".join(f'{{"step": {step}, "loss": 1.5}}\n' for step in range(9000)))
    assert state_of(job).step == 8999
    metrics.write_text('{"step": "many"}\n')  # of another program
    assert state_of(job).step == 10
    (tmp_path / "run" / "outcome.json").write_text("[")  # damaged: no reason to end with a traceback
    assert state_of(job).step == 10


def test_the_state_of_a_run_is_that_of_its_newest_training(standin: Standin, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert state_of_run(run) == "unknown"
    run.mkdir()
    outcome(run, 75)
    assert state_of_run(run) == "interrupted"  # not sent by jobs at all
    for job in (sent(run, "7"), sent(run, "8"), sent(run, "9", kind="eval")):
        note(job)
    standin("squeue", 'case "$*" in *" 8 "*) echo "RUNNING|None" ;; *) echo "PENDING|Dependency" ;; esac')
    assert state_of_run(run) == "running"
