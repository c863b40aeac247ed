"""External knowledge: a table that gives each image a description (SemArt, or any table of that kind)."""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from vizsage.errors import DataError

logger = logging.getLogger(__name__)

IMAGE_HEADERS = ("image_file", "image", "file", "file_name", "filename", "image_name", "image_path")
DESCRIPTION_HEADERS = ("description",)
SEPARATORS = ("\t", ",", ";")
SUFFIXES = (".csv", ".tsv", ".txt")
Quoting = Literal[0, 3]  # csv.QUOTE_MINIMAL, csv.QUOTE_NONE


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
    return name.rpartition("/")[2].casefold()


def _rows(path: Path) -> Iterator[tuple[str, str]]:
    """Image name and description of each row that has both. The file is gone through, never held."""
    encoding = _encoding(path)
    with open(path, encoding=encoding, newline="") as file:
        header_line = next(line for line in file if line.strip())
    separator, image_column, description_column = _columns(path, header_line.strip("\r\n"))
    quoting = _quoting(path, encoding, separator)
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
        data = path.read_bytes()
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
        f"{DESCRIPTION_HEADERS[0]}, in upper or lower case; found the headers {', '.join(headers)[:300]}"
    )


def _quoting(path: Path, encoding: str, separator: str) -> Quoting:
    """Whether quotes in a table are CSV quotes, whichever reading fits.

    Quoted newlines and separators in a proper CSV tear rows apart when they are read as plain text: such rows do not
    have the header's number of fields. Where the plain reading is as sound, it is taken, because stray quotes would
    swallow the rows up to the next quote; `_unwrap` then takes sound quotes off.
    """
    plain, quoted = (_ragged(path, encoding, separator, quoting) for quoting in (csv.QUOTE_NONE, csv.QUOTE_MINIMAL))
    if plain is None and quoted is None:
        raise DataError(f"{path}: a field has more than {csv.field_size_limit()} characters; is it a table?")
    return csv.QUOTE_MINIMAL if plain is None or (quoted is not None and quoted < plain) else csv.QUOTE_NONE


def _ragged(path: Path, encoding: str, separator: str, quoting: Quoting) -> int | None:
    """How many rows do not have the header's number of fields; None when a field seems never to end."""
    try:
        widths = [len(row) for row in _read(path, encoding, separator, quoting)]
    except csv.Error:
        return None
    return len(widths) - widths.count(widths[0])


def _read(path: Path, encoding: str, separator: str, quoting: Quoting) -> Iterator[list[str]]:
    with open(path, encoding=encoding, newline="") as file:
        yield from filter(None, csv.reader(file, delimiter=separator, quoting=quoting))


def _unwrap(field: str) -> str:
    """The text of a field that is soundly quoted as a whole."""
    inner = field[1:-1].replace('""', "")
    return (
        field[1:-1].replace('""', '"')
        if len(field) > 1 and field[0] == field[-1] == '"' and '"' not in inner
        else field
    )
