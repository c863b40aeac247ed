"""The groups of a row besides the knowledge groups: its question word and each of its tags."""

from __future__ import annotations

import re
from array import array
from collections.abc import Mapping
from typing import Any

QUESTION_WORDS = ("what", "who", "where", "when", "why", "how many", "how", "which", "yes/no", "other")

MAX_TAG_VALUES = 50
MAX_TAGS = 50
"""Tags with more values, and more tags, give no groups."""

_WORD = re.compile(r"[a-z]+")
_ASKING = {word: word for word in ("what", "who", "where", "when", "why", "which", "how")} | {
    "whose": "who",
    "whom": "who",
}
_VERBS = frozenset(
    "is are was were am do does did has have had can could will would should shall may might must "
    "isn aren wasn weren don doesn didn hasn haven hadn couldn won wouldn shouldn".split()
)


def question_word(question: str) -> str:
    """One of QUESTION_WORDS, after VQA's question types (Antol et al., 2015), which are a question's first words.

    A question that begins with an auxiliary verb is "yes/no". Else it is the first of what, who (whose, whom), where,
    when, why, which, how many and how anywhere in the question: "in which year", "the man is holding what". A question
    without any of them, or in another language, is "other".
    """
    words = _WORD.findall(question.lower())
    if words and words[0] in _VERBS:
        return "yes/no"
    for index, word in enumerate(words):
        if word in _ASKING:
            return "how many" if words[index : index + 2] == ["how", "many"] else _ASKING[word]
    return "other"


class TagColumns:
    """The tags of rows as columns of numbers, 2 bytes per row and tag; each text is kept once.

    A tag with more than MAX_TAG_VALUES values, such as a title, would make a group of nearly every row and is dropped,
    like tags beyond the first MAX_TAGS. `dropped` names them.
    """

    def __init__(self) -> None:
        self.dropped: set[str] = set()
        self._values: dict[str, dict[str, int]] = {}
        self._columns: dict[str, array[int]] = {}
        self._rows = 0

    def add(self, tags: Mapping[str, Any]) -> None:
        """Add the tags of the next row."""
        for tag, value in tags.items():
            if tag in self.dropped:
                continue
            if tag not in self._values and len(self._values) == MAX_TAGS:
                self.dropped.add(tag)
                continue
            values = self._values.setdefault(tag, {})
            number = values.setdefault(str(value), len(values) + 1)  # 0: the row has no such tag
            if len(values) > MAX_TAG_VALUES:
                self.dropped.add(tag)
                del self._values[tag]
                self._columns.pop(tag, None)
                continue
            column = self._columns.setdefault(tag, array("H"))
            column.extend([0] * (self._rows - len(column)))
            column.append(number)
        self._rows += 1

    def columns(self) -> dict[str, tuple[array[int], list[str]]]:
        """For each kept tag, by name: a number per row (0: no value; n: the n-th of the values) and the values."""
        for column in self._columns.values():
            column.extend([0] * (self._rows - len(column)))
        return {tag: (self._columns[tag], list(self._values[tag])) for tag in sorted(self._columns)}
