"""One process at a time writes in a folder, also where several hosts share its file system."""

from __future__ import annotations

import datetime
import errno
import fcntl
import json
import logging
import os
import shutil
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from vizsage.contract import LOCK
from vizsage.errors import ConfigError, FolderInUse, RepeatingError, is_disk_full
from vizsage.files import remove_remains

log = logging.getLogger(__name__)


class Held:
    """A folder that this process, or the main process of its group, has locked."""

    def __init__(self, folder: Path, file: BinaryIO | None = None, *, locked: bool = False) -> None:
        """Describe the lock.

        Args:
            folder: where the process writes.
            file: the open lock file; None in a process of the group that does not have the lock itself.
            locked: the file system has locks, so that no other process is writing in the folder.
        """
        self.folder, self._file, self._locked = folder, file, locked

    def clean(self, names: Iterable[str], partial: str | None = None) -> None:
        """Delete the temporary files and folders that a kill left for `names`, and folders that match `partial`.

        Does nothing without a lock, because they may be those of a process that is still running.
        """
        if self._locked:
            remove_remains(self.folder, names)
            for remains in self.folder.glob(partial) if partial else ():
                shutil.rmtree(remains)

    def is_there(self) -> bool:
        """Whether the folder is still the one that was locked: neither deleted nor replaced by another."""
        if self._file is None:
            return True
        try:
            return os.path.samestat(os.fstat(self._file.fileno()), (self.folder / LOCK).stat())
        except (FileNotFoundError, NotADirectoryError):
            return False

    def require(self) -> None:
        """Raise RepeatingError where the folder is gone: what is written now would be a run without its start."""
        if not self.is_there():
            raise RepeatingError(
                f"{self.folder}: was deleted or replaced while this process was writing into it, with what was there; "
                "it writes nothing more and ends. Run the command again to start from the beginning; cancel a run "
                "before you delete its folder"
            )


@contextmanager
def only_one(folder: Path, doing: str) -> Iterator[Held]:
    """Create `folder` and lock it during the block.

    The lock ends with the process, also when that is killed. The lock file remains; a second process reads in it which
    one has the lock.

    Args:
        folder: where results are written.
        doing: what the process does, in the words of a message: "training", "evaluating".

    Raises:
        FolderInUse: another process has the lock.
        ConfigError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Not "w", which would empty the file of the process that has the lock; nor "a", which only writes at the end.
        file = os.fdopen(os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
    except OSError as error:
        if is_disk_full(error):
            raise
        raise ConfigError(f"output_dir: {folder} cannot be written: {error.strerror}") from None
    with file:
        locked = True
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # not flock: forked workers would have that lock, too
        except (BlockingIOError, PermissionError):  # POSIX allows both for a lock that another process has
            raise FolderInUse(f"{folder}: {_holder(file)} in it; wait for its end or name another output_dir") from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP):
                raise ConfigError(f"output_dir: {folder} cannot be written: {error.strerror}") from None
            locked = False
            log.warning("%s: the file system has no locks; make sure that only one command at a time uses it", folder)
        _sign(file, doing)
        yield Held(folder, file, locked=locked)


def _sign(file: BinaryIO, doing: str) -> None:
    """Write into the lock file which process has the lock. On a full disk the lock works without it."""
    since = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    who = {"host": socket.gethostname(), "pid": os.getpid(), "doing": doing, "since": since}
    try:
        os.truncate(file.fileno(), 0)
        os.pwrite(file.fileno(), json.dumps(who).encode(), 0)
        os.fsync(file.fileno())  # other hosts read it over a network file system while it is open here
    except OSError as error:
        if not is_disk_full(error):
            raise


def _holder(file: BinaryIO) -> str:
    """Which process has the lock, and what it does, as the clause of a message."""
    try:
        who = json.loads(file.read(1000))
        text = f"process {int(who['pid'])} on host {who['host']} has been {who['doing']} since {who['since']}"
    except (ValueError, KeyError, TypeError):
        return "another process is working"
    return text if text.isprintable() else "another process is working"
