"""A row of predictions.jsonl, and which of its answers count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

Scorable = Mapping[str, Any]
"""Any mapping with `prediction` (None: the record failed) and `answer`, `answers` or both."""


class PredictionRow(TypedDict, total=False):
    """One sample of an evaluation: what was asked, what is accepted, what the model said and what that scores."""

    sample_id: str | None
    image: str | None
    image_sha256: str
    question: str | None
    answer: str
    answers: Sequence[str]
    choices: Sequence[str]
    """Options of a multiple-choice question in the order of their letters; only where the sample has them."""
    need_external_knowledge: bool
    description: str | None
    tags: Mapping[str, str]
    prediction: str | None
    exact_match: bool
    scores: Mapping[str, float]
    raw_text: str | None
    token_ids: list[int]
    finish_reason: str | None
    error: str | None
    key: str
    seconds: float
    """Time that the answer took; not in the file."""


def accepted_answers(row: Scorable) -> Sequence[str]:
    """All accepted answers of a row: "answers" and, where it is not among them, "answer"."""
    answers, alone = row.get("answers"), row.get("answer")
    if not answers:
        return (row["answer"],)
    return answers if alone is None or alone in answers else (*answers, alone)


def listed_answers(row: Scorable) -> Sequence[str]:
    """`answers` alone where there are any: what annotators said, each one a vote."""
    return row.get("answers") or accepted_answers(row)


def learned_answer(row: Scorable) -> Sequence[str]:
    """`answer` alone where there is one, because annotators' `answers` may name options that are not right."""
    alone = row.get("answer")
    return accepted_answers(row) if alone is None else (alone,)
