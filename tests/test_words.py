"""Words that were given up, each for a plainer one, are not used again."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]

SEARCHED = re.compile(r"(\.(py|md|yaml|sh|html|js)|(^|/)(Makefile|Dockerfile))$")
# Entries of earlier versions, files that tests compare with, and texts of data.
NOT_SEARCHED = re.compile(
    r"^CHANGELOG\.md$|^tests/test_words\.py$|/golden/|^tests/contract/earlier/|^vizsage/demo/tiny/corpus\.py$"
)
# Regular expressions of words, in any case and across line breaks, and what to write instead.
GIVEN_UP = {
    "pictures?": "image",
    "anew": "again",
    "in the place of": "instead of; replaces",
    "holds? (?:[a-z_]+ )?fast": "forbids changing",
    "mend(?:s|ed|ing)?": "fix; repair",
    "whoever": "the user; the caller; anyone who",
    "nobody": "no user; no process; not",
    "hence|thereby|whence|thence": "so; therefore",
    "shall": "must",
    "(?:to|cannot|can) be had": "available; possible",
    "all the same": "nevertheless; still",
    "laid over|lays? [a-z]+ over": "override",
    "comes? back|came back": "is repeated; is restored; starts again",
    "(?:say|says|said) (?:itself|themselves)": "shows",
    "meets? nobody": "needs no rendezvous",
    "(?:tells?|told|telling) (?:[a-z]+ )?apart": "distinguish",
    "an? [a-z]+ of (?:its|their) own": "a separate ...; its own ...",
    "(?:samples|rows|questions|tokens|steps|lines|images|threads?|process|processes|MB|MiB|GB|GiB) an? "
    "(?:step|row|job|node|GPU|image|question|epoch|process|batch|split|word|sample|line|painting|second)": (
        "... per ..."
    ),
    "once an? (?:step|row|job|node|GPU|image|question|epoch|process|batch|split|sample)": "... per ...",
}
# Texts that models and users read or write, names, and texts of others.
ALLOWED = (
    "the question about the picture in a few words",
    "this picture",
    "The picture is a work of",
    "the whole picture",
    "What colour is the picture?",
    "square picture",
    "picture-data",
    "~nobody-here",
    "nobody/no",
    "Painted by nobody",
    '"nobody"',
    "would should shall may might",
)


def test_words_that_were_given_up() -> None:
    allowed = re.compile("|".join(map(re.escape, ALLOWED)))
    plain = [(re.compile(one.replace(" ", r"[\s#]+"), re.IGNORECASE), instead) for one, instead in GIVEN_UP.items()]
    anywhere = re.compile(rf"\b(?:{'|'.join(f'(?:{one.pattern})' for one, _ in plain)})\b", re.IGNORECASE)
    found = []
    for name in subprocess.check_output(["git", "-C", str(ROOT), "ls-files"], text=True).splitlines():
        if not SEARCHED.search(name) or NOT_SEARCHED.search(name) or not (ROOT / name).is_file():
            continue
        # Spaces keep positions, and with them the numbers of lines.
        text = allowed.sub(lambda match: " " * len(match[0]), (ROOT / name).read_text(encoding="utf-8"))
        for match in anywhere.finditer(text):
            instead = next(instead for one, instead in plain if one.fullmatch(match[0]))
            line = text.count("\n", 0, match.start()) + 1
            found.append(f"{name}:{line}: {' '.join(match[0].split())!r}: write: {instead}")
    assert found == [], "words that this project does not use (see Words in CONTRIBUTING.md):\n" + "\n".join(found)
