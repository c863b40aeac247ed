"""Files with a JSON object per line, to which several processes may append."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
from collections.abc import Iterable, Iterator
from io import FileIO
from pathlib import Path
from typing import Any

from vizsage.files import parse_json, write_text

log = logging.getLogger(__name__)
_END_BYTES = 65536


def write_jsonl(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """Replace `path` with one line per record: whole, or not at all."""
    write_text(path, _lines(records))


def append_jsonl(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """Append one line per record and fsync; processes that append to the same file take turns.

    First, a last line that a kill left incomplete is cut off; a last line that only lacks its line break gets one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+", buffering=0) as file:  # unbuffered: close() must have nothing left to write
        _wait_for_turn(file, path)
        end = _end_of_last_whole_line(file)
        last = _tail(file, end)
        lines = _lines(records).encode("utf-8")
        if _is_record(last):
            end, lines = end + len(last), b"\n" + lines
        elif last:  # only then: on a file system without locks, another process may have appended since
            file.truncate(end)
        rest = memoryview(lines)
        try:
            while rest:
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
        except OSError:
            os.truncate(path, end)  # a full disk may have taken half of the lines
            raise


def read_jsonl(path: Path, *, rewritable: bool = False) -> Iterator[dict[str, Any]]:
    """Yield the records of a file that `append_jsonl` wrote; an incomplete last line is left out.

    Args:
        path: the file.
        rewritable: see vizsage.files.parse_json.

    Raises:
        OSError: the file cannot be read.
        ValueError: a line is not JSON, or not an object.
    """
    with path.open("rb") as file:
        for line in file:
            if line.strip() and (line.endswith(b"\n") or _is_record(line)):
                record = parse_json(line, rewritable=rewritable)
                if not isinstance(record, dict):
                    raise ValueError("a line is no object")
                yield record


def last_record(path: Path) -> dict[str, Any] | None:
    """The last whole record in the last 64 KiB of a file that `append_jsonl` wrote, or None. Raises OSError."""
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _END_BYTES))
        lines = file.read().splitlines()
    record = next((line for line in reversed(lines) if _is_record(line)), None)
    return None if record is None else dict(parse_json(record))


def _lines(records: Iterable[dict[str, Any]]) -> str:
    return "".join(json.dumps(r, ensure_ascii=False, allow_nan=False) + "\n" for r in records)


def _wait_for_turn(file: FileIO, path: Path) -> None:
    """Lock the file until it is closed. Locks of this kind also work between hosts that share it by NFS."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        log.debug("%s: the file system has no locks; lines of several processes may be mixed up", path)


def _tail(file: FileIO, start: int) -> bytes:
    file.seek(start)
    return file.read()


def _is_record(text: bytes) -> bool:
    """Whether it is a whole record. A record that was cut off is not: its last brace is missing."""
    try:
        return isinstance(parse_json(text), dict)
    except ValueError:
        return False


def _end_of_last_whole_line(file: FileIO) -> int:
    size: int = file.seek(0, os.SEEK_END)
    position = size
    while position > 0:
        start = max(0, position - _END_BYTES)
        file.seek(start)
        found = file.read(position - start).rfind(b"\n")
        if found >= 0:
            return start + int(found) + 1
        position = start
    return 0
