"""The process that runs the jobs of a queue. `submit` starts it; it ends when the queue is empty.

It starts jobs in their order, acts on their exit codes and on cancellations. All that must be remembered is in the
queue's files, so that after a kill the next supervisor continues, also with jobs that are still running.
"""

from __future__ import annotations

import dataclasses
import datetime
import logging
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from jobs.schedulers.local.job_ends import BY_CANCEL, end_of, is_failure, report
from jobs.schedulers.local.local_entries import Ended, Entry, Progress
from jobs.schedulers.local.local_processes import MARK, Process, living, processes_of, send
from jobs.schedulers.local.local_queue import Queue, this_host
from jobs.schedulers.local.visible_gpus import VARIABLE
from jobs.spec import FOLDER
from vizsage.contract import EXIT_UNKNOWN
from vizsage.errors import VizSageError
from vizsage.files import write_text

log = logging.getLogger(__name__)

# A job here has one node. These describe the nodes of a job from inside which this one may have been submitted.
_NOT_INHERITED = ("NNODES", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT", "JOB_COMPLETION_INDEX")


class Attempt:
    """One run of a job's command, which this supervisor started or found running."""

    def __init__(self, entry: Entry, progress: Progress, process: subprocess.Popen[bytes] | None = None) -> None:
        self.entry, self.progress = entry, progress
        self.stop_by: float | None = None
        """Time (monotonic) at which processes that are still running are killed; None before SIGTERM was sent."""
        self.found_alive = process is not None
        self._process = process
        self._living: list[Process] = []

    @property
    def was_started_here(self) -> bool:
        """Whether this process is the parent of the launcher."""
        return self._process is not None

    def launcher_code(self) -> int | None:
        """The exit code of a launcher that this supervisor started and that has ended; 128 + n for signal n."""
        code = self._process.poll() if self._process else None
        return 128 - code if code is not None and code < 0 else code

    def is_over(self, mark: str) -> bool:
        """Whether no process of the attempt is alive."""
        if self._process is not None and self._process.poll() is None:
            return False
        # A search through all processes of the machine only when those that are known have ended.
        self._living = living(self._living) or processes_of(mark)
        self.found_alive |= bool(self._living)
        return not self._living


class Supervisor:
    """Runs the jobs of one queue.

    Args:
        queue: where the jobs are.
        lock_fd: holds the supervisor's lock of the queue; it is closed when the work is over.
        poll_s: seconds between two looks at the queue.
        grace_s: seconds between SIGTERM and SIGKILL: a step, a validation and a checkpoint must fit.
        pauses_s: seconds before the first, second, ... retry of a job that failed; others run meanwhile.
    """

    def __init__(
        self,
        queue: Queue,
        lock_fd: int,
        *,
        poll_s: float = 0.5,
        grace_s: float = 600,
        pauses_s: Sequence[float] = (10, 60, 300),
    ) -> None:
        self._queue, self._lock_fd = queue, lock_fd
        self._poll_s, self._grace_s, self._pauses_s = poll_s, grace_s, pauses_s
        self._attempts: dict[str, Attempt] = {}
        self._not_before: dict[str, float] = {}
        self._problem = ""
        self._took_over = False  # the jobs that a killed supervisor has left running
        self.stopping = False
        """Set by a signal: start nothing more, let the running jobs save, leave the queue to the next supervisor."""

    def run(self) -> None:
        """Return when the queue is empty, or when a signal asked to stop and no job is running any more."""
        while True:
            try:
                if self._step():
                    return
                self._problem = ""
            except (OSError, VizSageError) as error:  # a full disk, or storage that does not answer: try again
                if not self._queue.folder.exists():  # deleted: no job can be added or cancelled any more
                    return
                if str(error) != self._problem:
                    log.error("%s", error)
                self._problem = str(error)
            time.sleep(self._poll_s if not self._problem else 20 * self._poll_s)

    def _step(self) -> bool:
        """Act on what has happened since the last look; whether there is nothing more to do."""
        if not self._took_over:
            for entry in self._queue.entries():
                if (progress := self._queue.progress(entry)).running:
                    self._attempts[entry.job_id] = Attempt(entry, progress)
            self._took_over = True
        for attempt in list(self._attempts.values()):
            self._look_at(attempt)
        waiting = [entry for entry in self._queue.entries() if entry.job_id not in self._attempts]
        for entry in waiting:
            if self._queue.is_cancelled(entry):
                self._finish(entry, Ended("cancelled", BY_CANCEL))
            elif (dependency := self._dependency(entry)) is not None and dependency.state != "completed":
                detail = f"dependency failed: job {entry.after} {dependency.state}"
                self._finish(entry, Ended("cancelled", detail))
        if not self.stopping:
            self._start_what_fits()
        if self._attempts:
            return False
        with self._queue.locked():  # `submit` adds a job and looks for a supervisor under the same lock
            if self._queue.entries() and not self.stopping:
                return False
            os.close(self._lock_fd)
            return True

    # --- running jobs ------------------------------------------------------------------------------------------------

    def _look_at(self, attempt: Attempt) -> None:
        entry = attempt.entry
        mark = str(self._queue.path(entry))
        if attempt.is_over(mark):
            self._act_on_end(attempt)
            return
        left_behind = self._code(attempt) is not None
        if attempt.stop_by is None and (self.stopping or left_behind or self._queue.is_cancelled(entry)):
            processes = processes_of(mark)
            # The launcher, which is the oldest, passes the signal on. What it left behind gets it directly.
            send(processes if left_behind else processes[:1], signal.SIGTERM)
            attempt.stop_by = time.monotonic() + self._grace_s
        elif attempt.stop_by is not None and time.monotonic() > attempt.stop_by:
            _write_to_log(entry, f"=== job {entry.job_id} has not stopped in {self._grace_s:g} seconds: killed")
            send(processes_of(mark), signal.SIGKILL)
            attempt.stop_by = time.monotonic() + self._grace_s

    def _code(self, attempt: Attempt) -> int | None:
        """The exit code of the attempt's launcher; None where it is running, or its exit code is lost."""
        if attempt.was_started_here:
            return attempt.launcher_code()
        return self._queue.exit_code(attempt.entry, attempt.progress.attempt)

    def _act_on_end(self, attempt: Attempt) -> None:
        entry, progress = attempt.entry, attempt.progress
        code = self._code(attempt)
        cancelled = self._queue.is_cancelled(entry)
        if code is None and not attempt.found_alive and not cancelled:
            # The machine was restarted, or job and supervisor were killed together. That is not a failure of the job.
            _write_to_log(entry, f"=== job {entry.job_id} was lost with its supervisor: it goes back into the queue")
            self._put_back(entry, progress)
            return
        if code is None:
            code = EXIT_UNKNOWN
        failures = progress.failures + is_failure(code)
        ended = end_of(entry, code, failures, cancelled=cancelled)
        _write_to_log(entry, report(entry, code, failures, ended))
        if ended:
            self._finish(entry, ended)
            return
        if is_failure(code):
            pause_s = self._pauses_s[min(failures, len(self._pauses_s)) - 1] if self._pauses_s else 0
            self._not_before[entry.job_id] = time.monotonic() + pause_s
            _note_failures(entry, failures)
        self._put_back(entry, dataclasses.replace(progress, failures=failures))

    def _put_back(self, entry: Entry, progress: Progress) -> None:
        self._queue.write_progress(entry, dataclasses.replace(progress, running=False, devices=()))
        self._attempts.pop(entry.job_id, None)

    def _finish(self, entry: Entry, ended: Ended) -> None:
        with self._queue.locked():
            self._queue.finish(entry, ended)
        self._attempts.pop(entry.job_id, None)

    # --- waiting jobs ------------------------------------------------------------------------------------------------

    def _start_what_fits(self) -> None:
        """Start jobs in their order. The first that has to wait for room keeps later ones from overtaking it."""
        for entry in self._queue.entries():
            if entry.job_id in self._attempts or not self._is_ready(entry):
                continue
            devices = self._room(entry)
            if devices is None:
                return
            self._start(entry, devices)

    def _is_ready(self, entry: Entry) -> bool:
        """Whether only room keeps it from starting; those that are not ready are overtaken."""
        if time.monotonic() < self._not_before.get(entry.job_id, 0.0):
            return False
        if any(other.entry.run_dir == entry.run_dir for other in self._attempts.values()):
            return False
        dependency = self._dependency(entry)
        return not entry.after or (dependency is not None and dependency.state == "completed")

    def _dependency(self, entry: Entry) -> Ended | None:
        """How the job ended that `entry` waits for; None where it has not, or there is none."""
        if not entry.after or self._queue.entry(entry.after):
            return None
        return self._queue.ended(Path(entry.run_dir), entry.after) or Ended("unknown")

    def _room(self, entry: Entry) -> tuple[str, ...] | None:
        """The GPUs that the job is given, possibly none; None where it has to wait for another one's end."""
        running = self._attempts.values()
        if len(running) >= min([entry.parallel, *(other.entry.parallel for other in running)]):
            return None
        taken = {device for other in running for device in other.progress.devices}
        free = [device for device in entry.devices if device not in taken]
        return tuple(free[: entry.gpus]) if len(free) >= entry.gpus else None

    def _start(self, entry: Entry, devices: tuple[str, ...]) -> None:
        before = self._queue.progress(entry)
        progress = dataclasses.replace(before, attempt=before.attempt + 1, running=True, devices=devices)
        # Before the process exists: if this supervisor is killed in between, the next one must look for the process, or
        # it would start the job a second time.
        self._queue.write_progress(entry, progress)
        time_utc = datetime.datetime.now(datetime.timezone.utc)
        begin = f"=== attempt {progress.attempt} of job {entry.job_id} on {this_host()}, {time_utc:%Y-%m-%dT%H:%M:%SZ}"
        try:
            _write_to_log(entry, begin)
            with Path(entry.log).open("ab") as file:
                process = subprocess.Popen(
                    entry.command,
                    cwd=entry.directory,
                    env=self._environment(entry, progress),
                    umask=entry.umask,
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        except OSError as error:
            _write_to_log(entry, f"jobs.run: cannot be started: {error}")
            self._finish(entry, Ended("failed", f"cannot be started: {error}"))
            return
        self._attempts[entry.job_id] = Attempt(entry, progress, process)

    def _environment(self, entry: Entry, progress: Progress) -> dict[str, str]:
        """The submitter's environment, with the variables for the launcher's GPUs and the file of its exit code."""
        found = {name: text for name, text in entry.environment.items() if name not in _NOT_INHERITED}
        found[MARK] = str(self._queue.path(entry))
        found["EXIT_CODES_DIR"] = str(self._queue.codes_dir(entry, progress.attempt))
        found["PROCESSES_PER_NODE"] = str(max(1, entry.gpus))
        if entry.devices:  # also for a job that takes none: it would use those of other jobs
            found[VARIABLE] = ",".join(progress.devices)
            if VARIABLE not in entry.environment:  # the numbers are nvidia-smi's, which counts in this order
                found["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
        return found


def _note_failures(entry: Entry, failures: int) -> None:
    """For `status`; the supervisor itself counts in the queue."""
    path = Path(entry.run_dir) / FOLDER / f"{entry.job_id}.failures"
    try:
        write_text(path, f"{failures}\n")
    except OSError as error:
        log.error("%s: cannot be written: %s", path, error.strerror)


def _write_to_log(entry: Entry, line: str) -> None:
    """Add a line to the job's log; a log never decides what becomes of a job."""
    path = Path(entry.log)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")
    except OSError as error:
        log.error("%s: cannot be written: %s; it lacks: %s", path, error.strerror, line)
