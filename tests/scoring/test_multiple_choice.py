"""Multiple choice: which option a text names, and what no text may decide."""

from __future__ import annotations

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from vizsage.scoring.multiple_choice import multiple_choice, named_option
from vizsage.scoring.registry import score_row

OPTIONS = ["a dog", "cat", "1.5", "red, blue", "It rolls down."]


@pytest.mark.parametrize(
    "text",
    ["B", "b", " B\n", "(B)", "(b)", "[B]", "B.", "B)", "B:", "**B**", "`B`", "B) cat", "B. Cat", "(B) a big cat",
     "B: cat", "B cat", "**B.** cat", "The answer is B.", "The answer is B", "the answer is (b)", "Answer: B",
     "The correct option is B, since it purrs.", "Option B is right.", "It must be (B).", "B\nIt purrs.", "B, it purrs",
     "It purrs. The answer is B.\nNext question", "cat", "Cat.", '"cat"', "  CAT ", "The answer is cat.",
     "Answer: cat, because it purrs"],
)  # fmt: skip
def test_an_option_is_named(text: str) -> None:
    assert named_option(text, OPTIONS) == 1


@pytest.mark.parametrize(
    "text",
    ["", "?", "G", "15", "red", "A or B", "A, B", "both B and C", "(A) (B)", "B) a dog",
     "The answer is B. The answer is C.", "The answer is not B.",
     "A cat", "cat, a dog", "Cat. A dog.", "I think it is one", "blue, red", "Because", "answer"],
)  # fmt: skip
def test_no_option_or_more_than_one_is_named(text: str) -> None:
    assert named_option(text, OPTIONS) is None
    assert multiple_choice(text, ["B"], choices=OPTIONS) is False


def test_texts_that_differ_in_case_only_are_told_apart_by_it() -> None:
    assert [named_option(text, ["Cat", "cat"]) for text in ("cat", "Cat", "CAT", "B")] == [1, 0, None, 1]
    assert named_option("cat", ["cat", "cat"]) is None


def test_a_letter_is_a_text_where_options_are_letters() -> None:
    """Labels of a diagram, as in AI2D: prediction and answer are read the same way."""
    assert [named_option(text, ["c", "b", "a"]) for text in ("a", "B.", "C")] == [2, 1, 0]
    assert multiple_choice("A", ["a"], choices=["c", "b", "a"]) is True


def test_the_answer_is_a_letter_or_a_text() -> None:
    for answer in ("D", "(d)", "red, blue", "Red, blue."):
        assert [multiple_choice(text, [answer], choices=OPTIONS) for text in ("D", "red, blue", "C")] == [
            True,
            True,
            False,
        ]
    assert multiple_choice("C", ["A", "C"], choices=OPTIONS) is True


def test_without_a_right_option_there_is_no_score() -> None:
    assert multiple_choice("A", ["horse"], choices=OPTIONS) is None
    assert multiple_choice(None, ["horse"], choices=OPTIONS) is None
    assert multiple_choice(None, ["A"], choices=OPTIONS) is False


def test_a_text_is_no_list() -> None:
    for answers, choices in (("A", OPTIONS), (["A"], "AB")):
        with pytest.raises(TypeError, match="expected lists"):
            multiple_choice("A", answers, choices=choices)


def test_annotators_do_not_decide_which_option_is_right() -> None:
    """A-OKVQA has direct answers of ten people beside the right choice; some of them name another choice."""
    row = {"answer": "cat", "answers": ["cat", "a dog"], "choices": OPTIONS, "prediction": "A"}
    assert score_row(row)["scores"]["multiple_choice"] == 0
    assert score_row({**row, "prediction": "B"})["scores"]["multiple_choice"] == 1
    assert "multiple_choice" not in score_row({**row, "choices": ()})["scores"]


def science_qa(output: str, choices: list[str]) -> int | None:
    """models/run_gpt3.py of lupantech/ScienceQA, without the option that it draws where it finds none."""
    found = re.compile(r"The answer is ([A-Z]).").findall(output)
    return "ABCDE".index(found[0]) if len(found) == 1 and found[0] in "ABCDE"[: len(choices)] else None


words = st.lists(st.sampled_from("the cat dog is red so because it purrs".split()), min_size=1, max_size=4).map(
    " ".join
)


@given(letters=st.lists(st.sampled_from("ABCDEFG"), max_size=3), reason=words)
def test_what_the_script_of_science_qa_finds_is_found(letters: list[str], reason: str) -> None:
    output = f"It is {reason}. " + " ".join(f"The answer is {letter}. BECAUSE: {reason}." for letter in letters)
    expected = science_qa(output, OPTIONS)
    assert expected is None or named_option(output, OPTIONS) == expected
    if len({letter for letter in letters if letter in "ABCDE"}) != 1:
        assert named_option(output, OPTIONS) is None


@given(st.lists(st.text(), min_size=1, max_size=30), st.data())
def test_the_exact_text_of_an_option_always_names_it(choices: list[str], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(choices) - 1))
    assume([choice.strip() for choice in choices].count(choices[place].strip()) == 1)
    assert named_option(choices[place], choices) == place


@given(st.text(), st.lists(st.text(), max_size=30))
def test_any_text_names_one_of_the_options_or_none(text: str, choices: list[str]) -> None:
    found = named_option(text, choices)
    assert found is None or 0 <= found < len(choices)
