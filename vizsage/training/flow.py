"""After each optimizer step: stop on a signal, validate, decide whether to save and whether to end."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from transformers import TrainerCallback

from vizsage.config import Config
from vizsage.interruption import SignalLatch
from vizsage.training.progress import Progress
from vizsage.training.trainer import VisionTrainer
from vizsage.training.validation import Validation

log = logging.getLogger(__name__)


class Flow(TrainerCallback):
    """Tells the Trainer when to save and to end; its own evaluation and saving are switched off."""

    def __init__(
        self,
        config: Config,
        latch: SignalLatch,
        progress: Progress,
        total_steps: int,
        validate: Callable[[], Validation | None] | None,
        report: Callable[[int, Validation], None],
    ) -> None:
        """Prepare for a run.

        Args:
            config: the settings.
            latch: whether a signal asked to stop.
            progress: what the run knows about itself; the scores are added to it.
            total_steps: optimizer steps of the whole run.
            validate: returns what the validation split showed, or None when a signal ended it early; None where there
                is no validation split.
            report: takes what the validation of a step showed.
        """
        self.config, self.latch, self.progress, self.total_steps = config, latch, progress, total_steps
        self.validate, self.report = validate, report
        self.trainer: VisionTrainer | None = None
        self.interrupted = False
        self.failure: Exception | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Restore the loss since the last log line."""
        if state.global_step:
            self._trainer.restore_loss()
        return control

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Decide on validation, checkpoint and end."""
        step = state.global_step
        last = step >= self.total_steps
        due = self.validate is not None and (step % self.config.eval_steps == 0 or last)
        best = False
        self.progress.pending_validation = due
        self.interrupted = self.agreed_to_stop()
        if due and not self.interrupted:
            try:
                best = self.validate_now(step)
            except Exception as error:  # noqa: BLE001 -- raised again by attempt.py, after the steps so far are saved
                self.failure = error
        if self.progress.stopped_early:
            log.info("stopping early at step %d: no better score since step %d", step, self.progress.reference_step)
        ends = self.interrupted or self.failure is not None or last or self.progress.stopped_early
        control.should_save = ends or best or step % self.config.save_steps == 0
        control.should_training_stop = ends
        return control

    def validate_now(self, step: int) -> bool:
        """Validate and note the scores; True if they are the best. Sets `interrupted` if a signal ended it early."""
        assert self.validate is not None
        validation = self.validate()
        if validation is None:
            self.interrupted = True
            return False
        self.progress.pending_validation = False
        best = self.progress.note_scores(validation.scores, step, self.config, self.total_steps)
        self.report(step, validation)
        return best

    def validate_at_start(self) -> None:
        """Validate before the first step, for the curves. Sets `interrupted` if a signal ended it early.

        The scores are not noted: no checkpoint contains these weights, so they cannot be the best, and early stopping
        measures what training improves.
        """
        assert self.validate is not None
        if validation := self.validate():
            self.report(0, validation)
        else:
            self.interrupted = True

    @property
    def _trainer(self) -> VisionTrainer:
        assert self.trainer is not None
        return self.trainer

    def agreed_to_stop(self) -> bool:
        """Whether any process received a signal; all processes get the same answer, so that all stop after one step."""
        signalled = self.latch.signal is not None
        accelerator = self._trainer.accelerator
        if accelerator.num_processes == 1:
            return signalled
        flag = torch.tensor([signalled], dtype=torch.int32, device=accelerator.device)
        return bool(accelerator.gather(flag).any())
