"""Parquet files and Hugging Face data sets on disk, whose images are inside the file and stay there until asked for."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vizsage.data.columns import BATCH_BYTES, Columns
from vizsage.data.images import FileImage
from vizsage.data.opening import leaves_folder, open_inside
from vizsage.errors import DataError, one_line, quoted

# A row group whose images take no more than this is kept while its neighbours are asked for; a larger one is passed
# through batch by batch.
CACHED_ROW_GROUP_BYTES = 64 * 2**20
ROWS_A_BATCH = 1024
# What pyarrow raises on damaged files.
_DAMAGED = (pa.ArrowException, OSError, ValueError, LookupError, OverflowError, TypeError)
_IMAGE_CHUNK = re.compile(r"image(\.bytes)?(\.list\..*)?$")


@dataclass(frozen=True, slots=True)
class ParquetImage:
    """An image inside a Parquet file: row `row` of row group `row_group`."""

    name: str
    path: Path
    row_group: int
    row: int
    images_dir: Path
    named: bool

    def read(self) -> bytes:
        """The bytes; those of the file of that name when this row embeds none. Raises DataError."""
        try:
            data = _parquet_image_bytes(str(self.path), self.row_group, self.row)
        except _DAMAGED as error:
            raise DataError(f"{self.path}: image {quoted(self.name)} cannot be read: {one_line(error)}") from None
        return FileImage(self.name, self.images_dir).read() if data is None else data


@dataclass(frozen=True, slots=True)
class ArrowImage:
    """An image inside a data set on disk: row `row` of its memory-mapped table."""

    name: str
    folder: Path
    row: int
    named: bool

    def read(self) -> bytes:
        """The bytes. Raises DataError."""
        try:
            return _bytes_of(_arrow_table(str(self.folder))["image"][self.row]) or b""
        except _DAMAGED as error:
            raise DataError(f"{self.folder}: image {quoted(self.name)} cannot be read: {one_line(error)}") from None


@dataclass(frozen=True)
class ParquetFiles:
    """One Parquet file, or the shards of one split in order."""

    paths: tuple[Path, ...]
    images_dir: Path
    split: str

    @property
    def float_fields(self) -> tuple[str, ...]:
        """See vizsage.data.formats.Format."""
        return Columns(self.paths[0], _parquet_file(str(self.paths[0])).schema_arrow).float_fields

    def records(self, start: int = 0) -> Iterator[Any]:
        """See vizsage.data.formats.Format: row groups before `start` are passed over unread."""
        number = 0
        for path in self.paths:
            try:
                file = _parquet_file(str(path))
                columns = Columns(path, file.schema_arrow)
                for group in range(file.metadata.num_row_groups):
                    first = number
                    number += file.metadata.row_group(group).num_rows
                    if number > start:
                        yield from self._row_group(path, file, columns, group, first, start)
            except _DAMAGED as error:
                raise DataError(f"{path}: cannot be read as Parquet: {one_line(error)}") from None

    def _row_group(
        self, path: Path, file: pq.ParquetFile, columns: Columns, group: int, first: int, start: int
    ) -> Iterator[Any]:
        """Records of a row group whose first row is record `first`, those before `start` left out."""
        embedded = columns.embedded and not _all_null(file.metadata.row_group(group))
        row, rows = 0, _rows_a_batch(file.metadata.row_group(group))
        for batch in file.iter_batches(rows, [group], columns.without_bytes, use_threads=False):
            skip = min(max(0, start - first - row), batch.num_rows)
            at = row + skip
            yield from columns.records(
                batch.slice(skip),
                embedded,
                lambda name, i, at=at: ParquetImage(  # type: ignore[misc]
                    name or f"{self.split}-{first + at + i}", path, group, at + i, self.images_dir, bool(name)
                ),
            )
            row += batch.num_rows


@dataclass(frozen=True)
class ArrowFolder:
    """A split that `datasets.Dataset.save_to_disk` wrote: Arrow streams, read without the images in them."""

    folder: Path
    split: str

    @property
    def paths(self) -> tuple[Path, ...]:
        """The folder."""
        return (self.folder,)

    @property
    def float_fields(self) -> tuple[str, ...]:
        """See vizsage.data.formats.Format."""
        return Columns(self.folder, _arrow_table(str(self.folder)).schema).float_fields

    def records(self, start: int = 0) -> Iterator[Any]:
        """See vizsage.data.formats.Format: row `start` is gone to directly."""
        try:
            table = _arrow_table(str(self.folder))
            columns = Columns(self.folder, table.schema)
            for batch in table.slice(start).to_batches(max_chunksize=ROWS_A_BATCH):
                batch.validate(full=True)  # a damaged one would otherwise end the process
                yield from columns.records(
                    batch,
                    columns.embedded,
                    lambda name, i, start=start: ArrowImage(  # type: ignore[misc]
                        name or f"{self.split}-{start + i}", self.folder, start + i, bool(name)
                    ),
                )
                start += batch.num_rows
        except _DAMAGED as error:
            raise DataError(f"{self.folder}: cannot be read as a data set on disk: {one_line(error)}") from None


def _bytes_of(value: pa.Scalar) -> bytes | None:
    """What an embedded image holds: bytes, a list of the numbers 0 to 255, or a struct that has either."""
    if isinstance(value, pa.StructScalar):
        value = value["bytes"]
    content = value.as_py()
    return bytes(content) if isinstance(content, list) else content


def _image_chunk(row_group: pq.RowGroupMetaData) -> pq.ColumnChunkMetaData | None:
    chunks = (row_group.column(i) for i in range(row_group.num_columns))
    return next((c for c in chunks if _IMAGE_CHUNK.match(c.path_in_schema)), None)


def _all_null(row_group: pq.RowGroupMetaData) -> bool:
    """True when no row of the group embeds an image: the paths then name files."""
    chunk = _image_chunk(row_group)
    if chunk is None or chunk.path_in_schema not in ("image", "image.bytes"):  # of a list, empty ones count as null
        return False
    statistics = chunk.statistics
    return statistics is not None and statistics.has_null_count and statistics.null_count == row_group.num_rows


def _rows_a_batch(row_group: pq.RowGroupMetaData) -> int:
    """How many rows without their images take no more than BATCH_BYTES, as far as the file tells."""
    chunks = (row_group.column(i) for i in range(row_group.num_columns))
    size: int = sum(c.total_uncompressed_size for c in chunks if not _IMAGE_CHUNK.match(c.path_in_schema))
    rows: int = row_group.num_rows
    return max(1, min(ROWS_A_BATCH, BATCH_BYTES * rows // max(1, size)))


@lru_cache(maxsize=16)
def _parquet_file(path: str) -> pq.ParquetFile:
    # Buffered, because pyarrow would otherwise hold a row group's whole image column to read one batch of it. What is
    # stored as a dictionary stays one: a page of 1 MB may stand for a text in each of a million rows.
    options = {"buffer_size": 2**20, "pre_buffer": False}
    file = pq.ParquetFile(path, **options)
    groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
    chunks = (group.column(i) for group in groups for i in range(group.num_columns))
    names = {c.path_in_schema for c in chunks if c.physical_type == "BYTE_ARRAY" and c.has_dictionary_page}
    return pq.ParquetFile(path, metadata=file.metadata, read_dictionary=sorted(names), **options)


def _parquet_image_bytes(path: str, row_group: int, row: int) -> bytes | None:
    file = _parquet_file(path)
    chunk = _image_chunk(file.metadata.row_group(row_group))
    if chunk is None or chunk.total_uncompressed_size <= CACHED_ROW_GROUP_BYTES:
        return _bytes_of(_image_column(path, row_group)[row])
    return _in_order.bytes_of(path, row_group, chunk.path_in_schema, row)


class _InOrder(threading.local):
    """A large row group, passed through once by a thread that asks for its rows in order, and anew to go back."""

    place: tuple[str, int] | None = None
    row = -1
    value: pa.Scalar | None = None
    values: Iterator[pa.Scalar] = iter(())

    def bytes_of(self, path: str, row_group: int, column: str, row: int) -> bytes | None:
        if self.place != (path, row_group) or row < self.row:
            batches = _parquet_file(path).iter_batches(16, [row_group], [column], use_threads=False)
            self.values = (value for batch in batches for value in batch.column(0))
            self.place, self.row = (path, row_group), -1
        if row > self.row:
            self.value = next(islice(self.values, row - self.row - 1, None), None)
            self.row = row
        if self.value is None:
            raise OSError(f"row group {row_group} is shorter than it says")
        return _bytes_of(self.value)


_in_order = _InOrder()


@lru_cache(maxsize=2)
def _image_column(path: str, row_group: int) -> pa.ChunkedArray:
    file = _parquet_file(path)
    chunk = _image_chunk(file.metadata.row_group(row_group))
    column = chunk.path_in_schema if chunk is not None else "image"
    return file.read_row_group(row_group, columns=[column], use_threads=False).column(0)


@lru_cache(maxsize=4)
def _arrow_table(folder: str) -> pa.Table:
    """The table of a saved data set, memory-mapped: nothing is read before it is used. Raises DataError, OSError."""
    tables = []
    for name in _data_files(Path(folder)):
        with open_inside(Path(folder), name) as file:
            mapped = mmap(file.fileno(), 0, access=ACCESS_READ)
        tables.append(pa.ipc.open_stream(pa.py_buffer(mapped)).read_all())
    table = pa.concat_tables(tables)
    table.validate()
    if "image" in table.schema.names:
        table["image"].validate(full=True)  # where each image is, which reads none
    return table


def _data_files(folder: Path) -> list[str]:
    """The names in state.json. Raises DataError where they are none, or not those of files in `folder`."""
    with open_inside(folder, "state.json") as file:
        text = file.read()
    try:
        names = [entry["filename"] for entry in json.loads(text)["_data_files"]]
    except (ValueError, TypeError, LookupError, RecursionError):
        names = []
    if not names or not all(isinstance(name, str) for name in names):
        raise DataError(
            f"{folder / 'state.json'}: names no data files; expected what Dataset.save_to_disk writes: "
            '{"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}'
        )
    for name in names:
        if reason := leaves_folder(name, folder):
            raise DataError(f"{folder / 'state.json'}: the data file {quoted(name)} {reason}")
    return names
