"""One process at a time in a folder: the error of a second one, and where there are no locks."""

from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest

from vizsage.errors import ConfigError, FolderInUse
from vizsage.lock import only_one


def refusal(folder: Path) -> str | None:
    """The error of another process; POSIX locks do not keep a process from itself."""
    context = multiprocessing.get_context("fork")
    told = context.SimpleQueue()

    def run() -> None:
        try:
            with only_one(folder, "evaluating"):
                told.put(None)
        except FolderInUse as error:
            told.put(str(error))

    process = context.Process(target=run)
    process.start()
    process.join(60)
    return None if told.empty() else told.get()


def test_the_second_process_is_told_of_the_first(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    for doing in ("training", "evaluating"):  # again: a lock that was released blocks no process
        with only_one(folder, doing):
            assert f"process {os.getpid()} on host {os.uname().nodename} has been {doing} since 2" in refusal(folder)  # type: ignore[operator]
        assert refusal(folder) is None


@pytest.mark.parametrize(
    "content", [b"", b"\xff", b"[1]", b'{"pid": 1}', b'{"pid": 1, "host": "\\u001b[2J", "doing": "x", "since": "y"}']
)
def test_a_lock_of_somebody_unknown(tmp_path: Path, content: bytes) -> None:
    """Of an earlier version, for example. Control codes in the file are not written to the terminal."""
    with only_one(tmp_path, "training"):
        (tmp_path / ".lock").chmod(0o644)
        fd = os.open(tmp_path / ".lock", os.O_WRONLY | os.O_TRUNC)
        os.write(fd, content)  # and not closed: closing any descriptor of the file would end the lock
        assert refusal(tmp_path) == (
            f"{tmp_path}: another process is working in it; wait for its end or name another output_dir"
        )
    os.close(fd)


def test_a_file_system_without_locks_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def without(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", without)
    with only_one(tmp_path, "evaluating"):
        assert "has no locks; make sure that only one command at a time uses it" in caplog.text


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="output_dir"), only_one(tmp_path / "file" / "out", "training"):
        pass
