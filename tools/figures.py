"""Rewrite the table of figures in a Markdown file from measurements.

Usage: python -m tools.figures docs/benchmarks.md

Reads what `make demo` left in outputs/demo and what `python -m benchmarks.data_speed --json outputs/benchmark.json`
wrote. The table is between two markers; the rest of the file is not changed.
"""

from __future__ import annotations

import json
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from tools.markdown import replace_between
from vizsage.files import write_text

BEGIN = "<!-- figures: written by `make figures` -->"
END = "<!-- end of figures -->"
DEMO = Path("outputs/demo")
BENCHMARK = Path("outputs/benchmark.json")


def main() -> int:
    """Rewrite the table in the file that is named on the command line."""
    path = Path(sys.argv[1])
    rows = [(what, found, "`make demo`") for what, found in demo_rows()]
    rows += [(row["what"], row["found"], "`make benchmark`") for row in read(BENCHMARK)["rows"]]
    lines = ["| what | figure | command |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)]
    machine = read(BENCHMARK)["machine"]
    table = "\n".join([f"Each with the command that gives it, on {machine}.", "", *lines])
    write_text(path, replace_between(path.read_text(encoding="utf-8"), BEGIN, END, f"{table}\n"))
    return 0


def demo_rows() -> list[tuple[str, str]]:
    """Scores before and after training, and how long the two evaluations and the training took."""
    base, tuned = (read(DEMO / "evaluation_results" / name / "results.json") for name in ("test-base", "test"))
    attempts = read(DEMO / "run.json")["attempts"]
    training_s = sum(
        (datetime.fromisoformat(a["ended"]) - datetime.fromisoformat(a["started"])).total_seconds() for a in attempts
    )
    groups = [tuned[f"{which}_external_knowledge"]["exact_match_score"] for which in ("with", "without")]
    return [
        (
            "demo: exact match before, after training",
            f"{score(base)}, {score(tuned)} ({tuned['total_samples']} questions)",
        ),
        ("demo: after, with and without external knowledge", f"{groups[0]:.3f}, {groups[1]:.3f}"),
        ("demo: training", f"{training_s:.0f} s"),
    ]


def score(results: dict[str, Any]) -> str:
    """Exact match of a results.json, 0 to 1."""
    return f"{results['exact_match_score']:.3f}"


def read(path: Path) -> Any:
    """A JSON file that a measurement left."""
    return json.loads(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    sys.exit(main())
