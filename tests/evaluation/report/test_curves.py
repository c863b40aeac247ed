"""Curves of a training as points: in the image, thinned where there are many, with round numbers at the axes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vizsage.contract.run_files import MetricsLine
from vizsage.contract.training_curves import training_curves
from vizsage.evaluation.report.curves import HEIGHT, LEFT, MOST_POINTS, WIDTH, Chart, curves, ticks


def charts(lines: Iterable[dict[str, Any]]) -> list[Chart]:
    return curves(training_curves(map(MetricsLine.model_validate, lines)))


def test_losses_and_scores_are_a_chart_each() -> None:
    lines = [
        {"step": 0, "exact_match": 0.25, "val_loss": 3.0},
        {"step": 10, "loss": 2.0},
        {"step": 20, "exact_match": 0.5, "exact_match_with_external_knowledge": None, "val_loss": 1.5},
        {"step": 20, "loss": 1.0},
    ]
    loss, scores = charts(lines)
    assert [(line.name, line.last) for line in loss.lines] == [("training", 1.0), ("validation", 1.5)]
    assert [x for x, _ in loss.lines[1].dots] == [LEFT, loss.lines[0].dots[1][0]]  # from step 0 on
    first, last = loss.lines[0].dots
    assert first[0] < last[0] <= WIDTH  # later is further to the right,
    assert first[1] < last[1]  # and less is further down
    assert [line.name for line in scores.lines] == ["all"]  # a group without samples has no line
    assert [text for _, text in scores.y_ticks] == ["0", "0.2", "0.4", "0.6", "0.8", "1"]


def test_one_chart_or_none_where_there_is_no_more() -> None:
    assert charts([]) == []
    assert [chart.title for chart in charts([{"step": 1, "exact_match": 0.0}])] == ["Validation exact match"]


def test_steps_without_a_value_are_passed_over() -> None:
    assert charts([{"step": 1, "loss": None}, {"step": 1, "exact_match": None}]) == []


def test_many_points_are_thinned_and_keep_their_mean() -> None:
    [chart] = charts({"step": step, "loss": 1.0} for step in range(1, 5001))
    points = chart.lines[0].points.split()
    assert len(points) <= MOST_POINTS
    assert len({point.split(",")[1] for point in points}) == 1
    assert chart.lines[0].dots == []


@pytest.mark.parametrize("loss", [0.0, 1e-9, 3.0, 1e6, -2.0])
def test_a_single_point_lies_in_the_image(loss: float) -> None:
    [chart] = charts([{"step": 1, "loss": loss}])
    [(x, y)] = chart.lines[0].dots
    assert LEFT <= x <= WIDTH
    assert 0 <= y <= HEIGHT


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_few_and_between_the_ends(low: float, span: float) -> None:
    found = ticks(low, low + span)
    assert len(found) <= 7
    assert all(low - 1e-6 * span - 1e-9 <= tick <= low + span * (1 + 1e-6) + 1e-9 for tick in found)
    assert found == sorted(set(found))
