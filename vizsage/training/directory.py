"""The run directory: one run at a time in it, an earlier one set aside; and what the main process decides for all."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar, cast

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from vizsage.config import RUN_FILES, Config
from vizsage.errors import ConfigError, RepeatingError, VizSageError
from vizsage.files import remove_remains
from vizsage.record import RunRecord
from vizsage.training.checkpoints import PARTIAL

log = logging.getLogger(__name__)
T = TypeVar("T")
LOCK = ".lock"


class RunDirectory:
    """The run directory as the main process holds it; in other processes nothing is looked at."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: IO[str] | None = None

    def hold(self, remains: Iterable[str]) -> None:
        """Take it, and delete what a killed run left of files called `remains`.

        Raises ConfigError while another process trains in it, or where it cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = (self.path / LOCK).open("w")
        except OSError as error:
            raise ConfigError(f"output_dir: {self.path} cannot be written: {error.strerror}") from None
        try:
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # not flock: forked workers would hold it too
        except (BlockingIOError, PermissionError):  # POSIX lets a system choose either for a lock that is held
            raise ConfigError(
                f"{self.path}: another process is training in it; wait for its end or name another output_dir"
            ) from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP):
                raise ConfigError(f"output_dir: {self.path} cannot be written: {error.strerror}") from None
            log.warning("%s: the file system has no locks; see to it that one run at a time uses it", self.path)
        else:
            # Under the lock alone: without it they may be those of a process that lives.
            remove_remains(self.path, remains)
            for folder in self.path.glob(PARTIAL):
                shutil.rmtree(folder)

    def is_there(self) -> bool:
        """Whether the folder is still the one that was taken: not deleted, and no other run's since."""
        if self._lock is None:
            return True
        try:
            return os.path.samestat(os.fstat(self._lock.fileno()), (self.path / LOCK).stat())
        except (FileNotFoundError, NotADirectoryError):
            return False

    def require(self) -> None:
        """Raise RepeatingError where the folder is gone: writing into it would make a run without its beginning."""
        if not self.is_there():
            raise RepeatingError(
                f"{self.path}: was deleted or replaced while the run was training in it, its checkpoints with it; the "
                "run ends. Start it again for a new run, and cancel a run before its folder is deleted"
            )

    def release(self) -> None:
        """Let it go."""
        if self._lock is not None:
            self._lock.close()


@contextmanager
def only_one(config: Config, world: PartialState) -> Iterator[RunDirectory]:
    """Hold the run directory. Raises ConfigError while another process trains in it, or where it cannot be written."""
    directory = RunDirectory(config.output_dir)
    try:
        on_main(world, lambda: directory.hold((*RUN_FILES, config.name_trained_model)))
        yield directory
    finally:
        directory.release()


def on_main(world: PartialState, function: Callable[[], T]) -> T:
    """The result of `function`, called in the main process only, in every process; a user's error raises in each."""
    box: list[Any] = [None]
    if world.is_main_process:
        try:
            box = [(function(), None)]
        except VizSageError as error:
            box = [(None, error)]
    if world.num_processes > 1:
        broadcast_object_list(box)
    result, problem = box[0]
    if problem is not None:
        raise problem
    return cast(T, result)


def set_aside(config: Config, record: RunRecord) -> None:
    """resume: false on a used run directory: what the run wrote moves into previous-<n>; other files stay."""
    output_dir = config.output_dir
    names = {*RUN_FILES, config.name_trained_model, record.content.get("settings", {}).get("name_trained_model")}
    patterns = ("checkpoint-*", "damaged-checkpoint-*", PARTIAL)
    earlier = [p for p in output_dir.iterdir() if p.name in names or any(p.match(pattern) for pattern in patterns)]
    if not earlier:
        return
    number = 1 + max((int(p.name[9:]) for p in output_dir.glob("previous-*") if p.name[9:].isdigit()), default=0)
    folder = output_dir / f"previous-{number}"
    folder.mkdir()
    # run.json first: what a kill leaves behind is then no longer a run that could be continued by mistake.
    for path in sorted(earlier, key=lambda p: (p.name != "run.json", p.name)):
        path.rename(folder / path.name)
    log.warning("resume is false: the earlier run was moved to %s", folder)
