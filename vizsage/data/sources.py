"""A split: records of any format -> Samples, in memory or streaming, every record checked.

Nothing here imports torch, and no image is opened: a Sample holds a reference to its image.
"""

from __future__ import annotations

import logging
import math
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, time
from decimal import Decimal
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from vizsage.config import Config
from vizsage.data.formats import LAYOUTS, BrokenRecord, Format, find_format
from vizsage.data.images import FileImage, leaves_folder
from vizsage.data.knowledge import KnowledgeTable
from vizsage.data.sample import ImageRef, Sample
from vizsage.errors import DataError

logger = logging.getLogger(__name__)

FIELDS = frozenset({"id", "image", "question", "answer", "need_external_knowledge"})
PROBLEMS_SHOWN = 10
_NO_TAGS: Mapping[str, str] = {}


@dataclass(frozen=True)
class SplitCounts:
    """What a whole pass over a split found."""

    records: int = 0
    kept: int = 0
    left_out_knowledge: int = 0  # need a description, and external_knowledge is false
    missing_description: int = 0  # kept, need a description, and the table has none


class Split:
    """The samples of one split. Cheap and picklable; files are opened only while they are read.

    Attributes:
        name: train, val, test or the stem of the file.
        path: the file (the first of several shards) or the folder.
        counts: filled by `load` and `scan`, which go over the whole split.
    """

    def __init__(self, name: str, source: Format, images_dir: Path, knowledge_path: Path | None) -> None:
        self.name = name
        self.source = source
        self.images_dir = images_dir
        self.knowledge_path = knowledge_path
        self.counts = SplitCounts()
        self._state = self._file_state()

    @property
    def path(self) -> Path:
        """The file, the first of several shards, or the folder."""
        return self.source.paths[0]

    def load(self) -> list[Sample]:
        """All kept samples in file order. Raises DataError that lists the bad records."""
        return [sample for _, sample in self._checked() if sample is not None]

    def scan(self, block_records: int) -> list[int]:
        """Check every record in one pass of constant memory; fills `counts`.

        Returns the number of kept samples in each block of `block_records` consecutive records. Raises DataError that
        lists the bad records.
        """
        kept: list[int] = []
        for number, sample in self._checked():
            if number % block_records == 0:
                kept.append(0)
            kept[-1] += sample is not None
        return kept

    def stream(self, start_record: int = 0) -> Iterator[Sample]:
        """Kept samples in file order, read incrementally. Raises DataError at the first bad record."""
        return (sample for _, sample in self.numbered(start_record))

    def numbered(self, start_record: int = 0) -> Iterator[tuple[int, Sample]]:
        """Like `stream`, each sample with the number of its record; earlier records are passed over unparsed."""
        if self._file_state() != self._state:
            raise DataError(f"{self.path}: the file changed while it was in use; start again")
        for number, raw in enumerate(self.source.records(start_record), start_record):
            try:
                sample = self._sample(number, raw)
            except _BadRecord as error:
                raise DataError(f"{self.path}: {error}") from None
            if sample is not None:
                yield number, sample

    def _checked(self) -> Iterator[tuple[int, Sample | None]]:
        """Every good record with its number, None in place of one left out; raises at the end if any was bad."""
        problems = _Problems()
        ids = _Ids(self.name)
        records = kept = left_out = missing = 0
        for number, raw in enumerate(self.source.records()):
            records += 1
            try:
                sample = self._sample(number, raw)
                ids.add(number, raw)
            except _BadRecord as error:
                problems.add(str(error))
                continue
            if sample is None:
                left_out += 1
            else:
                kept += 1
                missing += sample.need_external_knowledge and sample.description is None
            yield number, sample
        for problem in ids.duplicates(self.source):
            problems.add(problem)
        self.counts = SplitCounts(records, kept, left_out, missing)
        problems.raise_if_any(self.path)
        if not records:
            raise DataError(f"{self.path}: the file holds no records")
        if not kept:
            raise DataError(
                f"{self.path}: all {records} records need external knowledge and are left out; set external_knowledge: "
                "true and external_knowledge_path"
            )

    def _sample(self, number: int, raw: Any) -> Sample | None:
        """Check one record. Returns None for one that is left out; raises _BadRecord."""
        if not isinstance(raw, dict):
            found = raw.reason if isinstance(raw, BrokenRecord) else f"expected an object, found {_show(raw)}"
            raise _BadRecord(f"record {number + 1}: {found}")
        try:
            sample_id = _record_id(raw, self.name, number)
            image = self._image(raw)
            question = _required_text(raw, "question")
            answer = _required_text(raw, "answer")
            need = _switch(raw)
        except _BadRecord as error:
            raise _BadRecord(f"{_place(number, raw, self.name)}: {error}") from None
        if need and self.knowledge_path is None:
            return None
        description = _knowledge(self.knowledge_path).describe(image.name) if need and self.knowledge_path else None
        return Sample(sample_id, image, question, answer, need, description, _tags(raw))

    def _image(self, raw: dict[str, Any]) -> ImageRef:
        image = raw.get("image")
        if isinstance(image, str):
            if not image.strip():
                raise _BadRecord("image is empty; write a file name below Images/")
            return _file_image(image, self.images_dir)
        if image is None:
            raise _BadRecord(f"image is missing; found the keys {', '.join(map(str, raw))[:100]}")
        if isinstance(image, (bool, int, Decimal, float, list, dict)):
            raise _BadRecord(f"image is {_show(image)}; write a file name below Images/")
        return image  # a reference to an embedded image

    def _file_state(self) -> tuple[tuple[int, int], ...]:
        """Size and time of change of each file."""
        try:
            return tuple((s.st_size, s.st_mtime_ns) for s in (p.stat() for p in self.source.paths))
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read: {error.strerror}") from None


