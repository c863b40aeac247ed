"""Atomic checkpoints: whole or absent.

A checkpoint is written into `.checkpoint-<step>.partial` and flushed to disk; then a manifest of SHA-256 sums is added
and the folder renamed to `checkpoint-<step>`. A kill at any moment leaves the earlier checkpoints unchanged.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vizsage.contract import CHECKPOINT_PREFIX, DAMAGED_PREFIX, checkpoint_name, checkpoint_step
from vizsage.contract.run_files import Identity
from vizsage.errors import CheckpointError, one_line
from vizsage.files import disk_full, fsync_dir, read_json, settle_tree, sha256_file, unreadable, write_json

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
PROGRESS = "progress.json"
IDENTITY = "identity.json"
PARTIAL = f".{CHECKPOINT_PREFIX}*.partial"
"""Pattern of the folders of checkpoints that are being written."""


def step_of(folder: Path) -> int:
    """The optimizer steps done when this checkpoint was written. Raises ValueError for the name of another folder."""
    step = checkpoint_step(folder.name)
    if step is None:
        raise ValueError(f"{folder} is not named {CHECKPOINT_PREFIX}<step>")
    return step


def checkpoints(output_dir: Path) -> list[Path]:
    """The checkpoints of a run, oldest first; not verified."""
    found = [p for p in output_dir.glob(f"{CHECKPOINT_PREFIX}*") if checkpoint_step(p.name) is not None and p.is_dir()]
    return sorted(found, key=step_of)


@contextmanager
def writing(output_dir: Path, step: int, *, main: bool, barrier: Callable[[], None]) -> Iterator[Path]:
    """Yield the folder that all processes write their part into; it becomes checkpoint-<step> at the end.

    Args:
        output_dir: the run directory.
        step: optimizer steps done.
        main: whether this is the main process.
        barrier: waits until all processes have called it.

    Raises:
        OSError: the disk is full. What was written is removed; earlier checkpoints are unchanged.
    """
    final = output_dir / checkpoint_name(step)
    partial = output_dir / f".{checkpoint_name(step)}.partial"
    if main:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    barrier()
    try:
        yield partial
        barrier()
        if main:
            _seal(partial, final)
    except BaseException as error:
        # PyTorch's writer does not report why it failed. Ask before its files are removed, which frees space.
        full = disk_full(output_dir) if isinstance(error, RuntimeError) else None
        if main:
            shutil.rmtree(partial, ignore_errors=True)
        if full:
            raise full from error
        raise
    barrier()


def _seal(partial: Path, final: Path) -> None:
    settle_tree(partial)
    sums = {str(p.relative_to(partial)): sha256_file(p) for p in sorted(partial.rglob("*")) if p.is_file()}
    write_json(partial / MANIFEST, {"sha256": sums})
    if final.exists() and damage(final) is None:
        shutil.rmtree(partial)  # the same step of the same run has the same state: keep the one that is there
        return
    if final.exists():
        final.rename(final.with_name(f"{DAMAGED_PREFIX}{final.name}"))
    partial.rename(final)
    fsync_dir(final.parent)


def damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint; None if every file of the manifest is there and has its SHA-256 sum.

    Raises CheckpointError where a file may not be read: it may be whole, so the checkpoint must not be set aside.
    """
    if problem := unreadable([folder / MANIFEST, *sorted(folder.rglob("*"))]):
        raise CheckpointError(problem)
    try:
        sums = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["sha256"]
        for name, expected in sums.items():
            if not (folder / name).is_file():  # reading a device or a pipe might never end
                return f"{name} is missing"
            if sha256_file(folder / name) != expected:
                return f"{name} is not what was written"
    except FileNotFoundError as error:
        return f"{Path(str(error.filename)).name} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{MANIFEST} or a file it names cannot be read: {error}"
    return None


def newest_whole(output_dir: Path) -> Path | None:
    """The newest whole checkpoint; damaged newer ones are renamed to damaged-checkpoint-<step>."""
    for folder in reversed(checkpoints(output_dir)):
        problem = damage(folder)
        if problem is None:
            return folder
        log.warning("%s is damaged (%s); it is renamed, and the checkpoint before it is used", folder, problem)
        aside = folder.with_name(f"{DAMAGED_PREFIX}{folder.name}")
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
    return None


def clean_up(output_dir: Path, *, keep: int, best: Path | None) -> None:
    """Delete all checkpoints but the `keep` newest and the best one, and the incomplete folder that a kill left."""
    for folder in checkpoints(output_dir)[:-keep]:
        if folder != best:
            shutil.rmtree(folder)
    for folder in output_dir.glob(PARTIAL):
        shutil.rmtree(folder, ignore_errors=True)


def read_identity(folder: Path) -> Identity:
    """The identity of the run of a whole checkpoint, see vizsage.record.run_identity. Raises CheckpointError."""
    return read_object(folder / IDENTITY)


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file of a whole checkpoint. Raises CheckpointError."""
    try:
        value = read_json(path)
    except (OSError, ValueError) as error:
        raise not_as_written(path, one_line(error)) from None
    if not isinstance(value, dict):
        raise not_as_written(path, "expected an object")
    return value


def not_as_written(path: Path, problem: str) -> CheckpointError:
    """The error for a file of a whole checkpoint that contains something else than a run writes."""
    return CheckpointError(
        f"{path}: not what a run writes there ({problem}); move {path.parent.name} away to go on from the checkpoint "
        "before it"
    )
