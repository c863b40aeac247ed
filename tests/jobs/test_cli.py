"""`python -m jobs` as a user sees it: exit codes, one line on stderr, nothing sent or written after a mistake."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.parser import EXAMPLES, parse
from jobs.submissions import find, note
from tests.jobs.command import EVAL, SWEEP, TRAIN, printed, refused, run, sent

Standin = Callable[[str, str], None]
ROOT = Path(__file__).parents[2]


def jobs(*words: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a separate process."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "jobs", *words]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def everything(*folders: Path) -> set[Path]:
    return {path for folder in folders for path in folder.rglob("*")}


# --- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((*TRAIN, "lr=fast"), "lr"),
        ((*TRAIN, "lora=4"), "lora"),
        ((*TRAIN, "output_dir=a%b"), "%"),
        *(
            ((*start, place, *more), message)
            for start in (TRAIN, EVAL, SWEEP, ("submit", "kubernetes", "train", "run.yaml"))
            for more in ((), ("--dry-run",))
            for place, message in (
                ("output_dir=a\\b", "has a \\, which SLURM reads as a pattern"),
                ("output_dir=a\n#SBATCH --mail-user=x", "has a line break"),
                ('output_dir="a\\tb"', "has a line break or another character"),
                (f"output_dir=out/{'ä' * 135}", "may have 255 bytes, found 270"),
                (f"output_dir={'long/' * 800}", "and the whole path 3500, found 4"),
            )
        ),
        ((*TRAIN, "--profile", "pyxis.yaml", "output_dir=/my run", "--dry-run"), "my run: pyxis cannot mount a path"),
        ((*TRAIN, "--profile", "pyxis.yaml", "output_dir=/my run"), "my run: pyxis cannot mount a path"),
        ((*TRAIN, "name_trained_model=jobs"), "name_trained_model"),
        (("submit", "slurm", "train", "none.yaml"), "none.yaml"),
        ((*TRAIN, "--profile", "none"), "none.yaml"),
        ((*TRAIN, "--nodes", "0"), "nodes"),
        ((*TRAIN, "--nodes", "two"), "--nodes"),
        ((*TRAIN, "--time", "soon"), "time"),
        ((*TRAIN, "--time", "5"), "signal_delay_s"),
        ((*TRAIN, "--gpu", "1"), "--gpu"),
        ((*TRAIN, "--lr", "1e-4"), "a setting is written without dashes: lr=1e-4"),
        (("submit", "slurm", "train"), "required: CONFIG; see"),
        ((*TRAIN, "word"), "word"),
        (("submit", "moon", "train", "run.yaml"), "moon"),
        (("submit", "slurm", "dance", "run.yaml"), "dance"),
        (("submit", "slurm"), "required"),
        ((), "COMMAND"),
        (("dance",), "dance"),
        ((*EVAL, "--then-eval"), "--then-eval"),
        ((*EVAL, "--nodes", "0"), "nodes"),
        ((*EVAL, "--limit", "0"), "--limit"),
        ((*EVAL, "--limit", "few"), "--limit"),
        ((*EVAL, "--base", "--adapter", "out/adapter"), "--adapter"),
        ((*EVAL, "--fresh"), "--fresh"),
        ((*TRAIN, "--then-eval", "--split", "val"), "--split is for eval"),
        ((*TRAIN, "--limit", "5"), "--limit is for eval"),
        ((*TRAIN, "--base"), "--base is for eval"),
        ((*TRAIN, "--other-data"), "--other-data is for eval"),
        ((*TRAIN, "--adapter", "out/adapter"), "--adapter is for eval"),
        (("submit", "kubernetes", "train", "run.yaml", "--blind"), "--blind is for eval"),
        (("submit", "kubernetes", "eval", "run.yaml", "--limit", "0"), "--limit"),
        ((*SWEEP, "--blind"), "--blind"),
        (SWEEP[:4], "several values"),
        ((*SWEEP, "lora_r=4,many"), "lora_r"),
        ((*SWEEP, "--nodes", "0"), "--nodes: expected 1 or more, found 0"),
        ((*TRAIN, "--gpus-per-node", "-1"), "--gpus-per-node: expected 0 or more, found -1"),
        ((*SWEEP, "device=cpu", "--gpus-per-node=-1"), "--gpus-per-node: expected 0 or more, found -1"),
        (("sweep", "slurm", "eval", "run.yaml", "lr=1,2"), "eval"),
        (("status", "none"), "none"),
        (("status",), "no run was submitted from "),
        (("status", "one", "two"), "two"),
        (("logs",), "no run was submitted"),
        (("cancel", "none"), "none"),
        (("table", "none"), "none"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_sent_or_written(
    scripts: Path,
    here: Path,
    state_home: Path,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    message: str,
) -> None:
    (here / "pyxis.yaml").write_text("container: pyxis /images/v.sqsh\n")
    before = everything(here, state_home, scripts)
    assert message in refused(capsys, *words)
    assert everything(here, state_home, scripts) == before


def test_a_machine_without_slurm_is_told_before_anything_is_written(
    here: Path, state_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(here))
    before = everything(here, state_home)
    for words in (TRAIN, EVAL, SWEEP):
        assert "login node" in refused(capsys, *words)
    assert everything(here, state_home) == before


def test_a_run_directory_that_cannot_be_made(scripts: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "out").write_text("a file where the folder should be")
    for words in (TRAIN, SWEEP):
        assert str(here / "out") in refused(capsys, *words)
    assert not list(scripts.iterdir())


def test_a_process_of_its_own_ends_the_same_way(here: Path) -> None:
    done = jobs(*TRAIN, "lr=fast")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("jobs: error: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "package"),
    [
        (("jobs", "status"), "pydantic"),
        (("jobs", *TRAIN), "pydantic"),
        (("jobs", *TRAIN, "--lr", "1"), "pydantic"),
        (("jobs", "table", "."), "rich"),
        (("jobs.run", "train", "run.yaml"), "pydantic"),
        (("vizsage", "train", "run.yaml"), "pydantic"),
        (("vizsage", "train", "run.yaml", "--lr", "1"), "pydantic"),
    ],
)
def test_a_python_without_the_packages_is_told_where_they_are(here: Path, words: tuple[str, ...], package: str) -> None:
    """The most common cause: the virtual environment is not active."""
    if "status" in words:
        note(sent(here / "out" / "run"))
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-S", "-m", *words]  # -S: without site-packages
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, cwd=here)
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        f"needs the package '{package}', which this Python ({sys.executable}) does not have; run source " in done.stderr
    )
    assert done.stderr.count("\n") == 1


def test_a_table_in_a_pipe_is_as_wide_as_columns_says(
    scripts: Path, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for letter in "ab":
        sent(here / (letter * 150)).folder.joinpath("settings.yaml").write_text("lr: 1e-4\n")
        note(sent(here / (letter * 150)))

    def widest(columns: str) -> int:
        monkeypatch.setenv("COLUMNS", columns)
        return max(map(len, printed(capsys, "table", str(here)).splitlines()))

    assert widest("80") <= 80 < widest("") <= 200


@pytest.mark.parametrize("words", [TRAIN, (*TRAIN, "--then-eval"), EVAL, SWEEP, (*SWEEP, "--then-eval")])
def test_a_dry_run_writes_and_sends_nothing_and_needs_no_slurm(
    here: Path,
    state_home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
) -> None:
    monkeypatch.setenv("PATH", str(here))
    before = everything(here, state_home)
    out = printed(capsys, *words, "--dry-run")
    assert out.startswith("#!/bin/bash\n")
    evaluations = (2 if "sweep" in words else 1) if "--then-eval" in words else 0
    assert out.count("#!/bin/bash") == 1 + evaluations
    assert out.count("--dependency=afterok:JOBID") == evaluations
    assert everything(here, state_home) == before


# --- following -------------------------------------------------------------------------------------------------------


def test_status_is_a_block_for_the_newest_job_of_each_kind(
    scripts: Path, standin: Standin, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    printed(capsys, *TRAIN)
    printed(capsys, *TRAIN, "--then-eval")
    folder = here / "out" / "run" / "jobs"
    (here / "out" / "run" / "checkpoint-3").mkdir()
    (folder / "102.end").write_text("1 RUNNING\n")
    (folder / "102_0_log.out").write_text("=== attempt 1 of job 102\nRuntimeError: no such luck\n")
    standin("squeue", 'case "$*" in *102*) echo "FAILED|None" ;; *) echo "PENDING|Dependency" ;; esac')
    for words in (("status",), ("status", "run"), ("status", "101")):
        assert printed(capsys, *words).splitlines() == [
            f"run directory {here}/out/run"
            + (f" (the latest that was sent from {here})" if words == ("status",) else ""),
            "train job 102: failed (FAILED, exit code 1)",
            "  step 3",
            "  last error: RuntimeError: no such luck",
            f"  log {folder}/102_0_log.out",
            "eval job 103: pending (Dependency)",
            f"  log {folder}/103_0_log.out",
        ]


def test_the_latest_run_is_that_of_this_project(
    scripts: Path, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, third = (here / name for name in ("first", "second", "third"))
    for project in (first, second):
        (project / "below").mkdir(parents=True)
        (project / "pyproject.toml").touch()
        (project / "data").symlink_to(here / "data")
        monkeypatch.chdir(project)
        printed(capsys, "submit", "slurm", "train", str(here / "run.yaml"))
    monkeypatch.chdir(first / "below")
    assert printed(capsys, "status").startswith(
        f"run directory {first}/out/run (the latest that was sent from {first})\ntrain job 101: "
    )
    assert printed(capsys, "status", "run").startswith(f"run directory {first}/out/run\ntrain job 101: ")
    assert printed(capsys, "status", "102").startswith(f"run directory {second}/out/run (sent from {second})\n")
    third.mkdir()
    (third / ".git").touch()
    monkeypatch.chdir(third)
    for command in ("status", "logs", "cancel"):
        message = refused(capsys, command)
        assert f"no run was submitted from {third} yet" in message
        assert f"the latest of all is {second}/out/run" in message
    for project in (first, second):
        (project / "out" / "run" / "jobs" / f"{101 + (project == second)}_0_log.out").write_text(project.name)
    monkeypatch.chdir(second)
    done = jobs("logs")
    assert done.stdout == "second"
    assert done.stderr == f"jobs: run directory {second}/out/run (the latest that was sent from {second})\n"


def test_logs_of_a_run_and_of_one_job(scripts: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed(capsys, *TRAIN, "--then-eval")
    assert "has not begun" in refused(capsys, "logs")
    folder = here / "out" / "run" / "jobs"
    (folder / "101_0_log.out").write_text("the training\n")
    assert jobs("logs").stdout == "the training\n"  # the evaluation has not begun
    (folder / "102_0_log.out").write_text("the evaluation\n")
    assert jobs("logs", "out/run").stdout == "the evaluation\n"
    (folder / "101_1_log.out").write_text("the second node\n")
    both = jobs("logs", "101").stdout
    assert both.index("the training") < both.index("the second node")
    assert "the evaluation" not in both


def test_the_log_is_followed_before_it_is_there(
    scripts: Path, here: Path, standin: Standin, capsys: pytest.CaptureFixture[str]
) -> None:
    printed(capsys, *TRAIN)
    standin("tail", 'printf "%s " "$@"')
    assert jobs("logs", "-f").stdout.split() == ["-n", "+1", "-F", f"{here}/out/run/jobs/101_0_log.out"]


def test_cancelling_ends_what_waits_first_and_is_remembered(
    scripts: Path, standin: Standin, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    printed(capsys, *TRAIN)
    assert "no job of this run is waiting or running" in refused(capsys, "cancel")
    printed(capsys, *TRAIN, "--then-eval")
    standin("squeue", 'case "$*" in *101*) echo "COMPLETED|None" ;; *) echo "PENDING|None" ;; esac')
    standin("scancel", f'echo "$@" >> "{here}/cancelled"')
    assert printed(capsys, "cancel", "out/run").splitlines()[0].startswith("eval job 103 is cancelled")
    assert (here / "cancelled").read_text().split() == ["103", "102"]
    standin("squeue", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    assert "train job 102: cancelled" in printed(capsys, "status")


def test_a_cancellation_that_slurm_refuses(scripts: Path, standin: Standin, capsys: pytest.CaptureFixture[str]) -> None:
    printed(capsys, *TRAIN)
    standin("squeue", "echo 'RUNNING|None'")
    standin("scancel", "echo 'scancel: error: Access denied' >&2; exit 1")
    assert "Access denied" in refused(capsys, "cancel", code=1)
    assert not list(Path("out/run/jobs").glob("*.cancelled"))


@pytest.mark.parametrize(
    "squeue", ["echo 'COMPLETING|None'", "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1"]
)
def test_a_job_that_is_given_up_does_not_hold_its_run_for_ever(
    scripts: Path, standin: Standin, here: Path, capsys: pytest.CaptureFixture[str], squeue: str
) -> None:
    printed(capsys, *TRAIN)
    standin("squeue", "echo 'FAILED|None'")
    printed(capsys, *TRAIN)
    standin("squeue", f'case "$*" in *102*) {squeue} ;; *) echo "FAILED|None" ;; esac')
    standin("scancel", f'echo "$@" >> "{here}/cancelled"')
    assert "--forget" in refused(capsys, *TRAIN, code=2 if "COMPLETING" in squeue else 1)
    assert run("cancel", "--forget") == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("train job 102 counts as gone")
    # Never an id that another job may have by now.
    assert (here / "cancelled").exists() == ("COMPLETING" in squeue)
    assert "train job 102: cancelled (given up by python -m jobs cancel --forget" in printed(capsys, "status")
    assert "no job of this run is waiting or running" in refused(capsys, "cancel", "--forget")
    assert printed(capsys, *TRAIN).startswith("job 103\n")
    assert [job.job_id for job in find("run")] == ["101", "102", "103"]


def test_a_table_of_what_was_sent(scripts: Path, standin: Standin, capsys: pytest.CaptureFixture[str]) -> None:
    printed(capsys, *SWEEP)
    standin("squeue", 'case "$*" in *101_1*) echo "RUNNING|None" ;; *) echo "PENDING|Priority" ;; esac')
    lines = printed(capsys, "table", "out/run").splitlines()
    assert ["running" in line for line in lines if "2e-4" in line] == [True]
    assert ["pending" in line for line in lines if "1e-4" in line] == [True]


def test_help_names_every_command_without_loading_anything() -> None:
    done = jobs("--help")
    assert done.returncode == 0
    for command in ("submit", "status", "logs", "cancel", "sweep", "table"):
        assert f"    {command} " in done.stdout


@pytest.mark.parametrize("called", ["vizsage-jobs", "python -m jobs"])
def test_help_shows_examples_with_the_name_by_which_the_program_was_called(
    called: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = "/usr/bin/vizsage-jobs" if called == "vizsage-jobs" else "/a/jobs/__main__.py"
    monkeypatch.setattr(sys, "argv", [path])
    for command in EXAMPLES:
        assert run(command, "--help") == 0
        shown = capsys.readouterr().out
        assert shown.startswith(f"usage: {called} {command} ")
        lines = shown.partition("examples:\n")[2].splitlines()
        assert lines
        assert max(map(len, lines)) <= 80
        for line in lines:
            assert line.startswith(f"  {called} {command}")
            assert parse(shlex.split(line.strip().removeprefix(called), comments=True)).command == command
    assert f"see {called} submit --help" in refused(capsys, "status")
