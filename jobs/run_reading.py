"""What the launchers read from the files of a run. Each of them may be missing or damaged."""

from __future__ import annotations

import contextlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vizsage.config import load_config
from vizsage.contract import (
    CHECKPOINT_PREFIX,
    CONFIG,
    EVALUATIONS,
    EXIT_DONE,
    EXIT_INTERRUPTED,
    JOBS,
    METRICS,
    RESULTS,
    RUN,
    SUBMISSIONS,
    SWEEP,
    checkpoint_step,
)
from vizsage.contract.results_file import read_headline
from vizsage.contract.run_files import Outcome, last_metrics, last_outcome, read_metrics, read_run
from vizsage.contract.submission_lines import read_submissions
from vizsage.errors import ConfigError, one_line

log = logging.getLogger(__name__)

Settings = dict[str, Any]
_UNREADABLE = (OSError, ValueError, ConfigError)


@dataclass(frozen=True)
class Damaged:
    """A file that exists and does not contain what it should."""

    reason: str


def is_run(folder: Path) -> bool:
    """Whether a run was started or sent with this run directory."""
    return (folder / RUN).exists() or (folder / JOBS / SUBMISSIONS).exists()


def word_for(exit_code: int) -> str:
    """The state of a job or a run that ended with this exit code."""
    return {EXIT_DONE: "completed", EXIT_INTERRUPTED: "interrupted"}.get(exit_code, "failed")


def outcome_of(run_dir: Path) -> Outcome | None:
    """outcome.json, see `last_outcome`; None also where it cannot be read here."""
    try:
        return last_outcome(run_dir)
    except OSError:
        return None


def steps_done(run_dir: Path) -> int | None:
    """The optimizer steps of the newest checkpoint or line of metrics.jsonl; None where there is neither."""
    try:
        steps = [checkpoint_step(path.name) for path in run_dir.glob(f"{CHECKPOINT_PREFIX}*")]
    except OSError:  # a name that only another machine's storage can have
        return None
    with contextlib.suppress(OSError, ValueError):
        if line := last_metrics(run_dir):
            steps.append(line.step)
    return max((step for step in steps if step is not None), default=None)


def sweep_members(folder: Path) -> list[Path]:
    """The run directories that sweep.json names. They are beside it, also where the whole folder was moved."""
    path = folder / SWEEP
    try:
        recorded = [Path(run["run_dir"]).name for run in json.loads(path.read_bytes())["runs"]]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("%s: damaged (%s); runs that have not begun are missing in the table", path, _short(error))
        return []
    return [folder / name for name in dict.fromkeys(recorded) if name not in ("", "..")]


def settings_of(run_dir: Path) -> tuple[Settings | Damaged | None, bool]:
    """The settings that the run began with, or those that it was sent with: from the first file that contains them.

    None where no file does; `Damaged` where that is because one of them is damaged.

    Returns:
        The settings, and whether they are as the machine could run them; if not, they are as the user gave them.
    """
    damaged = None
    for path, read in (
        (run_dir / RUN, _recorded_settings),
        (run_dir / CONFIG, _yaml_settings),
        (run_dir / JOBS / SUBMISSIONS, _sent_settings),
    ):
        try:
            found = read(path)
        except FileNotFoundError:
            continue
        except _UNREADABLE as error:
            damaged = damaged or _damaged(path, error)
            continue
        if found is not None:
            return found, read is _recorded_settings
    return damaged, False


def best_validation_score(run_dir: Path) -> float | Damaged | None:
    """The highest exact match of the validations in metrics.jsonl, without the one before the first step."""
    try:
        scores = [line.exact_match for line in read_metrics(run_dir) if line.is_validation and line.step]
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        return _damaged(run_dir / METRICS, error)
    return max((score for score in scores if score is not None), default=None)


def score_on_test(run_dir: Path) -> tuple[float | Damaged | None, int | None]:
    """Exact match on the test split, and the number of samples where only the first ones were answered."""
    folder = run_dir / EVALUATIONS / "test"
    try:
        found = read_headline(folder)
    except FileNotFoundError:
        return None, None
    except (OSError, ValueError) as error:
        return _damaged(folder / RESULTS, error), None
    return found.exact_match_score, found.limit


def _recorded_settings(path: Path) -> Settings:
    settings = read_run(path.parent).settings
    if settings is None:
        raise ValueError("settings is missing")
    return settings


def _yaml_settings(path: Path) -> Settings:
    if not path.exists():
        raise FileNotFoundError(path)
    return load_config(path).model_dump(mode="json")


def _sent_settings(path: Path) -> Settings | None:
    """Those of the training that was sent last; the file is beside the list, also where the run directory was moved."""
    sent = read_submissions(path)
    if sent.damaged and not sent.jobs:
        raise ValueError(f"line {sent.damaged[0]} is no record")
    files = [Path(job.config) for job in sent.jobs if job.kind == "train"]
    if not files:
        return None
    beside = path.parent / files[-1].name
    return _yaml_settings(beside if beside.exists() else files[-1])


def _damaged(path: Path, error: Exception) -> Damaged:
    return Damaged(str(error) if isinstance(error, ConfigError) else f"{path.name}: {_short(error)}")


def _short(error: Exception) -> str:
    """One line about an exception."""
    if isinstance(error, OSError):
        return f"cannot be read: {error.strerror}"
    if isinstance(error, KeyError):
        return f"{error} is missing"
    return one_line(error)
