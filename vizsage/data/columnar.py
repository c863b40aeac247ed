"""Parquet files and Hugging Face data sets on disk, whose images lie inside the file and stay there until asked for."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vizsage.data.images import FileImage
from vizsage.data.sample import ImageRef
from vizsage.errors import DataError, one_line

# A row group whose images take no more than this is kept while its neighbours are asked for; a larger one is passed
# through batch by batch.
CACHED_ROW_GROUP_BYTES = 64 * 2**20
ROWS_A_BATCH = 1024
# Columns that may name an image which is embedded without a path of its own.
NAME_COLUMNS = ("image_file", "file_name", "image_name", "image_path")


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
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self.path}: image {self.name!r} cannot be read: {one_line(error)}") from None
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
        except (pa.ArrowException, OSError, ValueError, LookupError) as error:
            raise DataError(f"{self.folder}: image {self.name!r} cannot be read: {one_line(error)}") from None


@dataclass(frozen=True)
class ParquetFiles:
    """One Parquet file, or the shards of one split in order."""

    paths: tuple[Path, ...]
    images_dir: Path
    split: str

    def records(self, start: int = 0) -> Iterator[Any]:
        """See vizsage.data.formats.Format: row groups before `start` are passed over unread."""
        number = 0
        for path in self.paths:
            try:
                file = _parquet_file(str(path))
                columns = _Columns(path, file.schema_arrow)
                for group in range(file.metadata.num_row_groups):
                    first = number
                    number += file.metadata.row_group(group).num_rows
                    if number > start:
                        yield from self._row_group(path, file, columns, group, first, start)
            except (pa.ArrowException, OSError) as error:
                raise DataError(f"{path}: cannot be read as Parquet: {one_line(error)}") from None

    def _row_group(
        self, path: Path, file: pq.ParquetFile, columns: _Columns, group: int, first: int, start: int
    ) -> Iterator[Any]:
        """Records of a row group whose first row is record `first`, those before `start` left out."""
        embedded = columns.embedded and not _all_null(file.metadata.row_group(group))
        row = 0
        for batch in file.iter_batches(ROWS_A_BATCH, [group], columns.without_bytes, use_threads=False):
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

    def records(self, start: int = 0) -> Iterator[Any]:
        """See vizsage.data.formats.Format: row `start` is gone to directly."""
        try:
            table = _arrow_table(str(self.folder))
            columns = _Columns(self.folder, table.schema)
            for batch in table.slice(start).to_batches(max_chunksize=ROWS_A_BATCH):
                yield from columns.records(
                    batch,
                    columns.embedded,
                    lambda name, i, start=start: ArrowImage(  # type: ignore[misc]
                        name or f"{self.split}-{start + i}", self.folder, start + i, bool(name)
                    ),
                )
                start += batch.num_rows
        except (pa.ArrowException, OSError, ValueError, LookupError) as error:
            raise DataError(f"{self.folder}: cannot be read as a data set on disk: {one_line(error)}") from None


class _Columns:
    """Which columns of a table hold a record's fields, and in what form the images are."""

    def __init__(self, where: Path, schema: pa.Schema) -> None:
        if "image" not in schema.names:
            raise DataError(f"{where}: no column 'image'; found the columns {', '.join(schema.names)}")
        image_type = schema.field("image").type
        children = [child.name for child in image_type] if pa.types.is_struct(image_type) else []
        as_text = pa.types.is_string(image_type) or pa.types.is_large_string(image_type)
        if not (as_text or _is_binary(image_type) or "bytes" in children):
            raise DataError(
                f"{where}: the column 'image' holds {image_type}; expected file names, bytes or {{bytes, path}}"
            )
        self.embedded = not as_text
        self.fields = [f.name for f in schema if f.name != "image" and _is_field(f)]
        self.without_bytes = self.fields + (["image"] if as_text else ["image.path"] if "path" in children else [])
        self._name_column = next((c for c in NAME_COLUMNS if c in self.fields), None)
        self._labels = _class_labels(schema)

    def records(
        self, batch: pa.RecordBatch, embedded: bool, reference: Callable[[str | None, int], ImageRef]
    ) -> Iterator[dict[str, Any]]:
        """The rows of `batch`; `reference(name or None, row in the batch)` stands for an embedded image."""
        names, inside = _names(batch)
        for i, record in enumerate(batch.select(self.fields).to_pylist()):
            for column, labels in self._labels.items():
                record[column] = labels[record[column]] if record.get(column) in range(len(labels)) else None
            name = names[i]
            if embedded and inside[i]:
                record["image"] = reference(name or record.get(self._name_column), i)
            else:
                record["image"] = name
            yield record


def _names(batch: pa.RecordBatch) -> tuple[list[str | None], list[bool]]:
    """For each row the image's name, and whether the image is embedded (as far as the columns in `batch` tell)."""
    absent: list[str | None] = [None] * batch.num_rows
    if "image" not in batch.schema.names:
        return absent, [True] * batch.num_rows
    images = batch.column("image")
    if _is_binary(images.type):
        return absent, images.is_valid().to_pylist()
    if not pa.types.is_struct(images.type):
        return images.to_pylist(), [False] * batch.num_rows
    children = [child.name for child in images.type]
    names = pc.struct_field(images, "path").to_pylist() if "path" in children else absent
    inside = pc.struct_field(images, "bytes") if "bytes" in children else images
    return names, inside.is_valid().to_pylist()


def _class_labels(schema: pa.Schema) -> dict[str, list[str]]:
    """The names behind the numbers of Hugging Face ClassLabel columns."""
    described = (schema.metadata or {}).get(b"huggingface")
    features = json.loads(described).get("info", {}).get("features", {}) if described else {}
    return {name: f["names"] for name, f in features.items() if isinstance(f, dict) and f.get("_type") == "ClassLabel"}


def _is_field(column: pa.Field) -> bool:
    """Scalars, and the list of accepted answers; what else is nested (or bytes) is not read."""
    if column.name == "answers":
        return not _is_binary(column.type)
    return not (pa.types.is_nested(column.type) or _is_binary(column.type))


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)


def _bytes_of(value: pa.Scalar) -> bytes | None:
    if isinstance(value, pa.StructScalar):
        value = value["bytes"]
    return value.as_py()


def _image_chunk(row_group: pq.RowGroupMetaData) -> pq.ColumnChunkMetaData | None:
    chunks = (row_group.column(i) for i in range(row_group.num_columns))
    return next((c for c in chunks if c.path_in_schema in ("image", "image.bytes")), None)


def _all_null(row_group: pq.RowGroupMetaData) -> bool:
    """True when no row of the group embeds an image: the paths then name files."""
    chunk = _image_chunk(row_group)
    statistics = chunk.statistics if chunk is not None else None
    return statistics is not None and statistics.has_null_count and statistics.null_count == row_group.num_rows


@lru_cache(maxsize=16)
def _parquet_file(path: str) -> pq.ParquetFile:
    # Buffered, because pyarrow would otherwise hold a row group's whole image column to read one batch of it.
    return pq.ParquetFile(path, buffer_size=2**20, pre_buffer=False)


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
    """The table of a saved data set, memory-mapped: nothing is read before it is used."""
    state = json.loads((Path(folder) / "state.json").read_text(encoding="utf-8"))
    paths = [Path(folder) / entry["filename"] for entry in state["_data_files"]]
    return pa.concat_tables([pa.ipc.open_stream(pa.memory_map(str(path))).read_all() for path in paths])
