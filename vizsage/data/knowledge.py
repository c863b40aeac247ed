"""External knowledge: a table that gives each image a description (SemArt, or any table of that kind)."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Literal

from vizsage.errors import DataError

logger = logging.getLogger(__name__)

IMAGE_HEADERS = ("image_file", "image", "file", "file_name", "filename", "image_name", "image_path")
DESCRIPTION_HEADERS = ("description",)
SEPARATORS = ("\t", ",", ";")
SUFFIXES = (".csv", ".tsv", ".txt")


class KnowledgeTable:
    """Descriptions by image name.

    A name is looked up as it stands, then without regard to case, then by its last part (`a/b.jpg` by `b.jpg`); a
    last part that several images share with different descriptions finds nothing.
    """

    def __init__(self, descriptions: Mapping[str, str]) -> None:
        self._exact = dict(descriptions)
        self._folded: dict[str, str | None] = {}
        self._by_basename: dict[str, str | None] = {}
        for name, description in descriptions.items():
            for index, key in ((self._folded, name.casefold()), (self._by_basename, _basename(name))):
                index[key] = description if index.get(key, description) == description else None

    def __len__(self) -> int:
        return len(self._exact)

    def describe(self, image_name: str) -> str | None:
        """The description of an image, or None when the table has none."""
        exact = self._exact.get(image_name)
        return exact or self._folded.get(image_name.casefold()) or self._by_basename.get(_basename(image_name))

    @classmethod
    def load(cls, path: Path) -> KnowledgeTable:
        """Read a table, or all tables (.csv, .tsv, .txt) of a folder; the first row of an image counts.

        Encoding (UTF-8, UTF-16 with a mark, else Latin-1), separator (tab, comma, semicolon) and quoting are found out
        by looking. Raises DataError when there is no table, or one without the two columns.
        """
        if path.is_dir():
            paths = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
            if not paths:
                raise DataError(
                    f"{path}: no table of descriptions in this folder; expected files that end in {', '.join(SUFFIXES)}"
                )
        else:
            paths = [path]
        descriptions: dict[str, str] = {}
        for table in paths:
            for name, description in _rows(table):
                descriptions.setdefault(name, description)
        if not descriptions:
            raise DataError(f"{path}: the table holds no descriptions")
        return cls(descriptions)


def _basename(name: str) -> str:
    return PurePosixPath(name).name.casefold()


def _rows(path: Path) -> Iterator[tuple[str, str]]:
    """Image name and description of each row that has both."""
    text = _decode(path)
    header_line = text.lstrip("\r\n").replace("\r", "\n").split("\n", 1)[0]
    separator, image_column, description_column = _columns(path, header_line)
    rows = _parse(text, separator)
    width = len(rows[0])
    ragged = [n for n, row in enumerate(rows, 1) if len(row) != width]
    if ragged:
        logger.warning(
            "%s: %d rows do not have the %d fields of the header and are left out, the first is row %d",
            path, len(ragged), width, ragged[0],
        )  # fmt: skip
    for row in rows[1:]:
        if len(row) == width:
            name, description = row[image_column].strip(), row[description_column].strip()
            if name and description:
                yield name, description


def _decode(path: Path) -> str:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: no such table of descriptions; set external_knowledge_path") from None
    except OSError as error:
        raise DataError(f"{path}: the table of descriptions cannot be read: {error.strerror}") from None
    if not data.strip():
        raise DataError(f"{path}: the table of descriptions is empty")
    encodings = ["utf-8-sig", "cp1252", "latin-1"]  # cp1252 is Latin-1 plus typographic quotes; Latin-1 takes all bytes
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        encodings.insert(0, "utf-16")
    for encoding in encodings:
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise AssertionError("Latin-1 decodes every byte")


def _columns(path: Path, header_line: str) -> tuple[str, int, int]:
    """Separator, index of the image column and index of the description column."""
    headers: list[str] = []
    for separator in SEPARATORS:
        fields = next(csv.reader([header_line], delimiter=separator), [])
        names = [field.strip().lower() for field in fields]
        image = next((names.index(h) for h in IMAGE_HEADERS if h in names), None)
        description = next((names.index(h) for h in DESCRIPTION_HEADERS if h in names), None)
        if image is not None and description is not None:
            return separator, image, description
        headers = max(headers, fields, key=len)
    raise DataError(
        f"{path}: a table of descriptions needs a column of image names ({', '.join(IMAGE_HEADERS)}) and one named "
        f"{DESCRIPTION_HEADERS[0]}, in upper or lower case; found the headers {', '.join(headers)[:300]}"
    )


def _parse(text: str, separator: str) -> list[list[str]]:
    """Rows of a table with or without CSV quoting, whichever fits.

    Stray quotes in a table written without quoting glue rows together, and quoted newlines in a proper CSV tear rows
    apart: both give rows that do not have the header's number of fields. Where both readings are sound and have
    equally many rows, quotes are CSV quotes; where quoting would swallow rows that are whole as they stand, not.
    """
    plain = [[_unwrap(field) for field in row] for row in _read(text, separator, csv.QUOTE_NONE)]
    try:
        quoted = _read(text, separator, csv.QUOTE_MINIMAL)
    except csv.Error:  # a field that never ends
        return plain
    ragged_plain, ragged_quoted = _ragged(plain), _ragged(quoted)
    if ragged_quoted < ragged_plain or (ragged_quoted == ragged_plain and len(quoted) == len(plain)):
        return quoted
    return plain


def _read(text: str, separator: str, quoting: Literal[0, 3]) -> list[list[str]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, quoting=quoting)
    return [row for row in reader if row]


def _unwrap(field: str) -> str:
    """A soundly quoted field of a table that also has stray quotes."""
    inner = field[1:-1].replace('""', "")
    return (
        field[1:-1].replace('""', '"')
        if len(field) > 1 and field[0] == field[-1] == '"' and '"' not in inner
        else field
    )


def _ragged(rows: list[list[str]]) -> int:
    width = len(rows[0])
    return sum(len(row) != width for row in rows)
