"""From answered questions to results.json, and the few rows that are worth a look."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from vizsage.evaluation.answers import Row
from vizsage.scoring.normalisation import Normalise
from vizsage.scoring.registry import accepted_answers
from vizsage.scoring.summary import summarise

SCHEMA_VERSION = 3
READABLE_VERSIONS = (2, SCHEMA_VERSION)
"""Before 3, VQA accuracy and ANLS took an `answer` that `answers` did not hold for one more annotator's."""
MAX_FAILED_SHARE = 0.01  # more than this and the evaluation itself has failed
MAX_TRUNCATED_SHARE = 0.01  # more than this and the score says as much about max_new_tokens as about the model

PREVIEWED, COMPARED, LISTED = 8, 5, 20


@dataclass
class Highlights:
    """Rows to show. `previewed` are spread evenly over the split, the others are the first of their kind."""

    previewed: list[Row] = field(default_factory=list)
    compared: list[Row] = field(default_factory=list)
    wrong: list[Row] = field(default_factory=list)
    failed: list[Row] = field(default_factory=list)

    def watch(self, rows: Iterable[Row], total: int) -> Iterator[Row]:
        """Pass `total` rows through and keep those to show; memory does not grow with their number."""
        preview_at = {total * i // PREVIEWED for i in range(PREVIEWED)}
        for index, row in enumerate(rows):
            if index in preview_at:
                self.previewed.append(row)
            if index < COMPARED:
                self.compared.append(row)
            kind = self.failed if row["prediction"] is None else self.wrong
            if not row["exact_match"] and len(kind) < LISTED:
                kind.append(row)
            yield row


@dataclass
class DataDigest:
    """SHA-256 over what was asked and expected: sample ids, images, questions and answers, in order.

    Neither over descriptions, which have a digest of their own, nor over what was withheld, so that runs with other
    knowledge, or blind, share it.
    """

    _digest: Any = field(default_factory=hashlib.sha256)
    _descriptions: Any = field(default_factory=hashlib.sha256)

    def watch(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Pass rows through and take them in."""
        for row in rows:
            image = row["image"], row.get("image_sha256")
            asked = row["question"], list(accepted_answers(row)), row["need_external_knowledge"]
            line = [row["sample_id"], *image, *asked]
            self._digest.update(json.dumps(line).encode() + b"\n")
            self._descriptions.update(json.dumps(row.get("description")).encode() + b"\n")
            yield row

    def as_dict(self) -> dict[str, str]:
        """The hashes of the rows that passed, for results.json."""
        return {"sha256": self._digest.hexdigest(), "descriptions_sha256": self._descriptions.hexdigest()}


@dataclass
class Throughput:
    """How many answers were generated and how long that took, over all starts, from the rows' "seconds"."""

    answers: int = 0
    process_s: float = 0.0

    def watch(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Pass rows through and count them; their "seconds" are taken out."""
        for row in rows:
            seconds = row.pop("seconds")
            self.answers += seconds > 0
            self.process_s += seconds
            yield row

    def as_dict(self) -> dict[str, Any]:
        """For results.json; several processes work at the same time, each at this speed."""
        speed = self.answers / self.process_s if self.process_s else None
        return {"answers": self.answers, "process_s": self.process_s, "answers_per_process_s": speed}


def score(
    rows: Iterable[Row], total: int, *, normalise: Normalise
) -> tuple[dict[str, Any], Highlights, dict[str, str]]:
    """Reads the rows once: the summary with the names of results.json, the rows to show, the hashes of the data."""
    highlights, digest = Highlights(), DataDigest()
    summary = summarise(digest.watch(highlights.watch(rows, total)), normalise=normalise)
    return summary, highlights, digest.as_dict()


def complaints(summary: dict[str, Any], max_new_tokens: int) -> tuple[str | None, str | None]:
    """An error if too many records failed and a warning if too many answers were cut, None each if not."""
    total, failed, cut = (summary[key] for key in ("total_samples", "failed_predictions", "truncated_predictions"))
    error = warning = None
    if failed > MAX_FAILED_SHARE * total:
        error = (
            f"{failed} of {total} records failed, more than {MAX_FAILED_SHARE:.0%}; they score 0 and are listed with "
            "their reasons in predictions.jsonl; run the same command again to retry them"
        )
    if cut > MAX_TRUNCATED_SHARE * total:
        warning = (
            f"{cut} of {total} answers were cut at max_new_tokens: {max_new_tokens}; raise it if answers are longer"
        )
    return error, warning
