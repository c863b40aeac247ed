"""What a run shows during training: progress bar, metrics.jsonl, loss.png, trackers."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from transformers import TrainerCallback

from vizsage.contract import LOSS_CURVES, METRICS
from vizsage.contract.run_files import MetricsLine, read_metrics
from vizsage.contract.training_curves import training_curves
from vizsage.errors import CheckpointError, one_line
from vizsage.files import write_bytes
from vizsage.json_lines import append_jsonl, write_jsonl
from vizsage.tracking.trackers import Trackers
from vizsage.training.curves_image import draw_curves
from vizsage.training.progress import Progress
from vizsage.training.validation import Validation

log = logging.getLogger(__name__)


def metrics_lines(output_dir: Path) -> list[MetricsLine]:
    """The lines of metrics.jsonl; none where there is no such file. Raises CheckpointError where it contains others."""
    try:
        return list(read_metrics(output_dir))
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        path = output_dir / METRICS
        raise CheckpointError(f"{path}: not what a run writes there ({one_line(error)}); move it away") from None


class MetricsLog(TrainerCallback):
    """Appends a line to metrics.jsonl every `logging_steps` and for every validation. In the main process only."""

    def __init__(
        self,
        output_dir: Path,
        *,
        title: str,
        attempt: int,
        total_steps: int,
        global_batch: int,
        epoch_samples: int,
        trackers: Trackers,
        before_writing: Callable[[], None] = lambda: None,
    ) -> None:
        """`title` is that of loss.png; `before_writing` raises where the run directory is gone."""
        self.output_dir, self.path, self.title = output_dir, output_dir / METRICS, title
        self.attempt, self.total_steps, self.trackers = attempt, total_steps, trackers
        self.before_writing = before_writing
        self.global_batch, self.epoch_samples = global_batch, epoch_samples
        self.bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=Console(stderr=True),
        )
        self.task = self.bar.add_task("training", total=total_steps, note="")
        self._clock = (0, time.monotonic())
        self._waited_s = 0.0

    def forget_after(self, step: int, *, validation_too: bool) -> list[MetricsLine]:
        """Remove the lines of steps that are about to be repeated from a checkpoint, with the same result.

        `validation_too`: the validation of `step` itself is done again. Returns the lines that are left.
        """
        lines = [line for line in metrics_lines(self.output_dir) if line.step <= step]
        if validation_too:
            lines = [line for line in lines if line.step < step or not line.is_validation]
        if self.path.exists():
            write_jsonl(self.path, (line.content() for line in lines))
        return lines

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the progress bar and the clock."""
        self.bar.start()
        self.bar.update(self.task, completed=state.global_step)
        self._clock = (state.global_step, time.monotonic())
        self._waited_s = 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Advance the progress bar."""
        self.bar.update(self.task, completed=state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Write the line of a loss. The Trainer's final summary has no "loss" and is not written."""
        if not logs or "loss" not in logs:
            return
        step, since = self._clock
        self._clock = (state.global_step, time.monotonic())
        seconds = max(self._clock[1] - since, 1e-9)
        waited_s = kwargs["train_dataloader"].waited_s  # see vizsage.training.loader.TrainLoader
        line = MetricsLine(
            step=state.global_step,
            epoch=round(state.global_step * self.global_batch / self.epoch_samples, 4),
            loss=logs["loss"],
            grad_norm=logs.get("grad_norm"),
            lr=logs["learning_rate"],
            samples_per_s=round((state.global_step - step) * self.global_batch / seconds, 3),
            data_wait_share=round((waited_s - self._waited_s) / seconds, 4),
            attempt=self.attempt,
        )
        if torch.cuda.is_available():
            line.gpu_memory_peak_gib = round(torch.cuda.max_memory_allocated() / 2**30, 3)
        self._waited_s = waited_s
        self._write(line)
        loss = "no loss: all samples left out" if logs["loss"] is None else f"loss {_shown(logs['loss'])}"
        self.bar.update(self.task, note=loss)
        if not self.bar.console.is_terminal:
            log.info("step %d/%d: %s", state.global_step, self.total_steps, loss)

    def on_validation(self, step: int, validation: Validation) -> None:
        """Write what a validation found, and draw the curves again."""
        scores = validation.scores
        line = MetricsLine(
            step=step,
            exact_match=scores["exact_match_score"],
            exact_match_with_external_knowledge=scores["with_external_knowledge"]["exact_match_score"],
            exact_match_without_external_knowledge=scores["without_external_knowledge"]["exact_match_score"],
            val_loss=validation.loss,
            val_samples=scores["total_samples"],
            failed=scores["failed_predictions"],
            attempt=self.attempt,
        )
        self._write(line)
        log.info(
            "step %d: validation exact match %.3f on %d in %.1f s, loss %s in %.1f s",
            step,
            scores["exact_match_score"],
            line.val_samples,
            validation.answers_s,
            _shown(validation.loss),
            validation.loss_s,
        )
        self.draw()
        # The time of a validation does not count as training.
        self._clock = (self._clock[0], self._clock[1] + validation.answers_s + validation.loss_s)

    def compare_with_start(self, progress: Progress) -> None:
        """Warn if training has only lowered exact match. The best checkpoint is delivered nevertheless."""
        start = max((line.exact_match or 0 for line in metrics_lines(self.output_dir) if line.step == 0), default=0)
        if progress.best_score is not None and progress.best_score < start:
            log.warning(
                "validation exact match was %.3f before the first step and never as high since; the adapter has %.3f "
                "(step %s)",
                start,
                progress.best_score,
                progress.best_step,
            )

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop the progress bar and draw the final curves."""
        self.close()
        self.draw()

    def close(self) -> None:
        """Stop the progress bar; may be called again."""
        self.bar.stop()

    def draw(self) -> None:
        """Write loss.png."""
        self.before_writing()
        image = draw_curves(training_curves(metrics_lines(self.output_dir)), self.title)
        write_bytes(self.output_dir / LOSS_CURVES, image)

    def _write(self, line: MetricsLine) -> None:
        self.before_writing()
        append_jsonl(self.path, [line.content()])
        self.trackers.log(line)


def _shown(loss: float | None) -> str:
    return "none" if loss is None else f"{loss:.4f}"
