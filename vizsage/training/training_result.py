"""What a finished training returns to the program that called it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vizsage.config import Config
from vizsage.contract.run_files import MetricsLine
from vizsage.record import RunRecord, outcome_of
from vizsage.training.metrics_log import metrics_lines


@dataclass(frozen=True)
class TrainingResult:
    """A finished training.

    Attributes:
        output_dir: the folder of the run.
        adapter_dir: the folder of the adapter; None if save_model is false.
        step: optimizer steps done.
        best_step: the step whose weights are those of the adapter.
        validation: the scores at best_step, a line of metrics.jsonl; None if there was no validation at that step.
    """

    output_dir: Path
    adapter_dir: Path | None
    step: int
    best_step: int
    validation: MetricsLine | None


def result_of(config: Config, step: int | None = None) -> TrainingResult:
    """The result of the run in output_dir, from its files. `step` None: that of outcome.json."""
    if step is None:
        outcome = outcome_of(config.output_dir)
        step = outcome.step if outcome else 0
    best_step = RunRecord(config.output_dir).content.best_step or step
    validations = [line for line in metrics_lines(config.output_dir) if line.is_validation and line.step == best_step]
    return TrainingResult(
        output_dir=config.output_dir,
        adapter_dir=config.adapter_dir if config.save_model else None,
        step=step,
        best_step=best_step,
        validation=validations[-1] if validations else None,
    )
