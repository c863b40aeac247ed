"""The names and the arithmetic of the scores."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from vizsage.scoring.summary import summarise


def row(prediction: str | None, answer: str, knowledge: bool = False, finish_reason: str = "stop") -> dict[str, Any]:
    return {
        "prediction": prediction,
        "answer": answer,
        "need_external_knowledge": knowledge,
        "finish_reason": finish_reason,
    }


def test_names_and_counts() -> None:
    summary = summarise(
        [
            row("The cat", "cat"),
            row("dog", "cat"),
            row("Rubens", "rubens.", knowledge=True, finish_reason="length"),
            row(None, "the", knowledge=True, finish_reason="failed"),
        ]
    )
    assert summary == {
        "total_samples": 4,
        "correct_predictions": 2,
        "incorrect_predictions": 2,
        "exact_match_score": 0.5,
        "exact_match_percentage": 50.0,
        "with_external_knowledge": {"samples": 2, "exact_match_score": 0.5, "exact_match_percentage": 50.0},
        "without_external_knowledge": {"samples": 2, "exact_match_score": 0.5, "exact_match_percentage": 50.0},
        "failed_predictions": 1,
        "truncated_predictions": 1,
    }


def test_an_empty_group_has_no_score() -> None:
    nothing = {"samples": 0, "exact_match_score": None, "exact_match_percentage": None}
    summary = summarise([row("cat", "cat")])
    assert summary["with_external_knowledge"] == nothing
    assert summary["without_external_knowledge"]["exact_match_score"] == 1.0
    empty = summarise([])
    assert empty["total_samples"] == 0
    assert empty["exact_match_score"] is None
    assert empty["without_external_knowledge"] == nothing


def test_failed_records_score_zero_even_against_an_empty_answer() -> None:
    summary = summarise([row(None, "the"), row(None, ""), row("", "the")])
    assert (summary["correct_predictions"], summary["failed_predictions"]) == (1, 2)


def test_rigorous_mode() -> None:
    rows = [row("The cat", "cat"), row("cat", "cat"), row("Cat", "cat")]
    assert summarise(rows, normalise=True)["correct_predictions"] == 3
    assert summarise(rows, normalise=False)["correct_predictions"] == 1


rows_strategy = st.lists(
    st.builds(
        row,
        st.none() | st.sampled_from(["cat", "The cat", "dog", ""]),
        st.sampled_from(["cat", "dog", "the"]),
        st.booleans(),
        st.sampled_from(["stop", "length", "failed"]),
    )
)


@given(rows_strategy, st.booleans())
def test_groups_add_up(rows: list[dict[str, Any]], normalise: bool) -> None:
    summary = summarise(iter(rows), normalise=normalise)
    groups = [summary["with_external_knowledge"], summary["without_external_knowledge"]]
    assert summary["total_samples"] == len(rows) == sum(group["samples"] for group in groups)
    assert summary["correct_predictions"] + summary["incorrect_predictions"] == summary["total_samples"]
    assert summary["failed_predictions"] <= summary["incorrect_predictions"]
    correct = sum(group["samples"] * (group["exact_match_score"] or 0) for group in groups)
    assert round(correct) == summary["correct_predictions"]
    assert summary == summarise(reversed(rows), normalise=normalise)
