"""Which answers SQuAD's normalisation was not made for, and which predictions that decides."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vizsage.scoring.caveats import affected_by, answer_caveats, numbers
from vizsage.scoring.metrics import exact_match
from vizsage.scoring.normalisation import normalise_light, normalise_squad

texts = st.text() | st.sampled_from(["A", "the", "+", "1.5", "15", "-5", "5", "1/2", "12", "Caf\u00e9", "Cafe\u0301"])


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("1.5", ("1.5",)),
        ("-5 degrees", ("-5",)),
        (".5", (".5",)),
        ("1/2", ("1/2",)),
        ("1,5", ("1,5",)),
        ("1,000,000", ("1000000",)),
        ("1,234.5", ("1234.5",)),
        ("15.", ("15",)),
        ("$5", ("5",)),
        ("1914-1918", ("19141918",)),
        ("10:30", ("1030",)),
        ("24.12.1999", ("24121999",)),
        ("covid-19", ("19",)),
        ("no. 5", ("5",)),
        ("two", ()),
    ],
)
def test_numbers(text: str, found: tuple[str, ...]) -> None:
    assert numbers(text) == found


@given(texts)
def test_an_answer_without_changed_numbers_keeps_them(answer: str) -> None:
    if "changed_numbers" not in answer_caveats(answer) and answer.isascii():
        assert "".join(numbers(normalise_squad(answer))) == "".join(numbers(answer))


@given(texts, st.lists(texts, min_size=1, max_size=3))
def test_what_decides_a_prediction_is_undone_by_the_light_normalisation(prediction: str, answers: list[str]) -> None:
    affecting, light = affected_by(prediction, answers), exact_match(prediction, answers, normalise="light")
    squad = exact_match(prediction, answers)
    assert affecting is None or squad == (affecting != "unicode_forms")
    assert not (squad and light) or affecting is None
    assert affected_by(None, answers) is None


@given(texts)
def test_the_light_normalisation_is_idempotent(text: str) -> None:
    assert normalise_light(normalise_light(text)) == normalise_light(text)
