"""Rewrite the tables of answering speed in a Markdown file.

Usage: python -m tools.answering_figures docs/benchmarks.md

Reads what `python -m benchmarks.eval_throughput --json benchmarks/results/answering/NAME.json` wrote, a table per file.
They are between two markers; the rest of the page is not changed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tools.markdown import replace_between, rewrite_named_file
from tools.training_figures import MODELS

BEGIN = "<!-- answering figures: written by `make answering-figures` from benchmarks/results/answering -->"
END = "<!-- end of answering figures -->"
RESULTS = Path(__file__).parents[1] / "benchmarks" / "results" / "answering"


def main() -> int:
    """Rewrite the tables in the file that is named on the command line."""
    return rewrite_named_file(with_tables)


def with_tables(markdown: str, results: Path = RESULTS) -> str:
    """`markdown` with the current tables between its markers. Raises ValueError if they are missing."""
    measured = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob("*.json"))]
    # Real sizes first, whatever the files are called.
    measured.sort(key=lambda result: list(MODELS).index((result["size"], result["family"])))
    return replace_between(markdown, BEGIN, END, "".join(f"{line}\n" for line in result_lines(measured)))


def result_lines(measured: Iterable[dict[str, Any]]) -> list[str]:
    """For each result what was measured, with which command, its table, and how many answers differ."""
    lines: list[str] = []
    for result in measured:
        machine, other = result["machine"], result["other_answers"]
        speeds = {row["way"]: row["answers_per_s"] for row in result["measurements"]}
        command = f'make benchmark-eval ARGS="--size {result["size"]} --family {result["family"]}"'
        model = MODELS[result["size"], result["family"]]
        lines += [
            "",
            f"{model}; {result['questions']} questions, {result['per_image']:g} "
            f"per image, answers of {result['answer_tokens']} tokens, {result['dtype']}; {machine['device']}, "
            f"{machine['cores']} cores; torch {machine['torch']}, transformers {machine['transformers']} "
            f"(`{command}`):",
            "",
            "| way | answers/s | peak GB | vizsage is |",
            "|---|---|---|---|",
            *(_row(row, speeds["vizsage"]) for row in result["measurements"]),
            "",
            f"{other['share']:.1%} of the answers of {other['of']} are not those of {other['against']}.",
        ]
    return [*lines, ""] if lines else []


def _row(row: dict[str, Any], ours: float) -> str:
    peak = "" if row["peak_gb"] is None else f"{row['peak_gb']:.1f}"
    ratio = "" if row["way"] == "vizsage" else f"{ours / row['answers_per_s']:.1f} x as fast"
    return f"| {row['way']} | {row['answers_per_s']:.1f} | {peak} | {ratio} |"


if __name__ == "__main__":
    sys.exit(main())
