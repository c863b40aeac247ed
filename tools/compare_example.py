"""Rewrite the example of `vizsage compare` in a Markdown file.

Usage: python -m tools.compare_example docs/how-to/compare-runs.md

Compares the two evaluations that `make demo` left in outputs/demo. The output is between two markers; the rest of
the file is not changed.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

from rich.console import Console

from tools.markdown import replace_between
from vizsage.evaluation.comparison.compare import compare
from vizsage.evaluation.comparison.compare_table import groups_table, pairs_table, runs_table
from vizsage.evaluation.comparison.comparison_types import Comparison
from vizsage.files import write_text

BEGIN = "<!-- comparison: written by `make figures` -->"
END = "<!-- end of comparison -->"
RUNS = [Path("outputs/demo/evaluation_results") / name for name in ("test-base", "test")]
WIDTH = 112


def main() -> int:
    """Rewrite the example in the file that is named on the command line."""
    path = Path(sys.argv[1])
    lines = [f"$ vizsage compare {' '.join(map(str, RUNS))}", *output(compare(RUNS))]
    block = "".join(f"    {line}".rstrip() + "\n" for line in lines)
    write_text(path, replace_between(path.read_text(encoding="utf-8"), BEGIN, END, f"\n{block}\n"))
    return 0


def output(comparison: Comparison) -> list[str]:
    """The lines that the command prints of two runs, without the samples that changed."""
    page = io.StringIO()
    console = Console(width=WIDTH, file=page)
    for table in (runs_table(comparison), pairs_table(comparison), groups_table(comparison["pairs"][0])):
        console.print(table)
    return [line.rstrip() for line in page.getvalue().splitlines()]


if __name__ == "__main__":
    sys.exit(main())
