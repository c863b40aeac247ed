"""What the files of a run tell the launchers. Each of them may be missing or damaged."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.spec import FOLDER
from jobs.submissions import FILE
from vizsage.config import load_config
from vizsage.errors import EXIT_DONE, EXIT_INTERRUPTED, ConfigError, one_line

log = logging.getLogger(__name__)

OUTCOME = "outcome.json"
Settings = dict[str, Any]
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, ConfigError)


@dataclass(frozen=True)
class Damaged:
    """A file that exists and does not tell what it should."""

    reason: str


@dataclass(frozen=True)
class Outcome:
    """How the newest attempt of a training ended; all None where none has ended."""

    exit_code: int | None = None
    step: int | None = None
    reason: str | None = None


def is_run(folder: Path) -> bool:
    """Whether a run was started or sent with this run directory."""
    return (folder / "run.json").exists() or (folder / FOLDER / FILE).exists()


def word_for(exit_code: int) -> str:
    """The state of a job or a run that ended with this exit code."""
    return {EXIT_DONE: "completed", EXIT_INTERRUPTED: "interrupted"}.get(exit_code, "failed")


def outcome_of(run_dir: Path) -> Outcome:
    """What outcome.json tells; nothing where it is missing or damaged."""
    try:
        found = json.loads((run_dir / OUTCOME).read_text(encoding="utf-8"))
        code, step = found.get("exit_code"), found.get("step")
    except (OSError, ValueError, AttributeError):
        return Outcome()
    return Outcome(
        code if isinstance(code, int) else None,
        step if isinstance(step, int) else None,
        str(found.get("reason") or "") or None,
    )


def newest_checkpoint(run_dir: Path) -> int | None:
    """The optimizer steps of the newest checkpoint; None where there is none, or the folder is not of this machine."""
    try:
        steps = [int(p.name[11:]) for p in run_dir.glob("checkpoint-*") if p.name[11:].isdecimal()]
    except OSError:  # a name that only another machine's storage can have
        return None
    return max(steps, default=None)


def sweep_members(folder: Path) -> list[Path]:
    """The run directories that sweep.json names. They are beside it, also where the whole folder was moved."""
    path = folder / "sweep.json"
    try:
        recorded = [Path(run["run_dir"]).name for run in json.loads(path.read_bytes())["runs"]]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("%s: damaged (%s); runs that have not begun are missing in the table", path, _short(error))
        return []
    return [folder / name for name in dict.fromkeys(recorded) if name not in ("", "..")]


def settings_of(run_dir: Path) -> Settings | Damaged | None:
    """The settings that the run began with, or those that it was sent with: of the first file that tells them.

    None where no file does; `Damaged` where that is because one of them is damaged.
    """
    damaged = None
    for path, read in (
        (run_dir / "run.json", _recorded_settings),
        (run_dir / "config.yaml", _yaml_settings),
        (run_dir / FOLDER / FILE, _sent_settings),
    ):
        try:
            found = read(path)
        except FileNotFoundError:
            continue
        except _UNREADABLE as error:
            damaged = damaged or _damaged(path, error)
            continue
        if found is not None:
            return found
    return damaged


def best_validation_score(run_dir: Path) -> float | Damaged | None:
    """The highest exact match of the validations in metrics.jsonl."""
    path = run_dir / "metrics.jsonl"
    try:
        scores = [_exact_match(line["exact_match"]) for line in _lines(path) if "exact_match" in line]
    except FileNotFoundError:
        return None
    except _UNREADABLE as error:
        return _damaged(path, error)
    return max((score for score in scores if score is not None), default=None)


def score_on_test(run_dir: Path) -> tuple[float | Damaged | None, int | None]:
    """Exact match on the test split, and the number of samples where only the first ones were answered."""
    path = run_dir / "evaluation_results" / "test" / "results.json"
    try:
        results = json.loads(path.read_bytes())
        limit = results.get("limit")
        return _exact_match(results["exact_match_score"]), limit if isinstance(limit, int) else None
    except FileNotFoundError:
        return None, None
    except _UNREADABLE as error:
        return _damaged(path, error), None


def _recorded_settings(path: Path) -> Settings:
    settings = json.loads(path.read_bytes())["settings"]
    if not isinstance(settings, dict):
        raise TypeError("settings: expected names and values")
    return settings


def _yaml_settings(path: Path) -> Settings:
    if not path.exists():
        raise FileNotFoundError(path)
    return load_config(path).model_dump(mode="json")


def _sent_settings(path: Path) -> Settings | None:
    """Those of the training that was sent last; the file is beside the list, also where the run directory was moved."""
    file = None
    for line in _lines(path):
        if line["kind"] == "train":
            file = Path(line["config"])
    if file is None:
        return None
    beside = path.parent / file.name
    return _yaml_settings(beside if beside.exists() else file)


def _lines(path: Path) -> Iterator[Mapping[str, Any]]:
    """The records of a JSON lines file; an incomplete last line, which a killed process leaves, is left out."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n") or not line.strip():
                continue
            try:
                record = json.loads(line)
            except ValueError:
                record = None
            if not isinstance(record, dict):
                raise ValueError(f"line {number} is no record")
            yield record


def _exact_match(value: Any) -> float | None:
    """A score; None where nothing was answered."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"exact match: expected a number from 0 to 1, found {value!r}")
    return float(value)


def _damaged(path: Path, error: Exception) -> Damaged:
    return Damaged(str(error) if isinstance(error, ConfigError) else f"{path.name}: {_short(error)}")


def _short(error: Exception) -> str:
    """One line about an exception."""
    if isinstance(error, OSError):
        return f"cannot be read: {error.strerror}"
    if isinstance(error, KeyError):
        return f"{error} is missing"
    return one_line(error)
