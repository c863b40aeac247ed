"""Writing files so that a crash, a kill or a full disk never leaves half of one behind."""

from __future__ import annotations

import contextlib
import datetime
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, count
from pathlib import Path
from typing import Any, BinaryIO


def fsync_dir(directory: Path) -> None:
    """Make a rename or a creation inside `directory` survive a power loss."""
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def settle_tree(directory: Path) -> None:
    """Flush every file and folder below `directory` to disk, each file with the mode that a new one gets here.

    Libraries write weights so that only their owner can read them; in a shared folder colleagues and pods have to.
    """
    mode = _ordinary_mode(directory)
    for root, _, names in os.walk(directory):
        for name in names:
            fd = os.open(Path(root, name), os.O_RDONLY)
            try:
                if stat.S_IMODE(os.fstat(fd).st_mode) != mode:  # some file systems have no modes to change
                    os.fchmod(fd, mode)
                os.fsync(fd)
            finally:
                os.close(fd)
        fsync_dir(Path(root))


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, which takes the place of `path` when the block ends: whole, or not at all.

    Each has a name of its own until then, so that two processes never write into one. Raises OSError (a full disk, a
    missing permission); the earlier file then still stands.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, fd = _new_file(path)
    try:
        with os.fdopen(fd, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:  # a full disk, met while writing
            error.filename = str(path)
        raise
    fsync_dir(path.parent)


def new_folder(path: Path) -> Path:
    """An empty folder beside `path`, to be renamed to it once it is filled; `remove_remains` knows its name."""
    while True:
        folder = _temporary_name(path)
        with contextlib.suppress(FileExistsError):
            folder.mkdir(parents=True)
            return folder


def exchange(new: Path, folder: Path) -> None:
    """Put the folder `new`, one of `new_folder`, in the place of `folder`, which is moved back if that fails."""
    old = new.with_suffix(".old")
    folder.rename(old)
    try:
        new.rename(folder)
    except OSError:
        old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def remove_remains(folder: Path, names: Iterable[str]) -> None:
    """Delete what a kill left in `folder` of files and folders called `names` that were being replaced.

    For who holds the lock of `folder`: nobody else is writing there then. A folder that was moved aside by `exchange`
    and has no successor is put back.
    """
    remains = re.compile(rf"\.({'|'.join(map(re.escape, names))})\.[a-z0-9_]{{8}}\.(tmp|old)")
    for path in list(folder.iterdir()):
        if not (match := remains.fullmatch(path.name)):
            continue
        if match[2] == "old" and not (folder / match[1]).exists():
            path.rename(folder / match[1])
        elif path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def write_bytes(path: Path, content: bytes) -> None:
    """Replace `path` with `content`; see `replacing`."""
    with replacing(path) as file:
        file.write(content)


def write_text(path: Path, text: str) -> None:
    """Replace `path` with UTF-8 `text`: whole or not at all."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Replace `path` with `value` as indented JSON; refuses NaN and infinity, which JSON has not."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """What a file holds that `write_json` could have written. Raises OSError, or ValueError where it holds no such."""
    return parse_json(path.read_text(encoding="utf-8"), rewritable=True)


def parse_json(text: str | bytes, *, rewritable: bool = False) -> Any:
    """The value of a JSON text.

    Args:
        text: UTF-8 where it is bytes.
        rewritable: only a value that `write_json` can write, too: no NaN, no infinity, no half of a surrogate pair.

    Raises:
        ValueError: it is not JSON, or nested deeper than Python's parser can follow.
    """
    try:
        value = json.loads(text)
        if rewritable:
            json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8")
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    return value


def disk_full(folder: Path) -> OSError | None:
    """The error of a full disk, asked for by writing a MiB into `folder`; None where there is room.

    For libraries that fail to write without saying why.
    """
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(1 << 20))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return OSError(error.errno, error.strerror, str(folder))
    return None


def expanded(path: str) -> str:
    """A path as a user types it, with the home folder in the place of `~` or `~name` at its beginning.

    Not every shell does this behind `=`, and none in a file. Raises ValueError where there is no such home folder.
    """
    found = os.path.expanduser(path)  # noqa: PTH111 -- Path's drops a ./ at the beginning and / at the end
    if found == path and path.startswith("~"):
        home = path.partition("/")[0]
        raise ValueError(
            f"{home} names no home folder that is known here; write the path in full, or ./{home} for a name"
        )
    return found


def unreadable(paths: Iterable[Path]) -> str | None:
    """The first of `paths` that is there and must not be read, and why; None where there is no such one.

    Libraries say "No such file" of a file that belongs to somebody else.
    """
    for path in paths:
        try:
            if os.access(path, os.R_OK, effective_ids=True):
                continue
            path.stat()
        except PermissionError:  # of a folder above
            pass
        except (OSError, ValueError):  # not there
            continue
        return f"{path}: {os.strerror(errno.EACCES)}; its owner or an administrator has to allow reading it"
    return None


def set_aside_path(folder: Path, suffix: str = "") -> Path:
    """A name in `folder` that is not taken, of the present time, for what is to be kept of an earlier start."""
    stamp = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    names = (f"earlier-{stamp}{number}{suffix}" for number in chain([""], (f"-{n}" for n in count(2))))
    return next(path for name in names if not (path := folder / name).exists())


def nearest_existing(path: Path) -> Path:
    """`path`, or the nearest one above it that exists."""
    return next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())


def sha256_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _temporary_name(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


def _new_file(path: Path) -> tuple[Path, int]:
    """A new file beside `path` with the mode of any new file there: as umask, or the folder's ACL, says."""
    while True:
        temporary = _temporary_name(path)
        with contextlib.suppress(FileExistsError):
            return temporary, os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)


def _ordinary_mode(folder: Path) -> int:
    probe, fd = _new_file(folder / "mode")
    try:
        return stat.S_IMODE(os.fstat(fd).st_mode)
    finally:
        os.close(fd)
        probe.unlink()
