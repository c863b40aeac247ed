"""Early stopping and the best checkpoint follow the validation scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vizsage.config import Config
from vizsage.training.progress import Progress


def scores(value: float) -> dict[str, Any]:
    return {"exact_match_score": value}


def steps_until_stop(values: list[float], config: Config, *, total_steps: int = 100, every: int = 5) -> int | None:
    progress = Progress()
    for index, value in enumerate(values, 1):
        progress.note_scores(scores(value), index * every, config, total_steps)
        if progress.stopped_early:
            return index * every
    return None


@pytest.mark.parametrize(("ratio", "stop"), [(0.1, 15), (0.2, 25), (0.5, 55), (1.0, None)])
def test_patience_is_a_share_of_all_steps(ratio: float, stop: int | None) -> None:
    """Best at step 5 of 100, then no improvement: stops `ratio` x 100 steps later."""
    config = Config(use_early_stopping=True, early_stopping_patience_ratio=ratio)
    assert steps_until_stop([0.5] + [0.4] * 19, config) == stop


def test_without_early_stopping_it_never_stops() -> None:
    assert steps_until_stop([0.5] + [0.1] * 19, Config(early_stopping_patience_ratio=0.05)) is None


def test_small_rises_below_the_threshold_do_not_count() -> None:
    rising = [0.5 + 0.001 * i for i in range(20)]
    patient = Config(use_early_stopping=True, early_stopping_patience_ratio=0.1)
    strict = patient.model_copy(update={"early_stopping_threshold": 0.05})
    assert steps_until_stop(rising, patient) is None
    assert steps_until_stop(rising, strict) == 15


def test_the_best_is_the_highest_and_of_equal_ones_the_latest() -> None:
    progress = Progress()
    values = ((10, 0.2), (20, 0.4), (30, 0.3), (40, 0.4))
    best = [progress.note_scores(scores(value), step, Config(), 100) for step, value in values]
    assert best == [True, True, False, True]
    assert progress.best_step == 40
    assert progress.best_checkpoint(Path("run")) == Path("run/checkpoint-40")


def test_progress_survives_json() -> None:
    import json

    progress = Progress(left_out={"train-3": "too long"}, loss_sum=0.1 + 0.2)
    progress.note_scores(scores(1 / 3), 7, Config(), 100)
    assert Progress(**json.loads(json.dumps(progress.as_dict()))) == progress
