"""What SLURM reports about a job, and cancelling it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.schedulers.slurm import slurm_queue
from jobs.schedulers.slurm.slurm_queue import ACTIVE
from tests.jobs.command import sent
from tests.jobs.conftest import SILENT
from vizsage.errors import ConfigError, VizSageError

Standin = Callable[[str, str], None]
FORGOTTEN = SILENT["squeue"]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("PENDING|Priority", ("pending", "Priority")),
        ("PENDING|None", ("pending", "PENDING")),
        ("PENDING|", ("pending", "PENDING")),
        ("REQUEUED|None", ("pending", "REQUEUED")),
        ("RUNNING|None", ("running", "RUNNING")),
        ("SUSPENDED|None", ("running", "SUSPENDED")),
        ("COMPLETING|None", ("ending", "COMPLETING")),
        ("COMPLETED|BeginTime", ("completed", "COMPLETED")),  # the earlier reason for waiting does not matter any more
        ("CANCELLED by 0|None", ("cancelled", "CANCELLED")),
        ("CANCELLED+|None", ("cancelled", "CANCELLED")),
        ("FAILED|NonZeroExitCode", ("failed", "FAILED")),
        ("TIMEOUT|None", ("failed", "TIMEOUT")),
        ("NODE_FAIL|None", ("failed", "NODE_FAIL")),
        ("OUT_OF_MEMORY|OutOfMemory", ("failed", "OUT_OF_MEMORY")),
        ("PREEMPTED|None", ("failed", "PREEMPTED")),
        ("A_STATE_TO_COME|None", ("a_state_to_come", "A_STATE_TO_COME")),
    ],
)
@pytest.mark.parametrize("program", ["sacct", "squeue"])
def test_states_in_words(standin: Standin, tmp_path: Path, program: str, line: str, told: tuple[str, str]) -> None:
    job = sent(tmp_path)
    standin("squeue", f"echo '{line}|0|{job.folder}/.submission_file_1.sh'" if program == "squeue" else FORGOTTEN)
    standin("sacct", f"echo '2999-01-01T00:00:00|{line}'")
    # What squeue does not know any more has ended: an accounting database lags.
    assert slurm_queue.ask(job) == (None if program == "sacct" and told[0] in ACTIVE else told)


@pytest.mark.parametrize(
    ("squeue", "sacct", "told"),
    [
        # The queue is right, whatever the accounts remember or have not heard of yet.
        ("PENDING|Resources|0|{mine}", "COMPLETED|None", ("pending", "Resources")),
        ("RUNNING|None|0|{mine}", "FAILED|None", ("running", "RUNNING")),
        ("", "COMPLETED|None", ("completed", "COMPLETED")),
        ("", "RUNNING|None", None),
        # Another user, or another folder: the id was given out again.
        ("RUNNING|None|1|{mine}", "TIMEOUT|None", ("failed", "TIMEOUT")),
        ("RUNNING|None|0|/other/jobs/x.sh", "", None),
        ("RUNNING|None|0|(null)", "", None),
        ("PENDING|None|0|/other/jobs/x.sh\nRUNNING|None|0|{mine}", "", ("running", "RUNNING")),
        ("PENDING|a", "", ("pending", "a")),  # a squeue that prints less
    ],
)
def test_the_queue_is_asked_before_the_accounts(
    standin: Standin, tmp_path: Path, squeue: str, sacct: str, told: tuple[str, str] | None
) -> None:
    job = dataclasses.replace(sent(tmp_path), user="0")
    mine = f"{job.folder}/.submission_file_1.sh"
    standin("squeue", f"echo -e '{squeue.format(mine=mine)}'" if squeue else FORGOTTEN)
    standin("sacct", f"echo '2999-01-01T00:00:00|{sacct}'" if sacct else "exit 0")
    assert slurm_queue.ask(job) == told


@pytest.mark.parametrize(("submitted", "told"), [("2026-03-01T10:00:00", True), ("2026-03-01T09:40:00", False)])
def test_accounts_of_an_earlier_job_of_that_id_do_not_count(
    standin: Standin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, submitted: str, told: bool
) -> None:
    job = dataclasses.replace(sent(tmp_path, "7_1", submitted="2026-03-01T12:00:00+02:00"), user="1234")
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    monkeypatch.setenv("SQUEUE_STATES", "RUNNING")  # an option that would hide the job
    standin("squeue", f"env > '{tmp_path}/environment'; {FORGOTTEN}")
    standin("sacct", f"echo \"$TZ $@\" > '{tmp_path}/asked'; echo '{submitted}|COMPLETED|None'")
    assert slurm_queue.ask(job) == (("completed", "COMPLETED") if told else None)
    asked = (tmp_path / "asked").read_text()
    assert asked.startswith("UTC ")
    assert "-j 7_1 -S 2026-03-01T09:55:00 -u 1234 " in asked
    assert "SQUEUE_STATES" not in (tmp_path / "environment").read_text()


def test_a_queue_that_does_not_answer_is_no_word_on_the_job(standin: Standin, tmp_path: Path) -> None:
    standin("squeue", "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1")
    standin("sacct", "echo '2999-01-01T00:00:00|COMPLETED|None'")
    with pytest.raises(VizSageError, match=r"Unable to contact slurm controller; .*cancel --forget 7"):
        slurm_queue.ask(sent(tmp_path))


def test_a_job_that_slurm_forgot(standin: Standin, tmp_path: Path) -> None:
    assert slurm_queue.ask(sent(tmp_path)) is None


def test_a_machine_without_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert slurm_queue.ask(sent(tmp_path)) is None
    with pytest.raises(ConfigError, match="login node"):
        slurm_queue.cancel(sent(tmp_path))


def test_a_refused_cancellation_says_why(standin: Standin, tmp_path: Path) -> None:
    standin("scancel", "echo 'scancel: error: Access denied' >&2; exit 1")
    with pytest.raises(VizSageError, match="Access denied"):
        slurm_queue.cancel(sent(tmp_path))
