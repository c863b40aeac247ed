"""The curves of a training as points: losses and validation exact match over optimizer steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from vizsage.contract.training_curves import TrainingCurves

WIDTH, HEIGHT = 420, 230
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 12, 34  # margins in px, with the numbers of the axes
STYLES = 6  # in template/style.css
MOST_POINTS = 600  # more than a screen shows; in longer series neighbours are averaged

Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """A series in the coordinates of its chart; `points` are in the form of an SVG polyline.

    `style`: number of its colour and dashes, from 1; a run has the same one in all charts.
    """

    name: str
    style: int
    points: str
    dots: list[Point]
    last: float


@dataclass(frozen=True)
class Chart:
    """A chart of WIDTH x HEIGHT px; ticks are (position in px, text)."""

    title: str
    lines: list[Line]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]


def curves(found: TrainingCurves) -> list[Chart]:
    """The charts of a training: none, one or two. The first point of a validation is often that of step 0."""
    losses = {"training": found.training_loss, "validation": found.validation_loss}
    scores = {
        "all": found.exact_match,
        "with external knowledge": found.exact_match_with_external_knowledge,
        "without": found.exact_match_without_external_knowledge,
    }
    charts = []
    if values := [y for points in losses.values() for _, y in points]:
        charts.append(_chart("Loss (nats per answer token)", losses, min(0, *values), max(values)))
    if any(scores.values()):
        charts.append(_chart("Validation exact match", scores, 0.0, 1.0))
    return charts


def curves_of_runs(found: Mapping[str, TrainingCurves | None]) -> list[Chart]:
    """The charts of runs by name, with a line for each that was trained: those for which there are numbers."""

    def of_each(series: Callable[[TrainingCurves], Sequence[Point]]) -> dict[str, Sequence[Point]]:
        return {name: [] if one is None else series(one) for name, one in found.items()}

    titles = {
        "Training loss (nats per answer token)": of_each(lambda one: one.training_loss),
        "Validation loss (nats per answer token)": of_each(lambda one: one.validation_loss),
    }
    charts = []
    for title, losses in titles.items():
        if values := [y for points in losses.values() for _, y in points]:
            charts.append(_chart(title, losses, min(0, *values), max(values)))
    scores = of_each(lambda one: one.exact_match)
    if any(scores.values()):
        charts.append(_chart("Validation exact match", scores, 0.0, 1.0))
    return charts


def _chart(title: str, series: Mapping[str, Sequence[Point]], low: float, high: float) -> Chart:
    last_step = max(x for points in series.values() for x, _ in points)
    y_ticks = ticks(low, high)
    low, high = min(low, y_ticks[0]), max(high, y_ticks[-1])

    def place(point: Point) -> Point:
        x = LEFT + point[0] / max(last_step, 1) * (WIDTH - LEFT - RIGHT)
        y = HEIGHT - BOTTOM - (point[1] - low) / (high - low) * (HEIGHT - TOP - BOTTOM)
        return round(x, 1), round(y, 1)

    drawn = []
    for number, (name, points) in enumerate(series.items()):
        if not points:
            continue
        placed = [place(point) for point in _thinned(points)]
        dots = placed if len(placed) <= 40 else []
        drawn.append(Line(name, line_style(number), " ".join(f"{x},{y}" for x, y in placed), dots, points[-1][1]))
    x_ticks = [(place((tick, low))[0], f"{tick:g}") for tick in ticks(0, last_step) if tick == int(tick)]
    return Chart(title, drawn, x_ticks, [(place((0, tick))[1], f"{tick:g}") for tick in y_ticks])


def line_style(number: int) -> int:
    """The style of the line with this number, from 0; they are repeated."""
    return number % STYLES + 1


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """At most `most` round numbers (1, 2 or 5 times a power of ten) from `low` to at most `high`, equally spaced."""
    if not high > low:
        high = low + 1
    power = 10 ** math.floor(math.log10((high - low) / most))
    step = next(power * m for m in (1, 2, 5, 10, 20) if (high - low) / (power * m) < most)
    first = math.ceil(low / step - 1e-9)
    return [round(step * i, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _thinned(points: Sequence[Point]) -> list[Point]:
    width = math.ceil(len(points) / MOST_POINTS)
    blocks = (points[i : i + width] for i in range(0, len(points), width))
    return [(sum(x for x, _ in b) / len(b), sum(y for _, y in b) / len(b)) for b in blocks]
