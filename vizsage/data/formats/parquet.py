"""A split as Parquet, one file or shards. Embedded images are not read with the records, but when they are needed."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from vizsage.data.formats.format import Format, Place, is_file
from vizsage.data.images import FileImage
from vizsage.errors import DataError, one_line, quoted

if TYPE_CHECKING:  # pyarrow takes long to load, and only those who read columns need it
    import pyarrow as pa
    import pyarrow.parquet as pq

    from vizsage.data.formats.columns import Columns

# Up to this size the images of a row group are kept in memory for the next requests; those of a larger one are read in
# batches.
CACHED_ROW_GROUP_BYTES = 64 * 2**20
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})(-[0-9A-Za-z]+)?\.parquet$")  # older releases of datasets add a hash
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
        """The bytes; where the row has none, those of the file of that name. Raises DataError."""
        from vizsage.data.formats.columns import DAMAGED

        try:
            data = _embedded_bytes(str(self.path), self.row_group, self.row)
        except DAMAGED as error:
            raise DataError(f"{self.path}: image {quoted(self.name)} cannot be read: {one_line(error)}") from None
        return FileImage(self.name, self.images_dir).read() if data is None else data


@dataclass(frozen=True)
class ParquetFiles(Format):
    """One Parquet file, or the shards of one split in order."""

    files: tuple[Path, ...]
    images_dir: Path
    split: str
    layouts: ClassVar[tuple[str, ...]] = ("{0}.parquet", "{0}-00000-of-0000N.parquet")

    @classmethod
    def find(cls, place: Place) -> Iterable[Format]:
        """See Format."""
        path, shards = place.folder / f"{place.stem}.parquet", _shards(place.folder, place.stem)
        found: list[tuple[Path, ...]] = [(path,)] if is_file(path) else []
        found += [shards] if shards else []
        return [cls(files, place.images_dir, place.split) for files in found]

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files, in order."""
        return self.files

    @property
    def float_fields(self) -> tuple[str, ...]:
        """See Format."""
        from vizsage.data.formats.columns import Columns

        return Columns(self.files[0], parquet_file(str(self.files[0])).schema_arrow).float_fields

    def records(self, start: int = 0) -> Iterator[Any]:
        """See Format: row groups before `start` are not read."""
        from vizsage.data.formats.columns import DAMAGED, Columns

        number = 0
        for path in self.files:
            try:
                file = parquet_file(str(path))
                columns = Columns(path, file.schema_arrow)
                for group in range(file.metadata.num_row_groups):
                    first = number
                    number += file.metadata.row_group(group).num_rows
                    if number > start:
                        yield from self._row_group(path, file, columns, group, first, start)
            except DAMAGED as error:
                raise DataError(f"{path}: cannot be read as Parquet: {one_line(error)}") from None

    def _row_group(
        self, path: Path, file: pq.ParquetFile, columns: Columns, group: int, first: int, start: int
    ) -> Iterator[Any]:
        """The records of a row group from record `start` on; `first` is the number of its first record."""
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


def _shards(folder: Path, stem: str) -> tuple[Path, ...]:
    """`<stem>-00000-of-00003.parquet` and the others of its set; none where there is none. Raises DataError."""
    if not folder.is_dir():
        return ()
    matches = {p: m for p in sorted(folder.iterdir()) if p.name.startswith(f"{stem}-") and (m := _SHARD.search(p.name))}
    matches = {p: m for p, m in matches.items() if p.name == stem + m.group(0) and is_file(p)}
    if matches:
        total = max(int(m.group(2)) for m in matches.values())
        missing = sorted(set(range(total)) - {int(m.group(1)) for m in matches.values()})
        if missing or len(matches) != total:
            what = f"{stem}-{missing[0]:05d}-of-{total:05d}.parquet is missing" if missing else "two sets of shards"
            raise DataError(f"{folder}: {what}; expected {total} files {stem}-*-of-{total:05d}*.parquet of one set")
    return tuple(matches)


