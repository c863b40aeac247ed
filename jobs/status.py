"""The state of a run: what the scheduler reports about its jobs, and what jobs and run left in the run directory."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path

from jobs.log_errors import error_in, last_error
from jobs.run_reading import outcome_of, steps_done, word_for
from jobs.schedulers.registry import scheduler_named
from jobs.schedulers.scheduler import ACTIVE, LOST
from jobs.submissions import Submission, of_run
from vizsage.contract import EXIT_DONE, EXIT_INTERRUPTED, EXIT_UNKNOWN, OUTCOME
from vizsage.contract.run_files import Outcome

CANCELLED = ".cancelled"


@dataclass(frozen=True)
class JobState:
    """The state of one job.

    Attributes:
        state: pending, running, ending, completed, cancelled, interrupted, failed or unknown, or a scheduler's word.
        detail: the reason; empty where none is known.
        step: optimizer steps done.
        error: the last error in the job's log. None also where the job gives no reason to look for one.
    """

    submission: Submission
    state: str
    detail: str
    step: int | None
    error: str | None

    @property
    def active(self) -> bool:
        """Whether the job may still write into its run directory."""
        return self.state in ACTIVE

    @property
    def can_be_cancelled(self) -> bool:
        """Whether the job runs, or may run later without being submitted again."""
        return self.active or self.state == LOST


def state_of(submission: Submission) -> JobState:
    """Ask the scheduler; where it has forgotten the job, read what the job left. Raises VizSageError without an answer.

    Exit code and failed attempts are known from files only where the job's script leaves them, see `Scheduler`.
    """
    scheduler = scheduler_named(submission.scheduler)
    told = None if submission.given_up else scheduler.ask(submission)
    run_dir = Path(submission.run_dir)
    outcome = outcome_of(run_dir)
    state, detail = told[:2] if told else _left_behind(submission, scheduler.title, outcome)
    step = outcome.step if outcome else steps_done(run_dir)
    if step is None and told:
        step = scheduler.step(submission)
    failures = _failures(submission) if state == "pending" else 0
    error = error_in(told.words) if told else None
    if state in ("failed", "interrupted", "unknown") or failures:
        if scheduler.shares_files:
            error = last_error(Path(submission.log))
        own = submission.kind == "train" and _written_since(run_dir, submission.submitted)
        if own and outcome and outcome.exit_code != EXIT_DONE:  # whose reason is "done"
            error = error or outcome.reason or None
    if told and state == "failed" and (code := _end(submission)[0]) is not None:
        timed_out = scheduler.timed_out is not None and detail == scheduler.timed_out
        hint = "; the same submission continues it" if code == EXIT_INTERRUPTED or timed_out else ""
        detail += f", exit code {code}{hint}"
    if failures:
        detail += f", after {failures} failed attempts"
    return JobState(submission, state, detail, step, error)


def state_of_run(run_dir: Path) -> str:
    """One word for the newest training job of a run, or for the run itself where none was sent."""
    jobs = [one for one in of_run(run_dir) if one.kind == "train"] or of_run(run_dir)
    if jobs:
        return state_of(jobs[-1]).state
    outcome = outcome_of(run_dir)
    return word_for(outcome.exit_code) if outcome else "unknown"


def _left_behind(submission: Submission, title: str, outcome: Outcome | None) -> tuple[str, str]:
    """State and detail from the files of a job that the scheduler has forgotten."""
    forgotten = f"{title} has forgotten the job"
    if submission.given_up:
        forgotten = f"given up by python -m jobs cancel --forget, {title} is not asked"
    cancelled = bool(submission.given_up) or (submission.folder / f"{submission.job_id}{CANCELLED}").exists()
    by = forgotten if submission.given_up else "by python -m jobs cancel"
    code, host_state = _end(submission)
    if code is None:  # it did not begin, or its script was killed together with the run
        if cancelled:
            return "cancelled", by
        if submission.kind == "train" and _written_since(Path(submission.run_dir), submission.submitted):
            code = outcome.exit_code if outcome else EXIT_UNKNOWN
            return word_for(code), f"{forgotten}; state from outcome.json"
        return "unknown", f"{forgotten}, and it left no outcome"
    if cancelled and code != EXIT_DONE:
        return "cancelled", by
    outside = ", stopped from outside" if code == EXIT_INTERRUPTED and host_state != "RUNNING" else ""
    return word_for(code), f"{forgotten}; it ended with exit code {code}{outside}"


def _end(submission: Submission) -> tuple[int | None, str]:
    """How the newest attempt ended, see `Scheduler`: the exit code, and what the scheduler called the job then."""
    try:
        code, state = (submission.folder / f"{submission.job_id}.end").read_text().split()
        return int(code), state
    except (OSError, ValueError):
        return None, ""


def _written_since(run_dir: Path, submitted: str) -> bool:
    try:
        written_s = (run_dir / OUTCOME).stat().st_mtime
        return written_s >= datetime.datetime.fromisoformat(submitted).timestamp()
    except (OSError, ValueError):
        return False


def _failures(submission: Submission) -> int:
    try:
        return int((submission.folder / f"{submission.job_id}.failures").read_text())
    except (OSError, ValueError):
        return 0
