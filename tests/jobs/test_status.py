"""What became of a job: SLURM's word, the files that the job left, its last error, and which run is meant."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.log_errors import last_error
from jobs.schedulers.slurm import slurm_queue
from jobs.schedulers.slurm.slurm_queue import ACTIVE
from jobs.status import state_of, state_of_run
from jobs.submissions import Submission, find, note, now, of_run, project
from tests.jobs.conftest import SILENT
from vizsage.errors import ConfigError, VizSageError

Standin = Callable[[str, str], None]
FORGOTTEN = SILENT["squeue"]


def sent(run_dir: Path, job_id: str = "7", *, kind: str = "train", submitted: str | None = None) -> Submission:
    """A job as `submit` would note it, with its folder."""
    folder = run_dir / "jobs"
    folder.mkdir(parents=True, exist_ok=True)
    return Submission(
        job_id=job_id,
        kind=kind,
        scheduler="slurm",
        submitted=submitted or now(),
        run_dir=str(run_dir),
        log=str(folder / f"{job_id}_0_log.out"),
        script=str(folder / f"{job_id}_submission.sh"),
        config=str(folder / "settings.yaml"),
    )


def outcome(run_dir: Path, code: int, **more: Any) -> None:
    (run_dir / "outcome.json").write_text(json.dumps({"exit_code": code, "reason": "", "step": 4, "attempt": 1} | more))


# --- SLURM's word ----------------------------------------------------------------------------------------------------


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
        ("COMPLETED|BeginTime", ("completed", "COMPLETED")),  # why it waited once says nothing any more
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
        ("PENDING|a", "", ("pending", "a")),  # a squeue that tells less
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


# --- what the job left -----------------------------------------------------------------------------------------------


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
        (None, False, "unknown", "no word"),
        ("half a li", False, "unknown", "no word"),
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


def test_the_step_is_that_of_the_newest_checkpoint_while_the_run_goes_on(standin: Standin, tmp_path: Path) -> None:
    job = sent(tmp_path / "run")
    assert state_of(job).step is None
    for name in (*(f"checkpoint-{i}" for i in range(1, 11)), ".checkpoint-11.tmp", "checkpoint-old"):
        (tmp_path / "run" / name).mkdir()
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


# --- the last error --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("log", "error"),
    [
        ("=== attempt 1 of job 7\nvizsage: error: one\n=== attempt 2 of job 7\nvizsage: error: two\n", "two"),
        ("=== attempt 1 of job 7\nvizsage: error: one\n=== attempt 2 of job 7\nloss 1\n", None),
        ("=== attempt 1 of job 7\nvizsage: error: one\nsrun: error: n1: task 0: Exited\n=== job 7 failed\n", "one"),
        ("vizsage: error: one\n  vizsage: error: two\nnoise\n", "two"),
        ("vizsage: error: one\nnoise \xff \r\n\n", "one"),
    ],
)
def test_the_last_error_of_the_newest_attempt(tmp_path: Path, log: str, error: str | None) -> None:
    path = tmp_path / "log"
    path.write_bytes(log.encode("latin-1"))
    assert last_error(path) == (f"vizsage: error: {error}" if error else None)


@pytest.mark.parametrize(
    ("log", "error"),
    [
        (
            "=== attempt 1\nTraceback\nValueError: x\nslurmstepd: error: *** STEP\nTerminated\nsrun: x\n",
            "ValueError: x",
        ),
        ("jobs.run: out: interrupted\nValueError: x\n", "jobs.run: out: interrupted"),
        ("=== attempt 1 of job 7\n", None),
        ("", None),
        # Killed: what comes last tells how far it got.
        ("default settings\ntrain: 30 samples\nstep 10/90: loss 3.1\nstep 20/90: loss 2.5\n", None),
        ("step 20: validation exact match 0.500 on 30\nvizsage: warning: step 20: 3 validation samples failed\n", None),
        ("Loading checkpoint shards:  60%|██████    | 3/5\ncontinuing from outputs/run/checkpoint-20\n", None),
        ("step 20/90: loss 2.5\nBus error (core dumped)\nstep 21/90: loss 2.5\n", "Bus error (core dumped)"),
    ],
)
def test_without_a_line_of_this_project_the_last_one_that_speaks_of_an_error(
    tmp_path: Path, log: str, error: str | None
) -> None:
    path = tmp_path / "log"
    path.write_text(log)
    assert last_error(path) == error


def test_a_long_log_is_read_from_its_end(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("=== attempt 1 of job 7\nvizsage: error: early\n" + "loss 1\n" * 50_000 + "vizsage: error: late\n")
    assert last_error(path) == "vizsage: error: late"


def test_a_log_that_is_not_there_has_no_error(tmp_path: Path) -> None:
    assert last_error(tmp_path / "log") is None


# --- which run -------------------------------------------------------------------------------------------------------


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder with two runs: `one` with jobs 7 and 8, then `two`, a member of array 9; `one` was sent to first."""
    monkeypatch.chdir(tmp_path)
    for job in (sent(tmp_path / "one", "7"), sent(tmp_path / "one", "8", kind="eval"), sent(tmp_path / "two", "9_0")):
        note(job)
    return tmp_path