def _image_chunk(row_group: pq.RowGroupMetaData) -> pq.ColumnChunkMetaData | None:
    chunks = (row_group.column(i) for i in range(row_group.num_columns))
    return next((c for c in chunks if _IMAGE_CHUNK.match(c.path_in_schema)), None)


def _all_null(row_group: pq.RowGroupMetaData) -> bool:
    """Whether no row of the group has an embedded image: the paths are then names of files."""
    chunk = _image_chunk(row_group)
    if chunk is None or chunk.path_in_schema not in (
        "image",
        "image.bytes",
    ):  # of lists, empty ones count as null
        return False
    statistics = chunk.statistics
    return statistics is not None and statistics.has_null_count and statistics.null_count == row_group.num_rows


def _rows_a_batch(row_group: pq.RowGroupMetaData) -> int:
    """How many rows, without their images, take at most BATCH_BYTES by the sizes in the file."""
    from vizsage.data.formats.columns import BATCH_BYTES, ROWS_A_BATCH

    chunks = (row_group.column(i) for i in range(row_group.num_columns))
    size: int = sum(c.total_uncompressed_size for c in chunks if not _IMAGE_CHUNK.match(c.path_in_schema))
    rows: int = row_group.num_rows
    return max(1, min(ROWS_A_BATCH, BATCH_BYTES * rows // max(1, size)))


@lru_cache(maxsize=16)
def parquet_file(path: str) -> pq.ParquetFile:
    """The open file. Cached: its footer is parsed once for all rows and images."""
    import pyarrow.parquet as pq

    # buffer_size: otherwise pyarrow holds the whole image column of a row group to read one batch of it.
    # read_dictionary: a dictionary page of 1 MB may be the texts of a million rows, which `Columns` decodes in parts.
    options = {"buffer_size": 2**20, "pre_buffer": False}
    file = pq.ParquetFile(path, **options)
    groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
    chunks = (group.column(i) for group in groups for i in range(group.num_columns))
    names = {c.path_in_schema for c in chunks if c.physical_type == "BYTE_ARRAY" and c.has_dictionary_page}
    return pq.ParquetFile(path, metadata=file.metadata, read_dictionary=sorted(names), **options)


def _embedded_bytes(path: str, row_group: int, row: int) -> bytes | None:
    from vizsage.data.formats.columns import image_bytes

    file = parquet_file(path)
    chunk = _image_chunk(file.metadata.row_group(row_group))
    if chunk is None or chunk.total_uncompressed_size <= CACHED_ROW_GROUP_BYTES:
        return image_bytes(image_column(path, row_group)[row])
    return _in_order.bytes_of(path, row_group, chunk.path_in_schema, row)


class _InOrder(threading.local):
    """Reads images of a large row group in order, one batch in memory; a request for an earlier row starts again.

    One per thread, because threads ask for different rows.
    """

    place: tuple[str, int] | None = None
    row = -1
    value: pa.Scalar | None = None
    values: Iterator[pa.Scalar] = iter(())

    def bytes_of(self, path: str, row_group: int, column: str, row: int) -> bytes | None:
        from vizsage.data.formats.columns import image_bytes

        if self.place != (path, row_group) or row < self.row:
            batches = parquet_file(path).iter_batches(16, [row_group], [column], use_threads=False)
            self.values = (value for batch in batches for value in batch.column(0))
            self.place, self.row = (path, row_group), -1
        if row > self.row:
            self.value = next(islice(self.values, row - self.row - 1, None), None)
            self.row = row
        if self.value is None:
            raise OSError(f"row group {row_group} has fewer rows than its metadata states")
        return image_bytes(self.value)


_in_order = _InOrder()


@lru_cache(maxsize=2)
def image_column(path: str, row_group: int) -> pa.ChunkedArray:
    """The images of a row group."""
    file = parquet_file(path)
    chunk = _image_chunk(file.metadata.row_group(row_group))
    column = chunk.path_in_schema if chunk is not None else "image"
    return file.read_row_group(row_group, columns=[column], use_threads=False).column(0)
