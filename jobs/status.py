"""What became of a run: the scheduler's word on its jobs, and what the run itself left on disk."""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass
from pathlib import Path

from jobs.schedulers.base import ACTIVE, LOST
from jobs.schedulers.registry import scheduler_named, schedulers
from jobs.submissions import Submission, of_run
from vizsage.contract import CHECKPOINT_PREFIX, EXIT_DONE, EXIT_INTERRUPTED, EXIT_UNKNOWN, OUTCOME, checkpoint_step
from vizsage.contract.run_files import Outcome, last_outcome

CANCELLED = ".cancelled"
_LOG_TAIL_BYTES = 1 << 16
# How other programs speak of errors, and lines that only seem to: progress, warnings, the scheduler's own.
_ERROR = re.compile(
    r"error|exception|fatal|fail|abort|\bfault|killed|denied|refused|cannot|can't|unable|no such|not found|"
    r"not permitted|invalid|illegal|out of memory|no space|timed? ?out|core dumped|bad_alloc|panic",
    re.IGNORECASE,
)
_NO_ERROR = (r"===", r"step \d+", r"vizsage: (warning|info):")


@dataclass(frozen=True)
class JobState:
    """How one job stands: pending, running, ending, completed, cancelled, interrupted, failed or unknown.

    `step`: optimizer steps done. `error`: the last one in the job's log, where there is reason to look for it.
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
    """Ask the scheduler; where it has forgotten the job, read what the job left."""
    scheduler = scheduler_named(submission.scheduler)
    told = None if submission.given_up else scheduler.ask(submission)
    run_dir = Path(submission.run_dir)
    outcome = _outcome(run_dir)
    state, detail = told[:2] if told else _left_behind(submission, scheduler.title, outcome)
    step = outcome.step if outcome else _newest_checkpoint(run_dir)
    if step is None and told:
        step = scheduler.step(submission)
    error = error_in(told.words) if told else None
    if state in ("failed", "interrupted", "unknown") or (state == "pending" and _failures(submission)):
        error = error or last_error(Path(submission.log))
        own = submission.kind == "train" and _written_since(run_dir, submission.submitted)
        if own and outcome and outcome.exit_code != EXIT_DONE:  # whose reason is "done"
            error = error or outcome.reason or None
    if told and state == "failed" and (code := _end(submission)[0]) is not None:
        hint = (
            "; the same submission continues it"
            if code == EXIT_INTERRUPTED or (detail and detail == scheduler.timed_out)
            else ""
        )
        detail += f", exit code {code}{hint}"
    if state == "pending" and _failures(submission):
        detail += f", after {_failures(submission)} failed attempts"
    return JobState(submission, state, detail, step, error)


def state_of_run(run_dir: Path) -> str:
    """One word for the newest training job of a run, or for the run itself where none was sent."""
    jobs = [one for one in of_run(run_dir) if one.kind == "train"] or of_run(run_dir)
    if jobs:
        return state_of(jobs[-1]).state
    outcome = _outcome(run_dir)
    return _word(outcome.exit_code) if outcome else "unknown"


def last_error(log: Path) -> str | None:
    """The last error in the file of a job's log, see `error_in`."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _LOG_TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return None
    return error_in(text)


def error_in(text: str) -> str | None:
    """The last error in the newest attempt of a log: a line of this project's, or else one that speaks of an error.

    A process that is killed leaves none: what it wrote last is progress.
    """
    attempt = text[text.rfind("=== attempt ") :] if "=== attempt " in text else text
    lines = [line.strip() for line in attempt.splitlines()]
    ours = [line for line in lines if line.startswith(("vizsage: error:", "jobs.run:"))]
    no_error = re.compile("|".join([*_NO_ERROR, *(one.own_lines for one in schedulers() if one.own_lines)]))
    found = ours or [line for line in lines if _ERROR.search(line) and not no_error.match(line)]
    return found[-1] if found else None


def _left_behind(submission: Submission, title: str, outcome: Outcome | None) -> tuple[str, str]:
    """State and detail from the files of a job that the scheduler has forgotten."""
    forgotten = f"{title} has forgotten the job"
    if submission.given_up:
        forgotten = f"given up by python -m jobs cancel --forget, {title} is not asked"
    cancelled = bool(submission.given_up) or (submission.folder / f"{submission.job_id}{CANCELLED}").exists()
    by = forgotten if submission.given_up else "by python -m jobs cancel"
    code, host_state = _end(submission)
    if code is None:  # it never began, or its script was killed with all the rest
        if cancelled:
            return "cancelled", by
        if submission.kind == "train" and _written_since(Path(submission.run_dir), submission.submitted):
            return _word(outcome.exit_code if outcome else EXIT_UNKNOWN), f"{forgotten}; outcome.json tells"
        return "unknown", f"{forgotten}, and it left no word"
    if cancelled and code != EXIT_DONE:
        return "cancelled", by
    outside = ", stopped from outside" if code == EXIT_INTERRUPTED and host_state != "RUNNING" else ""
    return _word(code), f"{forgotten}; it ended with exit code {code}{outside}"


def _end(submission: Submission) -> tuple[int | None, str]:
    """How the newest attempt ended on the host: the exit code, and what SLURM called the job then."""
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


def _word(code: int) -> str:
    return {EXIT_DONE: "completed", EXIT_INTERRUPTED: "interrupted"}.get(code, "failed")


def _failures(submission: Submission) -> int:
    try:
        return int((submission.folder / f"{submission.job_id}.failures").read_text())
    except (OSError, ValueError):
        return 0


def _newest_checkpoint(run_dir: Path) -> int | None:
    try:
        steps = [checkpoint_step(path.name) for path in run_dir.glob(f"{CHECKPOINT_PREFIX}*")]
    except OSError:  # a name that only the pods' storage can have
        return None
    return max((step for step in steps if step is not None), default=None)


def _outcome(run_dir: Path) -> Outcome | None:
    try:
        return last_outcome(run_dir)
    except OSError:
        return None
