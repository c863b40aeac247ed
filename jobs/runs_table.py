"""`python -m jobs table DIR`: the runs below a folder, a line each, with the settings in which they differ.

Only files are read, by their names and forms; states are asked of whoever knows the scheduler.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from vizsage.config import Config, load_config
from vizsage.contract import CONFIG, EVALUATIONS, JOBS, METRICS, RESULTS, RUN, RUN_FILES, SUBMISSIONS, SWEEP
from vizsage.contract.run_files import read_metrics, read_run
from vizsage.contract.submissions import read_submissions
from vizsage.errors import ConfigError, VizSageError, one_line, printable

log = logging.getLogger(__name__)

MISSING = "-"
# Where a run stands and what it is called; two runs that differ in nothing else are the same.
NOT_COMPARED = frozenset(
    "output_dir save_path name_trained_model resume use_wandb wandb_project wandb_run_name wandb_tags "
    "debug_exact_match".split()
)
_NEVER_RUNS = re.compile(r"\.|(damaged-)?checkpoint-|previous-\d+$")
_INSIDE_A_RUN = frozenset({*RUN_FILES, JOBS})
_Settings = dict[str, Any]


@dataclass(frozen=True)
class Damaged:
    """A file that is there and does not tell what it should."""

    reason: str


@dataclass(frozen=True)
class Run:
    """What the files of a run directory tell, and its state. None: not there (yet)."""

    path: Path
    name: str
    settings: _Settings | Damaged | None
    best_exact_match: float | Damaged | None
    test_exact_match: float | Damaged | None
    test_limit: int | None
    state: str | Damaged


def runs_below(directory: Path, state_of: Callable[[Path], str]) -> list[Run]:
    """The runs in `directory` and below: those of a sweep in its order, others by name.

    Checkpoints and earlier runs that were set aside are left out. `state_of` is asked for the state of each run
    directory. Raises ConfigError where there is no such folder.
    """
    if not directory.is_dir():
        raise ConfigError(f"{directory}: no such folder; name one that holds runs")
    return [_read(path, _name(path, directory), state_of) for path in _run_dirs(directory, set())]


def rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """One dictionary per run, ready for JSON.

    Its keys: run, settings, best_exact_match, test_exact_match, test_limit, state, problems. A missing score is None; a
    damaged one is None as well, and problems says so.
    """
    keys = differing(runs)
    found = []
    for run in runs:
        values = (run.settings, run.best_exact_match, run.test_exact_match, run.state)
        settings = run.settings if isinstance(run.settings, dict) else {}
        found.append(
            {
                "run": run.name,
                "settings": {key: settings[key] for key in keys if key in settings},
                "best_exact_match": _or_none(run.best_exact_match),
                "test_exact_match": _or_none(run.test_exact_match),
                "test_limit": run.test_limit,
                "state": _state(run.state),
                "problems": list(dict.fromkeys(v.reason for v in values if isinstance(v, Damaged))),
            }
        )
    return found


def render(runs: Sequence[Run]) -> Table:
    """The same as a table; a caption names damaged files."""
    keys = differing(runs)
    table = Table(caption_justify="left")
    for column in ("run", *keys):
        table.add_column(column, overflow="fold")
    for column in ("best validation exact match", "test exact match"):
        table.add_column(column, justify="right")
    table.add_column("state", overflow="fold")
    notes = []
    for run, row in zip(runs, rows(runs), strict=True):
        limit = "" if run.test_limit is None else f" (first {run.test_limit})"
        cells = [
            run.name,
            *(_setting(run.settings, key) for key in keys),
            _score(run.best_exact_match),
            _score(run.test_exact_match, limit),
            row["state"],
        ]
        table.add_row(*(Text(printable(text)) for text in cells))  # never markup: "[red]" stands as it is
        notes += [printable(f"{run.name}: {problem}") for problem in row["problems"]]
    table.caption = Text("\n".join(notes) if runs else "no runs")
    return table


def differing(runs: Sequence[Run]) -> list[str]:
    """The settings in which the runs differ, in the order of the settings file."""
    known = [run.settings for run in runs if isinstance(run.settings, dict)]
    return [
        key
        for key in Config.model_fields
        if key not in NOT_COMPARED and len({json.dumps(s[key], sort_keys=True) for s in known if key in s}) > 1
    ]


def _run_dirs(directory: Path, seen: set[tuple[int, int]]) -> Iterator[Path]:
    """Run directories in `directory` and below; each folder once, however many links lead to it."""
    try:
        stat = directory.stat()
        children = sorted(p for p in directory.iterdir() if p.is_dir() and not _NEVER_RUNS.match(p.name))
    except OSError as error:
        log.warning("%s: cannot be read: %s", directory, error.strerror)
        return
    if (stat.st_dev, stat.st_ino) in seen:
        return
    seen.add((stat.st_dev, stat.st_ino))
    is_run = (directory / RUN).exists() or (directory / JOBS / SUBMISSIONS).exists()
    if is_run:
        yield directory
        children = [p for p in children if p.name not in _INSIDE_A_RUN]
    for path in _sweep_members(directory):
        if (path / RUN).exists() or (path / JOBS / SUBMISSIONS).exists():
            yield from _run_dirs(path, seen)
        else:
            yield path  # sent, and nothing of it on disk yet
    for path in children:
        yield from _run_dirs(path, seen)


def _sweep_members(directory: Path) -> list[Path]:
    """The run directories that sweep.json names. They lie beside it, also where the whole folder was moved."""
    path = directory / SWEEP
    try:
        recorded = [Path(run["run_dir"]).name for run in json.loads(path.read_bytes())["runs"]]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("%s: damaged (%s); runs that have not begun are missing in the table", path, _short(error))
        return []
    return [directory / name for name in dict.fromkeys(recorded) if name not in ("", "..")]


def _read(path: Path, name: str, state_of: Callable[[Path], str]) -> Run:
    test, limit = _test_score(path / EVALUATIONS / "test" / RESULTS)
    try:
        state: str | Damaged = state_of(path)
    except VizSageError as error:  # one run's trouble must not hide the others
        state = Damaged(str(error))
    return Run(path, name, _settings(path), _best_score(path), test, limit, state)


def _name(path: Path, directory: Path) -> str:
    return str(path.relative_to(directory)) if path != directory else path.absolute().name


def _settings(run_dir: Path) -> _Settings | Damaged | None:
    """The settings that the run began with, else those that it was sent with; the first file that tells them counts."""
    damaged = None
    for path, read in ((run_dir / RUN, _recorded_settings), (run_dir / CONFIG, _yaml_settings)):
        try:
            return read(path)
        except FileNotFoundError:
            continue
        except (OSError, ValueError, KeyError, TypeError, ConfigError) as error:
            damaged = damaged or _damaged(path, error)
    try:
        sent = _sent_settings(run_dir)
    except FileNotFoundError:
        return damaged
    except (OSError, ValueError, KeyError, TypeError, ConfigError) as error:
        return damaged or _damaged(run_dir / JOBS / SUBMISSIONS, error)
    return sent if sent is not None else damaged


def _recorded_settings(path: Path) -> _Settings:
    settings = read_run(path.parent).settings
    if settings is None:
        raise ValueError("settings is missing")
    return settings


def _yaml_settings(path: Path) -> _Settings:
    if not path.exists():
        raise FileNotFoundError(path)
    return load_config(path).model_dump(mode="json")


def _sent_settings(run_dir: Path) -> _Settings | None:
    """Those of the last training that was sent; its file lies in the run directory, also where that was moved."""
    sent = read_submissions(run_dir / JOBS / SUBMISSIONS)
    if sent.damaged and not sent.jobs:
        raise ValueError(f"line {sent.damaged[0]} is no record")
    files = [Path(job.config) for job in sent.jobs if job.kind == "train"]
    if not files:
        return None
    file = files[-1]
    beside = run_dir / JOBS / file.name
    return _yaml_settings(beside if beside.exists() else file)


def _best_score(run_dir: Path) -> float | Damaged | None:
    """The highest exact match of the validations in metrics.jsonl."""
    try:
        scores = [line.exact_match for line in read_metrics(run_dir) if line.is_validation]
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        return _damaged(run_dir / METRICS, error)
    return max((score for score in scores if score is not None), default=None)


def _test_score(path: Path) -> tuple[float | Damaged | None, int | None]:
    """Exact match on the test split, and the number of samples where it was not answered in full."""
    try:
        results = json.loads(path.read_bytes())
        limit = results.get("limit")
        return _exact_match(results["exact_match_score"]), limit if isinstance(limit, int) else None
    except FileNotFoundError:
        return None, None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return _damaged(path, error), None


def _exact_match(value: Any) -> float | None:
    """A score; None where nothing was answered."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"exact match: expected a number from 0 to 1, found {value!r}")
    return float(value)


def _damaged(path: Path, error: Exception) -> Damaged:
    text = str(error) if isinstance(error, ConfigError) else f"{path.name}: {_short(error)}"
    return Damaged(text)


def _short(error: Exception) -> str:
    """One line about an exception."""
    if isinstance(error, OSError):
        return f"cannot be read: {error.strerror}"
    if isinstance(error, KeyError):
        return f"{error} is missing"
    return one_line(error)


def _or_none(value: float | Damaged | None) -> float | None:
    return None if isinstance(value, Damaged) else value


def _state(value: str | Damaged) -> str:
    return "unknown" if isinstance(value, Damaged) else value


def _score(value: float | Damaged | None, note: str = "") -> str:
    if isinstance(value, Damaged):
        return "damaged"
    return MISSING if value is None else f"{value:.3f}{note}"


def _setting(settings: _Settings | Damaged | None, key: str) -> str:
    """A value as it would stand behind key= on the command line."""
    if isinstance(settings, Damaged):
        return "damaged"
    if settings is None or key not in settings:
        return MISSING
    value = settings[key]
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
