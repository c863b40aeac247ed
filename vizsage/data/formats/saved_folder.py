"""A split as the folder that `datasets.Dataset.save_to_disk` writes: Arrow streams with embedded images."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from vizsage.data.formats.format import Format, Place, is_file
from vizsage.data.opening import leaves_folder, open_inside
from vizsage.errors import DataError, one_line, quoted

if TYPE_CHECKING:  # pyarrow takes long to load, and only those who read columns need it
    import pyarrow as pa


@dataclass(frozen=True, slots=True)
class ArrowImage:
    """An image inside a data set on disk: row `row` of its memory-mapped table."""

    name: str
    folder: Path
    row: int
    named: bool

    def read(self) -> bytes:
        """The bytes. Raises DataError."""
        from vizsage.data.formats.columns import DAMAGED, image_bytes

        try:
            return image_bytes(saved_table(str(self.folder))["image"][self.row]) or b""
        except DAMAGED as error:
            raise DataError(f"{self.folder}: image {quoted(self.name)} cannot be read: {one_line(error)}") from None


@dataclass(frozen=True)
class SavedFolder(Format):
    """A folder of Arrow streams, mapped into memory; records are read without the images in them."""

    folder: Path
    split: str
    layouts: ClassVar[tuple[str, ...]] = ("a folder {0} of save_to_disk",)

    @classmethod
    def find(cls, place: Place) -> Iterable[Format]:
        """See Format."""
        folder = place.folder / place.stem
        return [cls(folder, place.split)] if is_file(folder / "state.json") else []

    @property
    def paths(self) -> tuple[Path, ...]:
        """The folder."""
        return (self.folder,)

    @property
    def float_fields(self) -> tuple[str, ...]:
        """See Format."""
        from vizsage.data.formats.columns import Columns

        return Columns(self.folder, saved_table(str(self.folder)).schema).float_fields

    def records(self, start: int = 0) -> Iterator[Any]:
        """See Format: rows before `start` are not read."""
        from vizsage.data.formats.columns import DAMAGED, ROWS_A_BATCH, Columns

        try:
            table = saved_table(str(self.folder))
            columns = Columns(self.folder, table.schema)
            for batch in table.slice(start).to_batches(max_chunksize=ROWS_A_BATCH):
                batch.validate(full=True)  # reading a damaged batch could crash the process
                yield from columns.records(
                    batch,
                    columns.embedded,
                    lambda name, i, start=start: ArrowImage(  # type: ignore[misc]
                        name or f"{self.split}-{start + i}", self.folder, start + i, bool(name)
                    ),
                )
                start += batch.num_rows
        except DAMAGED as error:
            raise DataError(f"{self.folder}: cannot be read as a data set on disk: {one_line(error)}") from None


@lru_cache(maxsize=4)
def saved_table(folder: str) -> pa.Table:
    """The table of a saved data set, mapped into memory: values are read when used. Raises DataError, OSError."""
    import pyarrow as pa

    tables = []
    for name in _data_files(Path(folder)):
        with open_inside(Path(folder), name) as file:
            mapped = mmap(file.fileno(), 0, access=ACCESS_READ)
        tables.append(pa.ipc.open_stream(pa.py_buffer(mapped)).read_all())
    table = pa.concat_tables(tables)
    table.validate()
    if "image" in table.schema.names:
        table["image"].validate(full=True)  # the offsets of the images; none is read
    return table


def _data_files(folder: Path) -> list[str]:
    """The file names in state.json. Raises DataError where there are none, or one is not inside `folder`."""
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
