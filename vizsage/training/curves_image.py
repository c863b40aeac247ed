"""loss.png: the curves of a training, one panel below the other."""

from __future__ import annotations

import io
import warnings

from vizsage.contract.training_curves import Series, TrainingCurves
from vizsage.errors import printable, shortened

_WIDTH_PX, _HEIGHT_PX, _DPI = 1000, 1050, 100
_DOTS = 60  # a series of at most so many points shows each of them


def draw_curves(curves: TrainingCurves, title: str) -> bytes:
    """A PNG of losses, exact match and learning rate over optimizer steps; `title` may be any text."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.axes import Axes
    from matplotlib.ticker import MaxNLocator

    def line(panel: Axes, points: Series, label: str, colour: str) -> None:
        if points:
            dots = "o" if len(points) <= _DOTS else ""
            panel.plot(*zip(*points, strict=True), color=colour, marker=dots, markersize=4, label=label)

    size = (_WIDTH_PX / _DPI, _HEIGHT_PX / _DPI)
    figure, (losses, scores, rates) = pyplot.subplots(3, sharex=True, figsize=size, dpi=_DPI, height_ratios=(3, 3, 2))
    # Margins that are computed from the labels would double the time of drawing, which training waits for.
    figure.subplots_adjust(left=0.09, right=0.98, bottom=0.05, top=0.95, hspace=0.08)
    # Names of runs and models are no formulas, which $ would begin.
    figure.suptitle(shortened(printable(title), 110), fontsize=12, parse_math=False)
    line(losses, curves.training_loss, "training", "tab:blue")
    line(losses, curves.validation_loss, "validation", "tab:orange")
    losses.set_ylabel("loss (nats per answer token)")
    line(scores, curves.exact_match, "all", "tab:orange")
    if curves.exact_match_with_external_knowledge and curves.exact_match_without_external_knowledge:
        line(scores, curves.exact_match_with_external_knowledge, "with external knowledge", "tab:green")
        line(scores, curves.exact_match_without_external_knowledge, "without", "tab:purple")
    scores.set_ylabel("validation exact match (0 to 1)")
    scores.set_ylim(-0.03, 1.03)
    line(rates, curves.learning_rate, "learning rate", "tab:gray")
    rates.set_ylabel("learning rate")
    rates.ticklabel_format(axis="y", scilimits=(-2, 2))
    rates.set_xlabel("optimizer step")
    rates.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    last = max((points[-1][0] for points in vars(curves).values() if points), default=0) or 1
    rates.set_xlim(-0.02 * last, 1.02 * last)
    for panel in (losses, scores, rates):
        panel.grid(alpha=0.4)
        if len(panel.get_lines()) > 1:
            panel.legend()
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # a name in a script that matplotlib's font lacks
        figure.savefig(buffer, format="png")
    pyplot.close(figure)
    return buffer.getvalue()
