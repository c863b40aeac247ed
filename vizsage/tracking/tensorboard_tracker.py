"""TensorBoard: event files in output_dir/tensorboard, one per attempt, and one per evaluation in a folder below."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vizsage.config import Config, config_to_yaml
from vizsage.contract.run_files import MetricsLine
from vizsage.tracking.tracker import AttemptStart, TrackedEvaluation, Tracker

_NO_CURVES = ("step", "attempt")


class TensorboardTracker(Tracker):
    """Scalars with the names of metrics.jsonl, below training/ and validation/, and the settings as a text."""

    title, package = "TensorBoard", "tensorboard"

    def __init__(self, config: Config) -> None:
        self.config, self.folder = config, config.output_dir / "tensorboard"
        self._events: EventFile | None = None

    def begin(self, start: AttemptStart) -> None:
        """Open the event file of this attempt.

        It tells readers to forget what earlier files have of this step and later ones, and contains this step again.
        """
        self._events = EventFile(self.folder, start.attempt, first_step=start.step)
        self._events.text(start.step, "settings", f"```yaml\n{config_to_yaml(self.config)}```")
        for line in start.lines:
            self.log(line)

    def log(self, line: MetricsLine) -> None:
        """Write the numbers of a line."""
        kind = "validation" if line.is_validation else "training"
        numbers = {name: value for name, value in line.content().items() if name not in _NO_CURVES}
        self._opened.scalars(
            line.step, {f"{kind}/{name}": float(value) for name, value in numbers.items() if value is not None}
        )

    def finish(self, exit_code: int, best_scores: dict[str, Any] | None) -> None:
        """Close the event file."""
        self._opened.close()

    def log_evaluation(self, evaluation: TrackedEvaluation) -> None:
        """A separate folder, which TensorBoard shows as a run: it reads one event file of a folder at a time."""
        events = EventFile(self.folder / evaluation.name, time.time_ns(), first_step=evaluation.step)
        events.scalars(evaluation.step, {f"evaluation/{name}": value for name, value in evaluation.scores.items()})
        events.text(evaluation.step, "evaluation", evaluation.summary)
        events.close()

    @property
    def _opened(self) -> EventFile:
        assert self._events is not None
        return self._events


class EventFile:
    """An event file that is complete on disk after each call.

    Records are written here and now: TensorBoard's own `EventFileWriter` writes in a thread, whose error on a full disk
    is printed as a traceback and raised later, or never.
    """

    def __init__(self, folder: Path, number: int, *, first_step: int) -> None:
        """Create the file.

        Args:
            folder: where; TensorBoard shows each folder as a run.
            number: TensorBoard reads the files of a folder in the order of their names, in which this comes first.
                Clocks of nodes differ too much for that.
            first_step: what earlier files of the folder have of this step and of later ones is not shown any more.
        """
        from tensorboard.compat.proto.event_pb2 import SessionLog
        from torch.utils.tensorboard import RecordWriter

        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{number:020d}.{socket.gethostname()}.{os.getpid()}"
        self._records = RecordWriter((folder / name).open("ab"))
        self._write(file_version="brain.Event:2")
        self._write(step=first_step, session_log=SessionLog(status=SessionLog.START))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write numbers by their names."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        numbers = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._write(step=step, summary=Summary(value=numbers))

    def text(self, step: int, name: str, markdown: str) -> None:
        """Write a text."""
        from torch.utils.tensorboard.summary import text

        self._write(step=step, summary=text(name, markdown))

    def close(self) -> None:
        """Close the file."""
        self._records.close()

    def _write(self, **fields: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._records.write(Event(wall_time=time.time(), **fields).SerializeToString())
        self._records.flush()
