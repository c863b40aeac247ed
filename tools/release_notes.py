"""Print what CHANGELOG.md says of its newest version: the notes of a release.

Usage: python -m tools.release_notes [TAG]

With a TAG, which a release workflow passes on, it must be that of the newest version, and nothing may be unreleased.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

CHANGELOG = Path(__file__).parents[1] / "CHANGELOG.md"
_HEADING = re.compile(r"^## \[(.+?)\](?: - (\d{4}-\d\d-\d\d))?$", re.MULTILINE)


def main() -> int:
    """Print the notes, or the reason why there are none."""
    text = CHANGELOG.read_text(encoding="utf-8")
    newest = next(iter(dates(text)), None)
    problem = None
    if newest is None:
        problem = "no version has a section"
    elif sys.argv[1:] and sys.argv[1] != f"v{newest}":
        problem = f"the newest version is {newest}, and the tag {sys.argv[1]}; expected v{newest}"
    elif sys.argv[1:] and section(text, "Unreleased"):
        problem = f"there are changes in Unreleased; move them to {newest}"
    if problem or newest is None:
        print(f"{CHANGELOG.name}: {problem}", file=sys.stderr)
        return 1
    print(section(text, newest))
    return 0


def dates(changelog: str) -> dict[str, str]:
    """The released versions, newest first, with their dates."""
    return {match[1]: match[2] for match in _HEADING.finditer(changelog) if match[2]}


def section(changelog: str, name: str) -> str:
    """The text below the heading of a version; empty where there is none."""
    parts = _HEADING.split(changelog)[1:]
    return next((text.strip() for title, text in zip(parts[::3], parts[2::3], strict=True) if title == name), "")


if __name__ == "__main__":
    sys.exit(main())
