"""Jobs of this machine as `python -m jobs` sees them: put into the queue, asked about, cancelled."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jobs.schedulers.local import detached
from jobs.schedulers.local.job_ends import BY_CANCEL, end_of
from jobs.schedulers.local.local_processes import processes_of, send
from jobs.schedulers.local.local_queue import Ended, Entry, Queue, job_id, queue_here, queue_of, this_host
from jobs.schedulers.local.visible_gpus import gpus_of_job, visible_gpus
from jobs.spec import Work
from jobs.submissions import Submission, now
from vizsage.errors import VizSageError

LOST = "lost"
_MAX_RETRIES = 3  # as profiles of SLURM say where they say nothing
_GONE = "the supervisor is gone; submit again continues"


@dataclass(frozen=True)
class Resources:
    """What a job takes of this machine. `devices`: the GPUs it may be given, of which it takes `gpus`."""

    gpus: int
    devices: tuple[str, ...]
    parallel: int


def resources(
    gpus_per_node: int | None, parallel: int | None, device: str, environment: Mapping[str, str]
) -> Resources:
    """What a job takes. Raises ConfigError for more GPUs than this machine has.

    Args:
        gpus_per_node: GPUs that are asked for; None: one where there is any.
        parallel: most jobs at a time while it runs; None: it runs alone.
        device: the setting; a job with `cpu` takes no GPU unless told otherwise.
        environment: of the submitter, see `visible_gpus`.
    """
    devices = visible_gpus(environment)
    return Resources(gpus_of_job(gpus_per_node, devices, on_cpu=device == "cpu"), devices, parallel or 1)


def command(work: Work) -> tuple[str, ...]:
    """What runs the work: the launcher of every job, with the Python that submits."""
    words = ("-u", "-m", "jobs.run", work.command, str(work.settings_file), *work.evaluation.words)
    return (sys.executable, *words)


def command_line(work: Work, taken: Resources) -> str:
    """The same as a line of shell."""
    return f"PROCESSES_PER_NODE={max(1, taken.gpus)} {shlex.join(command(work))}"


def submit(work: Work, taken: Resources, *, after: Submission | None = None) -> Submission:
    """Put a job into the queue and see to it that a supervisor works on it. Raises VizSageError.

    A job of the same run that was lost with its supervisor is replaced by this one.
    """
    queue = queue_here()
    queue.create()
    work.freeze()
    with queue.locked():
        number = queue.next_number([work.run_dir])
        entry = Entry(
            job_id=job_id(number),
            number=number,
            kind=work.command,
            run_dir=str(work.run_dir),
            log=str(work.folder / f"{job_id(number)}_log.out"),
            command=command(work),
            directory=str(Path.cwd()),
            environment=dict(os.environ),
            umask=_umask(),
            parallel=taken.parallel,
            gpus=taken.gpus,
            devices=taken.devices,
            after=after.job_id if after else "",
            max_retries=_MAX_RETRIES,
        )
        lock_fd = queue.take_supervisor_lock()
        if lock_fd is None:
            queue.add(entry)
        else:
            try:
                _replace_lost(queue, entry)
                queue.add(entry)
                detached.start(queue, lock_fd)
            except VizSageError:
                queue.path(entry).unlink(missing_ok=True)
                raise
            finally:
                os.close(lock_fd)  # the supervisor has its own
    return Submission(
        job_id=entry.job_id,
        kind=entry.kind,
        scheduler="local",
        submitted=now(),
        run_dir=entry.run_dir,
        log=entry.log,
        script=str(queue.path(entry)),
        config=str(work.settings_file),
        user=str(os.getuid()),
    )


def ask(job: Submission) -> tuple[str, str] | None:
    """State and detail of a job; None where neither the queue nor the run directory knows it.

    Raises VizSageError where another machine or another user has to be asked.
    """
    queue = queue_of(job.script)
    if ended := queue.ended(Path(job.run_dir), job.job_id):
        return ended.state, ended.detail
    _check_host(queue, job)
    if not queue.folder.exists():
        return None
    with queue.locked():
        entry = queue.entry(job.job_id)
        if entry is None:  # it ended in between, or was never known
            ended = queue.ended(Path(job.run_dir), job.job_id)
            return (ended.state, ended.detail) if ended else None
        if queue.has_supervisor():
            return _supervised(queue, entry)
        return _unsupervised(queue, entry)


def cancel(job: Submission) -> None:
    """SIGTERM to a running job, and SIGKILL if it takes too long; a waiting one leaves the queue. Raises VizSageError."""
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
                queue.finish(entry, _end_without_supervisor(queue, entry) or Ended("cancelled", BY_CANCEL))
        finally:
            os.close(lock_fd)


def _supervised(queue: Queue, entry: Entry) -> tuple[str, str]:
    progress = queue.progress(entry)
    if queue.is_cancelled(entry):
        return "ending", "cancelled, it saves a checkpoint" if progress.running else "cancelled"
    if progress.running:
        return "running", f"attempt {progress.attempt}"
    waits = "waits for its turn"
    if entry.after and queue.entry(entry.after):
        waits = f"waits for the success of job {entry.after}"
    return "pending", waits


def _unsupervised(queue: Queue, entry: Entry) -> tuple[str, str]:
    if queue.is_running(entry):
        word = "ending" if queue.is_cancelled(entry) else "running"
        return word, f"attempt {queue.progress(entry).attempt}; its supervisor is gone, the next submit starts another"
    ended = _end_without_supervisor(queue, entry)
    return (ended.state, ended.detail) if ended else (LOST, _GONE)


def _end_without_supervisor(queue: Queue, entry: Entry) -> Ended | None:
    """How a job ended that ended after its supervisor; None where it did not, and runs again with the next one."""
    progress = queue.progress(entry)
    cancelled = queue.is_cancelled(entry)
    code = queue.exit_code(entry, progress.attempt) if progress.running else None
    if code is None:
        return Ended("cancelled", BY_CANCEL) if cancelled else None
    return end_of(entry, code, progress.failures + 1, cancelled=cancelled)


def _replace_lost(queue: Queue, entry: Entry) -> None:
    for other in queue.entries():
        if other.run_dir == entry.run_dir and other.job_id != entry.after and not queue.is_running(other):
            queue.finish(
                other, _end_without_supervisor(queue, other) or Ended("cancelled", f"replaced by job {entry.job_id}")
            )


def _check_host(queue: Queue, job: Submission) -> None:
    if queue.host != this_host():
        raise VizSageError(
            f"job {job.job_id} is in the queue of {queue.host}, and this is {this_host()}: ask there; if that machine "
            f"is gone for good: python -m jobs cancel --forget {job.job_id}"
        )


def _umask() -> int:
    found = os.umask(0o077)
    os.umask(found)
    return found
