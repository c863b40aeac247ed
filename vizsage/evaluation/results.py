"""What is computed of the rows of an evaluation in one pass: scores, hashes of the data, speed and rows to show."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from vizsage.contract.results_file import Scores
from vizsage.scoring.normalisation import Normalise
from vizsage.scoring.rows import PredictionRow, accepted_answers
from vizsage.scoring.summary import summarise

MAX_FAILED_SHARE = 0.01  # with more failed records the evaluation itself is an error
MAX_TRUNCATED_SHARE = 0.01  # with more cut answers the score depends on max_new_tokens as much as on the model

PREVIEWED, COMPARED, LISTED = 8, 5, 20


@dataclass
class Highlights:
    """Rows to show. `previewed` are spread evenly over the split, the others are the first of their kind in it."""

    previewed: list[PredictionRow] = field(default_factory=list)
    compared: list[PredictionRow] = field(default_factory=list)
    wrong: list[PredictionRow] = field(default_factory=list)
    failed: list[PredictionRow] = field(default_factory=list)

    def watch(self, rows: Iterable[PredictionRow], total: int) -> Iterator[PredictionRow]:
        """Yield the `total` rows and keep those to show; memory does not grow with their number."""
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
    """SHA-256 of what was asked and expected: sample ids, images, questions, answers and choices, in their order.

    Descriptions have a separate digest, and a blind evaluation has the digest of the images that it withheld, so
    that runs with other knowledge and blind runs have the same digest as the run that they are compared with.
    """

    _digest: Any = field(default_factory=hashlib.sha256)
    _descriptions: Any = field(default_factory=hashlib.sha256)

    def watch(self, rows: Iterable[PredictionRow]) -> Iterator[PredictionRow]:
        """Yield the rows and add each to the digests."""
        for row in rows:
            image = row["image"], row.get("image_sha256")
            asked = row["question"], list(accepted_answers(row)), row["need_external_knowledge"]
            line = [row["sample_id"], *image, *asked]
            if choices := row.get("choices"):  # nothing is added without them: earlier results keep their digest
                line.append(list(choices))
            self._digest.update(json.dumps(line).encode() + b"\n")
            self._descriptions.update(json.dumps(row.get("description")).encode() + b"\n")
            yield row

    def as_dict(self) -> dict[str, str]:
        """The hashes of the rows so far, under their names in results.json."""
        return {"sha256": self._digest.hexdigest(), "descriptions_sha256": self._descriptions.hexdigest()}


@dataclass
class Throughput:
    """How many answers were generated and how long that took, over all attempts, from the rows' "seconds"."""

    answers: int = 0
    process_s: float = 0.0

    def watch(self, rows: Iterable[PredictionRow]) -> Iterator[PredictionRow]:
        """Yield the rows without their "seconds", which are counted."""
        for row in rows:
            seconds = row.pop("seconds")
            self.answers += seconds > 0
            self.process_s += seconds
            yield row

    def as_dict(self) -> dict[str, Any]:
        """For results.json. Several processes work at the same time, each at this speed."""
        speed = self.answers / self.process_s if self.process_s else None
        return {"answers": self.answers, "process_s": self.process_s, "answers_per_process_s": speed}


def score(
    rows: Iterable[PredictionRow], total: int, *, normalise: Normalise
) -> tuple[dict[str, Any], Highlights, dict[str, str]]:
    """Read the rows once.

    Returns:
        The scores under the names of results.json, the rows to show, and the hashes of the data.
    """
    highlights, digest = Highlights(), DataDigest()
    summary = summarise(digest.watch(highlights.watch(rows, total)), normalise=normalise)
    return summary, highlights, digest.as_dict()


def complaints(scores: Scores, max_new_tokens: int) -> tuple[str | None, str | None]:
    """An error if too many records failed, and a warning if too many answers were cut; None where not."""
    total, failed, cut = scores.total_samples, scores.failed_predictions, scores.truncated_predictions
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
