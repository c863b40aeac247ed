"""What a finished training returns to the program that called it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vizsage.config import Config
from vizsage.contract.run_files import MetricsLine
from vizsage.record import RunRecord
from vizsage.training.metrics_log import metrics_lines


@dataclass(frozen=True)
class TrainingResult:
    """A finished training.

    Attributes:
        output_dir: the folder of the run.
        adapter_dir: the folder of the adapter; None if save_model is false.
        step: optimizer steps done.
    """

    output_dir: Path
    adapter_dir: Path | None
    step: int

    @property
    def best_step(self) -> int:
        """The step whose weights are those of the adapter, read from run.json. Raises CheckpointError."""
        return RunRecord(self.output_dir).content.best_step or self.step

    @property
    def validation(self) -> MetricsLine | None:
        """The scores and `val_loss` at `best_step`, read from metrics.jsonl; None if there was no validation then.

        Raises CheckpointError.
        """
        return self._validation_at(self.best_step)

    @property
    def validation_at_start(self) -> MetricsLine | None:
        """The scores and `val_loss` of the base model, or of the adapter that the run began with; None if not computed.

        Read from metrics.jsonl. Raises CheckpointError.
        """
        return self._validation_at(0)

    def _validation_at(self, step: int) -> MetricsLine | None:
        lines = [line for line in metrics_lines(self.output_dir) if line.is_validation and line.step == step]
        return lines[-1] if lines else None


def result_of(config: Config, step: int) -> TrainingResult:
    """The result of the run of `config`, which has ended after `step` optimizer steps."""
    return TrainingResult(config.output_dir, config.adapter_dir if config.save_model else None, step)
