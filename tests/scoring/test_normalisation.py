"""SQuAD normalisation: the official order, equal to torchmetrics' on real answers, and its properties."""

from __future__ import annotations

import json
import random
import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vizsage.scoring.normalisation import exact_match, normalise_squad

AQUA = Path(__file__).parents[2].parent / "shared" / "data" / "aqua" / "val.json"


@pytest.mark.parametrize(
    ("text", "normalised"),
    [
        ("U.S.A.", "usa"),
        ("A-frame", "aframe"),
        ("The  Baptism\tof a Saint, by an angel.", "baptism of saint by angel"),
        ("theatre another", "theatre another"),
        ("the", ""),
        ("...", ""),
        ("", ""),
        ("l'a", "la"),
        ("Café — the", "café —"),  # the official list of punctuation is ASCII
    ],
)
def test_follows_the_official_order(text: str, normalised: str) -> None:
    assert normalise_squad(text) == normalised


def test_squad_match_and_rigorous_match() -> None:
    assert exact_match("U.S.A.", "USA", normalise=True)
    assert not exact_match("A-frame", "frame", normalise=True)
    assert exact_match("The painter", "painter", normalise=True)
    assert not exact_match("The painter", "painter", normalise=False)
    assert not exact_match("Painter", "painter", normalise=False)
    assert exact_match("painter", "painter", normalise=False)


@pytest.mark.parametrize("answer", ["the", "a", "", "."])
@pytest.mark.parametrize("normalise", [True, False])
def test_a_failed_record_never_matches(answer: str, normalise: bool) -> None:
    assert not exact_match(None, answer, normalise=normalise)
    assert exact_match(answer, answer, normalise=normalise)


@given(st.text())
def test_idempotent(text: str) -> None:
    once = normalise_squad(text)
    assert normalise_squad(once) == once


@given(st.text(alphabet=string.printable))
def test_case_does_not_matter(text: str) -> None:
    assert normalise_squad(text.upper()) == normalise_squad(text) == normalise_squad(text.swapcase())


@given(st.text(), st.data())
def test_punctuation_does_not_matter_wherever_it_stands(text: str, data: Any) -> None:
    text = text.lower()  # lowering looks at neighbours (Greek's final sigma), the rest does not
    at = data.draw(st.integers(0, len(text)))
    mark = data.draw(st.sampled_from(string.punctuation))
    assert normalise_squad(text[:at] + mark + text[at:]) == normalise_squad(text)


@given(st.lists(st.text(alphabet=string.ascii_letters, min_size=1)), st.sampled_from(["a", "An", "THE"]), st.data())
def test_articles_and_spacing_do_not_matter(words: list[str], article: str, data: Any) -> None:
    at = data.draw(st.integers(0, len(words)))
    assert normalise_squad(" \n ".join([*words[:at], article, *words[at:]])) == normalise_squad(" ".join(words))


@given(st.text())
def test_result_is_tidy(text: str) -> None:
    normalised = normalise_squad(text)
    assert normalised == " ".join(normalised.split())
    assert not set(normalised) & set(string.punctuation)
    assert not {"a", "an", "the"} & set(normalised.split())


@given(st.text(), st.text())
def test_a_rigorous_match_is_a_squad_match(prediction: str, answer: str) -> None:
    assert exact_match(prediction, answer, normalise=False) == (prediction == answer)
    if prediction == answer:
        assert exact_match(prediction, answer, normalise=True)


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
            ours = exact_match(prediction, answer, normalise=True)
            assert ours == bool(squad._compute_exact_match_score(prediction, answer)), (prediction, answer)
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
    )["exact_match"]
    ours = sum(exact_match(p, a, normalise=True) for p, a in zip(predictions, answers, strict=True))
    assert 100 * ours / len(answers) == pytest.approx(float(theirs), abs=1e-4)
