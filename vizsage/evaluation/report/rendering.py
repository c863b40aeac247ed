"""From what a page shows to its HTML, in one file that fetches nothing.

Texts of data and model get into a page in two ways only: through Jinja's autoescape, and as JSON in a script element
that is not executed, which the scripts show as text. The Content Security Policy of a page names its one style sheet
and its one script by their hashes, so that nothing else is executed or fetched even if a text did become markup.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vizsage.evaluation.report import curves
from vizsage.evaluation.report.gallery import Gallery
from vizsage.files import write_bytes

FOLDER = Path(__file__).with_name("template")
SCRIPTS = ("elements.js", "cards.js", "filters.js", "viewer.js", "page.js")
"""In the page they are one script, in this order."""

CHART_SIZE = {name.lower(): getattr(curves, name) for name in ("WIDTH", "HEIGHT", "LEFT", "RIGHT", "BOTTOM")}


def write_page(
    path: Path, template: str, context: Mapping[str, Any], shown: Gallery, thumbnails: Mapping[str, bytes]
) -> None:
    """Write a page as `path`, whole or not at all.

    Args:
        path: the file.
        template: a name in template/.
        context: what the template shows besides the gallery.
        shown: the gallery.
        thumbnails: WebP files by the name of the image; others are shown as missing.
    """
    names = (name or "" for name in shown["images"])
    encoded = [base64.b64encode(thumbnails[name]).decode() if name in thumbnails else None for name in names]
    # A lone surrogate, which JSON may spell and UTF-8 may not, becomes a question mark.
    write_bytes(path, render(template, context, shown, encoded).encode("utf-8", "replace"))


def render(template: str, context: Mapping[str, Any], shown: Gallery, thumbnails: list[str | None]) -> str:
    """A page as HTML; `thumbnails`: files in base64, in the order of the gallery's images."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    style, script = _joined(["style.css"]), _joined(SCRIPTS)
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(
        context,
        policy=(
            f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
            "base-uri 'none'; form-action 'none'"
        ),
        style=Markup(style),
        script=Markup(script),
        chart_size=CHART_SIZE,
        gallery_json=Markup(script_json(shown)),
        thumbnails_json=Markup(script_json(thumbnails)),
    )


def script_json(value: Any) -> str:
    """JSON that is safe in a script element: no `<`, so neither `</script>` nor `<!--`, and no line separators."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def percent(share: float | None) -> str:
    """`98.8 %` for 0.988; a dash where there is no sample."""
    return "–" if share is None else f"{100 * share:.1f} %"


def interval_text(interval: list[float] | None) -> str | None:
    """`91.2 – 99.0`, in percent; None where there is none."""
    return None if interval is None else f"{100 * interval[0]:.1f} – {100 * interval[1]:.1f}"


def plain(value: Any) -> str:
    """A value of a JSON file as text."""
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _joined(names: Iterable[str]) -> str:
    return "\n".join((FOLDER / name).read_text(encoding="utf-8") for name in names)


def _hash(text: str) -> str:
    """A source expression of the Content Security Policy that allows exactly this inline text."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
