from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vizsage import files

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


def fill_disk(monkeypatch: pytest.MonkeyPatch, room_bytes: int) -> None:
    """From now on a file of more than `room_bytes` cannot be flushed, as on a disk that fills up meanwhile."""
    fsync = os.fsync

    def full(fd: int) -> None:
        state = os.fstat(fd)
        if stat.S_ISREG(state.st_mode) and state.st_size > room_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(fd)

    monkeypatch.setattr(files.os, "fsync", full)


def temporary_files(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.endswith(".tmp")]


def test_write_text_makes_folders_and_replaces_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.txt"
    files.write_text(path, "één")
    files.write_text(path, "two")
    assert path.read_bytes() == b"two"
    assert temporary_files(path.parent) == []


def test_a_written_file_has_the_ordinary_mode(tmp_path: Path) -> None:
    mask = os.umask(0o027)
    try:
        files.write_text(tmp_path / "shared.txt", "x")
        assert stat.S_IMODE((tmp_path / "shared.txt").stat().st_mode) == 0o640
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(mask)


def test_what_a_kill_left_is_deleted_and_nothing_else(tmp_path: Path) -> None:
    """A file and a folder that were being replaced. A folder that was moved aside and not replaced is moved back."""
    with files.replacing(tmp_path / "run.json"):
        [left] = temporary_files(tmp_path)
    (tmp_path / left).write_text("half")
    folder = files.new_folder(tmp_path / "adapter")
    (folder / "weights").touch()
    for name in ("adapter", ".gone.0123abcd.old", ".adapter.0123abcd.old"):
        (tmp_path / name).mkdir()
    others = [".run.json.tmp", ".run.json.0123abcd", ".other.0123abcd.tmp", ".run.json.0123abcd.tmp.gz"]
    for name in others:
        (tmp_path / name).touch()
    files.remove_remains(tmp_path, ["run.json", "adapter", "gone"])
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["adapter", "gone", "run.json", *others])


def test_a_full_disk_leaves_the_earlier_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "results.json"
    files.write_json(path, {"a": 1})
    fill_disk(monkeypatch, room_bytes=20)
    with pytest.raises(OSError, match="No space left"):
        files.write_json(path, {"a": "x" * 100})
    assert json.loads(path.read_text()) == {"a": 1}
    assert temporary_files(tmp_path) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [float("-inf")]])
def test_json_refuses_what_json_has_not_and_keeps_the_earlier_file(tmp_path: Path, value: Any) -> None:
    path = tmp_path / "outcome.json"
    files.write_json(path, 1)
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(path, value)
    assert path.read_text() == "1\n"


@given(JSON)
def test_json_comes_back_as_it_was(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "value.json"
    files.write_json(path, value)
    assert json.loads(path.read_text(encoding="utf-8")) == value


def test_sha256_of_a_file_larger_than_a_block(tmp_path: Path) -> None:
    data = os.urandom(3 * 2**20 + 7)
    (tmp_path / "weights").write_bytes(data)
    assert files.sha256_file(tmp_path / "weights") == hashlib.sha256(data).hexdigest()


def test_a_tree_is_flushed_file_by_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").touch()
    (tmp_path / "y").touch()
    flushed: list[str] = []
    monkeypatch.setattr(files.os, "fsync", lambda fd: flushed.append(str(Path(f"/proc/self/fd/{fd}").readlink())))
    files.settle_tree(tmp_path)
    assert set(flushed) == {str(tmp_path / "a" / "x"), str(tmp_path / "y"), str(tmp_path / "a"), str(tmp_path)}


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("~", "/users/me"),
        ("~/a/~", "/users/me/a/~"),
        ("a/~", "a/~"),
        ("./~", "./~"),
        ("~root/a", f"{Path('~root').expanduser()}/a"),
        ("-", "-"),
        ("", ""),
    ],
)
def test_a_tilde_is_replaced_by_the_home_folder(typed: str, meant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/users/me")
    assert files.expanded(typed) == meant
    with pytest.raises(
        ValueError, match="~nobody-here names no home folder that is known here; write the path in full"
    ):
        files.expanded("~nobody-here/a")
