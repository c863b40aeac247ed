"""Parts of a Markdown file that a tool writes, between two markers."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from vizsage.files import write_text


def rewrite_named_file(rewritten: Callable[[str], str]) -> int:
    """Put what `rewritten` makes of it into the file that is named on the command line; the exit code."""
    path = Path(sys.argv[1])
    write_text(path, rewritten(path.read_text(encoding="utf-8")))
    return 0


def replace_between(markdown: str, begin: str, end: str, content: str) -> str:
    """`markdown` with `content` between its markers. Raises ValueError if they are missing."""
    before, found_begin, rest = markdown.partition(begin)
    _, found_end, after = rest.partition(end)
    if not found_begin or not found_end:
        raise ValueError(f"no place for the table: expected the lines {begin} and {end}")
    return f"{before}{begin}\n{content}{end}{after}"
