"""Normalisation of texts before they are compared: that of SQuAD, of VQA and of ANLS, and a light one.

The first three follow the official evaluation scripts step by step and in the same order, because published numbers
depend on it.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Literal

from vizsage.scoring.contractions import CONTRACTIONS

Normalise = Literal["light"] | bool
"""What exact match does with texts first: SQuAD's normalisation (True), the light one, or nothing (False)."""

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")

_VQA_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_VQA_COMMA = re.compile(r"\d,\d")
_VQA_PERIOD = re.compile(r"\.(?!\d)")
_VQA_PERIODS = 32  # the script gives re.UNICODE, which is 32, where re.sub takes the number of replacements
_VQA_NUMBERS = {
    word: str(number) for number, word in enumerate("zero one two three four five six seven eight nine ten".split())
} | {"none": "0"}
_VQA_ARTICLES = frozenset({"a", "an", "the"})


@lru_cache(maxsize=1024)  # of ten people many give the same answer, and many questions have the same answers
def normalise_squad(text: str) -> str:
    """Lower, remove punctuation, remove articles, collapse whitespace: the order of SQuAD's evaluate-v1.1.py.

    The order matters: punctuation goes first, so "U.S.A." becomes "usa" and "A-frame" becomes "aframe"; with articles
    first they would become "us" and "frame". (Rajpurkar et al., 2016.)
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


@lru_cache(maxsize=1024)
def normalise_vqa(text: str) -> str:
    """Punctuation, number words, articles and contractions as vqaEval.py of GT-Vision-Lab/VQA treats them.

    The rules are odd, and are those of the script. A punctuation mark is removed if it is next to a space anywhere in
    the text, or if the text contains digits joined by a comma; else it becomes a space. A period is removed unless a
    digit follows, but only the first 32 of them. Apostrophes and colons are kept. (Antol et al., 2015; Goyal et al.,
    2017.)
    """
    before = text = text.replace("\n", " ").replace("\t", " ").strip()
    joined = _VQA_COMMA.search(before) is not None
    for mark in _VQA_PUNCTUATION:
        if mark in before:
            beside_space = f"{mark} " in before or f" {mark}" in before
            text = text.replace(mark, "" if joined or beside_space else " ")
    text = _VQA_PERIOD.sub("", text, count=_VQA_PERIODS)
    words = (_VQA_NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in _VQA_ARTICLES)


def normalise_anls(text: str) -> str:
    """Lower and collapse white space, as the evaluation script of the Robust Reading Competition does for ANLS."""
    return " ".join(text.lower().split())


@lru_cache(maxsize=1024)
def normalise_light(text: str) -> str:
    """Fold case, collapse white space and compose characters (NFC); keep every other character.

    For answers that `normalise_squad` empties or merges: "A", "+", "1.5" and "15".
    """
    folded = unicodedata.normalize("NFC", text).casefold()
    return " ".join(unicodedata.normalize("NFC", folded).split())


MODES: Mapping[str, Normalise] = {"squad": True, "light": "light", "rigorous": False}
"""The names of the three in results.json."""
MODE_TITLES: Mapping[str, str] = {"squad": "SQuAD", "light": "light", "rigorous": "rigorous"}
NORMALISERS: Mapping[Normalise, Callable[[str], str]] = {True: normalise_squad, "light": normalise_light, False: str}


def mode_of(normalise: Normalise) -> str:
    """Its name in results.json."""
    return next(mode for mode, value in MODES.items() if value == normalise)
