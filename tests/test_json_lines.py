"""Lines that are appended survive a kill, a full disk and other processes that append."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.test_files import JSON, fill_disk
from vizsage import json_lines
from vizsage.json_lines import append_jsonl, last_record, read_jsonl, write_jsonl


@given(st.lists(st.dictionaries(st.text(), JSON, max_size=3), max_size=5), st.integers(min_value=0))
def test_appending_after_a_kill_anywhere_keeps_every_whole_record(
    tmp_path_factory: pytest.TempPathFactory, records: list[dict[str, Any]], cut: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "log.jsonl"
    path.unlink(missing_ok=True)
    append_jsonl(path, records)
    data = path.read_bytes()
    torn = data[: cut % (len(data) + 1)]
    path.write_bytes(torn)
    whole = records[: data[: len(torn) + 1].count(b"\n")]  # one that lacks only its line break is whole
    assert list(read_jsonl(path)) == whole
    assert last_record(path) == (whole[-1] if whole else None)
    append_jsonl(path, [{"next": 1}])
    assert list(read_jsonl(path)) == [*whole, {"next": 1}]


def test_processes_that_append_to_one_file_lose_no_line(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "log.jsonl"
    code = (
        "import sys; from pathlib import Path; from vizsage.json_lines import append_jsonl\n"
        "for i in range(40): append_jsonl(Path(sys.argv[1]), [{'writer': sys.argv[2], 'i': i, 'text': 'x' * 900}])"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, path, name]) for name in "abcd"]
    assert [writer.wait() for writer in writers] == [0] * 4
    found = [(line["writer"], line["i"]) for line in read_jsonl(path)]
    assert sorted(found) == [(writer, i) for writer in "abcd" for i in range(40)]


def test_a_file_is_held_from_reading_its_end_to_writing_the_last_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without that, the torn line that is cut off can be one that another process is about to finish."""
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"torn')
    code = "import fcntl, sys; file = open(sys.argv[1], 'ab'); fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)"
    refused: list[bool] = []

    def tried(function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any) -> Any:
            done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=False)
            refused.append("BlockingIOError" in done.stderr)
            return function(*arguments)

        return called

    monkeypatch.setattr(json_lines, "_end_of_last_whole_line", tried(json_lines._end_of_last_whole_line))
    monkeypatch.setattr(json_lines.os, "fsync", tried(os.fsync))
    append_jsonl(path, [{"a": 1}])
    assert refused == [True, True]
    assert path.read_bytes() == b'{"a": 1}\n'


def test_a_file_system_without_locks_takes_lines_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(json_lines.fcntl, "lockf", refuse)
    append_jsonl(tmp_path / "log.jsonl", [{"a": 1}])
    assert list(read_jsonl(tmp_path / "log.jsonl")) == [{"a": 1}]


def test_a_torn_line_longer_than_one_block_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"a": 1}\n' + b"x" * 200_000)
    append_jsonl(path, [{"b": 2}])
    assert list(read_jsonl(path)) == [{"a": 1}, {"b": 2}]


def test_a_full_disk_takes_back_the_half_of_an_append(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log.jsonl"
    append_jsonl(path, [{"a": 1}])
    before = path.read_bytes()
    fill_disk(monkeypatch, room_bytes=len(before))
    with pytest.raises(OSError, match="No space left"):
        append_jsonl(path, [{"b": 2}, {"c": 3}])
    assert path.read_bytes() == before


def test_write_jsonl_replaces_the_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    append_jsonl(path, [{"a": 1}, {"b": 2}])
    write_jsonl(path, [{"c": "é"}])
    assert path.read_text(encoding="utf-8") == '{"c": "é"}\n'
