"""Tables of Arrow: which columns contain the fields of a record, and their values, in pieces of bounded memory."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vizsage.data.sample import ImageRef
from vizsage.errors import DataError, one_line, quoted, shortened

# Memory of the values that are Python objects at the same time. Columns stored as dictionaries make this necessary: a
# file of 100 kB may decode to hundreds of MB.
BATCH_BYTES = 32 * 2**20
# Columns that may have the name of an embedded image without a path, in the order in which they are tried.
NAME_COLUMNS = ("image_file", "file_name", "image_name", "image_path")
# Rows, without their images, that are Python objects at the same time at most.
ROWS_A_BATCH = 1024
# What pyarrow raises on damaged files.
DAMAGED = (pa.ArrowException, OSError, ValueError, LookupError, OverflowError, TypeError)
_SCALARS = ("id", "question", "answer", "need_external_knowledge")
_LISTS = ("answers", "choices")
_SHORT_FLOATS: dict[Any, type[np.floating[Any]]] = {pa.float16(): np.float16, pa.float32(): np.float32}


class Columns:
    """Which columns of a table contain the fields of a record, and whether the images are embedded.

    Attributes:
        embedded: whether images are bytes in the table; otherwise the column has file names.
        fields: columns that become fields of a record, `image` not among them.
        without_bytes: what has to be read for records, so that no image is.
        float_fields: those of `fields` that are floating-point numbers.
    """

    def __init__(self, where: Path, schema: pa.Schema) -> None:
        names = schema.names
        for name, times in Counter(names).items():
            if times > 1:
                raise DataError(
                    f"{where}: the column {quoted(name)} is there {times} times; rename or remove the others"
                )
        if "image" not in names:
            raise DataError(f"{where}: no column 'image'; found the columns {shortened(', '.join(names))}")
        image_type = _decoded(schema.field("image").type)
        children = {child.name: child.type for child in image_type} if pa.types.is_struct(image_type) else {}
        as_text = _is_text(image_type)
        if not (as_text or _is_bytes(children.get("bytes", image_type))):
            raise DataError(
                f"{where}: the column 'image' holds {_shown(image_type)}; expected file names, bytes or {{bytes, path}}"
            )
        for name in (*_SCALARS, *_LISTS):
            if name in names:
                _refuse_type(where, name, _decoded(schema.field(name).type))
        self.embedded = not as_text
        self.fields = [f.name for f in schema if f.name != "image" and _is_field(f)]
        self.without_bytes = self.fields + (["image"] if as_text else ["image.path"] if "path" in children else [])
        self.float_fields = tuple(f for f in self.fields if _is_float(_decoded(schema.field(f).type)))
        self._where = where
        named = (c for c in NAME_COLUMNS if c in self.fields and _may_be_a_name(_decoded(schema.field(c).type)))
        self._name_column = next(named, None)
        self._labels = _class_labels(where, schema)

    def records(
        self, batch: pa.RecordBatch, embedded: bool, reference: Callable[[str | None, int], ImageRef]
    ) -> Iterator[dict[str, Any]]:
        """The rows of `batch` as records; `reference(name or None, row in the batch)` refers to an embedded image."""
        first = 0
        for part in _parts(batch):
            names, inside = self._names(part)
            columns = [*(self._values(field, part.column(field)) for field in self.fields), names]
            keys = [*self.fields, "image"]
            for i, values in enumerate(zip(*columns, strict=True)):
                record = dict(zip(keys, values))  # noqa: B905  checking lengths would cost time in the innermost loop
                if embedded and inside[i]:
                    name = names[i] or record.get(self._name_column)
                    record["image"] = reference(None if name is None else str(name), first + i)
                yield record
            first += part.num_rows

    def _names(self, batch: pa.RecordBatch) -> tuple[list[str | None], list[bool]]:
        """For each row the image's name, and whether the image is embedded as far as the columns in `batch` show."""
        absent: list[str | None] = [None] * batch.num_rows
        if "image" not in batch.schema.names:
            return absent, [True] * batch.num_rows
        images = batch.column("image")
        if _is_text(_decoded(images.type)):
            return self._values("image", images), [False] * batch.num_rows
        if not pa.types.is_struct(images.type):
            return absent, images.is_valid().to_pylist()
        children = [child.name for child in images.type]
        names = self._values("image.path", pc.struct_field(images, "path")) if "path" in children else absent
        inside = pc.struct_field(images, "bytes") if "bytes" in children else images
        return names, inside.is_valid().to_pylist()

    def _values(self, name: str, column: pa.Array) -> list[Any]:
        """The values as Python objects. Raises DataError."""
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        try:
            values: list[Any] = column.to_pylist()
        except (ValueError, OverflowError, LookupError) as error:
            if not pa.types.is_temporal(column.type):  # bytes that are not UTF-8
                raise DataError(f"{self._where}: the column {quoted(name)} cannot be read: {one_line(error)}") from None
            values = pc.cast(column, pa.string()).to_pylist()  # a time outside the range of Python's types
        kind = column.type.value_type if _is_list(column.type) else column.type
        short = _SHORT_FLOATS.get(kind)
        if short is not None:
            return [_shortest(value, short) for value in values]
        if name in self._labels and pa.types.is_integer(kind):
            return [_named(value, self._labels[name]) for value in values]
        return values


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _parts(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """`batch` in slices of at least one row whose values, without images, take at most BATCH_BYTES."""
    rows = batch.num_rows
    if rows > 1 and sum(_decoded_bytes(column) for column in batch.columns) > BATCH_BYTES:
        yield from _parts(batch.slice(0, rows // 2))
        yield from _parts(batch.slice(rows // 2))
    else:
        yield batch


def _decoded_bytes(column: pa.Array) -> int:
    """An upper bound of the memory of the decoded values; embedded bytes are not decoded and count nothing."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        if _is_text(kind.value_type):
            return len(column) * (pc.max(pc.binary_length(_not_a_view(column.dictionary))).as_py() or 0)
        return 0 if _is_binary(kind.value_type) else column.dictionary.nbytes
    if _is_list(kind) and not _is_bytes(kind):
        return _decoded_bytes(column.flatten())
    if pa.types.is_struct(kind):
        return sum(_decoded_bytes(child) for child in column.flatten())
    return 0 if _is_bytes(kind) else _not_a_view(column).nbytes


def _not_a_view(texts: pa.Array) -> pa.Array:
    """A copy of string views as strings: not all releases of pyarrow can measure views."""
    return texts.cast(pa.large_string()) if pa.types.is_string_view(texts.type) else texts


def _shortest(value: Any, kind: type[np.floating[Any]]) -> Any:
    """The number with the shortest text that is still `value` in that type: 0.1, not 0.10000000149011612."""
    if isinstance(value, list):
        return [_shortest(part, kind) for part in value]
    return None if value is None else float(str(kind(value)))


def _class_labels(where: Path, schema: pa.Schema) -> dict[str, list[str]]:
    """The names of the classes of Hugging Face ClassLabel columns, by column. Raises DataError."""
    described = (schema.metadata or {}).get(b"huggingface")
    if not described:
        return {}
    try:
        features = ((json.loads(described) or {}).get("info") or {}).get("features") or {}
        described_labels = {
            name: label["names"] for name, feature in features.items() if (label := _class_label(feature)) is not None
        }
    except (ValueError, AttributeError, LookupError, RecursionError):
        described_labels = {"": None}
    for names in described_labels.values():
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise DataError(
                f"{where}: the schema's metadata 'huggingface' is damaged, and without it the numbers of class labels "
                "have no names; write the file again with datasets, or without that metadata"
            )
    return described_labels


def _class_label(feature: Any) -> dict[str, Any] | None:
    """The description of a ClassLabel, or of the ClassLabel in a list in the form of any release of datasets."""
    if isinstance(feature, list):
        feature = next(iter(feature), None)
    elif isinstance(feature, dict) and feature.get("_type") in ("Sequence", "List", "LargeList"):
        feature = feature.get("feature")
    return feature if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" else None


def _named(value: Any, labels: list[str]) -> Any:
    """The name of a class, or those of a list of classes; None for a number without a name."""
    if isinstance(value, list):
        return [_named(part, labels) for part in value]
    return labels[value] if value is not None and 0 <= value < len(labels) else None


def _refuse_type(where: Path, name: str, kind: pa.DataType) -> None:
    """Raise DataError where the type of a column cannot be that of the record's field `name`."""
    if _is_binary(kind):
        raise DataError(f"{where}: the column {quoted(name)} holds {kind}; expected texts, so cast it to string")
    if name not in _LISTS and pa.types.is_nested(kind):
        hint = "; a list of accepted answers belongs into a column 'answers'" if name == "answer" else ""
        raise DataError(f"{where}: the column {quoted(name)} holds {_shown(kind)}; expected one value per row{hint}")


def _is_field(column: pa.Field) -> bool:
    """Whether a column is read: scalars, and lists of answers and choices; no other nested type, and no bytes."""
    kind = _decoded(column.type)
    return column.name in _LISTS or not (pa.types.is_nested(kind) or _is_binary(kind))


def _shown(kind: pa.DataType) -> str:
    return re.sub(r"dictionary<values=(\w+), [^>]*>", r"\1", str(kind))


def _decoded(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_float(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind.value_type if _is_list(kind) else kind))


def _may_be_a_name(kind: pa.DataType) -> bool:
    return _is_text(kind) or pa.types.is_integer(kind)


def _is_list(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_list(kind)
        or pa.types.is_large_list(kind)
        or pa.types.is_fixed_size_list(kind)
        or pa.types.is_list_view(kind)
        or pa.types.is_large_list_view(kind)
    )


def _is_bytes(kind: pa.DataType) -> bool:
    """Whether values are bytes or lists of uint8, or the type is null, as of a column without any value."""
    kind = _decoded(kind)
    return _is_binary(kind) or pa.types.is_null(kind) or (_is_list(kind) and pa.types.is_uint8(kind.value_type))


def _is_binary(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_fixed_size_binary(kind)
        or pa.types.is_binary_view(kind)
    )


def image_bytes(value: pa.Scalar) -> bytes | None:
    """The bytes of an embedded image, which is bytes, a list of numbers from 0 to 255, or a struct with either."""
    if isinstance(value, pa.StructScalar):
        value = value["bytes"]
    content = value.as_py()
    return bytes(content) if isinstance(content, list) else content
