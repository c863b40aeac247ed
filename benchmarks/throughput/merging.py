"""Figures of an earlier run: whether they can be compared with those of this run, and which of them are kept."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from benchmarks.throughput.contenders import CONTENDERS, Job

MUST_BE_EQUAL = ("size", "family", "text_tokens", "step_questions", "their_batch", "unsloth_resize")


def refuse_another(path: Path, machine: dict[str, Any], job: Job) -> None:
    """End the process if `path` was measured on another kind of machine or at other sizes."""
    earlier = json.loads(path.read_text(encoding="utf-8"))
    different = [key for key, value in machine.items() if earlier["machine"].get(key) != value]
    different += [key for key in MUST_BE_EQUAL if earlier["settings"][key] != job.settings[key]]
    if different:
        raise SystemExit(f"{path}: cannot be merged, measured with other {', '.join(different)}")


def take_over(path: Path, source: str) -> tuple[list[dict[str, Any]], int]:
    """The figures in `path`, marked as merged, and how many were left out: ours that were measured with other code."""
    earlier = json.loads(path.read_text(encoding="utf-8"))
    rows = [row for row in earlier["measurements"] if "samples_per_s" in row]
    kept = [row for row in rows if CONTENDERS[row["contender"]].kind != "vizsage" or row["run"].get("source") == source]
    return [{**row, "merged": True} for row in kept], len(rows) - len(kept)


def hash_source(package: Path) -> str:
    """A hash of the code in the folder `package`, wherever it is, also where git is missing."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(package).as_posix()} {len(content)} ".encode() + content)
    return digest.hexdigest()[:12]
