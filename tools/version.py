"""Write the version of pyproject.toml wherever it is repeated, or set another one.

Usage: python -m tools.version [VERSION]

Image tags, the package, CITATION.cff and its date, which is that of the version in CHANGELOG.md, follow pyproject.toml.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tools.release_notes import dates
from vizsage.files import write_text

ROOT = Path(__file__).parents[1]
NUMBER = r"\d+\.\d+\.\d+"
# What stands around the version, and in which of the tracked files.
PLACES = {
    rf'(?m)(?<=^__version__ = "){NUMBER}(?="$)': r"vizsage/__init__\.py",
    rf'(?m)(?<=^version: "){NUMBER}(?="$)': r"CITATION\.cff",
    rf'(?<=newTag: "){NUMBER}(?=")': r"k8s/.*\.yaml",
    rf"(?<=\bvizsage:){NUMBER}\b": r".*\.(md|yaml|sh|py)|.*Dockerfile",
}
# Reports of the past, and recordings.
_NOT_CHANGED = re.compile(r"CHANGELOG\.md|tests/(contract|jobs)/|tests/test_release\.py")


def main() -> int:
    """Rewrite the files and name them."""
    if sys.argv[1:]:
        if not re.fullmatch(NUMBER, sys.argv[1]):
            print(f"make version: expected three numbers such as 0.3.0, found {sys.argv[1]!r}", file=sys.stderr)
            return 2
        path = ROOT / "pyproject.toml"
        text = re.sub(rf'(?m)(?<=^version = "){NUMBER}(?="$)', sys.argv[1], path.read_text(encoding="utf-8"))
        write_text(path, text)
    for name, text in outdated().items():
        write_text(ROOT / name, text)
        print(name)
    return 0


def version() -> str:
    """The version in pyproject.toml."""
    found = re.search(rf'(?m)^version = "({NUMBER})"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert found is not None
    return found[1]


def outdated() -> dict[str, str]:
    """The files that have another version than pyproject.toml, with the text that they should have."""
    now = version()
    date = dates((ROOT / "CHANGELOG.md").read_text(encoding="utf-8")).get(now)
    found = {}
    for name in subprocess.check_output(["git", "-C", str(ROOT), "ls-files"], text=True).splitlines():
        patterns = [pattern for pattern, files in PLACES.items() if re.fullmatch(files, name)]
        path = ROOT / name
        if not patterns or _NOT_CHANGED.match(name) or path.is_symlink() or not path.is_file():
            continue
        before = after = path.read_text(encoding="utf-8")
        for pattern in patterns:
            after = re.sub(pattern, now, after)
        if name == "CITATION.cff" and date:
            after = re.sub(r"(?m)(?<=^date-released: )\S+$", date, after)
        if after != before:
            found[name] = after
    return found


if __name__ == "__main__":
    sys.exit(main())
