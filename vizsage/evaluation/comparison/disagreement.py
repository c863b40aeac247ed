"""The samples on which runs disagree, with the prediction of each run."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from vizsage.evaluation.comparison.compare import JoinedRuns
from vizsage.evaluation.score import read_rows
from vizsage.scoring.rows import PredictionRow

Answer = tuple[str | None, bool]
"""A prediction, and whether it is right."""


@dataclass
class Disagreement:
    """Samples on which the runs disagree, in the order of the first run.

    Attributes:
        other_outcome: number of all samples that one run answers correctly and another one does not.
        other_text: number of those with the same outcome and other predictions.
        rows: of the first run: at most as many as asked for, those with another outcome first of all.
        others: for each of `rows` the answers of the other runs.
    """

    other_outcome: int
    other_text: int
    rows: list[PredictionRow] = field(default_factory=list)
    others: list[list[Answer]] = field(default_factory=list)


def disagreement(joined: JoinedRuns, *, most: int) -> Disagreement:
    """The samples on which the runs disagree by exact match, at most `most` of them."""
    first, *others = joined.runs
    scores = np.stack([run.scores for run in joined.runs])
    outcome = (scores != scores[0]).any(axis=0)
    text = np.zeros(len(first.scores), dtype=bool)
    for run in others:
        text |= np.array([a != b for a, b in zip(first.predictions, run.predictions, strict=True)], dtype=bool)
    text &= ~outcome
    found = Disagreement(int(outcome.sum()), int(text.sum()))
    shown = {*[*np.flatnonzero(outcome).tolist(), *np.flatnonzero(text).tolist()][:most]}
    for place, row in enumerate(read_rows(first.path, str(first.path))):
        if place in shown:
            row["exact_match"] = bool(first.scores[place] == 1)
            found.rows.append(row)
            found.others.append([(run.predictions[place], bool(run.scores[place] == 1)) for run in others])
    return found