def find_split(config: Config, split: str) -> Path | None:
    """Where `split` lies, or None. Raises DataError when it lies there more than once."""
    source = find_format(config.split_dir, _canonical(split), config.images_dir)
    return source.paths[0] if source else None


def open_split(config: Config, split: str) -> Split:
    """Open train, val (or validation), test or any other file stem below `<base_path>/<dataset>`.

    Only the first record is read here. Raises DataError when the split is missing, empty, unreadable or there twice, or
    when the table of descriptions is unusable.
    """
    name = _canonical(split)
    folder = config.split_dir
    source = find_format(folder, name, config.images_dir)
    if source is None:
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder; base_path and dataset name the folder that holds the splits")
        there = ", ".join(sorted(p.name for p in folder.iterdir())[:20]) or "nothing"
        raise DataError(f"{folder}: no split {name!r}; expected one of {LAYOUTS.format(name)}; found {there}")
    knowledge_path = config.external_knowledge_path if config.external_knowledge else None
    if knowledge_path is not None:
        _knowledge(knowledge_path)
    opened = Split(name, source, config.images_dir, knowledge_path)
    if next(source.records(), None) is None:
        raise DataError(f"{opened.path}: the file holds no records")
    return opened


def _canonical(split: str) -> str:
    if not split or split != Path(split).name or split.startswith("."):
        raise DataError(f"split {split!r} is not a name; write train, val, test or the stem of a file")
    return "val" if split == "validation" else split


@lru_cache(maxsize=2)
def _knowledge(path: Path) -> KnowledgeTable:
    """One table a process, read once: a Split that goes to workers carries its path only."""
    return KnowledgeTable.load(path)


@lru_cache(maxsize=4096)
def _file_image(name: str, folder: Path) -> FileImage:
    """One reference for the questions on one image. Raises _BadRecord for a name that leaves the folder."""
    if reason := leaves_folder(name, folder):
        raise _BadRecord(f"image name {reason}")
    return FileImage(name, folder)


class _BadRecord(Exception):
    """What is wrong with one record."""


