"""predictions.jsonl: answers kept as they come, and found again by what the model was shown.

`evaluation.json` beside it says what made the answers (adapter, base model, prompt, generation settings). Answers made
by something else are set aside in a folder of their own, never deleted and never mixed in. Within one maker an answer
is known by its sample and by a hash of picture, question and description, so that a changed record or a replaced
picture is answered again and nothing else is.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vizsage.data.sample import ImageRef, Sample
from vizsage.errors import DataError
from vizsage.files import append_jsonl, fsync_dir, write_json
from vizsage.scoring.metrics import score_row

log = logging.getLogger(__name__)

PREDICTIONS, UNUSED, STATE = "predictions.jsonl", "predictions_unused.jsonl", "evaluation.json"

Row = dict[str, Any]
Key = tuple[str, str]  # sample_id, input_sha256
_NO_ANSWER: Row = {
    "prediction": None,
    "raw_text": None,
    "token_ids": [],
    "finish_reason": "failed",
    "error": "the backend gave no answer",
}


class InputHash:
    """SHA-256 of what the model is shown for a sample: picture, question and description.

    Reads each picture once and remembers its hash, 64 characters an image.
    """

    def __init__(self) -> None:
        self._images: dict[ImageRef, str] = {}  # not by name: two embedded pictures may have the same

    def of_image(self, image: ImageRef) -> str:
        """That of the picture alone; "unreadable" for one that cannot be had."""
        if image not in self._images:
            try:
                self._images[image] = hashlib.sha256(image.read()).hexdigest()
            except DataError:
                self._images[image] = "unreadable"
        return self._images[image]

    def __call__(self, sample: Sample) -> str:
        shown = [self.of_image(sample.image), sample.question, sample.description]
        return hashlib.sha256(json.dumps(shown).encode()).hexdigest()


class Predictions:
    """The answers in `folder` that `made_by` made; those of any other maker are set aside first.

    `answered` holds the keys of answers that need not be made again; failed records are not among them.
    """

    def __init__(self, folder: Path, made_by: dict[str, Any], *, normalise: bool, fresh: bool = False) -> None:
        self.folder, self.path, self._unused = folder, folder / PREDICTIONS, folder / UNUSED
        self._made_by, self._normalise = made_by, normalise
        self._input_hash = InputHash()
        self._answers, self._wall_s = 0, 0.0
        folder.mkdir(parents=True, exist_ok=True)
        if self.path.exists() or self._unused.exists():
            state = _read_state(folder / STATE)
            reason = "a fresh start was asked for" if fresh else _difference(state.get("made_by"), made_by)
            if reason:
                log.warning("%s: earlier answers are set aside in %s: %s", folder, _set_aside(folder).name, reason)
            else:
                self._answers, self._wall_s = state["answers"], state["wall_s"]
        self._write_state()
        self.answered: set[Key] = {
            _key(row) for file in (self.path, self._unused) for _, row in _scan(file) if row["prediction"] is not None
        }
        self._answered_ids = {sample_id for sample_id, _ in self.answered}

    def has(self, sample: Sample) -> bool:
        """Whether `sample`, with the picture, question and description of now, was answered before."""
        return sample.sample_id in self._answered_ids and self._key_of(sample) in self.answered

    def append(self, answers: Iterable[tuple[Sample, Row]]) -> None:
        """Add a line for each at the end and flush them to disk together."""
        rows = [self._row(sample, answer) for sample, answer in answers]
        append_jsonl(self.path, rows)
        self._answers += len(rows)
        for row in rows:
            if row["prediction"] is not None:
                self.answered.add(_key(row))
                self._answered_ids.add(row["sample_id"])

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Count the time of this block as spent on answering, whatever ends it."""
        start_s = time.monotonic()
        try:
            yield
        finally:
            self._wall_s += time.monotonic() - start_s
            self._write_state()

    def throughput(self) -> dict[str, Any]:
        """Answers made and time spent, over all starts that ended other than by SIGKILL."""
        rate = self._answers / self._wall_s if self._answers else None
        return {"answers": self._answers, "wall_s": self._wall_s, "answers_per_s": rate}

    def finish(self, samples: Iterable[Sample]) -> Iterator[Row]:
        """Rewrite the file to one line for each of `samples`, in their order; yields the rows.

        A sample that nothing is known of becomes a failed record. Answers to anything else (a smaller limit was given,
        a picture was replaced) move to predictions_unused.jsonl, where a later start finds them. The files are
        replaced when the last row has been taken.
        """
        lines: dict[Key, tuple[Path, int]] = {}
        for file in (self._unused, self.path):
            for offset, row in _scan(file):
                lines[_key(row)] = (file, offset)  # the last one counts: a failed record may have been retried
        used: set[Key] = set()
        with _replacing(self.path) as write:
            for sample in samples:
                key = self._key_of(sample)
                row = self._row(sample, _read_line(*lines[key]) if key in lines else _NO_ANSWER)
                used.add(key)
                write(row)
                yield row
            with _replacing(self._unused) as write_unused:
                for key, place in lines.items():
                    if key in self.answered and key not in used:
                        write_unused(_read_line(*place))

    def _key_of(self, sample: Sample) -> Key:
        return sample.sample_id, self._input_hash(sample)

    def _row(self, sample: Sample, answer: Row) -> Row:
        """A line: the sample as it is now, what `answer` says of the prediction, and the score."""
        sample_id, input_sha256 = self._key_of(sample)
        scored = {"prediction": answer["prediction"], "answers": list(sample.answers)}
        return {
            "sample_id": sample_id,
            "image": sample.image.name,
            "image_sha256": self._input_hash.of_image(sample.image),
            "question": sample.question,
            "answer": sample.answer,
            "answers": scored["answers"],
            "need_external_knowledge": sample.need_external_knowledge,
            "description": sample.description,
            "tags": dict(sample.tags),
            "prediction": scored["prediction"],
            **score_row(scored, normalise=self._normalise),
            **{name: answer[name] for name in ("raw_text", "token_ids", "finish_reason", "error")},
            "input_sha256": input_sha256,
        }

    def _write_state(self) -> None:
        state = {"made_by": self._made_by, "answers": self._answers, "wall_s": self._wall_s}
        write_json(self.folder / STATE, state)


