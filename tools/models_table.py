"""Rewrite the table of model families in a Markdown file from the registry.

Usage: python -m tools.models_table docs/reference/models.md

The table is between two markers; the rest of the file is not changed. The first line of a family's module names its
models, and after a colon how they differ from others.
"""

from __future__ import annotations

import sys

from tools.markdown import replace_between, rewrite_named_file
from vizsage.models.families.family import Family
from vizsage.models.families.registry import FAMILIES

BEGIN = "<!-- models: written by `make models-table` from vizsage/models/families -->"
END = "<!-- end of models -->"


def main() -> int:
    """Rewrite the table in the file that is named on the command line."""
    return rewrite_named_file(with_table)


def with_table(markdown: str) -> str:
    """`markdown` with the current table between its markers. Raises ValueError if they are missing."""
    return replace_between(markdown, BEGIN, END, models_table())


def models_table() -> str:
    """One line per family: its models, transformers' names of them, whether images are shared, how they are built."""
    lines = ["| models | `model_type` | questions share an image | architecture |", "|---|---|---|---|"]
    for family in FAMILIES:
        summary = (sys.modules[type(family).__module__].__doc__ or "").splitlines()[0]
        models, _, architecture = summary.partition(": ")
        shares = (
            "yes" if type(family).why_plain is Family.why_plain else "depends on the checkpoint; logged at the start"
        )
        names = ", ".join(f"`{name}`" for name in family.names)
        lines.append(f"| {models} | {names} | {shares} | {architecture.rstrip('.')} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