class _Problems:
    """The first problems of a file and the count of all."""

    def __init__(self) -> None:
        self.count = 0
        self.first: list[str] = []

    def add(self, problem: str) -> None:
        self.count += 1
        if len(self.first) < PROBLEMS_SHOWN:
            self.first.append(problem)

    def raise_if_any(self, path: Path) -> None:
        if self.count:
            more = f"; and {self.count - len(self.first)} more" if self.count > len(self.first) else ""
            word = "record" if self.count == 1 else "records"
            raise DataError(f"{path}: {self.count} bad {word}: {'; '.join(self.first)}{more}")


class _Ids:
    """Finds ids that stand twice in 8 bytes a record, and in none while no record has an id of its own."""

    def __init__(self, split: str) -> None:
        self._split = split
        self._hashes: array[int] | None = None

    def add(self, number: int, raw: dict[str, Any]) -> None:
        if self._hashes is None:
            if raw.get("id") is None:
                return
            self._hashes = array("q", (hash(f"{self._split}-{i}") for i in range(number)))
        self._hashes.append(hash(_record_id(raw, self._split, number)))

    def duplicates(self, source: Format) -> Iterator[str]:
        """One problem for each record whose id stands before it. Reads the split again, if there may be one."""
        hashes = sorted(self._hashes or ())
        twice = {a for a, b in pairwise(hashes) if a == b}
        if not twice:
            return
        first: dict[str, int] = {}
        for number, raw in enumerate(source.records()):
            try:
                sample_id = _record_id(raw, self._split, number) if isinstance(raw, dict) else ""
            except _BadRecord:
                continue
            if hash(sample_id) in twice and first.setdefault(sample_id, number) != number:
                yield f"record {number + 1}: id {sample_id!r} is already that of record {first[sample_id] + 1}"


def _place(number: int, raw: dict[str, Any], split: str) -> str:
    """`record 3 (id train-2, image a.jpg)`, as far as they are known."""
    image = raw.get("image")
    name = image if isinstance(image, str) else getattr(image, "name", None)
    known = [f"id {raw['id']}" if raw.get("id") is not None else "", f"image {name!r}" if name else ""]
    return f"record {number + 1} ({', '.join(filter(None, known))})" if any(known) else f"record {number + 1}"


def _record_id(raw: dict[str, Any], split: str, number: int) -> str:
    value = raw.get("id")
    if value is None:
        return f"{split}-{number}"
    if isinstance(value, bool) or not isinstance(value, (str, int)) or not str(value).strip():
        raise _BadRecord(f"id is {_show(value)}; write a text or a whole number, or leave it out")
    return str(value)


def _text(value: Any) -> str | None:
    """A scalar as text; None for null, not-a-number, lists and objects."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and math.isnan(value):
        return None  # how pandas writes an absent value
    return str(value) if isinstance(value, (int, float, Decimal, date, time)) else None


def _required_text(raw: dict[str, Any], field: str) -> str:
    value = raw.get(field)
    text = None if isinstance(value, bool) else _text(value)
    if text is None or not text.strip():
        found = "missing" if value is None else f"{_show(value)}" if text is None else "empty"
        raise _BadRecord(f"{field} is {found}; write a text or a number")
    if not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text):
        raise _BadRecord(f"{field} is no valid Unicode (half of a surrogate pair)")
    return text


def _switch(raw: dict[str, Any]) -> bool:
    value = raw.get("need_external_knowledge")
    if value is None or value is False:
        return False
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
        return value.strip().lower() == "true"
    if isinstance(value, (bool, int, float, Decimal)):
        if value in (0, 1):
            return bool(value)
        if value != value:
            return False
    raise _BadRecord(f"need_external_knowledge is {_show(value)}; write true or false")


def _tags(raw: dict[str, Any]) -> Mapping[str, str]:
    extra = raw.keys() - FIELDS
    if not extra:
        return _NO_TAGS
    texts = ((str(key), _text(raw[key])) for key in raw if key in extra)
    return {key: text for key, text in texts if text is not None}


def _show(value: Any) -> str:
    kinds = {dict: "an object", list: "a list", bool: str(value).lower(), type(None): "null"}
    return kinds.get(type(value)) or repr(value)[:60]
