"""Rewrite the table of metrics in a Markdown file from the registry.

Usage: python -m tools.metrics_table docs/reference/metrics.md

The table is between two markers; the rest of the file is not changed.
"""

from __future__ import annotations

import sys

from tools.markdown import replace_between, rewrite_named_file
from vizsage.scoring.registry import METRICS

BEGIN = "<!-- metrics: written by `make metrics-table` from vizsage/scoring/registry.py -->"
END = "<!-- end of metrics -->"


def main() -> int:
    """Rewrite the table in the file that is named on the command line."""
    return rewrite_named_file(with_table)


def with_table(markdown: str) -> str:
    """`markdown` with the current table between its markers. Raises ValueError if they are missing."""
    return replace_between(markdown, BEGIN, END, metrics_table())


def metrics_table() -> str:
    """One line per metric: its name in results.json, what it counts, its source."""
    lines = ["| in results.json | what counts | source |", "|---|---|---|"]
    lines += [f"| `{metric.name}` | {metric.note} | {metric.source} |" for metric in METRICS.values()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
