"""All answers of AQUA's validation split, changed in the ways a model might change them, scored beside torchmetrics."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vizsage.scoring.metrics import exact_match
from vizsage.scoring.summary import summarise

AQUA = Path(__file__).parents[3] / "shared" / "data" / "aqua" / "val.json"
Change = Callable[[str, random.Random], str]


def articles(answer: str, rng: random.Random) -> str:
    words = answer.split()
    for article in ("a", "An", "THE"):
        words.insert(rng.randint(0, len(words)), article)
    return " ".join(words)


def dropped(answer: str, rng: random.Random) -> str:
    words = answer.split()
    words.pop(rng.randrange(len(words)))
    return " ".join(words)


def punctuation(answer: str, rng: random.Random) -> str:
    return "".join(letter + rng.choice(["", "", "", ".", "-", "'"]) for letter in answer)


CHANGES: dict[str, Change] = {
    "none": lambda answer, _: answer,
    "case": lambda answer, rng: "".join(rng.choice([letter.upper(), letter.lower()]) for letter in answer),
    "articles": articles,
    "punctuation": punctuation,
    "white space": lambda answer, rng: "\t" + "".join(rng.choice([" ", "  ", "\n"]) if c == " " else c for c in answer),
    "dropped words": dropped,
    "empty": lambda answer, _: "",
    "no words": lambda answer, rng: rng.choice(["the", ".", " a ", "An."]),
}


@pytest.fixture(scope="module")
def records() -> list[dict[str, Any]]:
    if not AQUA.exists():
        pytest.skip("needs ../shared/data/aqua")
    found: list[dict[str, Any]] = json.loads(AQUA.read_text(encoding="utf-8"))
    assert len(found) == 5124
    return found


@pytest.mark.parametrize("change", [*CHANGES, "other answers"])
def test_exact_match_is_torchmetrics_sample_by_sample_and_in_total(records: list[dict[str, Any]], change: str) -> None:
    squad = pytest.importorskip("torchmetrics.functional.text.squad", reason="torchmetrics is not installed")
    rng = random.Random(change)
    answers = [record["answer"] for record in records]
    if change == "other answers":
        predictions = [rng.choice(answers) for _ in answers]
    else:
        predictions = [CHANGES[change](answer, rng) for answer in answers]
    for prediction, answer in zip(predictions, answers, strict=True):
        ours = exact_match(prediction, [answer])
        assert ours == bool(squad._compute_exact_match_score(prediction, answer)), (prediction, answer)
    theirs = squad.squad(
        [{"prediction_text": prediction, "id": str(place)} for place, prediction in enumerate(predictions)],
        [
            {"answers": {"answer_start": [0], "text": [answer]}, "id": str(place)}
            for place, answer in enumerate(answers)
        ],
    )
    rows = [{**record, "prediction": prediction} for record, prediction in zip(records, predictions, strict=True)]
    assert summarise(rows)["exact_match_percentage"] == pytest.approx(float(theirs["exact_match"]), abs=1e-4)


def test_changes_matter_as_they_should(records: list[dict[str, Any]]) -> None:
    """Both outcomes were really compared."""
    rng = random.Random(0)
    scores = {}
    for name, change in CHANGES.items():
        matches = [exact_match(change(record["answer"], rng), [record["answer"]]) for record in records]
        scores[name] = sum(matches) / len(matches)
    assert scores["none"] == scores["case"] == scores["white space"] == scores["articles"] == 1
    assert 0.1 < scores["dropped words"] < 0.7  # dropping an article changes nothing
    assert scores["empty"] == scores["no words"] < 0.01
