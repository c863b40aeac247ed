"""Which option of a multiple-choice question a text names: by its letter, by its text, or by both."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from string import ascii_uppercase

from vizsage.scoring.normalisation import normalise_light

_AROUND = " \t\r\n*_`\"'"  # Markdown and quotation marks that models write around an answer
_LETTER_ALONE = re.compile(r"[(\[]?([A-Za-z])[)\].:,;]*")
_LABEL = re.compile(r"\(([A-Za-z])\)[.:,]?|\[([A-Za-z])\][.:,]?|([A-Za-z])[).:](?=\s)|([A-Z])[,;]?(?=\s)")
_SEVERAL = re.compile(r"\(?[A-Z]\)?(?:(?:\s*[,/&]\s*(?:and\s+|or\s+)?|\s+(?:and|or)\s+)\(?[A-Z]\)?(?!\w))+")
_BRACKETED = re.compile(r"\([A-Z]\)")
_LEAD_IN = re.compile(r"\b(?:answer|option|choice)(?:\s+is\b\s*:?|\s*:|\s+(?=\(?[A-Z]\b))\s*", re.IGNORECASE)


def multiple_choice(prediction: str | None, answers: Sequence[str], *, choices: Sequence[str]) -> bool | None:
    """Whether the prediction names the right one of `choices`; None where no answer names one, so nothing is right.

    Prediction and answers may be the letter ("B", "(b)", "B."), the option's text without regard to case, white space
    and a final period, or both ("B) a cat"); a prediction may also say "The answer is B.". Where options are letters
    themselves, as labels of a diagram are in AI2D, a letter is the text of an option. A prediction that names no
    option, or more than one, is wrong; the script of ScienceQA draws an option at random for it.

    Source: "The answer is ([A-Z])." in models/run_gpt3.py of lupantech/ScienceQA (Lu et al., 2022); the text of the
    right choice in evaluation/eval_predictions.py of allenai/aokvqa (Schwenk et al., 2022). AI2D (Kembhavi et al.,
    2016) has no official script; it is scored as the share of right options.

    Args:
        prediction: the model's text; None where the record failed, which is wrong.
        answers: each the letter or the text of a right option.
        choices: the texts of the options, in the order of their letters from A.
    """
    if isinstance(answers, str) or isinstance(choices, str):
        raise TypeError(f"expected lists of answers and of choices, found {answers!r} and {choices!r}")
    right = {option for answer in answers if (option := named_option(answer, choices)) is not None}
    if not right:
        return None
    return prediction is not None and named_option(prediction, choices) in right


def named_option(text: str, choices: Sequence[str]) -> int | None:
    """The place in `choices`, from 0, of the one option that `text` names; None for no option and for several."""
    if (option := _whole(text, choices)) is not None:
        return option
    found = {option for part in _parts(text) for option in _named_first(part, choices)}
    return found.pop() if len(found) == 1 else None


def _whole(text: str, choices: Sequence[str]) -> int | None:
    """The option whose text or letter is all that `text` contains."""
    for form in (str.strip, _plain):
        wanted = form(text)
        if same := [place for place, choice in enumerate(choices) if form(choice) == wanted]:
            return same[0] if len(same) == 1 else None
    letter = _LETTER_ALONE.fullmatch(text.strip(_AROUND))
    return _place(letter[1], choices) if letter else None


def _parts(text: str) -> Iterator[str]:
    """Where an option may be named: at the beginning, in brackets, and after "answer is" to the end of the line."""
    yield text
    yield from _BRACKETED.findall(text)
    for lead_in in _LEAD_IN.finditer(text):
        yield text[lead_in.end() :].partition("\n")[0]


def _named_first(part: str, choices: Sequence[str]) -> Iterator[int]:
    """The options that the beginning of `part` names: several for "A or B" and for a letter with another's text."""
    part = part.replace("*", "").strip(_AROUND)
    if several := _SEVERAL.match(part):
        yield from (
            place for letter in re.findall("[A-Z]", several[0]) if (place := _place(letter, choices)) is not None
        )
        return
    if (option := _whole(part, choices)) is not None:
        yield option
        return
    if (label := _LABEL.match(part)) is None:
        first, *others = re.split(r"[.;,]\s", part)
        option = _whole(first, choices) if len(first) > 1 else None
        if option is not None:
            yield option
            yield from (also for words in others if (also := _whole(words, choices)) is not None)
        return
    letter, text = _place(label[label.lastindex or 0], choices), _whole(part[label.end() :], choices)
    is_word = label[4] in ("A", "I") and text is None  # "A cat is ..." and "I think ..." do not begin with a letter
    if letter is not None and not is_word:
        yield letter
    if text is not None:
        yield text


def _place(letter: str, choices: Sequence[str]) -> int | None:
    place = ascii_uppercase.index(letter.upper())
    return place if place < len(choices) else None


def _plain(text: str) -> str:
    """The text without what does not matter: case, white space, Unicode form, marks around it, a final period."""
    folded = normalise_light(text.strip(_AROUND))
    return folded.rstrip(".").rstrip() or folded
