"""The curves of a training as points: loss and validation exact match over optimizer steps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

WIDTH, HEIGHT = 420, 230
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 12, 34  # margins in px, with the numbers of the axes
MOST_POINTS = 600  # more than a screen shows; in longer series neighbours are averaged

Point = tuple[float, float]

SCORES = {
    "exact_match": "all",
    "exact_match_with_external_knowledge": "with external knowledge",
    "exact_match_without_external_knowledge": "without",
}


@dataclass(frozen=True)
class Line:
    """A series in the coordinates of its chart; `points` are in the form of an SVG polyline."""

    name: str
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


def curves(lines: Iterable[dict[str, Any]]) -> list[Chart]:
    """The charts of the lines of metrics.jsonl: none, one or two."""
    series: dict[str, list[Point]] = {}
    for line in lines:
        for key in ("loss", *SCORES):
            value, step = line.get(key), line.get("step")
            if isinstance(value, (int, float)) and isinstance(step, int) and math.isfinite(value):
                series.setdefault(key, []).append((step, value))
    charts = []
    if "loss" in series:
        values = [y for _, y in series["loss"]]
        charts.append(
            _chart("Training loss (nats per answer token)", {"loss": series["loss"]}, min(0, *values), max(values))
        )
    scores = {name: series[key] for key, name in SCORES.items() if key in series}
    if scores:
        charts.append(_chart("Validation exact match", scores, 0.0, 1.0))
    return charts


def _chart(title: str, series: dict[str, list[Point]], low: float, high: float) -> Chart:
    last_step = max(x for points in series.values() for x, _ in points)
    y_ticks = ticks(low, high)
    low, high = min(low, y_ticks[0]), max(high, y_ticks[-1])

    def place(point: Point) -> Point:
        x = LEFT + point[0] / max(last_step, 1) * (WIDTH - LEFT - RIGHT)
        y = HEIGHT - BOTTOM - (point[1] - low) / (high - low) * (HEIGHT - TOP - BOTTOM)
        return round(x, 1), round(y, 1)

    drawn = []
    for name, points in series.items():
        placed = [place(point) for point in _thinned(points)]
        dots = placed if len(placed) <= 40 else []
        drawn.append(Line(name, " ".join(f"{x},{y}" for x, y in placed), dots, points[-1][1]))
    x_ticks = [(place((tick, low))[0], f"{tick:g}") for tick in ticks(0, last_step) if tick == int(tick)]
    return Chart(title, drawn, x_ticks, [(place((0, tick))[1], f"{tick:g}") for tick in y_ticks])


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
