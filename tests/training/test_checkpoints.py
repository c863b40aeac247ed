"""Checkpoints are whole or absent."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from vizsage.errors import CheckpointError
from vizsage.training import checkpoints


def nothing() -> None:
    """One process: no other to wait for."""


def save(output_dir: Path, step: int, content: bytes = b"weights") -> Path:
    with checkpoints.writing(output_dir, step, main=True, barrier=nothing) as folder:
        (folder / "adapter_model.safetensors").write_bytes(content)
        (folder / "progress.json").write_text("{}")
    return output_dir / f"checkpoint-{step}"


def test_a_written_checkpoint_verifies(tmp_path: Path) -> None:
    folder = save(tmp_path, 3)
    assert checkpoints.damage(folder) is None
    assert checkpoints.newest_whole(tmp_path) == folder
    assert not list(tmp_path.glob(".*"))


def test_one_that_must_not_be_read_is_not_damaged(tmp_path: Path, forbidden: Callable[[Path], None]) -> None:
    newer = save(tmp_path, 3)
    forbidden(newer / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match=r"checkpoint-3/adapter_model\.safetensors: Permission denied; its owner"):
        checkpoints.newest_whole(tmp_path)
    assert newer.exists()


@pytest.mark.parametrize("harm", ["flip", "truncate", "remove", "no manifest", "broken manifest"])
def test_a_damaged_newest_one_is_set_aside_and_the_one_before_serves(
    tmp_path: Path, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    older, newer = save(tmp_path, 3), save(tmp_path, 12)
    weights = newer / "adapter_model.safetensors"
    if harm == "flip":
        weights.write_bytes(b"weighty")
    elif harm == "truncate":
        weights.write_bytes(b"")
    elif harm == "remove":
        weights.unlink()
    elif harm == "no manifest":
        (newer / checkpoints.MANIFEST).unlink()
    else:
        (newer / checkpoints.MANIFEST).write_text("[")
    assert checkpoints.newest_whole(tmp_path) == older
    assert "checkpoint-12 is damaged" in caplog.text
    assert (tmp_path / "damaged-checkpoint-12").is_dir()
    assert not newer.exists()


def test_a_failure_while_writing_leaves_what_stood_before(tmp_path: Path) -> None:
    older = save(tmp_path, 3)

    def fail_halfway() -> None:
        with checkpoints.writing(tmp_path, 4, main=True, barrier=nothing) as folder:
            (folder / "adapter_model.safetensors").write_bytes(b"half")
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        fail_halfway()
    assert [p.name for p in tmp_path.iterdir()] == [older.name]


def test_a_kill_while_writing_is_ignored_and_cleaned(tmp_path: Path) -> None:
    older = save(tmp_path, 3)
    (tmp_path / ".checkpoint-4.partial").mkdir()
    (tmp_path / ".checkpoint-4.partial" / "adapter_model.safetensors").write_bytes(b"half")
    assert checkpoints.newest_whole(tmp_path) == older
    checkpoints.clean_up(tmp_path, keep=1, best=None)
    assert [p.name for p in tmp_path.iterdir()] == [older.name]


def test_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    for step in (2, 9, 10, 100):
        save(tmp_path, step)
    checkpoints.clean_up(tmp_path, keep=2, best=tmp_path / "checkpoint-2")
    assert [p.name for p in checkpoints.checkpoints(tmp_path)] == ["checkpoint-2", "checkpoint-10", "checkpoint-100"]


def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    """On a real, small file system: the earlier checkpoint still verifies and the half-written one is gone."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = (
        os.geteuid() == 0
        and subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(disk)], capture_output=True, check=False
        ).returncode
        == 0
    )
    if not mounted:
        pytest.skip("needs root to mount a small tmpfs")
    try:
        older = save(disk, 1, b"x" * 100_000)
        with pytest.raises(OSError, match="No space left") as caught:
            save(disk, 2, b"y" * 200_000)
        assert caught.value.errno == errno.ENOSPC
        assert checkpoints.newest_whole(disk) == older
        assert [p.name for p in disk.iterdir()] == [older.name]
    finally:
        subprocess.run(["umount", str(disk)], check=True)
