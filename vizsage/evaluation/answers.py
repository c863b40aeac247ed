"""The store of answers: each answer is written when it is generated, and found again by a key.

Every process of every attempt appends to its own file in `answers/`, one line per answer, and no line is ever
changed. The key of an answer is a hash of all that decides it: adapter, base model and generation settings, and what
the model was shown, which is the prompt tokens and the bytes of the image. So an answer is used again exactly where it
is still valid, with any number of processes.
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
from typing import Any, TypedDict, cast

from vizsage.data.sample import ImageRef, Sample
from vizsage.errors import DataError
from vizsage.files import set_aside_path
from vizsage.json_lines import append_jsonl

log = logging.getLogger(__name__)

ANSWERS = "answers"
UNREADABLE = "unreadable"
"""Instead of the hash of an image that could not be read."""


class KeptAnswer(TypedDict, total=False):
    """A line of a file in `answers/`."""

    key: str
    prediction: str | None
    """None: the record failed."""
    raw_text: str | None
    token_ids: list[int]
    finish_reason: str
    error: str | None
    seconds: float


NO_ANSWER: KeptAnswer = {
    "prediction": None,
    "raw_text": None,
    "token_ids": [],
    "finish_reason": "failed",
    "error": "the backend gave no answer",
    "seconds": 0.0,
}


class AnswerKeys:
    """Computes the key of a sample's answer. Reads each image once and keeps its hash, 64 characters per image."""

    def __init__(self, made_by: dict[str, Any], prompt_ids: Callable[[Sample], Sequence[int]]) -> None:
        """Keys for one model.

        Args:
            made_by: all that decides the answers besides the samples.
            prompt_ids: gives the token ids of a sample's prompt with its whole description and a placeholder for the
                image.
        """
        self._made_by = json.dumps(made_by, sort_keys=True)
        self._prompt_ids = prompt_ids
        self._images: dict[ImageRef, str] = {}  # by reference, because two embedded images may have the same name

    def __call__(self, sample: Sample) -> str:
        """SHA-256 in hexadecimal."""
        shown = [self._made_by, *map(self.image_sha256, sample.images), list(self._prompt_ids(sample))]
        return hashlib.sha256(json.dumps(shown).encode()).hexdigest()

    def images_sha256(self, sample: Sample) -> str:
        """The hashes of the images' bytes, joined by commas; UNREADABLE for one that cannot be read."""
        return ",".join(map(self.image_sha256, sample.images))

    def image_sha256(self, image: ImageRef) -> str:
        """The hash of an image's bytes; UNREADABLE for one that cannot be read."""
        if image not in self._images:
            try:
                self._images[image] = hashlib.sha256(image.read()).hexdigest()
            except DataError:
                self._images[image] = UNREADABLE
        return self._images[image]


class AnswerStore:
    """All answers in `folder`/answers, of any model. `answered` contains the keys of those that did not fail."""

    def __init__(self, folder: Path, *, rank: int = 0) -> None:
        self.folder = folder / ANSWERS
        stamp = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%S%f")
        self._own = self.folder / f"{stamp}-{os.getpid()}-{rank}.jsonl"
        self._places: dict[str, tuple[Path, int]] = {}
        self.answered: set[str] = set()
        self.read_all()

    def read_all(self) -> None:
        """Read all files again, with what other processes have written since the last time."""
        self._places.clear()
        self.answered.clear()
        for path in sorted(self.folder.glob("*.jsonl")):
            for offset, row in _scan(path):
                key, failed = row["key"], row["prediction"] is None
                if failed and key in self.answered:
                    continue
                self._places[key] = path, offset  # the last one counts, because a failed record may have been retried
                if not failed:
                    self.answered.add(key)

    def append(self, rows: Sequence[KeptAnswer]) -> None:
        """Append `rows`, each with its "key", to the file of this process and flush them to disk together."""
        append_jsonl(self._own, [dict(row) for row in rows])
        self.answered.update(row["key"] for row in rows if row["prediction"] is not None)

    def get(self, key: str) -> KeptAnswer:
        """The answer with this key as of the last `read_all`; a failed one where there is none."""
        if key not in self._places:
            return NO_ANSWER
        path, offset = self._places[key]
        with path.open("rb") as file:
            file.seek(offset)
            row: KeptAnswer = json.loads(file.readline())
        return NO_ANSWER | row

    def set_aside(self) -> Path | None:
        """Rename the folder, so that every question is asked again.

        Returns:
            Its new path; None if there was no folder.
        """
        if not self.folder.exists():
            return None
        aside = set_aside_path(self.folder.parent, f"-{ANSWERS}")
        self.folder.replace(aside)
        self.read_all()
        return aside


def _scan(path: Path) -> Iterator[tuple[int, KeptAnswer]]:
    """Yield offset and content of each complete line; a damaged one is skipped with a warning."""
    offset = 0
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                return  # cut off by a kill, or another process is writing it
            try:
                row = json.loads(line)
                if not isinstance(row["key"], str) or not isinstance(row["prediction"], (str, NoneType)):
                    raise ValueError("no answer")
            except (ValueError, KeyError, TypeError):
                log.warning("%s: the line at byte %d is damaged; its question is answered again", path, offset)
            else:
                yield offset, cast("KeptAnswer", row)
            offset += len(line)
