"""Rewrite what AQUA gives away without an image in a Markdown file.

Usage: python -m tools.aqua_figures docs/explanation/scores.md

Reads what `python -m benchmarks.aqua_baselines --json benchmarks/results/aqua.json` wrote. The table is between two
markers; the rest of the page is not changed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tools.markdown import replace_between, rewrite_named_file

BEGIN = "<!-- aqua figures: written by `make aqua-figures` from benchmarks/results/aqua.json -->"
END = "<!-- end of aqua figures -->"
RESULT = Path(__file__).parents[1] / "benchmarks" / "results" / "aqua.json"


def main() -> int:
    """Rewrite the table in the file that is named on the command line."""
    return rewrite_named_file(with_table)


def with_table(markdown: str, result: Path = RESULT) -> str:
    """`markdown` with the current table between its markers. Raises ValueError if they are missing."""
    lines = aqua_lines(json.loads(result.read_text(encoding="utf-8")))
    return replace_between(markdown, BEGIN, END, "".join(f"{line}\n" for line in lines))


def aqua_lines(found: dict[str, Any]) -> list[str]:
    """What was read, and a row for each share."""
    asked = found["questions_a_painting"]
    return [
        f"AQUA's validation split, {found['pairs']:,} questions on {found['paintings']:,} paintings "
        f"({asked['mean']:.1f} per painting, {asked['most']} at most); {found['interval']['confidence']:.0%} intervals "
        "over paintings (`make benchmark-aqua`):",
        "",
        "| questions | what | share | interval |",
        "|---|---|---|---|",
        *(
            f"| {row['questions']} ({row['pairs']:,}) | {row['what']} | {100 * row['share']:.1f}% | "
            f"{100 * row['interval'][0]:.1f}% to {100 * row['interval'][1]:.1f}% |"
            for row in found["rows"]
        ),
    ]


if __name__ == "__main__":
    sys.exit(main())
