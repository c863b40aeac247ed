"""Tables of the fields of a run's files, from their JSON Schemas, while the site is built.

A page asks for one with a line `<!-- schema: NAME -->`, with a name of `vizsage config --schema NAME`.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from vizsage.contract.schemas import json_schema

if TYPE_CHECKING:
    from sphinx.application import Sphinx

_MARK = re.compile(r"^<!-- schema: ([a-z_]+) -->$", re.MULTILINE)


def connect(app: Sphinx) -> None:
    """Replace the marks of every page before it is parsed."""
    app.connect("source-read", _read_page)


def schema_page(name: str) -> str:
    """Markdown of the file called `name`: what it is, a table of its fields and one of each kind of object in it.

    Fields in bold are always there; of the others the tables do not say that they may be null or missing.
    """
    schema = json_schema(name)
    lines = [schema["description"], "", *_fields(schema)]
    for title, part in schema.get("$defs", {}).items():
        lines += ["", f"**{title}**: {part['description']}", "", *_fields(part)]
    whole = json.dumps(schema, indent=2, ensure_ascii=False)
    # Raw HTML: closed, until the reader opens it.
    lines += ["", f"<details><summary>JSON Schema (<code>vizsage config --schema {name}</code>)</summary>", ""]
    return "\n".join([*lines, "```json", whole, "```", "", "</details>"])


def _fields(schema: dict[str, Any]) -> list[str]:
    required = schema.get("required", [])
    lines = ["| field | type | meaning |", "|---|---|---|"]
    for name, field in schema["properties"].items():
        always = name in required
        kind = _type(field) if always else _type(field).removesuffix(" or null")
        cells = (f"**`{name}`**" if always else f"`{name}`", kind, field.get("description", ""))
        lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
    return lines


def _type(field: dict[str, Any]) -> str:
    if "anyOf" in field:
        return " or ".join(_type(one) for one in field["anyOf"])
    if "$ref" in field:
        return str(field["$ref"]).rpartition("/")[2]
    kind = field.get("type", "any value")
    if kind == "array":
        return f"list of {_type(field['items'])}"
    if kind == "object" and isinstance(field.get("additionalProperties"), dict):
        return f"object: name to {_type(field['additionalProperties'])}"
    return str(kind)


def _read_page(app: Sphinx, docname: str, content: list[str]) -> None:
    content[0] = _MARK.sub(lambda mark: schema_page(mark[1]), content[0])
