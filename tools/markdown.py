"""Parts of a Markdown file that a tool writes, between two markers."""

from __future__ import annotations


def replace_between(markdown: str, begin: str, end: str, content: str) -> str:
    """`markdown` with `content` between its markers. Raises ValueError when they are not there."""
    before, found_begin, rest = markdown.partition(begin)
    _, found_end, after = rest.partition(end)
    if not found_begin or not found_end:
        raise ValueError(f"no place for the table: expected the lines {begin} and {end}")
    return f"{before}{begin}\n{content}{end}{after}"
