"""The names and the arithmetic of the scores."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vizsage.scoring.registry import METRICS, score_row
from vizsage.scoring.statistics import INTERVAL_METHOD
from vizsage.scoring.summary import summarise

NOTHING = {
    "samples": 0,
    "images": 0,
    "exact_match_score": None,
    "exact_match_percentage": None,
    "exact_match_interval": None,
}


def row(prediction: str | None, answer: str, knowledge: bool = False, finish_reason: str = "stop") -> dict[str, Any]:
    return {
        "prediction": prediction,
        "answer": answer,
        "need_external_knowledge": knowledge,
        "finish_reason": finish_reason,
    }


def group(samples: int, images: int, score: float, interval: Any) -> dict[str, Any]:
    return {
        "samples": samples,
        "images": images,
        "exact_match_score": score,
        "exact_match_percentage": 100 * score,
        "exact_match_interval": interval,
    }


def test_names_and_counts() -> None:
    rows = [
        {**row("The cat", "cat"), "image": "a.png", "question": "what is it", "tags": {"school": "Dutch"}},
        {**row("dog", "cat"), "image": "a.png", "question": "is it a cat", "tags": {"school": "Dutch"}},
        {**row("Rubens", "rubens.", knowledge=True, finish_reason="length"), "image": "b.png", "question": "who"},
        {**row(None, "the", knowledge=True, finish_reason="failed"), "image": "b.png", "question": "who",
         "sample_id": "test-3", "error": "it broke", "tags": {"school": "French"}},
    ]  # fmt: skip
    summary = summarise(rows)
    interval = summary.pop("exact_match_interval")
    assert 0 < interval[0] < 0.5 < interval[1] < 1
    metrics = summary.pop("metrics")
    expected = {
        "exact_match": 0.5,
        "rigorous_match": 0,
        "token_f1": 0.5,
        "vqa_accuracy": 0.5,
        "anls": pytest.approx((0 + 0 + 6 / 7 + 0) / 4),
        "relaxed_accuracy": 0,
    }
    assert {name: metrics[name] for name in expected} == expected
    assert summary == {
        "total_samples": 4,
        "images": 2,
        "correct_predictions": 2,
        "incorrect_predictions": 2,
        "exact_match_score": 0.5,
        "exact_match_percentage": 50.0,
        "with_external_knowledge": group(2, 1, 0.5, None),
        "without_external_knowledge": group(2, 1, 0.5, None),
        "by_question_word": {"what": group(1, 1, 1.0, None), "who": group(2, 1, 0.5, None),
                             "yes/no": group(1, 1, 0.0, None)},
        "by_tag": {"school": {"Dutch": group(2, 1, 0.5, None), "French": group(1, 1, 0.0, None)}},
        "tags_not_grouped": [],
        "normalisation": {"emptied": {"samples": 1, "affected": 0}, "changed_numbers": {"samples": 0, "affected": 0},
                          "unicode_forms": {"samples": 0, "affected": 0}},
        "interval": {"confidence": 0.95, "method": INTERVAL_METHOD, "clusters": "image", "resamples": 2000, "seed": 0},
        "failed_predictions": 1,
        "truncated_predictions": 1,
        "failed": [{"sample_id": "test-3", "error": "it broke"}],
    }  # fmt: skip
    json.dumps(summary, allow_nan=False)


def test_an_empty_group_has_no_score() -> None:
    summary = summarise([row("cat", "cat")])
    assert summary["with_external_knowledge"] == NOTHING
    assert summary["without_external_knowledge"]["exact_match_score"] == 1.0
    empty = summarise([])
    assert (empty["total_samples"], empty["images"], empty["exact_match_score"]) == (0, 0, None)
    assert empty["without_external_knowledge"] == NOTHING
    assert set(empty["metrics"].values()) == {None}
    assert empty["by_question_word"] == empty["by_tag"] == {}


def test_a_row_says_only_what_it_must() -> None:
    summary = summarise([{"prediction": "cat", "answer": "cat"}, {"prediction": None, "answers": ["cat", "dog"]}])
    assert summary["without_external_knowledge"]["samples"] == 2
    assert summary["images"] == 2  # each its own
    assert summary["by_question_word"] == {}
    assert summary["failed"] == [{"sample_id": None, "error": None}]


def test_failed_records_score_zero_even_against_an_empty_answer() -> None:
    summary = summarise([row(None, "the"), row(None, ""), row("", "the")])
    assert (summary["correct_predictions"], summary["failed_predictions"]) == (1, 2)
    assert summary["metrics"]["anls"] == 0


def test_the_first_100_failures_are_listed() -> None:
    summary = summarise({**row(None, "cat"), "sample_id": str(i), "error": "no"} for i in range(250))
    assert summary["failed_predictions"] == 250
    assert [failure["sample_id"] for failure in summary["failed"]] == [str(i) for i in range(100)]


def test_rigorous_mode() -> None:
    rows = [row("The cat", "cat"), row("cat", "cat"), row("Cat", "cat")]
    assert summarise(rows, normalise=True)["correct_predictions"] == 3
    rigorous = summarise(rows, normalise=False)
    assert rigorous["correct_predictions"] == 1
    assert rigorous["metrics"]["exact_match"] == rigorous["metrics"]["rigorous_match"] == pytest.approx(1 / 3)


def test_scores_that_stand_in_a_row_are_computed_anew() -> None:
    stale = {**row("cat", "dog"), "exact_match": True, "scores": dict.fromkeys(METRICS, 1)}
    assert set(summarise([stale])["metrics"].values()) == {0}


def test_a_metric_that_scores_a_part_is_a_mean_over_that_part_and_tells_its_size() -> None:
    asked = {**row("(b)", "dog"), "choices": ["cat", "dog"]}
    rows = [asked, {**asked, "prediction": "cat"}, {**asked, "prediction": None}, {**asked, "answer": "cow"}]
    summary = summarise([*rows, row("cat", "cat")])
    assert summary["metrics"]["multiple_choice"] == pytest.approx(1 / 3)
    assert summary["scored_samples"] == {"multiple_choice": 3}  # "cow" is no option, so nothing is right there
    without = summarise([row("cat", "cat"), {**row("cat", "cat"), "choices": []}])
    assert "multiple_choice" not in without["metrics"]
    assert "scored_samples" not in without


def test_questions_on_one_image_widen_the_interval() -> None:
    """200 questions that are right or wrong by image contain less information than 200 independent ones."""
    answers = ["cat" if i // 10 % 2 else "dog" for i in range(200)]
    together = summarise({**row("cat", answer), "image": f"{i // 10}.png"} for i, answer in enumerate(answers))
    apart = summarise({**row("cat", answer), "image": f"{i}.png"} for i, answer in enumerate(answers))
    widths = [s["exact_match_interval"][1] - s["exact_match_interval"][0] for s in (together, apart)]
    assert (together["images"], apart["images"]) == (20, 200)
    assert widths[0] > 2 * widths[1]


def test_a_tag_of_many_values_is_named_and_not_grouped_by() -> None:
    rows = [{**row("cat", "cat"), "tags": {"title": f"t{i}", "school": f"s{i % 3}"}} for i in range(60)]
    summary = summarise(rows)
    assert summary["tags_not_grouped"] == ["title"]
    assert {value: part["samples"] for value, part in summary["by_tag"]["school"].items()} == dict.fromkeys(
        ("s0", "s1", "s2"), 20
    )


def test_the_largest_group_of_a_tag_comes_first() -> None:
    rows = [{**row("cat", "cat"), "tags": {"school": school}} for school in ["b", "a", "c", "c", "c", "b", "d"]]
    assert list(summarise(rows)["by_tag"]["school"]) == ["c", "b", "a", "d"]


def test_memory_does_not_grow_with_the_texts() -> None:
    def rows() -> Iterator[dict[str, Any]]:
        for i in range(3000):
            yield {
                **row("cat", "cat"),
                "image": f"{i % 50}.png",
                "question": "what " + f"{i}" * 5000,
                "raw_text": "x" * i,
            }

    tracemalloc.start()
    summarise(rows())
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 10_000_000  # the questions alone are over 50 MB


rows_strategy = st.lists(
    st.builds(
        lambda image, question, tags, **values: {**row(**values), "image": image, "question": question, "tags": tags},
        prediction=st.none() | st.sampled_from(["cat", "The cat", "dog", "2", ""]),
        answer=st.sampled_from(["cat", "dog", "the", "two"]),
        knowledge=st.booleans(),
        finish_reason=st.sampled_from(["stop", "length", "failed"]),
        image=st.sampled_from(["a.png", "b.png", "c.png"]),
        question=st.sampled_from(["what is it", "how many", "is it", "", "name it"]),
        tags=st.dictionaries(st.sampled_from(["school", "year"]), st.sampled_from(["x", "y"])),
    ),
    max_size=12,
)


@given(rows_strategy, st.booleans())
def test_groups_add_up(rows: list[dict[str, Any]], normalise: bool) -> None:
    summary = summarise(iter(rows), normalise=normalise)
    knowledge = [summary["with_external_knowledge"], summary["without_external_knowledge"]]
    for groups in (knowledge, list(summary["by_question_word"].values())):
        assert summary["total_samples"] == len(rows) == sum(part["samples"] for part in groups)
        correct = sum(part["samples"] * (part["exact_match_score"] or 0) for part in groups)
        assert round(correct) == summary["correct_predictions"]
    for tag, values in summary["by_tag"].items():
        assert sum(part["samples"] for part in values.values()) == sum(tag in each["tags"] for each in rows)
    assert summary["images"] == len({each["image"] for each in rows})
    assert summary["correct_predictions"] + summary["incorrect_predictions"] == summary["total_samples"]
    assert summary["failed_predictions"] <= summary["incorrect_predictions"]
    for part in (summary, *knowledge):
        if part["exact_match_interval"]:
            low, high = part["exact_match_interval"]
            assert 0 <= low <= part["exact_match_score"] <= high <= 1


@given(rows_strategy, st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(rows: list[dict[str, Any]], random: Any) -> None:
    shuffled = random.sample(rows, len(rows))
    one, other = summarise(rows), summarise(shuffled)
    del one["failed"], other["failed"]  # the first of them
    assert one == other


@given(rows_strategy)
def test_means_are_those_of_the_rows(rows: list[dict[str, Any]]) -> None:
    scored = [score_row(each) for each in rows]
    for name, mean in summarise(rows)["metrics"].items():
        values = [each["exact_match"] if name == "exact_match" else each["scores"][name] for each in scored]
        assert mean == (pytest.approx(sum(values) / len(values)) if rows else None)
