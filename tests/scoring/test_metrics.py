"""Metrics: the numbers of the official scripts on fixed examples, and what must hold for all texts."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from vizsage.scoring.metrics import (
    anls,
    contains_answer,
    exact_match,
    relaxed_accuracy,
    rigorous_match,
    token_f1,
    vqa_accuracy,
)
from vizsage.scoring.normalisation import normalise_squad, normalise_vqa
from vizsage.scoring.registry import METRICS, accepted_answers, score_row

AQUA = Path(__file__).parents[2].parent / "shared" / "data" / "aqua" / "val.json"

Metric = Callable[[str | None, Sequence[str]], float]
ALL: dict[str, Metric] = {name: metric.function for name, metric in METRICS.items() if not metric.needs}
BEST_OF: dict[str, Metric] = {name: metric for name, metric in ALL.items() if name != "vqa_accuracy"}

texts = st.text() | st.sampled_from(
    ["the", "The cat", "cat", "two", "2", "5%", "0.05", "1e3", "nan", "inf", "", ".", "-0"]
)


def finite(text: str) -> bool:
    """Whether Python reads it neither as nan nor as infinity."""
    try:
        return math.isfinite(float(text.strip().rstrip("%")))
    except ValueError:
        return True


answer_lists = st.lists(texts, min_size=1, max_size=12)
metrics = pytest.mark.parametrize("metric", ALL.values(), ids=ALL)


# properties


@metrics
@given(prediction=st.none() | texts, answers=answer_lists)
def test_every_score_lies_between_0_and_1(metric: Metric, prediction: str | None, answers: list[str]) -> None:
    assert 0 <= metric(prediction, answers) <= 1


@metrics
@given(answers=answer_lists)
def test_a_failed_record_scores_0(metric: Metric, answers: list[str]) -> None:
    assert metric(None, answers) == 0


@metrics
@given(text=texts, count=st.integers(1, 12))
def test_the_answer_itself_scores_1_however_often_it_was_given(metric: Metric, text: str, count: int) -> None:
    assume(metric is not relaxed_accuracy or finite(text))
    assume(metric is not contains_answer or normalise_squad(text))
    assert metric(text, [text] * count) == 1


@metrics
@given(prediction=texts, answers=answer_lists, seed=st.randoms())
def test_the_order_of_answers_does_not_matter(metric: Metric, prediction: str, answers: list[str], seed: Any) -> None:
    assert metric(prediction, answers) == metric(prediction, seed.sample(answers, len(answers)))


@pytest.mark.parametrize("metric", BEST_OF.values(), ids=BEST_OF)
@given(prediction=texts, answers=answer_lists, more=texts)
def test_one_more_answer_never_lowers_a_score(metric: Metric, prediction: str, answers: list[str], more: str) -> None:
    assert metric(prediction, [*answers, more]) >= metric(prediction, answers)
    assert metric(prediction, answers) == max(metric(prediction, [answer]) for answer in answers)


@pytest.mark.parametrize("name", ["exact_match", "rigorous_match", "token_f1", "vqa_accuracy", "anls"])
@given(one=texts, other=texts)
def test_prediction_and_answer_may_change_places(name: str, one: str, other: str) -> None:
    assert ALL[name](one, [other]) == ALL[name](other, [one])


@pytest.mark.parametrize("name", ["exact_match", "token_f1", "vqa_accuracy", "anls", "relaxed_accuracy"])
@given(prediction=texts, answers=answer_lists)
def test_outer_white_space_does_not_matter(name: str, prediction: str, answers: list[str]) -> None:
    around = [f" {answer}\t" for answer in answers]
    assert ALL[name](f"\n{prediction} ", around) == ALL[name](prediction, answers)


@given(prediction=texts, answers=answer_lists)
def test_stricter_matches_imply_weaker_ones(prediction: str, answers: list[str]) -> None:
    if rigorous_match(prediction, answers) and finite(prediction):
        left = normalise_squad(prediction)
        assert all(metric(prediction, answers) == 1 for metric in BEST_OF.values() if left or metric != contains_answer)
        assert vqa_accuracy(prediction, answers) > 0 or len(answers) > 1
    if exact_match(prediction, answers):
        assert token_f1(prediction, answers) == 1
        assert contains_answer(prediction, answers) or not normalise_squad(prediction)
    assert exact_match(prediction, answers, normalise=False) == rigorous_match(prediction, answers)


@metrics
def test_a_text_is_no_list_of_answers(metric: Metric) -> None:
    with pytest.raises(TypeError, match="'cat'"):
        metric("c", "cat")


# exact match


def test_squad_match_and_rigorous_match() -> None:
    assert exact_match("U.S.A.", ["USA"])
    assert not exact_match("A-frame", ["frame"])
    assert exact_match("The painter", ["painter"])
    assert not exact_match("The painter", ["painter"], normalise=False)
    assert not exact_match("Painter", ["painter"], normalise=False)
    assert exact_match("painter", ["painter"], normalise=False)


@pytest.mark.parametrize("answer", ["the", "a", "", "."])
@pytest.mark.parametrize("normalise", [True, False])
def test_a_failed_record_never_matches(answer: str, normalise: bool) -> None:
    assert not exact_match(None, [answer], normalise=normalise)
    assert exact_match(answer, [answer], normalise=normalise)


def test_any_of_several_answers_will_do() -> None:
    assert exact_match("the Virgin", ["Madonna", "Virgin"])
    assert not exact_match("the Virgin", ["Madonna", "virgin"], normalise=False)
    assert not exact_match("Saint", ["Madonna", "Virgin"])


# contained answers


@pytest.mark.parametrize(
    ("prediction", "answers", "contained"),
    [
        ("It is a Red Mill.", ["the red mill"], True),
        ("red, and a mill", ["red mill"], False),  # not next to each other
        ("a windmill", ["mill"], False),
        ("There are 10.", ["1"], False),
        ("There are 10.", ["1", "10"], True),
        ("mill", ["red mill"], False),
        ("a + b", ["+"], False),  # nothing is left of the answer
        ("", [""], False),
        ("", ["cat"], False),
        (None, ["cat"], False),
    ],
)
def test_contains_answer(prediction: str | None, answers: list[str], contained: bool) -> None:
    assert contains_answer(prediction, answers) is contained


# token F1


@pytest.mark.parametrize(
    ("prediction", "answers", "score"),
    [
        ("a red cat", ["the cat"], 2 / 3),  # precision 1/2, recall 1
        ("cat cat dog", ["cat dog dog"], 2 / 3),  # each word counts as often as it is in both
        ("cat", ["dog"], 0),
        ("cat", ["dog", "black cat"], 2 / 3),
        ("the", ["a"], 1),  # no word is left on either side
        ("the", ["cat"], 0),
        ("U.S.A.", ["usa"], 1),
    ],
)
def test_token_f1(prediction: str, answers: list[str], score: float) -> None:
    assert token_f1(prediction, answers) == pytest.approx(score)


# VQA accuracy


@pytest.mark.parametrize(("matching", "score"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (9, 1), (10, 1)])
def test_vqa_accuracy_of_ten_answers(matching: int, score: float) -> None:
    """The numbers that visualqa.org gives for its ten answers."""
    answers = ["cat"] * matching + [f"other {i}" for i in range(10 - matching)]
    assert vqa_accuracy("The cat.", answers) == pytest.approx(score)


def test_vqa_accuracy_normalises_both_sides() -> None:
    assert vqa_accuracy("Two dogs!", ["2 dogs", "the two dogs", "two, dogs", "2 dogs."] + ["cat"] * 6) == 1
    assert vqa_accuracy("don't know", ["dont know"] * 4 + ["cat"] * 6) == 1


@pytest.mark.parametrize(
    ("answers", "score"), [(["cat"], 1), (["dog"], 0), (["cat", "cat"], 1), (["cat", "dog"], 0.5), (["dog"] * 3, 0)]
)
def test_vqa_accuracy_of_fewer_answers(answers: list[str], score: float) -> None:
    assert vqa_accuracy("a cat", answers) == pytest.approx(score)


@pytest.mark.parametrize(
    ("answer", "prediction", "score"),
    [
        # What vqaEval.py gives for multiple_choice_answer beside the ten answers, which it does not read.
        ("2", "2", 0.6),
        ("2", "two", 0.6),
        ("two", "2", 0.6),
        ("2", "three", 1),
        ("3", "three", 1),
        ("four", "four", 0),
    ],
)
def test_vqa_accuracy_has_no_eleventh_annotator(answer: str, prediction: str, score: float) -> None:
    row = {"answer": answer, "answers": ["two"] * 2 + ["three"] * 8, "prediction": prediction}
    assert score_row(row)["scores"]["vqa_accuracy"] == pytest.approx(score)


def test_what_answer_beside_answers_means_to_each_metric() -> None:
    row = {"answer": "painter", "answers": ["a carver", "sculptor"], "prediction": "painter"}
    found = score_row(row)
    assert found["exact_match"]
    expected = {"rigorous_match": 1, "token_f1": 1, "vqa_accuracy": 0, "anls": 0, "relaxed_accuracy": 1}
    assert {name: found["scores"][name] for name in expected} == expected
    number = {"answer": "100", "answers": ["about a hundred"], "prediction": "103"}
    assert score_row(number)["scores"]["relaxed_accuracy"] == 1


@given(prediction=texts, answers=st.lists(texts, min_size=4, max_size=12))
def test_vqa_accuracy_is_the_average_over_the_people_left_out(prediction: str, answers: list[str]) -> None:
    said, people = normalise_vqa(prediction), [normalise_vqa(answer) for answer in answers]
    scores = [min(1, (people[:i] + people[i + 1 :]).count(said) / 3) for i in range(len(people))]
    assert vqa_accuracy(prediction, answers) == pytest.approx(sum(scores) / len(scores))


# ANLS


@pytest.mark.parametrize(
    ("prediction", "answers", "score"),
    [
        ("Kitten", ["kitten"], 1),
        ("kitten", ["mitten"], 5 / 6),
        ("kitten", ["sitting"], 4 / 7),
        ("kitten", ["dog", "mitten"], 5 / 6),
        ("ab", ["ac"], 0.5),  # the official script keeps a similarity of exactly one half
        ("abc", ["ade"], 0),
        ("", ["cat"], 0),
        ("  New   York", ["new york\n"], 1),
        ("", [" "], 1),
    ],
)
def test_anls(prediction: str, answers: list[str], score: float) -> None:
    assert anls(prediction, answers) == pytest.approx(score)


@given(texts, st.text(min_size=1, max_size=3))
def test_anls_falls_with_every_letter_too_many(answer: str, more: str) -> None:
    assume(not any(letter.isspace() for letter in more))
    longer, longest = f"{answer}{more}", f"{answer}{more}{more}"
    assert 1 >= anls(answer, [answer]) >= anls(longer, [answer]) >= anls(longest, [answer])


# relaxed accuracy


@pytest.mark.parametrize(
    ("prediction", "answer", "correct"),
    [
        ("105", "100", True),
        ("95", "100", True),
        ("105.1", "100", False),
        ("94.9", "100", False),
        ("-95", "-100", True),
        ("95", "-100", False),
        ("12%", "0.12", True),
        ("12.5 ", "12%", False),  # a number and its hundredth
        ("12.5%", "12%", True),
        ("0", "0", True),
        ("0.0", "0", False),  # nothing is within 5% of 0
        ("1e2", "100", True),
        ("100", "one hundred", False),
        ("Blue ", "blue", True),
        ("blue", "blues", False),
        ("nan", "100", False),
        ("inf", "100", False),
        ("nan", "nan", False),  # numbers to Python, and nothing is within 5% of them
        ("NaN%", "nan%", False),
        ("inf", "inf", False),
        ("-Infinity", "-inf", False),
        ("100", "inf", False),
        ("1e999", "1e999", False),
        ("none", "None", True),
        ("1,000", "1000", False),  # no number to Python, and none to the reference
    ],
)
def test_relaxed_accuracy(prediction: str, answer: str, correct: bool) -> None:
    assert relaxed_accuracy(prediction, ["something else", answer]) is correct


def chartqa(prediction: str, target: str) -> bool:
    """The official definition: relaxed_correctness of pix2struct's metrics.py."""

    def number(text: str) -> float | None:
        try:
            return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
        except ValueError:
            return None

    said, expected = number(prediction), number(target)
    if said is not None and expected:
        return abs(said - expected) / abs(expected) <= 0.05
    return prediction.lower() == target.lower()


