"""The state of a job of this machine, with and without a running supervisor, and cancelling it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from jobs.schedulers.local.job_ends import BY_CANCEL, end_of
from jobs.schedulers.local.local_entries import Ended, Entry
from jobs.schedulers.local.local_processes import processes_of, send
from jobs.schedulers.local.local_queue import Queue, queue_of, this_host
from jobs.schedulers.scheduler import LOST, JobStatus
from jobs.submissions import Submission
from jobs.terminal import program
from vizsage.errors import VizSageError

_GONE = "the supervisor is gone; submit again continues"


def ask(job: Submission) -> JobStatus | None:
    """How a job is; None where neither the queue nor the run directory knows it.

    Raises:
        VizSageError: another machine or another user has to be asked.
    """
    queue = queue_of(job.script)
    if ended := queue.ended(Path(job.run_dir), job.job_id):
        return JobStatus(ended.state, ended.detail)
    _check_host(queue, job)
    if not queue.exists():
        return None
    with queue.locked():
        entry = queue.entry(job.job_id)
        if entry is None:  # it ended in between, or the queue was deleted
            ended = queue.ended(Path(job.run_dir), job.job_id)
            return JobStatus(ended.state, ended.detail) if ended else None
        return _supervised(queue, entry) if queue.has_supervisor() else _unsupervised(queue, entry)


def cancel(job: Submission) -> None:
    """SIGTERM to a running job, SIGKILL where that takes too long; a waiting one leaves the queue.

    Raises:
        VizSageError: the job is in the queue of another machine or user.
    """
    queue = queue_of(job.script)
    _check_host(queue, job)
    with queue.locked():
        entry = queue.entry(job.job_id)
        if entry is None:  # it ended in between
            return
        queue.cancel(entry)
        lock_fd = queue.take_supervisor_lock()
        if lock_fd is None:  # the supervisor does the rest
            return
        try:
            if running := processes_of(str(queue.path(entry))):
                send(running[:1], signal.SIGTERM)
            else:
                queue.finish(entry, end_without_supervisor(queue, entry) or Ended("cancelled", BY_CANCEL))
        finally:
            os.close(lock_fd)


def end_without_supervisor(queue: Queue, entry: Entry) -> Ended | None:
    """How a job ended that has no process and whose supervisor is gone; None where it would run again."""
    progress = queue.progress(entry)
    cancelled = queue.is_cancelled(entry)
    code = queue.exit_code(entry, progress.attempt) if progress.running else None
    if code is None:
        return Ended("cancelled", BY_CANCEL) if cancelled else None
    return end_of(entry, code, progress.failures + 1, cancelled=cancelled)


def _supervised(queue: Queue, entry: Entry) -> JobStatus:
    progress = queue.progress(entry)
    if queue.is_cancelled(entry):
        return JobStatus("ending", "cancelled, it saves a checkpoint" if progress.running else "cancelled")
    if progress.running:
        return JobStatus("running", f"attempt {progress.attempt}")
    if entry.after and queue.entry(entry.after):
        return JobStatus("pending", f"waits for the success of job {entry.after}")
    return JobStatus("pending", "waits to be tried again" if progress.failures else "waits for its turn")


def _unsupervised(queue: Queue, entry: Entry) -> JobStatus:
    if queue.is_running(entry):
        state = "ending" if queue.is_cancelled(entry) else "running"
        attempt = queue.progress(entry).attempt
        return JobStatus(state, f"attempt {attempt}; its supervisor is gone, the next submit starts another")
    ended = end_without_supervisor(queue, entry)
    return JobStatus(ended.state, ended.detail) if ended else JobStatus(LOST, _GONE)


def _check_host(queue: Queue, job: Submission) -> None:
    if queue.host != this_host():
        raise VizSageError(
            f"job {job.job_id} is in the queue of {queue.host}, and this is {this_host()}: ask there; if that machine "
            f"is gone for good: {program()} cancel --forget {job.job_id}"
        )
