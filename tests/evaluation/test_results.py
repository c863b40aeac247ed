"""What is picked out of the rows, and what an evaluation complains about."""

from __future__ import annotations

from typing import Any

import pytest

from vizsage.contract.results_file import Scores
from vizsage.evaluation.results import complaints, score


def row(index: int, prediction: str | None = "yes", answer: str = "yes") -> dict[str, Any]:
    return {
        "sample_id": f"test-{index}",
        "image": f"{index // 2}.png",
        "image_sha256": "00",
        "question": "what",
        "prediction": prediction,
        "answer": answer,
        "exact_match": prediction == answer,
        "need_external_knowledge": False,
        "finish_reason": "stop",
    }


@pytest.mark.parametrize("total", [1, 3, 8, 9, 1000])
def test_previews_are_spread_over_the_whole_split(total: int) -> None:
    _, highlights, _ = score((row(i) for i in range(total)), total, normalise=True)
    shown = [int(r["sample_id"].removeprefix("test-")) for r in highlights.previewed]
    assert len(shown) == min(total, 8)
    assert shown == sorted(set(shown))
    assert shown[0] == 0
    assert total < 8 or shown[-1] >= total * 3 // 4
    assert [r["sample_id"] for r in highlights.compared] == [f"test-{i}" for i in range(min(total, 5))]


def test_errors_are_the_first_20_of_each_kind() -> None:
    rows = [row(i, None if i % 3 == 0 else "no" if i % 3 == 1 else "yes") for i in range(300)]
    summary, highlights, _ = score(rows, 300, normalise=True)
    assert (summary["failed_predictions"], summary["correct_predictions"]) == (100, 100)
    assert [r["sample_id"] for r in highlights.failed] == [f"test-{i}" for i in range(0, 60, 3)]
    assert [r["sample_id"] for r in highlights.wrong] == [f"test-{i}" for i in range(1, 60, 3)]


def test_the_hash_of_the_data_knows_order_questions_and_answers_but_no_predictions() -> None:
    def data(rows: list[dict[str, Any]]) -> str:
        return score(rows, len(rows), normalise=True)[2]["sha256"]

    same = data([row(0), row(1)])
    assert data([row(0, "no"), row(1, None)]) == same
    assert data([row(0), {**row(1), "description": "A long story."}]) == same  # shown to one model, and not to another
    others = [[row(1), row(0)], [row(0)], [row(0), row(1, answer="no")], [row(0), {**row(1), "image_sha256": "01"}]]
    others += [[row(0), {**row(1), **change}] for change in ({"question": "who"}, {"answers": ["yes", "no"]})]
    assert len({same, *map(data, others)}) == 7


@pytest.mark.parametrize(("failed", "error"), [(0, False), (1, False), (2, True)])
def test_complaints(failed: int, error: bool) -> None:
    scores = Scores.model_construct(total_samples=100, failed_predictions=failed, truncated_predictions=failed)
    found = complaints(scores, 64)
    assert [text is not None for text in found] == [error, error]
