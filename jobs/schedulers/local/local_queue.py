"""The queue of one user on one machine: files in a folder, so that it does not depend on any process.

    JOB.entry.json       what is to be run; written once, by `submit`. Its existence means: not ended
    JOB.progress.json    attempts so far and whether one is running; written by the supervisor
    JOB.cancel           written by `cancel`; the supervisor then stops the job
    JOB.codes/ATTEMPT/0  the exit code of an attempt, left by its launcher
    supervisor.lock      locked while a supervisor runs; the kernel unlocks it however the process ends

How a job ended is written into its run directory (JOB.ended.json), where colleagues can read it too. Its files here
are then deleted, and with them the submitter's environment.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

from jobs.schedulers.local.local_entries import FOREIGN, Ended, Entry, Progress, read_file, write_file
from jobs.schedulers.local.local_processes import processes_of
from jobs.spec import FOLDER
from jobs.submissions import list_of_all
from vizsage.errors import ConfigError, VizSageError
from vizsage.files import write_text

log = logging.getLogger(__name__)

_ENTRY, _PROGRESS, _CANCEL, _ENDED = ".entry.json", ".progress.json", ".cancel", ".ended.json"


class Queue:
    """The queue in one folder. Methods documented so need `locked()` around them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._entries: dict[Path, Entry] = {}  # they never change, and the supervisor needs them twice per second

    @property
    def host(self) -> str:
        """The machine whose jobs are here; several share a home folder."""
        return self.folder.name

    def create(self) -> None:
        """Create the folder, closed to others: entries contain environments. Raises ConfigError."""
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            self.folder.mkdir(mode=0o700, exist_ok=True)
            self.folder.chmod(0o700)
        except OSError as error:
            raise ConfigError(
                f"{self.folder}: the queue of this machine cannot be written: {error.strerror}; name another folder "
                "in XDG_STATE_HOME"
            ) from None

    def exists(self) -> bool:
        """Whether any job was ever put into it. Raises VizSageError where that is another user's secret."""
        try:
            return (self.folder / "supervisor.lock").exists()
        except PermissionError:
            raise VizSageError(f"{self.folder}: {FOREIGN}") from None

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other commands and the supervisor from changing the queue.

        Raises:
            VizSageError: the queue cannot be locked, or the block could not write into it.
        """
        try:
            file = (self.folder.parent / "lock").open("ab")
        except OSError as error:
            raise VizSageError(f"{self.folder}: the queue cannot be opened: {error.strerror}") from None
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError as error:
                raise VizSageError(
                    f"{self.folder}: its file system has no locks ({error.strerror}); name a folder of another one in "
                    "XDG_STATE_HOME"
                ) from None
            try:
                yield
            except OSError as error:
                raise VizSageError(f"{self.folder}: the queue cannot be written: {error.strerror}") from None

    def take_supervisor_lock(self) -> int | None:
        """A file descriptor that holds the supervisor's lock; None while a supervisor runs. Needs `locked()`.

        Without `locked()`, a command that only tests the lock would be mistaken for a supervisor.
        """
        fd = os.open(self.folder / "supervisor.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        return fd

    def has_supervisor(self) -> bool:
        """Whether a supervisor runs. Needs `locked()`."""
        fd = self.take_supervisor_lock()
        if fd is not None:
            os.close(fd)
        return fd is None

    def next_number(self, run_dir: Path) -> int:
        """A number that no job had before. Needs `locked()`. Raises OSError.

        Jobs of other machines that share the folder count too, and those that have files in `run_dir`: these would be
        read as files of the new job.
        """
        path = self.folder.parent / "last-number"
        try:
            number = int(path.read_text()) + 1
        except (OSError, ValueError):  # no job yet, or somebody deleted the file
            number = 1
        number = max([number, *(one.number + 1 for one in self.entries())])
        while any((run_dir / FOLDER).glob(f"{job_id(number)}[._]*")):
            number += 1
        write_text(path, f"{number}\n")
        return number

    def entries(self) -> list[Entry]:
        """The jobs that have not ended, in their order. One that cannot be read is left out and reported."""
        there = list(self.folder.glob(f"*{_ENTRY}"))
        found = {path: self._entries.get(path) or read_file(Entry, path) for path in there}
        self._entries = {path: one for path, one in found.items() if one}
        return sorted(self._entries.values(), key=lambda one: one.number)

    def entry(self, job: str) -> Entry | None:
        """The entry of a job; None where it has ended, or is unknown here. Raises VizSageError without permission."""
        return read_file(Entry, self.folder / f"{job}{_ENTRY}")

    def path(self, entry: Entry) -> Path:
        """The file of an entry, which is also the mark of the job's processes."""
        return self.folder / f"{entry.job_id}{_ENTRY}"

    def add(self, entry: Entry) -> None:
        """Write an entry. Needs `locked()`. Raises OSError."""
        write_file(self.path(entry), entry)

    def progress(self, entry: Entry) -> Progress:
        """How far the supervisor has come with a job."""
        return read_file(Progress, self.folder / f"{entry.job_id}{_PROGRESS}") or Progress()

    def write_progress(self, entry: Entry, progress: Progress) -> None:
        """For the supervisor. Raises OSError."""
        write_file(self.folder / f"{entry.job_id}{_PROGRESS}", progress)

    def is_cancelled(self, entry: Entry) -> bool:
        """Whether the job is to be stopped."""
        return (self.folder / f"{entry.job_id}{_CANCEL}").exists()

    def cancel(self, entry: Entry) -> None:
        """Ask the supervisor to stop a job. Needs `locked()`, so that the job does not end in between."""
        (self.folder / f"{entry.job_id}{_CANCEL}").touch()

    def codes_dir(self, entry: Entry, attempt: int) -> Path:
        """Where the launcher of an attempt leaves its exit code; one folder per attempt, so that none is stale."""
        return self.folder / f"{entry.job_id}.codes" / str(attempt)

    def exit_code(self, entry: Entry, attempt: int) -> int | None:
        """What the launcher of an attempt left; None where it was killed, or is running."""
        try:
            return int((self.codes_dir(entry, attempt) / "0").read_text())
        except (OSError, ValueError):
            return None

    def is_running(self, entry: Entry) -> bool:
        """Whether any process of the job is running."""
        return bool(processes_of(str(self.path(entry))))

    def ended(self, run_dir: Path, job: str) -> Ended | None:
        """How a job ended; None where it has not."""
        found = read_file(Ended, _ended_file(run_dir / FOLDER, job))
        return found or read_file(Ended, _ended_file(self.folder, job))

    def finish(self, entry: Entry, ended: Ended) -> None:
        """Write how a job ended, then take it out of the queue. Needs `locked()`. Raises OSError."""
        try:
            write_file(_ended_file(Path(entry.run_dir) / FOLDER, entry.job_id), ended)
        except OSError as error:  # the run directory may be gone, or its disk full: the queue must go on
            log.error("%s: the end of job %s cannot be written there: %s", entry.run_dir, entry.job_id, error.strerror)
            write_file(_ended_file(self.folder, entry.job_id), ended)
        self.path(entry).unlink(missing_ok=True)
        for suffix in (_PROGRESS, _CANCEL):
            (self.folder / f"{entry.job_id}{suffix}").unlink(missing_ok=True)
        shutil.rmtree(self.folder / f"{entry.job_id}.codes", ignore_errors=True)  # not read any more


def queue_here() -> Queue:
    """The queue of this user on this machine. Raises ConfigError without a home folder."""
    return Queue(list_of_all().absolute().parent / "local" / this_host())


def queue_of(script: str) -> Queue:
    """The queue that a submission went to; `script` is the file of its entry."""
    return Queue(Path(script).parent)


def this_host() -> str:
    """The name of this machine."""
    return socket.gethostname()


def job_id(number: int) -> str:
    """The id of the job with that number."""
    return f"local-{number}"


def _ended_file(folder: Path, job: str) -> Path:
    return folder / f"{job}{_ENDED}"
