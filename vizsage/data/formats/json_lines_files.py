"""A split as JSON lines, plain or gzipped."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, ClassVar, cast

from vizsage.data.formats.format import Format, JsonFile, Place, is_file
from vizsage.data.json_values import JsonError, json_lines, parse_line
from vizsage.data.opening import open_file
from vizsage.errors import DataError

SUFFIXES = (".jsonl", ".jsonl.gz")


@dataclass(frozen=True)
class JsonLines(JsonFile):
    """One JSON object per line, plain or gzipped; empty lines are no records."""

    layouts: ClassVar[tuple[str, ...]] = tuple("{0}" + suffix for suffix in SUFFIXES)

    @classmethod
    def find(cls, place: Place) -> Iterable[Format]:
        """See Format."""
        paths = [place.folder / f"{place.stem}{suffix}" for suffix in SUFFIXES]
        return [cls(path) for path in paths if is_file(path)]

    def records(self, start: int = 0) -> Iterator[Any]:
        """See Format."""
        number = 0
        try:
            with open_file(self.path) as file, _unzipped(file) if self.path.suffix == ".gz" else file as content:
                for line_number, line in json_lines(content):
                    if number >= start:
                        yield parse_line(line, line_number)
                    number += 1
        except JsonError as error:
            raise DataError(f"{self.path}: {error}") from None
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{self.path}: cannot be read after record {number}: {error}") from None


def _unzipped(file: BinaryIO) -> BinaryIO:
    return cast(BinaryIO, gzip.GzipFile(fileobj=file))
