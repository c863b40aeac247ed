"""Normalisations: the order and the odd rules of the official scripts, and their properties."""

from __future__ import annotations

import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vizsage.scoring.contractions import CONTRACTIONS
from vizsage.scoring.normalisation import normalise_anls, normalise_squad, normalise_vqa


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


# VQA


@pytest.mark.parametrize(
    ("text", "normalised"),
    [
        ("Two", "2"),
        ("none", "0"),
        ("ten men", "10 men"),
        ("eleven", "eleven"),
        ("The dog.", "dog"),
        ("a an the", ""),
        ("dont", "don't"),
        ("Couldnt\tve\n", "couldn't ve"),
        ("somebody'd", "somebodyd"),  # the script's own slip
        ("black/white", "black white"),  # a mark between letters becomes a space
        ("black / white", "black white"),  # beside a space it goes
        ("black- white-red", "black whitered"),  # everywhere, if it is beside a space once
        ("1,000", "1000"),  # a comma between digits
        ("1,000 red-white", "1000 redwhite"),  # and with it every mark of the text
        ("red,white", "red white"),
        ("3.5", "3.5"),
        ("U.S.A.", "usa"),
        ("3. of 4.", "3 of 4"),  # the script means to keep a period after a digit too, and does not
        ("red;-white blue-green", "red white blue green"),  # beside a space as the text was written
        ("v.2", "v.2"),  # a period before a digit stays, whatever is before it
        ("10:30 o'clock", "10:30 o'clock"),  # colon and apostrophe stay
        ("what?!", "what"),
        ("a" + "." * 40, "a" + "." * 8),  # 32 periods go, because the script gives a flag for a count
    ],
)
def test_vqa_follows_the_odd_rules_of_the_official_script(text: str, normalised: str) -> None:
    assert normalise_vqa(text) == normalised


def test_contractions_are_pairs_of_one_word_without_and_with_apostrophes() -> None:
    for key, word in CONTRACTIONS.items():
        assert key.replace("'", "") == word.replace("'", "")
        assert key == key.lower() != word
    assert CONTRACTIONS["whove"] == "who've"


@given(st.text(alphabet=string.printable))
def test_vqa_result_is_tidy_and_knows_no_case(text: str) -> None:
    normalised = normalise_vqa(text)
    assert normalised == " ".join(normalised.split())
    assert not {"a", "an", "the", "two", "dont"} & set(normalised.split())
    assert normalise_vqa(text.upper()) == normalised == normalise_vqa(f"\n {text}\t")


# ANLS


@given(st.text())
def test_anls_collapses_white_space_and_nothing_else(text: str) -> None:
    assert normalise_anls(f"\t{text} \n") == normalise_anls(text) == " ".join(text.lower().split())
