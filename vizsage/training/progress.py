"""The state of a run that the Trainer does not have; saved with each checkpoint and restored from it."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from vizsage.config import Config
from vizsage.contract import checkpoint_name
from vizsage.training.checkpoints import PROGRESS, not_as_written, read_object


@dataclass
class Progress:
    """Best score so far, early stopping, samples left out, and the loss since the last log line."""

    best_score: float | None = None
    best_step: int | None = None
    best_scores: dict[str, Any] | None = None  # see vizsage.scoring.summary.summarise
    reference_score: float | None = None  # the score that an improvement must exceed by the threshold
    reference_step: int = 0
    pending_validation: bool = False  # the run was interrupted before the validation of its last step
    stopped_early: bool = False
    left_out: dict[str, str] = field(default_factory=dict)  # sample_id -> reason
    loss_sum: float = 0.0
    loss_logged_step: int = 0
    empty_steps: int = 0  # without an answer token: all samples of the step were left out
    empty_steps_logged: int = 0  # those of them before the last log line

    def note_scores(self, scores: dict[str, Any], step: int, config: Config, total_steps: int) -> bool:
        """Record the scores of a validation, and set `stopped_early`.

        Patience is a share of all steps, counted in steps since the last score that rose by more than the threshold.

        Returns:
            Whether they are the best so far.
        """
        score: float = scores["exact_match_score"]
        best = self.best_score is None or score >= self.best_score  # of equal scores the one of the later step
        if best:
            self.best_score, self.best_step, self.best_scores = score, step, scores
        if self.reference_score is None or score > self.reference_score + config.early_stopping_threshold:
            self.reference_score, self.reference_step = score, step
        elif config.use_early_stopping:
            self.stopped_early = self._patience_is_over(config, total_steps, step)
        return best

    def stays_stopped(self, config: Config, total_steps: int, step: int) -> bool:
        """Whether the run, which early stopping ended after `step`, would end there with these settings too."""
        return self.stopped_early and config.use_early_stopping and self._patience_is_over(config, total_steps, step)

    def _patience_is_over(self, config: Config, total_steps: int, step: int) -> bool:
        patience_steps = math.ceil(config.early_stopping_patience_ratio * total_steps - 1e-9)
        return step - self.reference_step >= patience_steps

    def best_checkpoint(self, output_dir: Path) -> Path | None:
        """Folder of the best checkpoint."""
        return None if self.best_step is None else output_dir / checkpoint_name(self.best_step)

    def as_dict(self) -> dict[str, Any]:
        """The fields as a JSON object."""
        return asdict(self)


def read_progress(folder: Path) -> Progress:
    """The progress in a checkpoint. Raises CheckpointError where the file contains something else."""
    path = folder / PROGRESS
    try:
        progress = TypeAdapter(Progress).validate_json(json.dumps(read_object(path)), strict=True)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        raise not_as_written(path, f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}") from None
    if progress.best_scores is not None and not _are_scores(progress.best_scores):
        raise not_as_written(path, "best_scores are no scores of a validation")
    return progress


def _are_scores(scores: dict[str, Any]) -> bool:
    """Whether `scores` have the numbers that the model card shows."""
    groups = [scores, scores.get("with_external_knowledge"), scores.get("without_external_knowledge")]
    counts = ("total_samples", "samples", "samples")
    return all(
        isinstance(group, dict)
        and type(group.get(count)) is int
        and isinstance(group.get("exact_match_score"), (int, float, type(None)))
        for group, count in zip(groups, counts, strict=True)
    )
