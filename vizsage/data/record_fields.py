"""The values of a record's fields: texts, answers, choices and switches, or what is wrong with them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from datetime import date, time
from decimal import Decimal
from typing import Any

from vizsage.data.field_names import missing_field
from vizsage.data.sample import LETTERS
from vizsage.errors import quoted


class BadRecord(Exception):
    """What is wrong with one record. Caught in vizsage.data, which makes a DataError of it."""


def scalar_text(value: Any) -> str | None:
    """A scalar as text; None for null, NaN, lists and objects."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and math.isnan(value):
        return None  # how pandas writes an absent value
    return str(value) if isinstance(value, (int, float, Decimal, date, time)) else None


def read_answers(raw: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """The answer that training learns, and the list of answers in file order with repeated ones kept.

    A record has "answer", "answers" or both. With both, "answer" is learned and accepted too, but does not count among
    the votes of VQA accuracy. With "answers" alone the most frequent one is learned, of equally frequent ones the
    first. All are stripped, as predictions are: rigorous matching compares the two exactly.

    Raises:
        BadRecord: a field is missing or has a wrong type.
    """
    several = raw.get("answers")
    if several is None or several != several:  # absent, also as pandas writes it
        answer = required_text(raw.get("answer"), "answer", raw).strip()
        return answer, (answer,)
    if not isinstance(several, list) or not several:
        found = "empty" if several == [] else show_value(several)
        raise BadRecord(f"answers is {found}; write a list of one or more texts or numbers")
    answers = tuple(required_text(value, f"answers[{i}]").strip() for i, value in enumerate(several))
    alone = raw.get("answer")
    if alone is None or alone != alone:
        return Counter(answers).most_common(1)[0][0], answers  # of equals the first, because a dict keeps its order
    return required_text(alone, "answer").strip(), answers


def read_choices(raw: Mapping[str, Any], answer: str) -> tuple[str, ...]:
    """The options of a multiple-choice question, stripped, in the order of their letters; () where there are none.

    Raises BadRecord, also where `answer` is neither an option nor its letter.
    """
    listed = raw.get("choices")
    if listed is None or listed != listed:  # absent, also as pandas writes it
        return ()
    if not isinstance(listed, list):
        raise BadRecord(f"choices is {show_value(listed)}; write a list of 2 to {len(LETTERS)} texts, or leave it out")
    choices = tuple(required_text(value, f"choices[{i}]").strip() for i, value in enumerate(listed))
    if not 2 <= len(choices) <= len(LETTERS):
        raise BadRecord(f"choices is a list of {len(choices)}; write 2 to {len(LETTERS)} texts")
    if len(set(choices)) < len(choices):
        repeated = next(choice for choice, times in Counter(choices).items() if times > 1)
        raise BadRecord(f"choices contains {quoted(repeated)} more than once; write each option once")
    if answer not in choices and answer not in tuple(LETTERS[: len(choices)]):
        raise BadRecord(
            f"answer is {quoted(answer)}, which is none of the {len(choices)} choices; write one of them or its "
            f"letter (A to {LETTERS[len(choices) - 1]})"
        )
    return choices


def required_text(value: Any, field: str, raw: Mapping[str, Any] | None = None) -> str:
    """The text of a field. Raises BadRecord; given the record `raw`, it also names the fields that are there."""
    if isinstance(value, str) and value.isascii() and value and not value.isspace():
        return value  # as nearly all are
    text = None if isinstance(value, bool) else scalar_text(value)
    if text is None or not text.strip():
        missing = value is None or value != value
        if missing and raw is not None and field not in raw:
            raise BadRecord(missing_field(field, raw))
        found = "missing" if missing else show_value(value) if text is None else "empty"
        hint = "; several accepted answers are a list 'answers'" if found == "a list" and field == "answer" else ""
        if isinstance(value, dict) and "answer" in value:  # as in the annotations of VQA
            hint = ", the one under 'answer' in the object"
        raise BadRecord(f"{field} is {found}; write a text or a number{hint}")
    return valid_text(text, field)


def valid_text(text: str, field: str) -> str:
    """`text` if it can be encoded, and so be written to a file. Raises BadRecord."""
    if not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text):
        raise BadRecord(f"{field} is no valid Unicode: it holds half of a surrogate pair")
    return text


def read_switch(raw: Mapping[str, Any]) -> bool:
    """The value of need_external_knowledge; false where it is absent. Raises BadRecord."""
    value = raw.get("need_external_knowledge")
    if value is None or value != value:  # absent, also as pandas writes it
        return False
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
        return value.strip().lower() == "true"
    if isinstance(value, (bool, int, float, Decimal)) and value in (0, 1):
        return bool(value)
    raise BadRecord(f"need_external_knowledge is {show_value(value)}; write true or false")


def show_value(value: Any) -> str:
    """How a message shows a value of a wrong type, in at most 60 characters."""
    if isinstance(value, bool):
        return str(value).lower()
    kinds = {dict: "an object", list: "a list", type(None): "null"}
    return kinds.get(type(value)) or (str(value) if isinstance(value, Decimal) else ascii(value))[:60]