@contextmanager
def _replacing(path: Path) -> Iterator[Callable[[Row], object]]:
    """Gives a function that writes a line; `path` is replaced, whole, when the block ends without an error.

    Without a line there is no file afterwards.
    """
    aside = path.with_name(f".{path.name}.tmp")
    try:
        with aside.open("wb") as file:
            yield lambda row: file.write(json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        if aside.stat().st_size:
            os.replace(aside, path)
        else:
            path.unlink(missing_ok=True)
    finally:
        aside.unlink(missing_ok=True)
    fsync_dir(path.parent)


def _key(row: Row) -> Key:
    return row["sample_id"], row["input_sha256"]


def _scan(path: Path) -> Iterator[tuple[int, Row]]:
    """Yield offset and content of each whole line; a damaged one is passed over."""
    if not path.exists():
        return
    offset = 0
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                return  # torn by a kill; append_jsonl cuts it off
            try:
                row = json.loads(line)
                _ = _key(row), row["prediction"]
            except (ValueError, KeyError, TypeError):
                log.warning("%s: the line at byte %d is damaged; its question is answered again", path, offset)
            else:
                yield offset, row
            offset += len(line)


def _read_line(path: Path, offset: int) -> Row:
    with path.open("rb") as file:
        file.seek(offset)
        row: Row = json.loads(file.readline())
    return row


def _read_state(path: Path) -> dict[str, Any]:
    """The content of evaluation.json; empty when it is missing or damaged."""
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        return {key: state[key] for key in ("made_by", "answers", "wall_s")}
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return {}


def _difference(before: dict[str, Any] | None, made_by: dict[str, Any]) -> str | None:
    """What made the earlier answers otherwise, in words; None if nothing did."""
    if before is None:
        return f"{STATE}, which says what made them, is missing or damaged"
    keys = sorted(key for key in before.keys() | made_by.keys() if before.get(key) != made_by.get(key))
    return f"they were made with another {', '.join(keys)}" if keys else None


def _set_aside(folder: Path) -> Path:
    """Move every file of `folder` into a new folder inside it, named by the time."""
    stamp = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    aside, number = folder / f"earlier-{stamp}", 1
    while aside.exists():
        number += 1
        aside = folder / f"earlier-{stamp}-{number}"
    aside.mkdir()
    for file in sorted(folder.iterdir()):
        if file.is_file():
            os.replace(file, aside / file.name)
    fsync_dir(folder)
    return aside
