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
    """Flush every file and folder below `directory` to disk, and give each file the mode that a new file gets there.

    Libraries write weights with a mode that lets only the owner read them; colleagues and pods need to read them, too.
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
    """A file to write to, which replaces `path` when the block ends: whole, or not at all.

    Its temporary name is unique, so that two processes never write into the same file. Raises OSError (a full disk, a
    missing permission); the earlier file is then unchanged.
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
        if isinstance(error, OSError) and error.filename is None:  # of a full disk, while writing
            error.filename = str(path)
        raise
    fsync_dir(path.parent)


def new_folder(path: Path) -> Path:
    """An empty folder beside `path`, to be renamed to it when it is complete; `remove_remains` recognises its name."""
    while True:
        folder = _temporary_name(path)
        with contextlib.suppress(FileExistsError):
            folder.mkdir(parents=True)
            return folder


def exchange(new: Path, folder: Path) -> None:
    """Replace `folder` with `new`, a folder made by `new_folder`. If that fails, `folder` is moved back."""
    old = new.with_suffix(".old")
    folder.rename(old)
    try:
        new.rename(folder)
    except OSError:
        old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def remove_remains(folder: Path, names: Iterable[str]) -> None:
    """Delete the temporary files and folders that a kill left in `folder` while those called `names` were replaced.

    Only for the process that has the lock of `folder`: otherwise they may be those of another process that is writing.
    A folder that `exchange` moved aside and did not replace is moved back.
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
    """Replace `path` with UTF-8 `text`; see `replacing`."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Replace `path` with `value` as indented JSON. Raises ValueError for NaN and infinity: JSON has neither."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """The value in a file that `write_json` could have written. Raises OSError, or ValueError for any other content."""
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
    """The error of a full disk, found by writing 1 MiB into `folder`; None where there is room.

    For libraries whose error does not contain why they could not write.
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
    """A path as a user types it, with `~` or `~name` at its beginning replaced by the home folder.

    Some shells do not replace it after `=`, and none does in a file. Raises ValueError for an unknown home folder.
    """
    found = os.path.expanduser(path)  # noqa: PTH111 -- Path's drops a ./ at the beginning and / at the end
    if found == path and path.startswith("~"):
        home = path.partition("/")[0]
        raise ValueError(
            f"{home} names no home folder that is known here; write the path in full, or ./{home} for a name"
        )
    return found


def unreadable(paths: Iterable[Path]) -> str | None:
    """A message about the first of `paths` that exists and must not be read by this process; None if there is none.

    Libraries report "No such file" for a file without read permission, which would send the user to the wrong cause.
    """
    for path in paths:
        try:
            if os.access(path, os.R_OK, effective_ids=True):
                continue
            path.stat()
        except PermissionError:  # of a folder above
            pass
        except (OSError, ValueError):  # it does not exist
            continue
        return f"{path}: {os.strerror(errno.EACCES)}; its owner or an administrator has to allow reading it"
    return None


def set_aside_path(folder: Path, suffix: str = "") -> Path:
    """An unused path in `folder`, named after the current time, for files of an earlier start that are kept."""
    stamp = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    names = (f"earlier-{stamp}{number}{suffix}" for number in chain([""], (f"-{n}" for n in count(2))))
    return next(path for name in names if not (path := folder / name).exists())


def nearest_existing(path: Path) -> Path:
    """`path`, or the nearest folder above it that exists."""
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
    """A new file beside `path`, with the mode that umask, or the folder's ACL, gives to any new file."""
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