@pytest.mark.parametrize(
    ("run", "ids"),
    [
        (None, ["9_0"]),  # the latest
        ("one", ["7", "8"]),  # from here a directory
        ("./one/", ["7", "8"]),
        ("{runs}/one", ["7", "8"]),
        ("7", ["7", "8"]),  # a run, not one job of it
        ("8", ["7", "8"]),
        ("9_0", ["9_0"]),
        ("9", ["9_0"]),
        ("two", ["9_0"]),
    ],
)
def test_a_run_is_found(runs: Path, run: str | None, ids: list[str]) -> None:
    assert [job.job_id for job in find(run and run.format(runs=runs))] == ids


def test_a_run_is_found_by_its_name_from_elsewhere(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (runs / "elsewhere").mkdir()
    monkeypatch.chdir(runs / "elsewhere")
    assert [job.job_id for job in find("one")] == ["7", "8"]


def test_a_run_whose_folder_is_gone_is_found_in_the_list_of_all(runs: Path) -> None:
    (runs / "two" / "jobs" / "submissions.jsonl").unlink()
    assert [job.job_id for job in find("two")] == ["9_0"]


@pytest.mark.parametrize("run", ["three", "70", "on", "/", ""])
def test_a_run_that_is_none(runs: Path, run: str) -> None:
    with pytest.raises(ConfigError, match="no submitted run"):
        find(run)


def test_nothing_was_sent_yet(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no run was submitted from .* yet"):
        find(None)
    assert of_run(tmp_path) == []


@pytest.mark.parametrize("text", ["{", '{"job_id": "7"}', "[7]", '"seven"'])
def test_a_damaged_list_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "submissions.jsonl").write_text(text + "\n")
    with pytest.raises(ConfigError, match=r"submissions\.jsonl: not a list"):
        of_run(tmp_path)


@pytest.mark.parametrize("damage", ['{"job_id": "8", "ki', '{"job_id": "8"}\n', '{"job_{"job_id": "9"}\n', "\xff\n"])
def test_a_damaged_line_does_not_hide_the_other_jobs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    note(sent(tmp_path, "7"))
    path = tmp_path / "jobs" / "submissions.jsonl"
    with path.open("ab") as file:
        file.write(damage.encode("latin-1"))
    assert [job.job_id for job in of_run(tmp_path)] == ["7"]
    assert f"{path}: damaged in line 2; a job is missing here" in caplog.text
    note(sent(tmp_path, "10"))
    assert [job.job_id for job in of_run(tmp_path)] == ["7", "10"]


def test_a_list_of_a_later_version_is_read(tmp_path: Path) -> None:
    job = sent(tmp_path)
    note(job)
    path = tmp_path / "jobs" / "submissions.jsonl"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"new": 1}) + "\n")
    assert of_run(tmp_path) == [dataclasses.replace(job, project=str(project()))]
