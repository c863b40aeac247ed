"""Figures of an earlier run: whether they can stand beside those of this one, and which do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from throughput.contenders import Job

MUST_BE_EQUAL = ("size", "family", "text_tokens", "step_questions", "their_batch", "unsloth_resize")


def refuse_another(path: Path, machine: dict[str, Any], job: Job) -> None:
    """End the process if `path` was measured on another kind of machine or at other sizes."""
    earlier = json.loads(path.read_text(encoding="utf-8"))
    different = [key for key, value in machine.items() if earlier["machine"].get(key) != value]
    different += [key for key in MUST_BE_EQUAL if earlier["settings"][key] != job.settings[key]]
    if different:
        raise SystemExit(f"{path}: cannot be merged, measured with other {', '.join(different)}")


def take_over(path: Path) -> list[dict[str, Any]]:
    """The figures of `path`, marked as such."""
    earlier = json.loads(path.read_text(encoding="utf-8"))
    return [{**row, "merged": True} for row in earlier["measurements"] if "samples_per_s" in row]
