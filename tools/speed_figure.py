"""Draw the figure of README.md: training speed of Llama 3.2 11B Vision beside unsloth and TRL.

Usage: python -m tools.speed_figure docs/speed.svg

Reads a measurement of `make benchmark-train`. Texts stay text in the file, so that a test can compare them with the
measurement, whatever release of matplotlib drew it.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from vizsage.files import write_text

MEASURED = Path(__file__).parents[1] / "benchmarks" / "results" / "llama-h200.json"
QUESTIONS = 4.8  # per image, as in AQUA's test split
# Contenders of the benchmark, what the figure calls them, and their colours.
BARS = {
    "unsloth-16bit": ("unsloth", "#9aa4ae"),
    "trl-16bit": ("TRL with peft", "#9aa4ae"),
    "vizsage-hf-plain-16bit": ("VizSage, share_images: false", "#8fb8a2"),
    "vizsage-hf-shared-16bit": ("VizSage", "#2f6f4f"),
}
INK = "#1f2328"


@dataclass(frozen=True)
class Speeds:
    """What the figure shows: samples per second of each contender, by its name in the benchmark, and the GPU."""

    per_s: dict[str, float]
    device: str

    @property
    def ratios(self) -> str:
        """How many times as fast the last contender is as each of the others."""
        *others, ours = (self.per_s[contender] for contender in BARS)
        unsloth, trl, plain = (f"{ours / other:.1f}" for other in others)
        return f"{unsloth} x unsloth, {trl} x TRL, {plain} x one row per question"


def main() -> int:
    """Draw the figure into the file that is named on the command line."""
    write_text(Path(sys.argv[1]), drawn(measured()))
    return 0


def measured(path: Path = MEASURED) -> Speeds:
    """What was measured with QUESTIONS questions per image."""
    result = json.loads(path.read_text(encoding="utf-8"))
    rows = [row for row in result["measurements"] if row["questions"] == QUESTIONS and "samples_per_s" in row]
    device, _, _ = result["machine"]["device"].partition(",")
    return Speeds({row["contender"]: row["samples_per_s"] for row in rows}, device)


def drawn(speeds: Speeds) -> str:
    """The figure as SVG."""
    options: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "vizsage",
        "font.family": "sans-serif",
        "font.size": 11,
        "text.color": INK,
        "ytick.color": INK,
    }
    with mpl.rc_context(options):
        figure = Figure(figsize=(9, 2.7), layout="constrained", facecolor="white")
        figure.suptitle(
            f"Training, samples per second: Llama 3.2 11B Vision, LoRA in 16 bits, {QUESTIONS:g} questions per image, "
            f"{speeds.device}",
            x=0.01, ha="left", fontsize=11,
        )  # fmt: skip
        axes = figure.add_subplot()
        places = [len(BARS) - 1 - number for number in range(len(BARS))]
        for place, (contender, (_, colour)) in zip(places, BARS.items(), strict=True):
            speed = speeds.per_s[contender]
            axes.barh(place, speed, color=colour, height=0.62)
            axes.text(speed + 0.4, place, f"{speed:.1f}", va="center", fontweight="bold")
        axes.text(0.5, 0, speeds.ratios, va="center", color="white", fontsize=10)  # in the longest bar, the last
        axes.set_yticks(places, [name for name, _ in BARS.values()])
        axes.tick_params(length=0)
        axes.set_xticks([])
        axes.set_xlim(0, max(speeds.per_s.values()) * 1.1)
        axes.spines[:].set_visible(False)
        page = StringIO()
        figure.savefig(page, format="svg", metadata={"Date": None, "Creator": None})
    return "".join(f"{line.rstrip()}\n" for line in page.getvalue().splitlines())


if __name__ == "__main__":
    sys.exit(main())
