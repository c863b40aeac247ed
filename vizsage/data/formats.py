"""The file formats of a split: where one lies, and its raw records one after the other."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Protocol, cast

from vizsage.data.field_names import file_form
from vizsage.data.json_values import JsonError, array_values, json_lines, parse_line
from vizsage.data.opening import open_file
from vizsage.errors import DataError

SHARD = re.compile(r"-(\d{5})-of-(\d{5})(-[0-9A-Za-z]+)?\.parquet$")  # older releases of datasets add a hash
LAYOUTS = "{0}.json, {0}.jsonl, {0}.jsonl.gz, {0}.parquet, {0}-00000-of-0000N.parquet or a folder {0} of save_to_disk"
_BOM = b"\xef\xbb\xbf"


class Format(Protocol):
    """The records of one split in one format. Cheap and picklable: files are opened by `records`."""

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files."""

    @property
    def float_fields(self) -> tuple[str, ...]:
        """Fields whose numbers may have become floating-point ones before they were written. Raises DataError."""

    def records(self, start: int = 0) -> Iterator[Any]:
        """Records from number `start` on, in file order: a dict each, or a BrokenRecord.

        The value of "image" is a name, or an ImageRef where the image is embedded. Raises DataError.
        """


@dataclass(frozen=True)
class JsonFile:
    """A JSON array of objects, read incrementally."""

    path: Path
    float_fields: ClassVar[tuple[str, ...]] = ("answer", "answers")

    @property
    def paths(self) -> tuple[Path, ...]:
        """The file."""
        return (self.path,)

    def records(self, start: int = 0) -> Iterator[Any]:
        """See Format."""
        number = 0
        try:
            with open_file(self.path) as file:
                text = file.read(4096).removeprefix(_BOM).lstrip()
                if not text.startswith(b"["):
                    found = file_form(text) if text.startswith(b"{") else None
                    found = found or f"{_first_character(text)}; a file of one record per line ends in .jsonl"
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


@dataclass(frozen=True)
class JsonlFile:
    """One JSON object per line, plain or gzipped; empty lines are no records."""

    path: Path
    float_fields: ClassVar[tuple[str, ...]] = ("answer", "answers")

    @property
    def paths(self) -> tuple[Path, ...]:
        """The file."""
        return (self.path,)

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


def _first_character(text: bytes) -> str:
    return repr(text[:1].decode("latin-1")) if text else "nothing"


def find_format(folder: Path, split: str, images_dir: Path) -> Format | None:
    """The one form in which `split` lies in `folder`, or None. Raises DataError when it lies there in two forms."""
    found: list[Format] = []
    for stem in ("val", "validation") if split == "val" else (split,):
        if _is_there(folder / f"{stem}.json"):
            found.append(JsonFile(folder / f"{stem}.json"))
        found += [
            JsonlFile(path) for path in (folder / f"{stem}.jsonl", folder / f"{stem}.jsonl.gz") if _is_there(path)
        ]
        parquet, shards = folder / f"{stem}.parquet", _shards(folder, stem)
        on_disk = _is_there(folder / stem / "state.json")
        if _is_there(parquet) or shards or on_disk:
            from vizsage.data.columnar import ArrowFolder, ParquetFiles  # pyarrow loads for those who need it

            if _is_there(parquet):
                found.append(ParquetFiles((parquet,), images_dir, split))
            if shards:
                found.append(ParquetFiles(shards, images_dir, split))
            if on_disk:
                found.append(ArrowFolder(folder / stem, split))
    if len(found) > 1:
        names = " and ".join(str(f.paths[0]) for f in found)
        raise DataError(f"{folder}: the split {split!r} stands there more than once: {names}; keep one of them")
    return found[0] if found else None


def _is_there(path: Path) -> bool:
    """Whether there is such a file. Raises DataError where something else has its name: a pipe would never end."""
    if path.is_file():
        return True
    if path.exists():
        raise DataError(f"{path}: is {'a folder' if path.is_dir() else 'no regular file'}; expected a file")
    return False


def _shards(folder: Path, stem: str) -> tuple[Path, ...]:
    """`<stem>-00000-of-00003.parquet` and the others of its set, all of them or none."""
    if not folder.is_dir():
        return ()
    matches = {p: m for p in sorted(folder.iterdir()) if p.name.startswith(f"{stem}-") and (m := SHARD.search(p.name))}
    matches = {p: m for p, m in matches.items() if p.name == stem + m.group(0) and _is_there(p)}
    if matches:
        total = max(int(m.group(2)) for m in matches.values())
        missing = sorted(set(range(total)) - {int(m.group(1)) for m in matches.values()})
        if missing or len(matches) != total:
            what = f"{stem}-{missing[0]:05d}-of-{total:05d}.parquet is missing" if missing else "two sets of shards"
            raise DataError(f"{folder}: {what}; expected {total} files {stem}-*-of-{total:05d}*.parquet of one set")
    return tuple(matches)
