"""What an answer is worth: each metric a pure function of a prediction and the accepted answers.

A prediction of None stands for a record that failed: it scores 0 everywhere, also against an answer that normalises to
the empty string. Except for VQA accuracy, which asks how many people agree, the best of the accepted answers counts, so
another one never lowers a score.

Where `answer` stands beside `answers`, it is one more accepted answer to exact match, rigorous match, token F1 and
relaxed accuracy. VQA accuracy and ANLS are defined by the list that annotators gave, and score against `answers` alone:
`multiple_choice_answer` of VQA v2 is a summary of the ten answers and no eleventh person.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rapidfuzz.distance import Levenshtein

from vizsage.scoring.normalisation import NORMALISERS, Normalise, normalise_anls, normalise_squad, normalise_vqa

ANLS_THRESHOLD = 0.5
RELAXED_CHANGE = 0.05
VQA_AGREEING = 3  # people who have to give an answer for it to be worth 1


def exact_match(prediction: str | None, answers: Sequence[str], *, normalise: Normalise = True) -> bool:
    """Whether the prediction equals an answer after SQuAD's normalisation, the light one, or as it stands (False).

    Source: exact_match_score and metric_max_over_ground_truths of SQuAD's evaluate-v1.1.py (Rajpurkar et al., 2016).
    """
    alike = NORMALISERS[normalise]
    return bool(_best(lambda said, answer: alike(said) == alike(answer), prediction, answers))


def rigorous_match(prediction: str | None, answers: Sequence[str]) -> bool:
    """Whether the prediction equals an answer character by character."""
    return bool(_best(lambda said, answer: said == answer, prediction, answers))


def token_f1(prediction: str | None, answers: Sequence[str]) -> float:
    """Harmonic mean of the precision and recall of words, 0 to 1, after SQuAD's normalisation; the best answer counts.

    Source: f1_score of SQuAD's evaluate-v1.1.py; where no word is left on one side, compute_f1 of evaluate-v2.0.py,
    which gives 1 if none is left on the other either (v1.1 gives 0, also to an exact match).
    """
    return _best(_f1, prediction, answers)


def vqa_accuracy(prediction: str | None, answers: Sequence[str]) -> float:
    """Agreement with people's answers, 0 to 1: min(1, number of people who said that / 3), after VQA's normalisation.

    Each person is left out in turn and the results are averaged, so that with ten answers a person's own accuracy is
    comparable. With fewer than four, all of the others have to agree instead of three; a single answer is worth 1 if
    it matches. Predictions and answers are always normalised; vqaEval.py compares them as they stand where all people
    gave the same answer, which would count "Yes." as wrong there alone.

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
    """Average normalised Levenshtein similarity of one question, 0 to 1: 1 - edits / length of the longer text.

    Below the threshold of 0.5 it is 0. Case and the amount of white space do not count; the best answer does.

    Source: Biten et al., 2019 (Scene Text VQA), with the normalisation of the script of the Robust Reading Competition,
    in which a similarity of exactly 0.5 counts (in the paper's formula it does not).
    """
    return _best(_similarity, prediction, answers)


def relaxed_accuracy(prediction: str | None, answers: Sequence[str]) -> bool:
    """Whether the prediction is a number within 5% of an answer, or the same text but for case and outer white space.

    "12%" is the number 0.12. An answer of 0 allows no relative change: it is compared as text.

    Nothing is within 5% of "nan" or "inf", which Python reads as numbers, not even the same text.

    Source: relaxed_correctness in metrics.py of google-research/pix2struct, for ChartQA (Masry et al., 2022).
    """
    return bool(_best(_within, prediction, answers))


METRICS: Mapping[str, Callable[[str | None, Sequence[str]], float]] = {
    "rigorous_match": rigorous_match,
    "token_f1": token_f1,
    "vqa_accuracy": vqa_accuracy,
    "anls": anls,
    "relaxed_accuracy": relaxed_accuracy,
}
"""All but exact match, by their names in predictions.jsonl and results.json."""

LIST_ALONE = frozenset({"vqa_accuracy", "anls"})
"""Metrics that score against `answers` alone where there are any, as their official scripts do."""


def accepted_answers(row: Mapping[str, Any]) -> Sequence[str]:
    """All accepted answers of a row: "answers" and, where it is not among them, "answer"."""
    answers, alone = row.get("answers"), row.get("answer")
    if not answers:
        return (row["answer"],)
    return answers if alone is None or alone in answers else (*answers, alone)


def answers_for(metric: str, row: Mapping[str, Any]) -> Sequence[str]:
    """What `metric`, exact_match or one of METRICS, compares the prediction of a row with."""
    return row["answers"] if metric in LIST_ALONE and row.get("answers") else accepted_answers(row)


def score_row(row: Mapping[str, Any], *, normalise: Normalise = True) -> dict[str, Any]:
    """Score a row that has `prediction` and `answers`, `answer` or both.

    Returns {"exact_match": bool, "scores": {name: 0 to 1}} as they stand in predictions.jsonl; only exact match depends
    on `normalise`.
    """
    prediction = row["prediction"]
    scores = {name: metric(prediction, answers_for(name, row)) for name, metric in METRICS.items()}
    return {
        "exact_match": exact_match(prediction, accepted_answers(row), normalise=normalise),
        "scores": {name: int(score) if isinstance(score, bool) else score for name, score in scores.items()},
    }


def _best(compare: Callable[[str, str], float], prediction: str | None, answers: Sequence[str]) -> float:
    """The highest that `compare` gives to the prediction and one of the answers."""
    _refuse_text(answers)
    return 0.0 if prediction is None else max(float(compare(prediction, answer)) for answer in dict.fromkeys(answers))


def _refuse_text(answers: Sequence[str]) -> None:
    """A text is a sequence of texts too, and would be scored letter by letter."""
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
