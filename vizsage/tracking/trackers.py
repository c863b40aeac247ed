"""The trackers that the settings name, as one; a failure of theirs never ends a command."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from vizsage.config import Config
from vizsage.contract import TRACKERS
from vizsage.contract.run_files import MetricsLine
from vizsage.errors import ConfigError
from vizsage.tracking.tracker import AttemptStart, TrackedEvaluation, Tracker, guarded


class Trackers:
    """All trackers of a run. One that fails is left out from then on, with a warning.

    The signal that stops this process may have ended a tracker's own process; its disk may be full, its server gone.
    None of that may cost a checkpoint.
    """

    def __init__(self, config: Config | None = None) -> None:
        """`config` names the trackers; None: there are none, as in processes other than the main one."""
        self._trackers: list[Tracker] = [_class(name)(config) for name in config.tracker_names] if config else []

    def begin(self, start: AttemptStart) -> None:
        """An attempt at a training begins, or continues an earlier one."""
        self._each(lambda tracker: tracker.begin(start), "nothing is logged there")

    def log(self, line: MetricsLine) -> None:
        """Log a line of metrics.jsonl."""
        self._each(lambda tracker: tracker.log(line), "nothing more is logged there")

    def finish(self, exit_code: int, best_scores: dict[str, Any] | None) -> None:
        """The attempt has ended."""
        self._each(lambda tracker: tracker.finish(exit_code, best_scores), "its run there may be incomplete")

    def log_evaluation(self, evaluation: TrackedEvaluation) -> None:
        """Log an evaluation."""
        self._each(lambda tracker: tracker.log_evaluation(evaluation), "nothing more is logged there")

    def _each(self, action: Callable[[Tracker], None], otherwise: str) -> None:
        def done(tracker: Tracker) -> bool:
            action(tracker)
            return True

        def succeeded(tracker: Tracker) -> bool:
            return bool(guarded(tracker.title, lambda: done(tracker), otherwise))

        self._trackers = [tracker for tracker in self._trackers if succeeded(tracker)]


def check_trackers(config: Config) -> None:
    """Raise ConfigError where a tracker's package is missing, or its environment is wrong; later it would fail."""
    for name in config.tracker_names:
        tracker = _class(name)
        if find_spec(tracker.package) is None:
            raise ConfigError(
                f"trackers: {name} needs the package {tracker.package}, which is not installed; install it, or take "
                f"{name} out of trackers"
            )
        tracker.check()


def _class(name: str) -> type[Tracker]:
    tracker: type[Tracker] = pkgutil.resolve_name(TRACKERS[name])
    return tracker
