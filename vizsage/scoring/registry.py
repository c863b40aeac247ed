"""The metrics, one entry for each: results, tables, report, comparison and documentation read them here.

To add one, write its function (in metrics.py or in a separate module), add its entry to METRICS and a test of the
function, and run `make metrics-table`. The order of METRICS is that of results.json and of all tables.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

from vizsage.scoring.metrics import (
    anls,
    contains_answer,
    exact_match,
    relaxed_accuracy,
    rigorous_match,
    token_f1,
    vqa_accuracy,
)
from vizsage.scoring.multiple_choice import multiple_choice
from vizsage.scoring.normalisation import Normalise
from vizsage.scoring.rows import Scorable, accepted_answers, learned_answer, listed_answers

AnswersOf = Callable[[Scorable], Sequence[str]]


@dataclass(frozen=True)
class Metric:
    """A metric and all that other modules have to know of it.

    Attributes:
        name: in results.json and predictions.jsonl, and for `vizsage compare --metric`.
        title: in tables, as it is written within a sentence.
        note: what it counts, in a few words, for report.html and docs/reference/metrics.md.
        source: publication and official script, in Markdown, for docs/reference/metrics.md.
        function: the score, 0 to 1 or a bool, of a prediction (None: the record failed) and a list of answers; None
            where the sample has no score. It takes further keyword arguments by `uses_mode` and `needs`.
        answers: the answers of a row that the prediction is compared with.
        uses_mode: pass `normalise`, which the setting use_text_normalization decides. Without it the function
            normalises as its official script does.
        needs: fields of a row that are passed as keyword arguments. A row in which one is absent or empty has no score,
            and where no row has one, results and tables do not name the metric.
        binary: every score is 0 or 1, so the exact test of a comparison is McNemar's, else the sign test.
    """

    name: str
    title: str
    note: str
    source: str
    function: Callable[..., float | None]
    answers: AnswersOf = accepted_answers
    uses_mode: bool = False
    needs: tuple[str, ...] = ()
    binary: bool = False

    @property
    def partial(self) -> bool:
        """Whether it may score a part of the samples only."""
        return bool(self.needs)

    def score(self, row: Scorable, *, normalise: Normalise = True) -> float | None:
        """The score of a row, None where it has none; `normalise` matters with `uses_mode` only."""
        return self.score_with(self.answers(row), row, normalise=normalise)

    def score_with(self, answers: Sequence[str], row: Scorable, *, normalise: Normalise = True) -> float | None:
        """The same where `self.answers(row)` is known already."""
        if not self.needs and not self.uses_mode:
            return self.function(row["prediction"], answers)
        if not all(row.get(field) for field in self.needs):
            return None
        inputs = {field: row[field] for field in self.needs}
        return self.function(
            row["prediction"], answers, **inputs, **({"normalise": normalise} if self.uses_mode else {})
        )


EXACT_MATCH = Metric(
    name="exact_match",
    title="exact match",
    note="equal to an answer, by default without case, punctuation and articles (use_text_normalization)",
    source="SQuAD, `evaluate-v1.1.py`",
    function=exact_match,
    uses_mode=True,
    binary=True,
)
"""The headline: given for each group of samples, with an interval."""

METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        EXACT_MATCH,
        Metric(
            name="rigorous_match",
            title="rigorous match",
            note="equal to an answer, character by character",
            source="",
            function=rigorous_match,
            binary=True,
        ),
        Metric(
            name="contains_answer",
            title="contains answer",
            note="the words of an answer are in it, whatever else is; without case, punctuation and articles",
            source="PopQA (Mallen et al. 2023), here whole words only",
            function=contains_answer,
            binary=True,
        ),
        Metric(
            name="token_f1",
            title="token F1",
            note="words in common with the best answer",
            source="SQuAD, `evaluate-v1.1.py`; `evaluate-v2.0.py` where no word is left",
            function=token_f1,
        ),
        Metric(
            name="vqa_accuracy",
            title="VQA accuracy",
            note="how many of the people in answers gave that answer, a third of a point per person",
            source="VQA v2, `vqaEval.py`",
            function=vqa_accuracy,
            answers=listed_answers,
        ),
        Metric(
            name="anls",
            title="ANLS",
            note="similarity to the best of answers by edit distance, 0 below one half",
            source="Biten et al. 2019; Robust Reading Competition",
            function=anls,
            answers=listed_answers,
        ),
        Metric(
            name="relaxed_accuracy",
            title="relaxed accuracy",
            note="a number within 5% of an answer, else the same text",
            source="ChartQA (Masry et al. 2022); pix2struct, `metrics.py`",
            function=relaxed_accuracy,
            binary=True,
        ),
        Metric(
            name="multiple_choice",
            title="multiple choice",
            note="the letter or the text of the right option, for samples with choices",
            source="ScienceQA, `run_gpt3.py`; A-OKVQA, `eval_predictions.py`; AI2D",
            function=multiple_choice,
            answers=learned_answer,
            needs=("choices",),
            binary=True,
        ),
    )
}
"""All metrics by name, in the order of results.json and of tables."""

_BESIDE_EXACT_MATCH = tuple(metric for metric in METRICS.values() if metric is not EXACT_MATCH)


class RowScores(TypedDict):
    """The scores of a row as predictions.jsonl has them."""

    exact_match: bool
    scores: dict[str, float]
    """Those of the other metrics, 0 to 1; a metric that gives the row no score is not among them."""


def score_row(row: Scorable, *, normalise: Normalise = True) -> RowScores:
    """Score a row by every metric. Only exact match depends on `normalise`."""
    accepted, listed = accepted_answers(row), listed_answers(row)
    known: dict[AnswersOf, Sequence[str]] = {accepted_answers: accepted, listed_answers: listed}
    scores: dict[str, float] = {}
    for metric in _BESIDE_EXACT_MATCH:
        if metric.needs and not all(map(row.get, metric.needs)):
            continue  # as score_with would find, but before its call, which costs as much as a metric
        answers = known[metric.answers] if metric.answers in known else metric.answers(row)
        if (score := metric.score_with(answers, row)) is not None:
            scores[metric.name] = int(score) if isinstance(score, bool) else score
    return {"exact_match": bool(EXACT_MATCH.score_with(accepted, row, normalise=normalise)), "scores": scores}
