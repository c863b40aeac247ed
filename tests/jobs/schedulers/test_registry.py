"""A scheduler is a class and a line of the registry: every command serves it, and no other file changes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from jobs.log_files import newest_begun, print_files
from jobs.schedulers import registry
from jobs.schedulers.registry import SCHEDULERS, scheduler_named
from jobs.schedulers.scheduler import Job, JobOptions, JobStatus, Option, Scheduler
from jobs.spec import Work
from jobs.submissions import Submission, find, now
from tests.jobs.command import printed, refused, run
from vizsage.errors import ConfigError

ROOT = Path(__file__).parents[3]


@dataclasses.dataclass(frozen=True)
class Paper(Scheduler[str]):
    """Keeps a line per job in a file; a job has a number, and the state in the file."""

    name = "paper"
    title = "Paper"
    options = (
        Option("--colour", "NAME", "of the ink", expected="blue", is_valid=lambda text: text == "blue"),
        next(one for one in scheduler_named("kubernetes").options if one.name == "--namespace"),
    )
    time_limit = "of a day"
    own_lines = "paper:"

    def prepare(self, works: Sequence[Work], options: JobOptions) -> list[Job[str]]:
        colour = options.own["colour"] or "black"
        jobs = [Job((work,), f"{work.command} {work.run_dir.name} in {colour}") for work in works]
        if options.then_eval:
            jobs += [Job((dataclasses.replace(one, command="eval"),), "eval", after=one) for one in works]
        return jobs

    def render(self, jobs: Sequence[Job[str]]) -> str:
        return "".join(f"{job.prepared}\n" for job in jobs)

    def submit(self, job: Job[str], after: Submission | None = None) -> list[Submission]:
        [work] = job.works
        paper = Path("paper")
        lines = paper.read_text().splitlines() if paper.exists() else []
        if len(lines) == 3:
            raise ConfigError("the paper is full")
        paper.write_text("\n".join([*lines, "pending"]))
        number = str(len(lines) + 1)
        log, after_id = work.folder / f"{number}.log", after.job_id if after else ""
        return [Submission(number, work.command, self.name, now(), str(work.run_dir), str(log), after_id, "")]

    def ask(self, submission: Submission) -> JobStatus | None:
        state = Path("paper").read_text().splitlines()[int(submission.job_id) - 1]
        return JobStatus(state, "as written") if state != "gone" else None

    def cancel(self, submission: Submission) -> None:
        lines = Path("paper").read_text().splitlines()
        lines[int(submission.job_id) - 1] = "cancelled"
        Path("paper").write_text("\n".join(lines))

    def logs(self, submissions: Sequence[Submission], follow: bool, begin: Callable[[], None]) -> None:
        chosen = newest_begun(submissions, follow)
        begin()
        print_files([Path(chosen.log)], follow)


@pytest.fixture(autouse=True)
def paper(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of the scheduler `paper`, which is registered for one test."""
    monkeypatch.setitem(SCHEDULERS, "paper", f"{__name__}:Paper")
    registry.scheduler_named.cache_clear()
    return here / "paper"


@pytest.mark.parametrize("name", list(SCHEDULERS))
def test_a_scheduler_is_called_as_its_class_and_its_folder(name: str) -> None:
    assert scheduler_named(name).name == name
    assert (ROOT / "jobs" / "schedulers" / name).is_dir()


def test_every_folder_is_registered() -> None:
    folders = {path.parent.name for path in (ROOT / "jobs" / "schedulers").glob("*/__init__.py")}
    assert folders == set(SCHEDULERS) - {"paper"}


def test_a_scheduler_that_a_later_version_had(capsys: pytest.CaptureFixture[str]) -> None:
    printed(capsys, "submit", "paper", "train", "run.yaml")
    del SCHEDULERS["paper"]
    registry.scheduler_named.cache_clear()
    assert "paper: no such scheduler; there are slurm, " in refused(capsys, "cancel")


def test_a_run_from_its_submission_to_its_end(
    here: Path, paper: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("submit", "paper", "train", "run.yaml", "--colour", "blue")
    assert printed(capsys, *words, "--dry-run") == "train run in blue\n"
    assert not paper.exists()
    assert printed(capsys, *words, "--then-eval").splitlines() == [
        "job 1",
        f"run directory {here}/out/run",
        f"log {here}/out/run/jobs/1.log",
        f"follow it with: python -m jobs logs -f {here}/out/run",
        f"evaluation job 2 starts when job 1 has succeeded, log {here}/out/run/jobs/2.log",
    ]
    assert [job.script for job in find("run")] == ["", "1"]
    assert "train job 1 of this run is pending" in refused(capsys, *words)
    Path("out/run/jobs/1.log").write_text("paper: error: torn\nKeyError: 1\npaper: failed\n")
    paper.write_text("failed\npending")
    status = printed(capsys, "status", "run")
    assert "train job 1: failed (as written)\n  last error: KeyError: 1\n" in status
    assert "has not begun" in refused(capsys, "logs", "2")
    followed: list[str] = []

    def replaced(_: str, command: list[str]) -> None:
        followed.extend(command)
        raise KeyboardInterrupt

    monkeypatch.setattr("os.execvp", replaced)
    run("logs", "-f")
    assert followed == ["tail", "-n", "+1", "-F", f"{here}/out/run/jobs/1.log"]
    assert "eval job 2 is cancelled" in printed(capsys, "cancel", "run")
    paper.write_text("gone\ngone")
    assert "Paper has forgotten the job, and it left no outcome" in printed(capsys, "status", "run")


def test_a_sweep_that_is_sent_in_part_is_sent_again_for_the_rest(
    here: Path, paper: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paper.write_text("completed\ncompleted")
    words = ("sweep", "paper", "train", "run.yaml", "lr=1e-4,2e-4")
    assert run(*words) == 2
    assert "1 of 2 jobs were sent, this one not: the paper is full" in capsys.readouterr().err
    paper.write_text("completed\npending")
    for job in (here / "out" / "run" / "lr=1e-4" / "jobs").glob("submissions.jsonl"):
        job.write_text(job.read_text().replace('"job_id": "3"', '"job_id": "2"'))
    assert f"job 2 run directory {here}/out/run/lr=1e-4: pending already\n" in printed(capsys, *words)
    table = printed(capsys, "table", "out").splitlines()
    assert sum("pending" in line for line in table) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("slurm", "--colour", "blue"), "--colour is for paper"),
        (("paper", "--colour", "red"), "--colour: expected blue"),
        (("paper", "--profile", "x"), "--profile is for slurm"),
        (("slurm", "--namespace", "x"), "--namespace is for kubernetes and paper"),
    ],
)
def test_an_option_is_refused_for_schedulers_that_have_it_not(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    scheduler, *options = words
    assert message in refused(capsys, "submit", scheduler, "train", "run.yaml", *options)
    assert "--colour" not in printed_help(capsys, "table")
    assert "of the ink" in printed_help(capsys, "submit")


def printed_help(capsys: pytest.CaptureFixture[str], command: str) -> str:
    run(command, "--help")
    return capsys.readouterr().out
