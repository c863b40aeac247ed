"""The file formats of a split: where one lies, and its raw records one after the other."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import ijson

from vizsage.data.field_names import file_form
from vizsage.errors import DataError

SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.parquet$")
LAYOUTS = "{0}.json, {0}.jsonl, {0}.jsonl.gz, {0}.parquet, {0}-00000-of-0000N.parquet or a folder {0} of save_to_disk"
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class BrokenRecord:
    """Stands in the place of a record that cannot be parsed, so that the others can still be checked."""

    reason: str


class Format(Protocol):
    """The records of one split in one format. Cheap and picklable: files are opened by `records`."""

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files."""

    def records(self, start: int = 0) -> Iterator[Any]:
        """Records from number `start` on, in file order: a dict each, or a BrokenRecord.

        The value of "image" is a name, or an ImageRef where the image is embedded. Raises DataError.
        """


@dataclass(frozen=True)
class JsonFile:
    """A JSON array of objects, read incrementally."""

    path: Path

    @property
    def paths(self) -> tuple[Path, ...]:
        """The file."""
        return (self.path,)

    def records(self, start: int = 0) -> Iterator[Any]:
        """See Format."""
        number = start
        try:
            with open(self.path, "rb") as file:
                head = file.read(4096)
                text = head.removeprefix(_BOM).lstrip()
                if not text.startswith(b"["):
                    found = file_form(text) if text.startswith(b"{") else None
                    found = found or f"{_first_character(text)}; a file of one record a line ends in .jsonl"
                    raise DataError(f"{self.path}: expected a JSON array of records, found {found}")
                file.seek(len(_BOM) if head.startswith(_BOM) else 0)
                for record in islice(ijson.items(file, "item"), start, None):
                    yield record
                    number += 1
        except ijson.JSONError as error:
            reason = str(error).strip().split("\n")[0]
            raise DataError(f"{self.path}: broken JSON after record {number}: {reason}") from None
        except UnicodeDecodeError:
            raise DataError(
                f"{self.path}: no valid Unicode after record {number}: half of a surrogate pair stands there"
            ) from None
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read: {error.strerror}") from None


@dataclass(frozen=True)
class JsonlFile:
    """One JSON object a line, plain or gzipped; empty lines are no records."""

    path: Path

    @property
    def paths(self) -> tuple[Path, ...]:
        """The file."""
        return (self.path,)

    def records(self, start: int = 0) -> Iterator[Any]:
        """See Format."""
        opener: Callable[..., Any] = gzip.open if self.path.suffix == ".gz" else open
        number = 0
        try:
            with opener(self.path, "rb") as file:
                for line_number, line in enumerate(file, 1):
                    if line_number == 1:
                        line = line.removeprefix(_BOM)
                    if line.isspace() or not line:
                        continue
                    if number >= start:
                        yield parse_line(line, line_number)
                    number += 1
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{self.path}: cannot be read after record {number}: {error}") from None


def parse_line(line: bytes, line_number: int) -> Any:
    """The value of a line of JSON, or a BrokenRecord that names the line."""
    try:
        # Decimal, as ijson gives: the text of a number is the same in every format.
        return json.loads(line.decode("utf-8"), parse_float=Decimal, parse_constant=_no_constant)
    except UnicodeDecodeError:
        return BrokenRecord(f"line {line_number} is not UTF-8")
    except json.JSONDecodeError as error:
        return BrokenRecord(f"broken JSON in line {line_number}, column {error.colno}: {error.msg}")
    except (ValueError, RecursionError) as error:
        return BrokenRecord(f"broken JSON in line {line_number}: {error}")


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON value")


def _first_character(text: bytes) -> str:
    return repr(text[:1].decode("latin-1")) if text else "nothing"


def find_format(folder: Path, split: str, images_dir: Path) -> Format | None:
    """The one form in which `split` lies in `folder`, or None. Raises DataError when it lies there in two forms."""
    found: list[Format] = []
    for stem in ("val", "validation") if split == "val" else (split,):
        json_file, parquet = folder / f"{stem}.json", folder / f"{stem}.parquet"
        if json_file.is_file():
            found.append(JsonFile(json_file))
        found += [JsonlFile(path) for path in (folder / f"{stem}.jsonl", folder / f"{stem}.jsonl.gz") if path.is_file()]
        shards = _shards(folder, stem)
        on_disk = folder / stem / "state.json"
        if parquet.is_file() or shards or on_disk.is_file():
            from vizsage.data.columnar import ArrowFolder, ParquetFiles  # pyarrow loads for those who need it

            if parquet.is_file():
                found.append(ParquetFiles((parquet,), images_dir, split))
            if shards:
                found.append(ParquetFiles(shards, images_dir, split))
            if on_disk.is_file():
                found.append(ArrowFolder(folder / stem, split))
    if len(found) > 1:
        names = " and ".join(str(f.paths[0]) for f in found)
        raise DataError(f"{folder}: the split {split!r} stands there more than once: {names}; keep one of them")
    return found[0] if found else None


def _shards(folder: Path, stem: str) -> tuple[Path, ...]:
    """`<stem>-00000-of-00003.parquet` and its sisters, all of them or none."""
    if not folder.is_dir():
        return ()
    matches = {p: m for p in sorted(folder.iterdir()) if p.name.startswith(f"{stem}-") and (m := SHARD.search(p.name))}
    matches = {p: m for p, m in matches.items() if p.name == stem + m.group(0)}
    if matches:
        total = max(int(m.group(2)) for m in matches.values())
        expected = [f"{stem}-{i:05d}-of-{total:05d}.parquet" for i in range(total)]
        missing = sorted(set(expected) - {p.name for p in matches})
        if missing or len(matches) != total:
            what = f"{missing[0]} is missing" if missing else "shards of two different sets"
            raise DataError(f"{folder}: {what}; expected {total} files {stem}-*-of-{total:05d}.parquet")
    return tuple(matches)
