"""Jobs put into the queue of this machine: what each takes of it, and the command that it runs."""

from __future__ import annotations

import dataclasses
import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jobs.schedulers.local import detached
from jobs.schedulers.local.local_entries import Ended, Entry
from jobs.schedulers.local.local_queue import Queue, job_id, queue_here
from jobs.schedulers.local.local_states import end_without_supervisor
from jobs.schedulers.local.visible_gpus import gpus_of_job, visible_gpus
from jobs.schedulers.scheduler import JobOptions
from jobs.spec import Work
from jobs.submissions import Submission, note, now
from vizsage.errors import ConfigError, VizSageError

_MAX_RETRIES = 3  # the default of cluster profiles


@dataclass(frozen=True)
class Resources:
    """What a job takes of this machine.

    Attributes:
        gpus: how many of `devices` it takes for itself.
        devices: the GPUs that it may be given.
        parallel: most jobs that may run at a time while it runs.
    """

    gpus: int
    devices: tuple[str, ...]
    parallel: int

    def for_evaluation(self) -> Resources:
        """One process answers, however many train."""
        return dataclasses.replace(self, gpus=min(self.gpus, 1))


def resources(options: JobOptions, device: str, environment: Mapping[str, str]) -> Resources:
    """What a job takes. `device` is the setting; one with `cpu` takes no GPU unless told otherwise.

    Raises:
        ConfigError: what is asked for is not possible on one machine, or not on this one.
    """
    if options.nodes not in (None, 1):
        raise ConfigError(f"--nodes: jobs on this machine have one node, found {options.nodes}; leave it out")
    if options.time is not None:
        raise ConfigError("--time: jobs on this machine have no time limit; leave it out, and stop one with cancel")
    devices = visible_gpus(environment)
    gpus = gpus_of_job(options.gpus_per_node, devices, on_cpu=device == "cpu")
    return Resources(gpus, devices, options.own.get("parallel") or 1)


def command(work: Work) -> tuple[str, ...]:
    """What runs the work: the launcher of every job, with the Python that submits."""
    words = ("-u", "-m", "jobs.run", work.command, str(work.settings_file), *work.evaluation.words)
    return (sys.executable, *words)


def command_line(work: Work, taken: Resources) -> str:
    """The same as a line of shell."""
    return f"PROCESSES_PER_NODE={max(1, taken.gpus)} {shlex.join(command(work))}"


def submit(work: Work, taken: Resources, after: Submission | None = None) -> Submission:
    """Put a job into the queue, and start a supervisor if none runs.

    A job of the same run that was lost with its supervisor is replaced.

    Raises:
        VizSageError: the queue cannot be written, or no supervisor started. The job is not in the queue then.
    """
    queue = queue_here()
    queue.create()
    work.freeze()
    with queue.locked():
        entry = _entry(work, taken, queue.next_number(work.run_dir), after)
        sent = Submission(
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
        lock_fd = queue.take_supervisor_lock()
        if lock_fd is None:
            queue.add(entry)
            return sent
        try:
            _replace_lost(queue, entry)
            queue.add(entry)
            detached.start(queue, lock_fd)
        except VizSageError:
            queue.path(entry).unlink(missing_ok=True)
            raise
        except KeyboardInterrupt:  # the supervisor may have started the job
            note(sent)
            raise
        finally:
            os.close(lock_fd)  # the supervisor has its own
    return sent


def _entry(work: Work, taken: Resources, number: int, after: Submission | None) -> Entry:
    return Entry(
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


def _replace_lost(queue: Queue, entry: Entry) -> None:
    """End the lost jobs of the same run, which the new supervisor would otherwise run besides `entry`."""
    for other in queue.entries():
        if other.run_dir == entry.run_dir and other.job_id != entry.after and not queue.is_running(other):
            replaced = Ended("cancelled", f"replaced by job {entry.job_id}")
            queue.finish(other, end_without_supervisor(queue, other) or replaced)


def _umask() -> int:
    found = os.umask(0o077)
    os.umask(found)
    return found
