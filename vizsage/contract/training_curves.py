"""The numbers of metrics.jsonl as series over optimizer steps, for loss.png, reports and comparisons of runs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from vizsage.contract.run_files import MetricsLine, read_metrics

Point = tuple[int, float]
"""Optimizer steps done, and the value there."""
Series = list[Point]


@dataclass(frozen=True)
class TrainingCurves:
    """The curves of a training, each in the order of its steps; empty where metrics.jsonl has no such number.

    Attributes:
        training_loss: nats per answer token, mean over the steps since the point before.
        validation_loss: nats per answer token, mean over the validation samples.
        exact_match: of the validation samples, 0 to 1.
        exact_match_with_external_knowledge: of those that need a description.
        exact_match_without_external_knowledge: of the others.
        learning_rate: of the optimizer step.

    A validation at step 0 is that of the model before its first step.
    """

    training_loss: Series
    validation_loss: Series
    exact_match: Series
    exact_match_with_external_knowledge: Series
    exact_match_without_external_knowledge: Series
    learning_rate: Series


def training_curves(lines: Iterable[MetricsLine]) -> TrainingCurves:
    """The curves of the lines of metrics.jsonl."""
    lines = list(lines)

    def series(name: str) -> Series:
        values = ((line.step, getattr(line, name)) for line in lines)
        return sorted(((step, value) for step, value in values if value is not None), key=lambda point: point[0])

    return TrainingCurves(
        training_loss=series("loss"),
        validation_loss=series("val_loss"),
        exact_match=series("exact_match"),
        exact_match_with_external_knowledge=series("exact_match_with_external_knowledge"),
        exact_match_without_external_knowledge=series("exact_match_without_external_knowledge"),
        learning_rate=series("lr"),
    )


def read_curves(output_dir: Path) -> TrainingCurves:
    """The curves in the metrics.jsonl of a run directory. Raises OSError, or ValueError with one line."""
    return training_curves(read_metrics(output_dir))
