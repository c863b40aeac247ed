"""From a raw record to a Sample, or to what is wrong with it; and the checks that need all records of a split."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Any

from vizsage.data.field_names import missing_field
from vizsage.data.formats.format import Format
from vizsage.data.images import FileImage
from vizsage.data.json_values import BrokenRecord
from vizsage.data.knowledge import KnowledgeTable
from vizsage.data.opening import leaves_folder, no_file_name
from vizsage.data.record_fields import (
    BadRecord,
    read_answers,
    read_choices,
    read_switch,
    required_text,
    scalar_text,
    show_value,
    valid_text,
)
from vizsage.data.sample import ImageRef, Sample
from vizsage.errors import DataError, quoted

FIELDS = frozenset({"id", "image", "question", "answer", "answers", "choices", "need_external_knowledge"})
# A record with no other fields, as most are, is asked neither for choices nor for tags.
_USUAL_FIELDS = FIELDS - {"choices"}
PROBLEMS_SHOWN = 10
_NO_TAGS: Mapping[str, str] = {}


def read_record(raw: Any, number: int, split: str, images_dir: Path, table: KnowledgeTable | None) -> Sample:
    """Make the sample of one record.

    Args:
        raw: what a Format gives: a dict, a BrokenRecord, or any JSON value that should have been an object.
        number: of the record in its split, from 0.
        split: the name of the split, for the id of a record without one.
        images_dir: the folder of image files.
        table: where the description of a question comes from that needs one; None leaves it without.

    Raises:
        BadRecord: names the record and the problem.
    """
    if not isinstance(raw, dict):
        found = raw.reason if isinstance(raw, BrokenRecord) else f"expected an object, found {show_value(raw)}"
        raise BadRecord(f"record {number + 1}: {found}")
    try:
        images, need = _images(raw, images_dir), read_switch(raw)
        answer, answers = read_answers(raw)
        usual = raw.keys() <= _USUAL_FIELDS
        return Sample(
            sample_id=_record_id(raw, split, number),
            images=images,
            question=required_text(raw.get("question"), "question", raw),
            answer=answer,
            answers=answers,
            need_external_knowledge=need,
            description=_description(images, table) if need and table is not None else None,
            tags=_NO_TAGS if usual else _tags(raw),
            choices=() if usual else read_choices(raw, answer),
        )
    except BadRecord as error:
        raise BadRecord(f"{_place(raw, number)}: {error}") from None


class Problems:
    """Counts bad records (or what `kind` calls them) and keeps the text of the first."""

    def __init__(self, kind: str = "record") -> None:
        self.kind = kind
        self.count = 0
        self.first: list[str] = []

    def add(self, problem: str) -> None:
        """Count one more problem; its text is kept if it is among the first."""
        self.count += 1
        if len(self.first) < PROBLEMS_SHOWN:
            self.first.append(problem)

    def raise_if_any(self, path: Path | str) -> None:
        """Raise DataError with the count and the first problems in one line, if there are any."""
        if self.count:
            more = f"; and {self.count - len(self.first)} more" if self.count > len(self.first) else ""
            kind = self.kind if self.count == 1 else f"{self.kind}s"
            raise DataError(f"{path}: {self.count} bad {kind}: {'; '.join(self.first)}{more}")


class IdCheck:
    """Finds repeated ids in 8 bytes of memory per record; in none as long as no record has an id."""

    def __init__(self, split: str) -> None:
        self._split = split
        self._hashes: array[int] | None = None

    def add(self, raw: dict[str, Any], number: int) -> None:
        """Note the id of a record that `read_record` accepted."""
        if self._hashes is None:
            if raw.get("id") is None:
                return
            self._hashes = array("q", (hash(f"{self._split}-{i}") for i in range(number)))
        self._hashes.append(hash(_record_id(raw, self._split, number)))

    def duplicates(self, source: Format) -> Iterator[str]:
        """One problem per record whose id an earlier record has. Reads the split again where hashes are equal."""
        if self._hashes is None:
            return
        import numpy as np

        hashes = np.sort(np.frombuffer(self._hashes, np.int64))
        repeated = set(hashes[1:][hashes[1:] == hashes[:-1]].tolist())
        if not repeated:
            return
        first: dict[str, int] = {}
        for number, raw in enumerate(source.records()):
            try:
                sample_id = _record_id(raw, self._split, number) if isinstance(raw, dict) else ""
            except BadRecord:
                continue
            if hash(sample_id) in repeated and first.setdefault(sample_id, number) != number:
                yield f"record {number + 1}: id {quoted(sample_id)} is already that of record {first[sample_id] + 1}"


def _place(raw: dict[str, Any], number: int) -> str:
    """How a message names a record: `record 3 (id 17, image 'a.jpg')`, with what is known of it."""
    image = raw.get("image")
    name = image if isinstance(image, str) else getattr(image, "name", None)
    known = [f"id {_shown_id(raw['id'])}" if raw.get("id") is not None else "", f"image {quoted(name)}" if name else ""]
    return f"record {number + 1} ({', '.join(filter(None, known))})" if any(known) else f"record {number + 1}"


def _shown_id(value: Any) -> str:
    return quoted(value) if isinstance(value, str) else show_value(value)


def _record_id(raw: dict[str, Any], split: str, number: int) -> str:
    value = raw.get("id")
    if value is None:
        return f"{split}-{number}"
    if isinstance(value, bool) or not isinstance(value, (str, int)) or not str(value).strip():
        raise BadRecord(f"id is {show_value(value)}; write a text or a whole number, or leave it out")
    return valid_text(str(value), "id")


def _images(raw: dict[str, Any], images_dir: Path) -> tuple[ImageRef, ...]:
    """The images of a record; so far a record has one. Raises BadRecord."""
    image = raw.get("image")
    if isinstance(image, str):
        return _file_images(image, images_dir)
    if image is None:
        raise BadRecord(missing_field("image", raw))
    if isinstance(image, list) and len(image) != 1:
        raise BadRecord(f"image is a list of {len(image)}; a record has one image: write its file name below Images/")
    if isinstance(image, (bool, int, float, Decimal, list, dict)):
        raise BadRecord(f"image is {show_value(image)}; write a file name below Images/")
    return (image,)  # the reference to an embedded image


@lru_cache(maxsize=4096)
def _file_images(name: str, folder: Path) -> tuple[FileImage]:
    """The same tuple for consecutive questions on one image, so that its name is checked once. Raises BadRecord."""
    if not name.strip():
        raise BadRecord("image is empty; write a file name below Images/")
    if reason := no_file_name(name):
        raise BadRecord(f"image is {reason}")
    valid_text(name, "image")
    if reason := leaves_folder(name, folder):
        raise BadRecord(f"the image name {reason}")
    return (FileImage(name, folder),)


def _description(images: tuple[ImageRef, ...], table: KnowledgeTable) -> str | None:
    """The table's descriptions of the images, a paragraph per image; None where it describes none of them."""
    found = [text for image in images if (text := table.describe(image.name)) is not None]
    return "\n\n".join(found) if found else None


def _tags(raw: dict[str, Any]) -> Mapping[str, str]:
    tags: dict[str, str] = {}
    for key, value in raw.items():
        if key in FIELDS:
            continue
        text = scalar_text(value)
        if text is not None:
            if not (key.isascii() and text.isascii()):
                key, text = valid_text(key, "a tag's name"), valid_text(text, f"tag {key!a}")
            tags[key] = text
    return tags or _NO_TAGS
