"""What `status` says, with and without a SLURM that remembers; and which run is meant."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.cli import main
from jobs.status import last_error, state_of
from jobs.submissions import Submission, find, note, now
from vizsage.errors import ConfigError

FORGOTTEN = 'echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1'
NO_ACCOUNTS = 'echo "Slurm accounting storage is disabled" >&2; exit 1'


@pytest.fixture(autouse=True)
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Puts a stand-in on the PATH; SLURM starts as one that keeps no accounts and has forgotten everything."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))

    def put(name: str, text: str) -> None:
        (folder / name).write_text(f"#!/bin/bash\n{text}\n")
        (folder / name).chmod(0o755)

    put("sacct", NO_ACCOUNTS)
    put("squeue", FORGOTTEN)
    return put


def sent(run_dir: Path, job_id: str = "7", kind: str = "train") -> Submission:
    (run_dir / "jobs").mkdir(parents=True, exist_ok=True)
    folder = run_dir / "jobs"
    one = Submission(job_id, kind, "slurm", now(), str(run_dir), str(folder / f"{job_id}_0_log.out"), "", "")
    note(one)
    return one


@pytest.mark.parametrize(
    ("sacct", "squeue", "state", "detail"),
    [
        ("echo 'CANCELLED by 0|None'", FORGOTTEN, "cancelled", "CANCELLED"),
        ("echo 'COMPLETED|None'", "echo 'RUNNING|None'", "completed", "COMPLETED"),
        (NO_ACCOUNTS, "echo 'PENDING|Priority'", "pending", "Priority"),
        (NO_ACCOUNTS, "echo 'COMPLETING|None'", "ending", "COMPLETING"),
        (NO_ACCOUNTS, "echo 'TIMEOUT|TimeLimit'", "failed", "TIMEOUT"),
        (NO_ACCOUNTS, FORGOTTEN, "unknown", "left no word"),
    ],
)
def test_sacct_is_asked_first_and_squeue_then(
    tmp_path: Path, programs: Callable[[str, str], None], sacct: str, squeue: str, state: str, detail: str
) -> None:
    programs("sacct", sacct)
    programs("squeue", squeue)
    found = state_of(sent(tmp_path / "run"))
    assert found.state == state
    assert detail in found.detail


@pytest.mark.parametrize(
    ("end", "cancelled", "state"),
    [
        ("0 RUNNING", False, "completed"),
        ("0 RUNNING", True, "completed"),
        ("75 COMPLETING", False, "interrupted"),
        ("75 COMPLETING", True, "cancelled"),
        ("3 RUNNING", False, "failed"),
        (None, True, "cancelled"),
    ],
)
def test_what_a_forgotten_job_left(tmp_path: Path, end: str | None, cancelled: bool, state: str) -> None:
    one = sent(tmp_path / "run")
    if end:
        (one.folder / "7.end").write_text(end + "\n")
    if cancelled:
        (one.folder / "7.cancelled").touch()
    assert state_of(one).state == state


@pytest.mark.parametrize(("code", "state"), [(0, "completed"), (75, "interrupted"), (4, "failed")])
def test_the_outcome_speaks_for_a_script_that_was_killed(tmp_path: Path, code: int, state: str) -> None:
    one = sent(tmp_path / "run")
    outcome = {"exit_code": code, "reason": "loss is not finite", "step": 12, "attempt": 1}
    (tmp_path / "run" / "outcome.json").write_text(json.dumps(outcome))
    found = state_of(one)
    assert (found.state, found.step) == (state, 12)
    assert (found.error == "loss is not finite") == (state != "completed")


def test_the_last_error_is_of_the_newest_attempt(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("=== attempt 1 of job 7\nvizsage: error: old\n=== attempt 2 of job 7\nTraceback\nValueError: new\n")
    assert last_error(log) == "ValueError: new"
    log.write_text(log.read_text() + "vizsage: error: newest\nsrun: error: n1: task 0: Exited\n=== job 7 failed\n")
    assert last_error(log) == "vizsage: error: newest"


def test_a_run_has_four_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent(tmp_path / "first", "7")
    sent(tmp_path / "second", "8_1")
    monkeypatch.chdir(tmp_path)
    for name, job_id in ((None, "8_1"), ("first", "7"), (str(tmp_path / "first"), "7"), ("7", "7"), ("8_1", "8_1")):
        assert find(name)[-1].job_id == job_id
    with pytest.raises(ConfigError, match="no submitted run"):
        find("third")


def test_nothing_was_submitted_yet(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status"]) == 2
    assert capsys.readouterr().err == "jobs: error: no run was submitted yet; see python -m jobs submit --help\n"


def test_status_tells_all_jobs_of_a_run(
    tmp_path: Path, programs: Callable[[str, str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    programs("squeue", 'if [[ "$*" == *"-j 7 "* ]]; then echo "FAILED|None"; else echo "CANCELLED|None"; fi')
    one = sent(tmp_path / "run", "7")
    sent(tmp_path / "run", "8", "eval")
    Path(one.log).write_text("=== attempt 1 of job 7\nRuntimeError: no such luck\n")
    (one.folder / "7.end").write_text("1 RUNNING\n")
    assert main(["status"]) == 0
    printed = capsys.readouterr().out
    assert "train job 7: failed (FAILED, exit code 1)\n  last error: RuntimeError: no such luck\n" in printed
    assert "eval job 8: cancelled" in printed


class TestSubmit:
    """Refusals come before anything is written or sent."""

    @pytest.fixture
    def settings(self, tmp_path: Path, programs: Callable[[str, str], None]) -> Path:
        for name in ("sbatch", "srun"):
            programs(name, f"touch {tmp_path}/was-called; exit 1")
        path = tmp_path / "settings.yaml"
        path.write_text(f"model_name: vizsage-tiny\noutput_dir: {tmp_path}/run\n")
        return path

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["lr=fast"], "lr: "),
            (["--profile", "nowhere.yaml"], "nowhere.yaml"),
            (["--nodes", "0"], "nodes"),
            (["--time", "soon"], "time"),
            (["output_dir=a%b"], "%"),
            (["name_trained_model=jobs"], "name_trained_model"),
            (["--unknown"], "--unknown"),
        ],
    )
    def test_a_mistake_is_one_line_and_exit_2(
        self, settings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
    ) -> None:
        try:
            code = main(["submit", "slurm", "train", str(settings), *words])
        except SystemExit as left:
            code = int(left.code or 0)
        error = capsys.readouterr().err
        assert code == 2
        assert error.count("\n") == 1
        assert message in error
        assert not (tmp_path / "run").exists()
        assert not (tmp_path / "was-called").exists()

    def test_a_second_job_on_a_run_directory_is_refused(
        self,
        settings: Path,
        tmp_path: Path,
        programs: Callable[[str, str], None],
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        sent(tmp_path / "run")
        programs("squeue", "echo 'PENDING|Priority'")
        assert main(["submit", "slurm", "train", str(settings)]) == 2
        assert "job 7 of this run is pending" in capsys.readouterr().err
        assert not (tmp_path / "was-called").exists()

    def test_a_dry_run_writes_and_sends_nothing(
        self, settings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["submit", "slurm", "train", str(settings), "--dry-run", "--then-eval"]) == 0
        printed = capsys.readouterr().out
        assert printed.count("#!/bin/bash") == 2
        assert "--dependency=afterok:JOBID" in printed
        assert not (tmp_path / "run").exists()
        assert not (tmp_path / "was-called").exists()

    def test_what_slurm_refuses_is_told_in_its_words(
        self,
        settings: Path,
        programs: Callable[[str, str], None],
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        programs("sbatch", "echo 'sbatch: error: invalid partition specified: gpu' >&2; exit 1")
        assert main(["submit", "slurm", "train", str(settings)]) == 2
        assert "invalid partition specified: gpu" in capsys.readouterr().err
