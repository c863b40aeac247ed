"""`vizsage score`: score a file of predictions again, also of another tool. Needs no model, settings or torch."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from vizsage.contract import RESULTS
from vizsage.contract.results_file import SCHEMA_VERSION, Conditions, Scores, read_conditions
from vizsage.data.field_names import missing_field
from vizsage.data.json_values import BrokenRecord, JsonError, json_lines, parse_line
from vizsage.data.record_fields import BadRecord, read_answers, read_switch, scalar_text, show_value
from vizsage.data.records import Problems
from vizsage.errors import DataError, one_line, quoted
from vizsage.evaluation.results import MAX_FAILED_SHARE, MAX_TRUNCATED_SHARE
from vizsage.scoring.caveats import caveat_warnings
from vizsage.scoring.normalisation import MODES
from vizsage.scoring.rows import PredictionRow
from vizsage.scoring.summary import summarise

log = logging.getLogger(__name__)

STDIN = Path("-")
_CONDITIONS = ("split", "limit", "adapter", "knowledge", "blind", "left_out", "missing_descriptions")


@dataclass(frozen=True)
class Rescored:
    """`scores`: the part of results.json that predictions decide; `conditions`: what is known besides."""

    scores: Scores
    conditions: Conditions


def score_file(path: Path, *, mode: str | None = None) -> Rescored:
    """Score the predictions in `path`, one JSON object per line; `-` is the standard input.

    A line has `prediction` (null: the record failed) and `answer`, `answers` or both; `image`, `question`, `choices`,
    `need_external_knowledge`, `tags`, `sample_id`, `finish_reason` and `error` are optional. For a file that `vizsage
    eval` wrote, the scores are exactly those in its results.json.

    More than 1% of failed records are a warning here, while they are an error of an evaluation: there, running the same
    command again may answer them.

    Args:
        path: the file, or `-`.
        mode: of exact match, a name of MODES; None: that of the results.json beside the file, else "squad".

    Raises:
        DataError: a line is not as described; the message names the first such lines.
    """
    name = "standard input" if path == STDIN else str(path)
    known = Conditions() if path == STDIN else _conditions_beside(path)
    if mode is None:
        mode = known.mode if known.mode is not None and known.mode in MODES else "squad"
    summary = summarise(read_rows(path, name), normalise=MODES[mode])
    scores = Scores.model_validate({"schema_version": SCHEMA_VERSION, **summary})
    total = scores.total_samples
    if scores.failed_predictions > MAX_FAILED_SHARE * total:
        log.warning("%s: %d of %d records failed; they score 0", name, scores.failed_predictions, total)
    if scores.truncated_predictions > MAX_TRUNCATED_SHARE * total:
        log.warning("%s: %d of %d answers were cut short", name, scores.truncated_predictions, total)
    for warning in caveat_warnings(scores, mode):
        log.warning("%s: %s", name, warning)
    told = {key: getattr(known, key) for key in _CONDITIONS if known.has(key)}
    return Rescored(scores, Conditions.model_validate({"split": name, **told, "mode": mode}))


def read_rows(path: Path, name: str) -> Iterator[PredictionRow]:
    """The rows of a file, in order, with what scoring needs of each.

    Warns of lines without sample_id that repeat image and question, because each of them is scored.

    Args:
        path: the file, or `-`.
        name: what messages call it.

    Raises:
        DataError: after the last line, if a line was bad or there was none.
    """
    problems, first_lines, repeats = Problems("line"), dict[str, int](), _Repeats()
    empty, rows, no_json = True, 0, False
    with _opened(path, name) as file:
        for number, line in json_lines(file):
            empty = False
            try:
                row = _row(line, number)
                sample_id = row["sample_id"]
                if sample_id is not None and first_lines.setdefault(sample_id, number) != number:
                    raise BadRecord(
                        f"line {number}: sample_id {quoted(sample_id)} is already that of line {first_lines[sample_id]}"
                    )
            except BadRecord as error:
                no_json = no_json or (not problems.count and not rows and isinstance(error, _NoJson))
                problems.add(str(error))
                continue
            rows += 1
            repeats.add(row, number)
            yield row
    if no_json and not rows and problems.count > 1:  # another kind of file, such as run.json
        raise DataError(
            f"{name}: no file of JSON lines: expected one JSON object per line, and none of {problems.count:,} lines "
            f"is one; the first: {problems.first[0]}"
        )
    problems.raise_if_any(name)
    if repeats.count:
        log.warning(
            "%s: %d lines without sample_id repeat image and question of an earlier line (the first: %s); each is "
            "scored as a sample. Remove repeated lines, or give each line a sample_id",
            name,
            repeats.count,
            repeats.first,
        )
    if empty:
        raise DataError(f"{name}: contains no predictions; expected one JSON object per line")


class _NoJson(BadRecord):
    """A line that is no JSON."""


class _Repeats:
    """Finds lines without sample_id that repeat image and question of an earlier one; some 100 bytes per line."""

    def __init__(self) -> None:
        self.count = 0
        self.first = ""
        self._lines: dict[int, int] = {}

    def add(self, row: PredictionRow, number: int) -> None:
        """Count the line `number` if it repeats an earlier one."""
        if row["sample_id"] is not None or row["image"] is None or row["question"] is None:
            return
        earlier = self._lines.setdefault(hash((row["image"], row["question"])), number)
        if earlier != number:
            self.count += 1
            self.first = self.first or f"line {number}, as line {earlier}"


@contextmanager
def _opened(path: Path, name: str) -> Iterator[BinaryIO]:
    try:
        if path == STDIN:
            yield sys.stdin.buffer
        else:
            with path.open("rb") as file:
                yield file
    except OSError as error:
        raise DataError(f"{name}: cannot be read: {error.strerror}") from None
    except JsonError as error:
        raise DataError(f"{name}: {error}") from None


def _row(line: bytes, number: int) -> PredictionRow:
    """What scoring needs of a line. Raises BadRecord that names the line."""
    raw = parse_line(line, number)
    if isinstance(raw, BrokenRecord):
        raise _NoJson(raw.reason)
    try:
        if not isinstance(raw, dict):
            raise BadRecord(f"expected an object, found {show_value(raw)}")
        _refuse_half_pairs(line, raw)
        answer, answers = read_answers(raw)
        row: PredictionRow = {
            "sample_id": scalar_text(raw.get("sample_id")),
            "image": _optional_text(raw, "image"),
            "question": _optional_text(raw, "question"),
            "answer": answer,
            "answers": answers,
            "need_external_knowledge": read_switch(raw),
            "tags": _tags(raw),
            "prediction": _prediction(raw),
            "finish_reason": _optional_text(raw, "finish_reason"),
            "error": _optional_text(raw, "error"),
        }
        if choices := _choices(raw):
            row["choices"] = choices
        return row
    except BadRecord as error:
        raise BadRecord(f"line {number}: {error}") from None


def _prediction(raw: dict[str, Any]) -> str | None:
    """The prediction, stripped as the answers are."""
    if "prediction" not in raw:
        raise BadRecord(f"{missing_field('prediction', raw)}; write a text, or null where the record failed")
    value = raw["prediction"]
    text = None if isinstance(value, bool) else scalar_text(value)
    if text is None and value is not None:
        raise BadRecord(f"prediction is {show_value(value)}; write a text, or null where the record failed")
    return text if text is None else text.strip()


def _optional_text(raw: dict[str, Any], field: str) -> str | None:
    value = raw.get(field)
    if value is not None and not isinstance(value, str):
        raise BadRecord(f"{field} is {show_value(value)}; write a text or leave it out")
    return value or None


def _tags(raw: dict[str, Any]) -> dict[str, str]:
    tags = raw.get("tags") or {}
    if not isinstance(tags, dict):
        raise BadRecord(f"tags is {show_value(tags)}; write an object of texts or leave it out")
    texts = {tag: scalar_text(value) for tag, value in tags.items()}
    return {tag: text for tag, text in texts.items() if text is not None}


def _choices(raw: dict[str, Any]) -> tuple[str, ...]:
    """The options of a multiple-choice question; empty for any other question."""
    choices = raw.get("choices")
    if choices is None:
        return ()
    texts = [scalar_text(choice) for choice in choices] if isinstance(choices, list) else [None]
    if None in texts:
        raise BadRecord(f"choices is {show_value(choices)}; write a list of texts or leave it out")
    return tuple(text for text in texts if text is not None)


def _refuse_half_pairs(line: bytes, raw: dict[str, Any]) -> None:
    """Raise BadRecord for half of a surrogate pair, which JSON can spell and UTF-8 cannot encode."""
    if b"\\ud" in line.lower():
        try:
            json.dumps(raw, ensure_ascii=False, default=str).encode()
        except UnicodeEncodeError:
            raise BadRecord("no valid Unicode: it contains half of a surrogate pair") from None


def _conditions_beside(path: Path) -> Conditions:
    """Those in the results.json of the evaluation that wrote `path`; nothing is known where there is no such file."""
    try:
        return read_conditions(path.parent)
    except FileNotFoundError:
        return Conditions()
    except (OSError, ValueError) as error:
        results = path.parent / RESULTS
        log.warning("%s: cannot be read (%s); exact match is computed as without it", results, one_line(error))
        return Conditions()
