"""When two answers count as the same text.

SQuAD's exact match follows the official SQuAD v1.1 evaluation script (Rajpurkar et al., 2016, `evaluate-v1.1.py`), step
by step and in its order. Rigorous exact match compares character by character.
"""

from __future__ import annotations

import re
import string

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalise_squad(text: str) -> str:
    """Lower, remove punctuation, remove articles, collapse whitespace: the official script's order.

    The order matters: punctuation goes first, so "U.S.A." becomes "usa" and "A-frame" becomes "aframe"; with articles
    first they would become "us" and "frame".
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str | None, answer: str, *, normalise: bool) -> bool:
    """Whether `prediction` equals `answer`: after SQuAD normalisation, or character by character.

    None stands for a record that failed. It never matches, not even an answer that normalises to the empty string.
    """
    if prediction is None:
        return False
    if normalise:
        return normalise_squad(prediction) == normalise_squad(answer)
    return prediction == answer
