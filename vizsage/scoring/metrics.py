"""The functions of the metrics: the score of a prediction, given the accepted answers.

A prediction of None is a record that failed. It scores 0 in every metric, also against an answer that normalises to the
empty string. Except for VQA accuracy, which counts how many people agree, the best of the accepted answers counts, so
one more answer never lowers a score.

Which answers of a row each metric gets is part of its entry in `registry`. Where a row has `answer` and `answers`,
exact match, rigorous match, contained answers, token F1 and relaxed accuracy accept both. VQA accuracy and ANLS are
defined by the list that annotators gave and get `answers` alone: `multiple_choice_answer` of VQA v2 summarises the ten
answers and is not an eleventh person.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from rapidfuzz.distance import Levenshtein

from vizsage.scoring.normalisation import NORMALISERS, Normalise, normalise_anls, normalise_squad, normalise_vqa

ANLS_THRESHOLD = 0.5
RELAXED_CHANGE = 0.05
VQA_AGREEING = 3  # people who have to give an answer for a score of 1


def exact_match(prediction: str | None, answers: Sequence[str], *, normalise: Normalise = True) -> bool:
    """Whether the prediction equals an answer after SQuAD's normalisation, the light one, or none (False).

    Source: exact_match_score and metric_max_over_ground_truths of SQuAD's evaluate-v1.1.py (Rajpurkar et al., 2016).
    """
    normalised = NORMALISERS[normalise]
    return bool(_best(lambda said, answer: normalised(said) == normalised(answer), prediction, answers))


def rigorous_match(prediction: str | None, answers: Sequence[str]) -> bool:
    """Whether the prediction equals an answer character by character."""
    return bool(_best(lambda said, answer: said == answer, prediction, answers))


def contains_answer(prediction: str | None, answers: Sequence[str]) -> bool:
    """Whether the words of an answer are in the prediction, next to each other, after SQuAD's normalisation.

    It distinguishes an answer that is not known from one in another form than the data set's: "It is a red mill." is
    not equal to "red mill" and contains it. Words are whole: "1" is not in "10". An answer of which the normalisation
    leaves nothing, such as "+", is contained in no prediction. A long prediction may contain an answer by chance.

    Source: the accuracy of Mallen et al., 2023 (PopQA), which accepts parts of words, too.
    """
    _refuse_text(answers)
    if prediction is None:
        return False
    said = f" {normalise_squad(prediction)} "
    for answer in answers:  # no any(...), which takes two times as long
        expected = normalise_squad(answer)
        if expected and f" {expected} " in said:
            return True
    return False


def token_f1(prediction: str | None, answers: Sequence[str]) -> float:
    """Harmonic mean of the precision and recall of words, 0 to 1, after SQuAD's normalisation; the best answer counts.

    Source: f1_score of SQuAD's evaluate-v1.1.py; where no word is left on one side, compute_f1 of evaluate-v2.0.py,
    which gives 1 if none is left on the other either (v1.1 gives 0, also to an exact match).
    """
    return _best(_f1, prediction, answers)


def vqa_accuracy(prediction: str | None, answers: Sequence[str]) -> float:
    """Agreement with people's answers, 0 to 1: min(1, number of people who gave it / 3), after VQA's normalisation.

    The score is the average over leaving each person out, so that it is comparable with a person's own accuracy against
    the other nine. With fewer than four answers, all others have to agree instead of three; a single answer gives 1 if
    it matches. Predictions and answers are always normalised. vqaEval.py does not normalise where all people gave the
    same answer, and would count "Yes." as wrong there and as right elsewhere.

    Source: VQAEval.evaluate of GT-Vision-Lab/VQA, the evaluation of VQA v1 and v2 (Antol et al., 2015; Goyal et al.,
    2017).
    """
    if prediction is None:
        return 0.0
    _refuse_text(answers)
    said = normalise_vqa(prediction)
    matching = sum(normalise_vqa(answer) == said for answer in answers)
    others = len(answers) - 1
    if not others:
        return float(matching)
    needed = min(VQA_AGREEING, others)
    one_left_out = matching * min(needed, matching - 1) + (len(answers) - matching) * min(needed, matching)
    return one_left_out / (needed * len(answers))


def anls(prediction: str | None, answers: Sequence[str]) -> float:
    """Normalised Levenshtein similarity to the best answer, 0 to 1: 1 - edits / length of the longer text.

    Below the threshold of 0.5 it is 0. Case and the amount of white space do not count. ANLS is its average.

    Source: Biten et al., 2019 (Scene Text VQA), with the normalisation of the script of the Robust Reading Competition,
    in which a similarity of exactly 0.5 counts (in the paper's formula it does not).
    """
    return _best(_similarity, prediction, answers)


def relaxed_accuracy(prediction: str | None, answers: Sequence[str]) -> bool:
    """Whether the prediction is a number within 5% of an answer, or the same text (case and outer white space ignored).

    "12%" is the number 0.12. An answer of 0 allows no relative change and is compared as text. Python reads "nan" and
    "inf" as numbers, and nothing is within 5% of them, not even the same text.

    Source: relaxed_correctness in metrics.py of google-research/pix2struct, for ChartQA (Masry et al., 2022).
    """
    return bool(_best(_within, prediction, answers))


def _best(compare: Callable[[str, str], float], prediction: str | None, answers: Sequence[str]) -> float:
    """The highest value of `compare` for the prediction and one of the answers."""
    _refuse_text(answers)
    return 0.0 if prediction is None else max(float(compare(prediction, answer)) for answer in dict.fromkeys(answers))


def _refuse_text(answers: Sequence[str]) -> None:
    """Raise TypeError for a text, which is a sequence of texts too and would be scored letter by letter."""
    if isinstance(answers, str):
        raise TypeError(f"expected a list of answers, found the text {answers!r}")


def _f1(prediction: str, answer: str) -> float:
    said, expected = normalise_squad(prediction).split(), normalise_squad(answer).split()
    if not said or not expected:
        return float(said == expected)
    common = sum((Counter(said) & Counter(expected)).values())
    return 2 * common / (len(said) + len(expected))


def _similarity(prediction: str, answer: str) -> float:
    said, expected = normalise_anls(prediction), normalise_anls(answer)
    longer = max(len(said), len(expected))
    similarity = 1 - Levenshtein.distance(said, expected) / longer if longer else 1.0
    return similarity if similarity >= ANLS_THRESHOLD else 0.0


def _within(prediction: str, answer: str) -> bool:
    said, expected = prediction.strip().lower(), answer.strip().lower()
    number, target = _number(said), _number(expected)
    if number is None or not target:
        return said == expected
    return abs(number - target) / abs(target) <= RELAXED_CHANGE  # false where either is nan or infinite


def _number(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None
