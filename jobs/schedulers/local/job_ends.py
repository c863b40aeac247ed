"""What follows from the end of an attempt, by the exit codes of the contract: the job has ended, or runs again."""

from __future__ import annotations

from jobs.schedulers.local.local_entries import Ended, Entry
from vizsage.contract import EXIT_DONE, EXIT_INTERRUPTED, EXITS_WITH_CAUSE

BY_CANCEL = "by python -m jobs cancel"


def end_of(entry: Entry, code: int, failures: int, *, cancelled: bool) -> Ended | None:
    """How a job has ended with an attempt that ended with `code`; None: it runs again.

    Args:
        entry: the job.
        code: the exit code of the attempt.
        failures: attempts of the job that failed, this one included.
        cancelled: whether the job was to be stopped; one that was done before the signal arrived counts as done.
    """
    if code == EXIT_DONE:
        return Ended("completed", exit_code=code)
    if cancelled:
        return Ended("cancelled", BY_CANCEL, code)
    if code in EXITS_WITH_CAUSE:
        return Ended("failed", f"exit code {code}", code)
    if code != EXIT_INTERRUPTED and failures > entry.max_retries:
        return Ended("failed", f"exit code {code}, given up after {entry.max_retries} retries", code)
    return None


def report(entry: Entry, code: int, failures: int, ended: Ended | None) -> str:
    """The line of the job's log about the end of an attempt."""
    if ended is None and code == EXIT_INTERRUPTED:
        return f"=== job {entry.job_id} was interrupted, its checkpoint is safe: it goes back into the queue"
    if ended is None:
        return f"=== job {entry.job_id} failed with exit code {code}: retry {failures} of {entry.max_retries}"
    return f"=== job {entry.job_id} {ended.state}{f': {ended.detail}' if ended.detail else ''}"


def is_failure(code: int) -> bool:
    """Whether an attempt that ended with `code` counts among those that are retried a few times."""
    return code not in (EXIT_DONE, EXIT_INTERRUPTED, *EXITS_WITH_CAUSE)
