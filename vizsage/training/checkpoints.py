"""Checkpoints that are whole or absent.

A checkpoint is written into `.checkpoint-<step>.partial`, flushed to disk, given a manifest of SHA-256 sums and
renamed to `checkpoint-<step>`. A kill at any moment leaves the earlier checkpoints untouched.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vizsage.errors import CheckpointError, one_line
from vizsage.files import disk_full, fsync_dir, read_json, settle_tree, sha256_file, unreadable, write_json

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
PROGRESS = "progress.json"
IDENTITY = "identity.json"
PARTIAL = ".checkpoint-*.partial"
_NAME = re.compile(r"checkpoint-(\d+)")


def step_of(folder: Path) -> int:
    """Optimizer steps done when this checkpoint was written."""
    match = _NAME.fullmatch(folder.name)
    if match is None:
        raise ValueError(f"{folder} is not named checkpoint-<step>")
    return int(match[1])


def checkpoints(output_dir: Path) -> list[Path]:
    """The checkpoints of a run, oldest first; not verified."""
    found = [p for p in output_dir.glob("checkpoint-*") if p.is_dir() and _NAME.fullmatch(p.name)]
    return sorted(found, key=step_of)


@contextmanager
def writing(output_dir: Path, step: int, *, main: bool, barrier: Callable[[], None]) -> Iterator[Path]:
    """Yield the folder that all processes write their part into; it becomes checkpoint-<step> at the end.

    Raises OSError (a full disk); what was written is then removed and nothing that stood before is lost.
    """
    final = output_dir / f"checkpoint-{step}"
    partial = output_dir / f".checkpoint-{step}.partial"
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
        # PyTorch's writer does not tell why it failed, and what it wrote makes room when it is removed.
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
        shutil.rmtree(partial)  # the same step of the same run is the same state: what stands stays
        return
    if final.exists():
        final.rename(final.with_name(f"damaged-{final.name}"))
    partial.rename(final)
    fsync_dir(final.parent)


def damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint, or None: every file of the manifest is there with its sum.

    Raises CheckpointError where files must not be read, which says nothing of what stands in them.
    """
    if problem := unreadable([folder / MANIFEST, *sorted(folder.rglob("*"))]):
        raise CheckpointError(problem)
    try:
        sums = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["sha256"]
        for name, expected in sums.items():
            if not (folder / name).is_file():  # a device or a pipe could be read for ever
                return f"{name} is missing"
            if sha256_file(folder / name) != expected:
                return f"{name} is not what was written"
    except FileNotFoundError as error:
        return f"{Path(str(error.filename)).name} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{MANIFEST} or a file it names cannot be read: {error}"
    return None


def newest_whole(output_dir: Path) -> Path | None:
    """The newest checkpoint that verifies; damaged newer ones are renamed to damaged-checkpoint-<step>."""
    for folder in reversed(checkpoints(output_dir)):
        problem = damage(folder)
        if problem is None:
            return folder
        log.warning("%s is damaged (%s); set aside, the one before it serves", folder, problem)
        aside = folder.with_name(f"damaged-{folder.name}")
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
    return None


def clean_up(output_dir: Path, *, keep: int, best: Path | None) -> None:
    """Delete all but the `keep` newest checkpoints and the best one, and what a kill left half-written."""
    for folder in checkpoints(output_dir)[:-keep]:
        if folder != best:
            shutil.rmtree(folder)
    for folder in output_dir.glob(PARTIAL):
        shutil.rmtree(folder, ignore_errors=True)


def read_identity(folder: Path) -> dict[str, Any]:
    """What the run of a whole checkpoint is: see vizsage.record.run_identity. Raises CheckpointError."""
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
    """The error of a file of a whole checkpoint that holds something else than a run writes."""
    return CheckpointError(
        f"{path}: not what a run writes there ({problem}); move {path.parent.name} away to go on from the checkpoint "
        "before it"
    )
