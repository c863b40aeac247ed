"""Curves of a training as points: in the image, thinned where there are many, with round numbers at the axes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vizsage.evaluation.report.curves import HEIGHT, LEFT, MOST_POINTS, WIDTH, curves, ticks


def test_loss_and_scores_are_a_chart_each() -> None:
    lines = [
        {"step": 10, "loss": 2.0},
        {"step": 20, "loss": 1.0},
        {"step": 20, "exact_match": 0.5, "exact_match_with_external_knowledge": None},
    ]
    loss, scores = curves(lines)
    assert [line.name for line in loss.lines] == ["loss"]
    assert loss.lines[0].last == 1.0
    first, last = loss.lines[0].dots
    assert first[0] < last[0] <= WIDTH  # later is further to the right,
    assert first[1] < last[1]  # and less is further down
    assert [line.name for line in scores.lines] == ["all"]  # a group without samples has no line
    assert [text for _, text in scores.y_ticks] == ["0", "0.2", "0.4", "0.6", "0.8", "1"]


def test_one_chart_or_none_where_there_is_no_more() -> None:
    assert curves([]) == []
    assert [chart.title for chart in curves([{"step": 1, "exact_match": 0.0}])] == ["Validation exact match"]


def test_lines_that_are_no_numbers_are_passed_over() -> None:
    assert curves([{"step": 1, "loss": None}, {"loss": 1.0}, {"step": 1, "loss": float("nan")}]) == []


def test_many_points_are_thinned_and_keep_their_mean() -> None:
    [chart] = curves({"step": step, "loss": 1.0} for step in range(1, 5001))
    points = chart.lines[0].points.split()
    assert len(points) <= MOST_POINTS
    assert len({point.split(",")[1] for point in points}) == 1
    assert chart.lines[0].dots == []


@pytest.mark.parametrize("loss", [0.0, 1e-9, 3.0, 1e6, -2.0])
def test_a_single_point_lies_in_the_image(loss: float) -> None:
    [chart] = curves([{"step": 1, "loss": loss}])
    [(x, y)] = chart.lines[0].dots
    assert LEFT <= x <= WIDTH
    assert 0 <= y <= HEIGHT


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_few_and_between_the_ends(low: float, span: float) -> None:
    found = ticks(low, low + span)
    assert len(found) <= 7
    assert all(low - 1e-6 * span - 1e-9 <= tick <= low + span * (1 + 1e-6) + 1e-9 for tick in found)
    assert found == sorted(set(found))
