"""The scores of a set of answered questions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from vizsage.scoring.metrics import accepted_answers, exact_match


@dataclass(slots=True)
class _Tally:
    samples: int = 0
    correct: int = 0

    def add(self, correct: bool) -> None:
        self.samples += 1
        self.correct += correct

    @property
    def score(self) -> float | None:
        """Share of correct answers, 0 to 1; None without samples."""
        return self.correct / self.samples if self.samples else None

    @property
    def percentage(self) -> float | None:
        return 100 * self.correct / self.samples if self.samples else None

    def as_group(self) -> dict[str, Any]:
        return {
            "samples": self.samples,
            "exact_match_score": self.score,
            "exact_match_percentage": self.percentage,
        }


def summarise(rows: Iterable[Mapping[str, Any]], *, normalise: bool = True) -> dict[str, Any]:
    """Exact match over all rows, and over those with and without external knowledge.

    Reads the rows once and keeps none, so an iterator over a long file is fine.

    Args:
        rows: mappings with `prediction` (text, or None where the record failed), `answer`, `need_external_knowledge`
            and, if known, `finish_reason` ("length" where the answer was cut at max_new_tokens).
        normalise: SQuAD normalisation first; False: character by character.

    Returns:
        The names of results.json. A failed record counts as incorrect; a group without samples has null scores.
    """
    overall, with_knowledge, without_knowledge = _Tally(), _Tally(), _Tally()
    failed = truncated = 0
    for row in rows:
        correct = exact_match(row["prediction"], accepted_answers(row), normalise=normalise)
        overall.add(correct)
        (with_knowledge if row["need_external_knowledge"] else without_knowledge).add(correct)
        failed += row["prediction"] is None
        truncated += row.get("finish_reason") == "length"
    return {
        "total_samples": overall.samples,
        "correct_predictions": overall.correct,
        "incorrect_predictions": overall.samples - overall.correct,
        "exact_match_score": overall.score,
        "exact_match_percentage": overall.percentage,
        "with_external_knowledge": with_knowledge.as_group(),
        "without_external_knowledge": without_knowledge.as_group(),
        "failed_predictions": failed,
        "truncated_predictions": truncated,
    }
