"""Event files are what TensorBoard reads; a step that is repeated is shown once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.event_files import read_scalars, read_texts
from vizsage.config import build_config
from vizsage.contract.run_files import MetricsLine
from vizsage.tracking.tensorboard_tracker import TensorboardTracker
from vizsage.tracking.tracker import AnswerTable, AttemptStart, TrackedEvaluation


def loss(step: int, value: float) -> MetricsLine:
    return MetricsLine(step=step, epoch=step / 10, loss=value, lr=0.5, grad_norm=None, attempt=1)


def score(step: int, value: float) -> MetricsLine:
    return MetricsLine(step=step, exact_match=value, val_loss=None, val_samples=4)


@pytest.fixture
def tracker(tmp_path: Path) -> TensorboardTracker:
    return TensorboardTracker(build_config({"output_dir": str(tmp_path)}))


def test_a_continued_run_has_each_step_once(tracker: TensorboardTracker) -> None:
    """Killed after step 5; the checkpoint is of step 3, whose validation is done again, and step 4 is logged no more.

    The first attempt does not close its file.
    """
    tracker.begin(AttemptStart(0, 1, []))
    for line in (score(0, 0.1), loss(2, 2.0), loss(3, 1.5), score(3, 0.2), loss(4, 1.0), loss(5, 0.9), score(5, 0.3)):
        tracker.log(line)
    again = TensorboardTracker(tracker.config)
    again.begin(AttemptStart(3, 2, [loss(3, 1.5)]))
    for line in (score(3, 0.2), loss(5, 0.9), score(5, 0.3), loss(6, 0.8)):
        again.log(line)
    again.finish(0, None)
    found = read_scalars(tracker.folder)
    assert found["training/loss"] == [
        (step, pytest.approx(value)) for step, value in ((2, 2), (3, 1.5), (5, 0.9), (6, 0.8))
    ]
    assert found["validation/exact_match"] == [
        (0, pytest.approx(0.1)),
        (3, pytest.approx(0.2)),
        (5, pytest.approx(0.3)),
    ]
    assert found["training/lr"] == [(step, 0.5) for step in (2, 3, 5, 6)]
    assert set(found) == {
        *(f"training/{name}" for name in ("loss", "lr", "epoch")),
        *(f"validation/{name}" for name in ("exact_match", "val_samples")),
    }
    assert "trackers: []" in read_texts(tracker.folder)["settings"]


def test_an_evaluation_is_a_run_below_and_is_replaced_by_the_next(tracker: TensorboardTracker) -> None:
    def evaluation(value: float, step: int = 8) -> TrackedEvaluation:
        scores = {"exact_match": value, "exact_match_low": value - 0.125}
        return TrackedEvaluation("test", step, scores, f"**{value}**", Path("none"), lambda: AnswerTable([], [], []))

    for value, step in ((0.5, 8), (0.75, 8), (0.875, 16)):
        tracker.log_evaluation(evaluation(value, step))
    assert read_scalars(tracker.folder / "test") == {
        "evaluation/exact_match": [(8, 0.75), (16, 0.875)],
        "evaluation/exact_match_low": [(8, 0.625), (16, 0.75)],
    }
    assert read_texts(tracker.folder / "test") == {"evaluation": "**0.875**"}
    assert read_scalars(tracker.folder) == {}
