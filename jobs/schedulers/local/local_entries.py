"""What the files of the queue contain, and reading and writing them."""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from vizsage.errors import VizSageError
from vizsage.files import parse_json, write_text

log = logging.getLogger(__name__)

FOREIGN = "belongs to another user, and only that user can ask for the state of its jobs"


@dataclass(frozen=True)
class Entry:
    """One job that has not ended.

    Attributes:
        number: position in the queue; lower ones start first.
        command: the launcher and its arguments.
        directory: where the command is started; with `environment` and `umask` that of the submitter.
        parallel: most jobs that may run at a time while this one runs.
        gpus: how many of `devices` the job takes for itself.
        devices: the GPUs that the submitter could see.
        after: the job whose success this one waits for; empty: none.
        max_retries: runs again after a failure that need not repeat.
    """

    job_id: str
    number: int
    kind: str
    run_dir: str
    log: str
    command: tuple[str, ...]
    directory: str
    environment: dict[str, str] = field(repr=False)
    umask: int
    parallel: int
    gpus: int
    devices: tuple[str, ...]
    after: str
    max_retries: int


@dataclass(frozen=True)
class Progress:
    """How far the supervisor has come with a job. `devices`: the GPUs of the attempt that is running."""

    attempt: int = 0
    failures: int = 0
    running: bool = False
    devices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ended:
    """How a job ended: completed, failed or cancelled, why, and its last exit code if it had one."""

    state: str
    detail: str = ""
    exit_code: int | None = None


_Kind = TypeVar("_Kind", Entry, Progress, Ended)


def write_file(path: Path, value: Entry | Progress | Ended) -> None:
    """Replace the file `path`: whole or not at all. Raises OSError."""
    # ASCII: variables of the environment may hold bytes that are not UTF-8, which Python shows as half characters.
    write_text(path, json.dumps(dataclasses.asdict(value), indent=1) + "\n")


def read_file(kind: type[_Kind], path: Path) -> _Kind | None:
    """The value of class `kind` in a file; None where the file does not exist or is damaged."""
    try:
        record = parse_json(path.read_bytes())
        known = {one.name for one in dataclasses.fields(kind)}
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in record.items() if name in known
        }
        return kind(**values)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError:
        raise VizSageError(f"{path}: {FOREIGN}") from None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        _warn_once(path, str(error))
        return None


@functools.lru_cache(maxsize=100)  # the supervisor reads the queue again and again
def _warn_once(path: Path, problem: str) -> None:
    log.warning("%s: cannot be read and is passed over: %s", path, problem)
