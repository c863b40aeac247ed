"""The gallery of a page: its samples as page.js reads them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TypedDict

from vizsage.scoring.groups import question_word
from vizsage.scoring.rows import PredictionRow, accepted_answers

GALLERY_ROWS = 20_000  # so many samples on a page; of more it shows a part

RIGHT, WRONG, FAILED = "right", "wrong", "failed"

Reply = tuple[str | None, str]
"""A prediction and its outcome."""


class _Row(TypedDict):
    id: str | None
    image: int
    question: str | None
    answers: list[list[str | int]]
    prediction: str | None
    outcome: str
    cut: bool
    knowledge: bool
    description: int | None
    word: str | None
    tags: dict[str, str]
    error: str | None
    scores: dict[str, float]


class GalleryRow(_Row, total=False):
    """A sample with the prediction of the first run; `others` has those of the other ones, in the order of `runs`."""

    choices: list[str]
    others: list[Reply]


class Gallery(TypedDict):
    """Rows refer to images and descriptions by index. `runs`: what cards call the predictions, the first one's first.

    `compares`: the page is one of several runs, so the outcome of the first is not the main filter.
    """

    runs: list[str]
    compares: bool
    rows: list[GalleryRow]
    images: list[str | None]
    descriptions: list[str]


def gallery(
    rows: Iterable[PredictionRow],
    others: Iterable[Sequence[Reply]] | None = None,
    *,
    runs: Sequence[str] = ("predicted",),
    compares: bool = False,
) -> Gallery:
    """What page.js shows of `rows`.

    Args:
        rows: of the first run.
        others: the predictions of the other runs for each row.
        runs: what cards call the predictions, the first one's first.
        compares: whether the page is one of several runs.
    """
    images: dict[str | None, int] = {}
    descriptions: dict[str, int] = {}
    shown = []
    replies = iter(others) if others is not None else None
    for row in rows:
        text, choices = row.get("description"), row.get("choices")
        made: GalleryRow = {
            "id": row["sample_id"],
            "image": images.setdefault(row["image"], len(images)),
            "question": row["question"],
            "answers": [list(pair) for pair in Counter(accepted_answers(row)).items()],
            "prediction": row["prediction"],
            "outcome": outcome(row),
            "cut": row.get("finish_reason") == "length",
            "knowledge": bool(row["need_external_knowledge"]),
            "description": descriptions.setdefault(text, len(descriptions)) if text else None,
            "word": question_word(row["question"] or ""),
            "tags": {**(row.get("tags") or {})},
            "error": row.get("error"),
            "scores": {name: round(score, 3) for name, score in (row.get("scores") or {}).items()},
        }
        if choices:
            made["choices"] = list(choices)
        if replies is not None:
            made["others"] = list(next(replies))
        shown.append(made)
    return {
        "runs": list(runs),
        "compares": compares,
        "rows": shown,
        "images": list(images),
        "descriptions": list(descriptions),
    }


def outcome(row: PredictionRow) -> str:
    """right, wrong, or failed where there is no prediction."""
    return reply_outcome(row["prediction"], right=row["exact_match"])


def reply_outcome(prediction: str | None, *, right: bool) -> str:
    """The same of a prediction."""
    if prediction is None:
        return FAILED
    return RIGHT if right else WRONG
