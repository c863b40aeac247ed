"""Answers kept as they come, each found again by all that decides it.

Every process of every start appends to a file of its own in `answers/`, one line an answer; nothing there is ever
changed. An answer is known by its key, a hash of what made it (adapter, base model, generation settings) and of what
the model was shown (prompt tokens and the bytes of the image). So whatever is still true is used again, by any number
of processes, and nothing else is.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import NoneType
from typing import Any

from vizsage.data.sample import ImageRef, Sample
from vizsage.errors import DataError
from vizsage.files import set_aside_path
from vizsage.json_lines import append_jsonl

log = logging.getLogger(__name__)

ANSWERS = "answers"
Row = dict[str, Any]
NO_ANSWER: Row = {
    "prediction": None,
    "raw_text": None,
    "token_ids": [],
    "finish_reason": "failed",
    "error": "the backend gave no answer",
    "seconds": 0.0,
}


class AnswerKeys:
    """The key of a sample's answer. Reads each image once and remembers its hash, 64 characters an image."""

    def __init__(self, made_by: dict[str, Any], prompt_ids: Callable[[Sample], Sequence[int]]) -> None:
        """`prompt_ids` gives the token ids of a sample's prompt, its description uncut, the image a placeholder."""
        self._made_by = json.dumps(made_by, sort_keys=True)
        self._prompt_ids = prompt_ids
        self._images: dict[ImageRef, str] = {}  # not by name: two embedded images may have the same

    def __call__(self, sample: Sample) -> str:
        """SHA-256 in hexadecimal."""
        shown = [self._made_by, *map(self._image_sha256, sample.images), list(self._prompt_ids(sample))]
        return hashlib.sha256(json.dumps(shown).encode()).hexdigest()

    def images_sha256(self, sample: Sample) -> str:
        """That of the image's bytes, of several one after the other; "unreadable" for one that cannot be had."""
        return ",".join(map(self._image_sha256, sample.images))

    def _image_sha256(self, image: ImageRef) -> str:
        if image not in self._images:
            try:
                self._images[image] = hashlib.sha256(image.read()).hexdigest()
            except DataError:
                self._images[image] = "unreadable"
        return self._images[image]


class AnswerStore:
    """All answers in `folder`/answers, of whatever maker. `answered` holds the keys of those that did not fail."""

    def __init__(self, folder: Path, *, rank: int = 0) -> None:
        self.folder = folder / ANSWERS
        stamp = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%S%f")
        self._own = self.folder / f"{stamp}-{os.getpid()}-{rank}.jsonl"
        self._places: dict[str, tuple[Path, int]] = {}
        self.answered: set[str] = set()
        self.read_all()

    def read_all(self) -> None:
        """Take in what lies there, what other processes have written meanwhile included."""
        self._places.clear()
        self.answered.clear()
        for path in sorted(self.folder.glob("*.jsonl")):
            for offset, row in _scan(path):
                key, failed = row["key"], row["prediction"] is None
                if failed and key in self.answered:
                    continue
                self._places[key] = path, offset  # the last one counts: a failed record may have been retried
                if not failed:
                    self.answered.add(key)

    def append(self, rows: Sequence[Row]) -> None:
        """Add `rows`, each with its "key", to this process's file and flush them to disk together."""
        append_jsonl(self._own, rows)
        self.answered.update(row["key"] for row in rows if row["prediction"] is not None)

    def get(self, key: str) -> Row:
        """The answer; a failed one where nothing is known of it. Only of what `read_all` has seen."""
        if key not in self._places:
            return NO_ANSWER
        path, offset = self._places[key]
        with path.open("rb") as file:
            file.seek(offset)
            row: Row = json.loads(file.readline())
        return NO_ANSWER | row

    def set_aside(self) -> Path | None:
        """Rename the folder, so that every question is asked again; its new place, if there was one."""
        if not self.folder.exists():
            return None
        aside = set_aside_path(self.folder.parent, f"-{ANSWERS}")
        self.folder.replace(aside)
        self.read_all()
        return aside


def _scan(path: Path) -> Iterator[tuple[int, Row]]:
    """Yield offset and content of each whole line; a damaged one is passed over."""
    offset = 0
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                return  # torn by a kill, or just being written
            try:
                row = json.loads(line)
                if not isinstance(row["key"], str) or not isinstance(row["prediction"], (str, NoneType)):
                    raise ValueError("no answer")
            except (ValueError, KeyError, TypeError):
                log.warning("%s: the line at byte %d is damaged; its question is answered again", path, offset)
            else:
                yield offset, row
            offset += len(line)
