"""Rewrite the table of settings in a Markdown file from the JSON Schema.

Usage: python -m tools.settings_table docs/reference/settings.md

The table is between two markers; the rest of the file is not changed.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from tools.markdown import replace_between, rewrite_named_file
from vizsage.config import Config

BEGIN = "<!-- settings: written by `make settings-table` from vizsage/config/settings.py -->"
END = "<!-- end of settings -->"


def main() -> int:
    """Rewrite the table in the file that is named on the command line."""
    return rewrite_named_file(with_table)


def with_table(markdown: str) -> str:
    """`markdown` with the current table between its markers. Raises ValueError if they are missing."""
    return replace_between(markdown, BEGIN, END, settings_table())


def settings_table() -> str:
    """One row per setting: key, allowed values, default, meaning."""
    lines = ["| key | values | default | meaning |", "|---|---|---|---|"]
    for key, schema in Config.model_json_schema()["properties"].items():
        default = json.dumps(schema["default"], ensure_ascii=False)
        cells = (f"`{key}`", _values(schema), f"`{default}`", schema["description"])
        lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _values(schema: dict[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(_values(one) for one in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    kinds = {
        "boolean": "true, false", "string": "path" if schema.get("format") == "path" else "text", "array": "list",
        "object": "mapping", "null": "null",
    }  # fmt: skip
    bounds = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    limits = [f"{sign} {schema[name]:g}" if schema[name] < 1e6 else f"{sign} {schema[name]}"
              for name, sign in bounds.items() if name in schema]  # fmt: skip
    return " ".join([kinds.get(schema["type"], schema["type"]), ", ".join(limits)]).strip()


if __name__ == "__main__":
    sys.exit(main())
