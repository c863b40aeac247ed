"""What a tracker is, and what it is given of a training and of an evaluation."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from vizsage.config import Config
from vizsage.contract.run_files import MetricsLine
from vizsage.errors import one_line

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True)
class AttemptStart:
    """Where an attempt at a training begins.

    Attributes:
        step: optimizer steps done; what was logged of later ones is repeated.
        attempt: its number, from 1.
        lines: the lines of metrics.jsonl of this very step that remain.
    """

    step: int
    attempt: int
    lines: list[MetricsLine]


@dataclass(frozen=True)
class AnswerTable:
    """Answers of an evaluation, for trackers that show tables.

    Attributes:
        columns: their names; the first is that of the thumbnails.
        rows: the values of the other columns.
        images: for each row the thumbnail of its image as a file, None where there is none.
    """

    columns: list[str]
    rows: list[list[Any]]
    images: list[bytes | None]


@dataclass(frozen=True)
class TrackedEvaluation:
    """An evaluation whose results are on disk.

    Attributes:
        name: of its folder: test, test-base, test-blind, ...
        step: optimizer steps of the adapter that was evaluated; 0 for the base model, and where that is not known.
        scores: scores with the ends of their intervals, and counts, under flat names.
        summary: the main scores as Markdown.
        report: report.html.
        table: makes the table, which reads images.
    """

    name: str
    step: int
    scores: Mapping[str, float]
    summary: str
    report: Path
    table: Callable[[], AnswerTable]


class Tracker(Protocol):
    """One tracker, for a training or for an evaluation. It is used in the main process only.

    Every method may raise whatever its library raises: `vizsage.tracking.trackers.Trackers` makes a warning of it and
    calls that tracker no more. A tracker imports its library inside the methods.

    Attributes:
        title: what messages call it.
        package: the Python package that it needs.
    """

    title: str
    package: str

    def __init__(self, config: Config) -> None:
        """Remember the settings; nothing is opened yet."""

    @classmethod
    def check(cls) -> None:
        """Raise ConfigError for what would fail later, for example a variable of the environment."""

    def begin(self, start: AttemptStart) -> None:
        """Open the run of a training, or continue it: what was logged of steps after `start.step` must not remain."""

    def log(self, line: MetricsLine) -> None:
        """Log a line of metrics.jsonl: the loss of some steps, or a validation."""

    def finish(self, exit_code: int, best_scores: dict[str, Any] | None) -> None:
        """Close the run. `best_scores`: of the best validation, see vizsage.scoring.summary.summarise."""

    def log_evaluation(self, evaluation: TrackedEvaluation) -> None:
        """Open the run, log an evaluation, and close it. Called without `begin` and `finish`."""


def guarded(title: str, action: Callable[[], T], otherwise: str) -> T | None:
    """The result of `action`, which calls the tracker `title`; None after a failure, which is a warning.

    The warning ends with `otherwise`.
    """
    try:
        return action()
    except Exception as error:  # noqa: BLE001 -- the libraries' classes have no common base, W&B's mailbox for example
        log.warning("%s failed (%s); %s", title, one_line(error), otherwise)
        return None
