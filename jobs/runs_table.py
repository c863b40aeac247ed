"""`python -m jobs table DIR`: the runs below a folder, with their scores and the settings in which they differ."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.run_reading import (
    Damaged,
    Settings,
    best_validation_score,
    is_run,
    score_on_test,
    settings_of,
    sweep_members,
)
from vizsage.config import Config
from vizsage.contract import JOBS, RUN_FILES
from vizsage.contract.run_files import MACHINE_SETTINGS
from vizsage.errors import ConfigError, VizSageError
from vizsage.scoring.registry import EXACT_MATCH
from vizsage.tables import FittedTable

log = logging.getLogger(__name__)

MISSING = "-"
# Folders and names of a run, and what does not change its result: runs that differ in these only are the same.
NOT_COMPARED = frozenset(
    "output_dir save_path name_trained_model resume trackers use_wandb wandb_project wandb_run_name wandb_tags "
    "val_at_start debug_exact_match".split()
)
_NEVER_RUNS = re.compile(r"\.|(damaged-)?checkpoint-|previous-\d+$")
_INSIDE_A_RUN = frozenset({*RUN_FILES, JOBS})


@dataclass(frozen=True)
class Run:
    """What the files of a run directory contain, and its state. None: no file contains it (yet).

    `as_run`: the settings are as the machine could run them, not as the user gave them.
    """

    path: Path
    name: str
    settings: Settings | Damaged | None
    best_exact_match: float | Damaged | None
    test_exact_match: float | Damaged | None
    test_limit: int | None
    state: str | Damaged
    as_run: bool = True


def runs_below(directory: Path, state_of: Callable[[Path], str]) -> list[Run]:
    """The runs in `directory` and below: those of a sweep in its order, others by name.

    Checkpoints and earlier runs that were moved aside are left out.

    Args:
        directory: where to look.
        state_of: returns the state of a run directory.

    Raises:
        ConfigError: there is no such folder.
    """
    if not directory.is_dir():
        raise ConfigError(f"{directory}: no such folder; name one that holds runs")
    return [_read(path, _name(path, directory), state_of) for path in _run_dirs(directory, set())]


def rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """One dictionary per run, ready for JSON.

    Keys: run, settings, best_exact_match, test_exact_match, test_limit, state, problems. Scores are None where there
    are none, and where the file is damaged, which `problems` reports.
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


def render(runs: Sequence[Run]) -> FittedTable:
    """The same as a table, without what is wrong with files, see `problems`."""
    keys = differing(runs)
    table = FittedTable(caption="" if runs else "no runs")
    table.add_paths("run")
    for key in keys:
        # Names of models are like paths.
        named = any("/" in _setting(run.settings, key) for run in runs)
        (table.add_paths if named else table.add_texts)(key)
    table.add_numbers(f"best validation {EXACT_MATCH.title}", f"test {EXACT_MATCH.title}")
    table.add_texts("state")
    for run, row in zip(runs, rows(runs), strict=True):
        limit = "" if run.test_limit is None else f" (first {run.test_limit})"
        cells = [
            run.name,
            *(_setting(run.settings, key) for key in keys),
            _score(run.best_exact_match),
            _score(run.test_exact_match, limit),
            row["state"],
        ]
        table.add_row(*cells)
    return table


def problems(runs: Sequence[Run]) -> list[str]:
    """One text for each file of a run that is damaged."""
    return [f"{row['run']}: {problem}" for row in rows(runs) for problem in row["problems"]]


def differing(runs: Sequence[Run]) -> list[str]:
    """The settings in which the runs differ, in the order of the settings file.

    Runs that have not begun are compared with others only in what the machine cannot replace: `device: auto` may become
    `cuda`, which is no difference.
    """
    as_run = [run.settings for run in runs if isinstance(run.settings, dict) and run.as_run]
    given = [run.settings for run in runs if isinstance(run.settings, dict) and not run.as_run]

    def values(key: str, among: Iterable[Settings]) -> set[str]:
        return {json.dumps(one[key], sort_keys=True) for one in among if key in one}

    def differs(key: str) -> bool:
        comparable = values(key, as_run) | values(key, (one for one in given if not _replaceable(one, key)))
        return len(comparable) > 1 or len(values(key, given)) > 1

    return [key for key in Config.model_fields if key not in NOT_COMPARED and differs(key)]


def _replaceable(given: Settings, key: str) -> bool:
    """Whether a run that begins with the settings `given` may record another value of this one."""
    drawn = key == "seed" and given.get("reproducible") is False
    return drawn or key in MACHINE_SETTINGS or given.get(key) == "auto"


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
    if is_run(directory):
        yield directory
        children = [p for p in children if p.name not in _INSIDE_A_RUN]
    for path in sweep_members(directory):
        if is_run(path):
            yield from _run_dirs(path, seen)
        else:
            yield path  # sent, and has written nothing yet
    for path in children:
        yield from _run_dirs(path, seen)


def _read(path: Path, name: str, state_of: Callable[[Path], str]) -> Run:
    test, limit = score_on_test(path)
    try:
        state: str | Damaged = state_of(path)
    except VizSageError as error:  # else the other runs would be missing in the table
        state = Damaged(str(error))
    settings, as_run = settings_of(path)
    return Run(path, name, settings, best_validation_score(path), test, limit, state, as_run)


def _name(path: Path, directory: Path) -> str:
    return str(path.relative_to(directory)) if path != directory else path.absolute().name


def _or_none(value: float | Damaged | None) -> float | None:
    return None if isinstance(value, Damaged) else value


def _state(value: str | Damaged) -> str:
    return "unknown" if isinstance(value, Damaged) else value


def _score(value: float | Damaged | None, note: str = "") -> str:
    if isinstance(value, Damaged):
        return "damaged"
    return MISSING if value is None else f"{value:.3f}{note}"


def _setting(settings: Settings | Damaged | None, key: str) -> str:
    """A value as it is written behind key= on the command line."""
    if isinstance(settings, Damaged):
        return "damaged"
    if settings is None or key not in settings:
        return MISSING
    value = settings[key]
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