numbers = st.sampled_from("nan NaN inf -inf Infinity 1e999 0 -0 0.0 5% 0.05 5%% % 1_0 10 10.5 five".split())


@given(prediction=numbers | texts, target=numbers | texts)
def test_relaxed_accuracy_is_the_official_one(prediction: str, target: str) -> None:
    prediction, target = prediction.strip(), target.strip()  # as everything that is scored
    assert relaxed_accuracy(prediction, [target]) is chartqa(prediction, target)


@given(st.floats(0.01, 1e6), st.floats(-0.2, 0.2))
def test_relaxed_accuracy_allows_5_percent_either_way(number: float, change: float) -> None:
    assume(abs(abs(change) - 0.05) > 1e-6)
    assert relaxed_accuracy(repr(number * (1 + change)), [repr(number)]) is (abs(change) < 0.05)


# rows


def test_a_row_gets_all_scores() -> None:
    row = {"prediction": "A cat", "answers": ["cat", "black cat"], "answer": "cat"}
    found = score_row(row)
    assert found["exact_match"]
    assert set(found["scores"]) == {name for name, metric in METRICS.items() if not metric.needs} - {"exact_match"}
    expected = {"rigorous_match": 0, "token_f1": 1.0, "vqa_accuracy": 0.5, "anls": 0.6, "relaxed_accuracy": 0}
    assert {name: found["scores"][name] for name in expected} == expected
    assert score_row(row, normalise=False) == {**score_row(row), "exact_match": False}
    assert json.loads(json.dumps(score_row(row)["scores"]))["rigorous_match"] == 0
    failed = score_row({"prediction": None, "answer": "the"})
    assert (failed["exact_match"], set(failed["scores"].values())) == (False, {0})


