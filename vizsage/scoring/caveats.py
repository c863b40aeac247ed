"""Answers that SQuAD's normalisation was not made for. They are counted, because no score shows them.

It removes punctuation and articles. So nothing is left of the choice "A" or of "+", and an empty prediction is right;
"1.5" becomes "15" and "-5" becomes "5". It does not change Unicode forms: an accent composed with its letter (NFC) is
not equal to the same accent as a separate character (NFD).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache

from vizsage.contract.results_file import Scores
from vizsage.scoring.normalisation import normalise_light, normalise_squad

EMPTIED, CHANGED_NUMBERS, UNICODE_FORMS = CAVEATS = ("emptied", "changed_numbers", "unicode_forms")

_BETWEEN_DIGITS = re.compile(r"(?<=\d)[-:'](?=\d)|(?<=\d),(?=\d{3}(?!\d))")  # of ranges, times and thousands
_NUMBER = re.compile(r"(?:(?<!\w)-)?(?:(?<!\w)\.)?\d+(?:[.,/]\d+)*")
_SEPARATORS = re.compile(r"(?<=\d)[.,/]")


@lru_cache(maxsize=1024)
def numbers(text: str) -> tuple[str, ...]:
    """The numbers in `text`, with sign, decimal point and the slash of a fraction; of dates, the digits alone."""
    found = _NUMBER.findall(_BETWEEN_DIGITS.sub("", text))
    return tuple(_SEPARATORS.sub("", one) if len(_SEPARATORS.findall(one)) > 1 else one for one in found)


@lru_cache(maxsize=1024)
def answer_caveats(answer: str) -> tuple[str, ...]:
    """Those of CAVEATS that apply to an accepted answer, whatever is predicted."""
    found = {
        EMPTIED: bool(answer) and not normalise_squad(answer),
        CHANGED_NUMBERS: not all(number.isdigit() for number in numbers(answer)),
        UNICODE_FORMS: not unicodedata.is_normalized("NFC", answer),
    }
    return tuple(name for name, holds in found.items() if holds)


def affected_by(prediction: str | None, answers: Sequence[str]) -> str | None:
    """The one of CAVEATS that is the only reason why a prediction is right (for Unicode forms: wrong), or None."""
    if prediction is None:
        return None
    said = normalise_squad(prediction)
    equal = [answer for answer in answers if normalise_squad(answer) == said]
    if not equal:
        composed = normalise_squad(_composed(prediction))
        return UNICODE_FORMS if any(normalise_squad(_composed(answer)) == composed for answer in answers) else None
    if not said and all(normalise_light(answer) != normalise_light(prediction) for answer in equal):
        return EMPTIED
    return CHANGED_NUMBERS if all(numbers(answer) != numbers(prediction) for answer in equal) else None


def caveat_warnings(scores: Scores, mode: str) -> Iterator[str]:
    """One line for each caveat that changes the exact match of `scores`, which has this mode."""
    if mode != "squad" or scores.normalisation is None:
        return
    counts, total = scores.normalisation, scores.total_samples
    remedy = "use_text_normalization: light (vizsage score --light) keeps such texts apart"
    if samples := counts[EMPTIED].samples:
        only = counts[EMPTIED].affected
        yield (
            f"{samples:,} of {total:,} samples accept an answer of which SQuAD's normalisation leaves nothing, such as "
            f"'A' or '+': an empty prediction is right there, and {only:,} predictions are right for no other reason; "
            f"{remedy}, and rigorous_match does"
        )
    if only := counts[CHANGED_NUMBERS].affected:
        yield (
            f"{only:,} of {total:,} predictions are right although their numbers differ from the answer's, because "
            f"SQuAD's normalisation makes 15 of 1.5 and 5 of -5; {remedy}, and rigorous_match does"
        )
    if only := counts[UNICODE_FORMS].affected:
        yield (
            f"{only:,} of {total:,} predictions are wrong only because their accents have another Unicode form than "
            "the answer's, composed or decomposed; use_text_normalization: light (vizsage score --light) takes them "
            "as equal"
        )


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)
