"""External knowledge: a table that gives each image a description (SemArt, or any table of that kind)."""

from __future__ import annotations

import csv
import logging
import re
from collections.abc import Iterator, Mapping
from io import TextIOWrapper
from pathlib import Path
from typing import Literal, NamedTuple

from vizsage.data.opening import open_file
from vizsage.errors import DataError, shortened

logger = logging.getLogger(__name__)

IMAGE_HEADERS = ("image_file", "image", "file", "file_name", "filename", "image_name", "image_path")
DESCRIPTION_HEADERS = ("description",)
SEPARATORS = ("\t", ",", ";")
SUFFIXES = (".csv", ".tsv", ".txt")
Quoting = Literal[0, 3]  # csv.QUOTE_MINIMAL, csv.QUOTE_NONE
_IMAGE_NAME = re.compile(r"\.(jpe?g|png|webp|gif|bmp|tiff?|ppm|jp2)\s*$", re.IGNORECASE)


class KnowledgeTable:
    """Descriptions by image name.

    A name is looked up exactly, then with case ignored, then by its last part (`a/b.jpg` by `b.jpg`). A last part that
    images with different descriptions have in common finds nothing.
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

        Encoding (UTF-8, UTF-16 with a byte order mark, else Latin-1), separator (tab, comma, semicolon) and quoting are
        detected. Raises DataError when there is no table, or one without the two columns.
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
    return name.rpartition("/")[2].casefold()


def _rows(path: Path) -> Iterator[tuple[str, str]]:
    """Image name and description of each row that has both, one row in memory at a time."""
    encoding = _encoding(path)
    with _text(path, encoding) as file:
        header_line = next(line for line in file if line.strip())
    separator, image_column, description_column = _columns(path, header_line.strip("\r\n"))
    quoting = _quoting(path, encoding, separator, image_column)
    width = ragged = first_ragged = 0
    for number, row in enumerate(_read(path, encoding, separator, quoting)):
        width = width or len(row)
        if len(row) != width:
            ragged += 1
            first_ragged = first_ragged or number + 1
        elif number:
            name, description = (row[column] for column in (image_column, description_column))
            if quoting == csv.QUOTE_NONE:
                name, description = _unwrap(name), _unwrap(description)
            name, description = name.strip(), description.strip()
            if name and description:
                yield name, description
    if ragged:
        logger.warning(
            "%s: %d rows do not have the %d fields of the header and are left out, the first is row %d",
            path, ragged, width, first_ragged,
        )  # fmt: skip


def _encoding(path: Path) -> str:
    try:
        with open_file(path) as file:
            data = file.read()
    except FileNotFoundError:
        raise DataError(f"{path}: no such table of descriptions; set external_knowledge_path") from None
    except OSError as error:
        raise DataError(f"{path}: the table of descriptions cannot be read: {error.strerror}") from None
    encodings = ["utf-8-sig", "cp1252", "latin-1"]  # cp1252 is Latin-1 plus typographic quotes; Latin-1 takes all bytes
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        encodings.insert(0, "utf-16")
    for encoding in encodings:
        try:
            if not data.decode(encoding).strip():
                raise DataError(f"{path}: the table of descriptions is empty")
            return encoding
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
        f"{DESCRIPTION_HEADERS[0]}, in upper or lower case; found the headers {shortened(', '.join(headers))}"
    )


class _Reading(NamedTuple):
    """What a table contains when it is read as CSV, or with its quotes as part of the text."""

    rows: int
    ragged: int  # rows that do not have the header's number of fields
    named: int  # the others, where the name is that of an image file


def _quoting(path: Path, encoding: str, separator: str, image_column: int) -> Quoting:
    """Whether quotes in a table are those of CSV (QUOTE_MINIMAL) or part of the text (QUOTE_NONE).

    The right reading is the one in which more rows have as many fields as the header: as plain text, separators and
    line breaks inside quotes split rows; as CSV, a single quote joins all rows up to the next one. Where both are
    equal, a table whose quotes all open and close a field is CSV, unless they enclose lines that have the name of an
    image where rows have it. If no row has several lines, both readings are the same: `_unwrap` removes the quotes.
    """
    plain, quoted = (
        _reading(path, encoding, separator, image_column, quoting) for quoting in (csv.QUOTE_NONE, csv.QUOTE_MINIMAL)
    )
    if plain is None and quoted is None:
        raise DataError(f"{path}: a field has more than {csv.field_size_limit()} characters; is it a table?")
    if plain is None or quoted is None:
        return csv.QUOTE_NONE if quoted is None else csv.QUOTE_MINIMAL
    sound, line = _quotes(path, encoding, separator)
    tie = quoted.ragged == plain.ragged
    is_csv = (sound and quoted.named >= plain.named) if tie else quoted.ragged < plain.ragged
    if plain.rows != quoted.rows and (tie or (is_csv and not sound)):
        taken, other = (quoted, plain) if is_csv else (plain, quoted)
        logger.warning(
            "%s: from line %d on, quotes may enclose line breaks or be part of the text; read as %s, %d rows and not "
            "%d; where that is wrong, put each text between quotes and double those inside of it",
            path, line, "a CSV" if is_csv else "plain text", taken.rows - 1, other.rows - 1,
        )  # fmt: skip
    return csv.QUOTE_MINIMAL if is_csv else csv.QUOTE_NONE


def _reading(path: Path, encoding: str, separator: str, image_column: int, quoting: Quoting) -> _Reading | None:
    """What the table contains, read with this quoting; None where a field exceeds the limit of the csv module."""
    rows = ragged = named = width = 0
    try:
        for row in _read(path, encoding, separator, quoting):
            rows += 1
            width = width or len(row)
            if len(row) != width:
                ragged += 1
            else:
                named += bool(_IMAGE_NAME.search(row[image_column]))
    except csv.Error:
        return None
    return _Reading(rows, ragged, named)


def _quotes(path: Path, encoding: str, separator: str) -> tuple[bool, int]:
    """Whether each quote that opens a field closes it, and the line where the first row of several lines begins."""
    first = before = 0
    with _text(path, encoding) as file:
        reader = csv.reader(file, delimiter=separator, strict=True)
        try:
            for row in reader:
                if not first and any("\n" in field or "\r" in field for field in row):
                    first = before + 1
                before = reader.line_num
        except csv.Error:
            return False, first or before + 1
    return True, first


def _read(path: Path, encoding: str, separator: str, quoting: Quoting) -> Iterator[list[str]]:
    with _text(path, encoding) as file:
        yield from filter(None, csv.reader(file, delimiter=separator, quoting=quoting))


def _text(path: Path, encoding: str) -> TextIOWrapper:
    return TextIOWrapper(open_file(path), encoding, newline="")


def _unwrap(field: str) -> str:
    """The text of a field without the quotes around it, if they are proper ones of CSV."""
    inner = field[1:-1].replace('""', "")
    return (
        field[1:-1].replace('""', '"')
        if len(field) > 1 and field[0] == field[-1] == '"' and '"' not in inner
        else field
    )