@pytest.mark.parametrize(
    ("row", "answers"),
    [
        ({"answer": "cat"}, ["cat"]),
        ({"answers": ["cat", "cat", "dog"]}, ["cat", "cat", "dog"]),
        ({"answer": "dog", "answers": ["cat", "dog"]}, ["cat", "dog"]),
        ({"answer": "cow", "answers": ["cat", "dog"]}, ["cat", "dog", "cow"]),
    ],
)
def test_what_a_row_accepts(row: dict[str, Any], answers: list[str]) -> None:
    assert list(accepted_answers(row)) == answers


# real answers


def _perturb(answer: str, rng: random.Random) -> str:
    """The answer as a model might write it: same words dressed otherwise, or other words."""
    words = answer.split()
    change = rng.randrange(9)
    if change == 0:
        return answer.upper()
    if change == 1:
        return f"The {answer}."
    if change == 2:
        return answer.replace(" ", "  ").title() + "!"
    if change == 3:
        return " ".join(words[:-1])
    if change == 4:
        return "-".join(words)
    if change == 5:
        return ".".join(answer)
    if change == 6:
        return f'"{answer}"\n'
    if change == 7:
        return " a ".join(words)
    return answer


def test_equals_torchmetrics_on_every_aqua_pair() -> None:
    if not AQUA.exists():
        pytest.skip(f"{AQUA} is not here")
    squad = pytest.importorskip("torchmetrics.functional.text.squad", reason="torchmetrics is not installed")
    records = json.loads(AQUA.read_text(encoding="utf-8"))
    assert len(records) == 5124
    rng = random.Random(0)
    matches = 0
    for number, record in enumerate(records):
        answer = str(record["answer"])
        other = str(records[(number * 7919 + 1) % len(records)]["answer"])
        for prediction in (answer, other, "", _perturb(answer, rng), _perturb(answer, rng)):
            ours = exact_match(prediction, [answer])
            assert ours == bool(squad._compute_exact_match_score(prediction, answer)), (prediction, answer)
            f1 = squad._compute_f1_score(prediction, answer)
            assert token_f1(prediction, [answer]) == pytest.approx(float(f1), abs=1e-6), (prediction, answer)
            matches += ours
    assert len(records) < matches < 5 * len(records)  # both outcomes were really compared


def test_total_equals_torchmetrics_squad() -> None:
    if not AQUA.exists():
        pytest.skip(f"{AQUA} is not here")
    text = pytest.importorskip("torchmetrics.functional.text", reason="torchmetrics is not installed")
    rng = random.Random(1)
    answers = [str(record["answer"]) for record in json.loads(AQUA.read_text(encoding="utf-8"))]
    predictions = [_perturb(answer, rng) for answer in answers]
    theirs = text.squad(
        [{"prediction_text": p, "id": str(i)} for i, p in enumerate(predictions)],
        [{"answers": {"answer_start": [0], "text": [a]}, "id": str(i)} for i, a in enumerate(answers)],
    )
    for name, metric in (("exact_match", exact_match), ("f1", token_f1)):
        ours = sum(metric(p, [a]) for p, a in zip(predictions, answers, strict=True))
        assert 100 * ours / len(answers) == pytest.approx(float(theirs[name]), abs=1e-3)
