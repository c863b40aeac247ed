"""A split: from the records of any format to samples, in memory or streamed, every record checked.

No image is opened here: a Sample holds references to its images.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from vizsage.config import Config
from vizsage.data.field_names import record_form
from vizsage.data.formats import find_format, layouts
from vizsage.data.formats.format import Format, feed_files
from vizsage.data.json_values import Number
from vizsage.data.knowledge import KnowledgeTable
from vizsage.data.record_fields import BadRecord
from vizsage.data.records import IdCheck, Problems, read_record
from vizsage.data.sample import Sample
from vizsage.errors import DataError, no_data_folder, quoted, shortened

logger = logging.getLogger(__name__)
_NUMBERS = frozenset((float, Number, list))


@dataclass(frozen=True)
class SplitCounts:
    """Numbers of a complete pass over a split."""

    records: int = 0
    kept: int = 0
    left_out_knowledge: int = 0  # records that need a description while external_knowledge is false
    missing_description: int = 0  # kept samples that need a description which the table does not have


class Table(NamedTuple):
    """A table of descriptions, and when it was last changed: the key of the cache of tables."""

    path: Path
    changed_ns: int


class Split:
    """The samples of one split. Small and picklable; files are open only while they are read.

    Attributes:
        name: train, val, test or the stem of the file.
        source: the records.
        images_dir: the folder of image files.
        table: where descriptions come from; None leaves out samples that need one.
        counts: filled by `load`, `scan` and `checked`, which read the whole split.
        problems: filled by the same.
    """

    def __init__(self, name: str, source: Format, images_dir: Path, table: Table | None = None) -> None:
        self.name = name
        self.source = source
        self.images_dir = images_dir
        self.table = table
        self.counts = SplitCounts()
        self.problems = Problems()
        self._state = self._data_state()

    @property
    def path(self) -> Path:
        """The file, the first of several shards, or the folder: what messages name."""
        return self.source.paths[0]

    def load(self) -> list[Sample]:
        """All kept samples in file order. Raises DataError that lists the bad records."""
        return [sample for _, sample in self.checked() if sample is not None]

    def scan(self, block_records: int) -> list[int]:
        """Check every record in one pass, in constant memory; fills `counts`.

        Returns:
            The number of kept samples in each block of `block_records` consecutive records.

        Raises:
            DataError: lists the bad records.
        """
        kept: list[int] = []
        for number, sample in self.checked():
            while len(kept) <= number // block_records:
                kept.append(0)
            kept[-1] += sample is not None
        return kept

    def stream(self, start_record: int = 0) -> Iterator[Sample]:
        """Kept samples in file order, one record in memory at a time. Raises DataError at the first bad record."""
        return (sample for _, sample in self.numbered(start_record))

    def numbered(self, start_record: int = 0) -> Iterator[tuple[int, Sample]]:
        """Like `stream`, each sample with the number of its record; earlier records are skipped unparsed."""
        if self._data_state() != self._state:
            raise DataError(f"{self.path}: the file changed while it was in use; start again")
        for number, raw in enumerate(self.source.records(start_record), start_record):
            try:
                sample = self._sample(number, raw)
            except BadRecord as error:
                raise DataError(f"{self.path}: {error}") from None
            if sample is not None:
                yield number, sample

    def checked(self) -> Iterator[tuple[int, Sample | None]]:
        """Every good record as (number, sample), the sample None where it is left out.

        Raises:
            DataError: after the last record, if any was bad or none is kept.
        """
        problems = self.problems = Problems()
        ids = IdCheck(self.name)
        records = kept = left_out = missing = 0
        floats: list[str] = []
        whole: Counter[str] = Counter()
        for number, raw in enumerate(self.source.records()):
            records += 1
            if number == 0:
                floats = [field for field in self.source.float_fields if field != "need_external_knowledge"]
            try:
                sample = self._sample(number, raw)
                ids.add(raw, number)
            except BadRecord as error:
                problems.add(str(error))
                continue
            for field in floats:
                if type(raw.get(field)) in _NUMBERS and _is_whole(raw[field]):
                    whole[field] += 1
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
        if whole:
            _say_whole_numbers(
                self.path, ", ".join(f"{count} in {quoted(key)}" for key, count in whole.most_common(10))
            )
        if not records:
            raise DataError(f"{self.path}: the file holds no records")
        if not kept:
            raise DataError(
                f"{self.path}: all {records} records need external knowledge and are left out; set external_knowledge: "
                "true and external_knowledge_path"
            )

    def _sample(self, number: int, raw: Any) -> Sample | None:
        """The sample of a record, with its description; None for one that is left out. Raises BadRecord."""
        table = _knowledge(self.table) if self.table is not None else None
        sample = read_record(raw, number, self.name, self.images_dir, table)
        return None if sample.need_external_knowledge and table is None else sample

    def _data_state(self) -> Hashable:
        """See Format.state. Raises DataError."""
        try:
            return self.source.state()
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read: {error.strerror}") from None


def find_split(config: Config, split: str) -> Path | None:
    """The path of `split`, or None. Raises DataError when it is there more than once."""
    source = _find(config, _canonical(split))
    return source.paths[0] if source else None


def split_identity(config: Config, split: str) -> str | None:
    """The `Format.identity` of `split`, or None where it is missing. Raises as `find_split`."""
    source = _find(config, _canonical(split))
    return source.identity() if source else None


def data_identity(sources: Iterable[Format], table: Path | None) -> str:
    """A SHA-256 of all that a run reads, one source after the other, and its table of descriptions."""
    digest = hashlib.sha256()
    for source in sources:
        source.feed(digest)
    feed_files(digest, [] if table is None else [table])
    return digest.hexdigest()


def open_split(config: Config, split: str) -> Split:
    """Open train, val (or validation), test or any other file stem below `<base_path>/<dataset>`.

    Only the first record is read here.

    Raises:
        DataError: the split is missing, empty, unreadable or there more than once, or the table of descriptions is
            unusable.
    """
    name = _canonical(split)
    folder = config.split_dir
    source = _find(config, name)
    if source is None:
        if not folder.is_dir():
            raise no_data_folder(folder)
        there = ", ".join(sorted(p.name for p in folder.iterdir())[:20]) or "nothing"
        tables = [kind for kind in ("csv", "tsv") if (folder / f"{name}.{kind}").exists()]
        hint = f"; {tables[0].upper()} is not read: docs/tutorials/your-data.md has a script for it" if tables else ""
        raise DataError(
            f"{folder}: no split {quoted(name)}; expected one of {layouts(name)}; found {shortened(there)}{hint}"
        )
    table = None
    if config.external_knowledge and config.external_knowledge_path is not None:
        path = config.external_knowledge_path
        table = Table(path, path.stat().st_mtime_ns if path.exists() else 0)
        _knowledge(table)
    opened = Split(name, source, config.images_dir, table)
    for first in source.records():
        if found := record_form(first):
            raise DataError(f"{opened.path}: {found}")
        break
    else:
        raise DataError(f"{opened.path}: the file holds no records")
    return opened


def _find(config: Config, name: str) -> Format | None:
    try:
        return find_format(config.split_dir, name, config.images_dir)
    except OSError as error:
        raise DataError(f"{config.split_dir}: cannot be read: {error.strerror}") from None


def _canonical(split: str) -> str:
    if not split or split != Path(split).name or split.startswith("."):
        raise DataError(f"split {quoted(split)} is not a name; write train, val, test or the stem of a file")
    return "val" if split == "validation" else split


def _is_whole(value: Any) -> bool:
    """Whether `value` is a whole number with a decimal point, such as 3.0, or a list that contains one."""
    if isinstance(value, list):
        return any(map(_is_whole, value))
    if isinstance(value, Number):
        return "." in str(value) and value == value.to_integral_value()
    return isinstance(value, float) and value.is_integer()


@lru_cache(maxsize=64)
def _say_whole_numbers(path: Path, where: str) -> None:
    """Warn once per process, however often the split is read."""
    logger.warning(
        "%s: whole numbers with a decimal point are read as they are there, 3.0 and not 3: %s; if pandas wrote the "
        "file, an absent value may have made integers floats: convert them with astype('Int64')",
        path,
        where,
    )


@lru_cache(maxsize=2)
def _knowledge(table: Table) -> KnowledgeTable:
    """The table, read once per process: a pickled Split contains only its path."""
    return KnowledgeTable.load(table.path)
