"""A split as one JSON array of records."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from vizsage.data.formats.format import Format, JsonFile, Place, is_file
from vizsage.data.formats.json_lines_files import SUFFIXES
from vizsage.data.json_values import JsonError, array_values
from vizsage.data.opening import open_file
from vizsage.errors import DataError

_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class JsonArray(JsonFile):
    """A JSON array of objects, read incrementally."""

    layouts: ClassVar[tuple[str, ...]] = ("{0}.json",)

    @classmethod
    def find(cls, place: Place) -> Iterable[Format]:
        """See Format."""
        path = place.folder / f"{place.stem}.json"
        return [cls(path)] if is_file(path) else []

    def records(self, start: int = 0) -> Iterator[Any]:
        """See Format."""
        number = 0
        try:
            with open_file(self.path) as file:
                text = file.read(4096).removeprefix(_BOM).lstrip()
                if not text.startswith(b"["):
                    found = _known_object(text) if text.startswith(b"{") else None
                    found = found or f"{_first_character(text)}; a file of one record per line ends in {SUFFIXES[0]}"
                    raise DataError(f"{self.path}: expected a JSON array of records, found {found}")
                file.seek(0)
                for record in array_values(file):
                    if number >= start:
                        yield record
                    number += 1
        except JsonError as error:
            raise DataError(f"{self.path}: broken JSON after record {number}: {error}") from None
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read: {error.strerror}") from None


def _known_object(head: bytes) -> str | None:
    """What a file is that begins with `head` and holds an object instead of an array; None where it is unknown."""
    if b'"questions"' in head or b'"annotations"' in head:
        return (
            "a file of questions or annotations, as VQA's are; join both by question_id into one array of records: "
            'image (the name of the file), question, "answers" (the ten answers) and "answer" (multiple_choice_answer)'
        )
    if b'"data"' in head:
        return "an object with the records under 'data'; write that array alone"
    return None


def _first_character(text: bytes) -> str:
    return repr(text[:1].decode("latin-1")) if text else "nothing"
