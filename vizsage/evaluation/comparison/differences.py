"""Scores and paired differences of runs whose samples are in the same order, in all samples and by group."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from vizsage.evaluation.comparison.comparison_types import (
    ChangedSample,
    ChangedSamples,
    Difference,
    GroupDifferences,
    WholeDifference,
)
from vizsage.evaluation.comparison.joining import Array, Asked, Run
from vizsage.scoring.groups import QUESTION_WORDS, TagColumns, question_word
from vizsage.scoring.statistics import bootstrap_intervals, holm, mcnemar_exact, paired_difference

Members = npt.NDArray[np.bool_]


class Groups:
    """Scores and differences in parts of the samples, with intervals over images.

    Arrays have one entry per sample; `members` is true for the samples of the part.
    """

    def __init__(self, asked: Asked) -> None:
        images = {
            image: number for number, image in enumerate(sorted(set(asked.images)))
        }  # sorted, so that intervals do not depend on the order of lines
        self.images = len(images)
        self._clusters = np.array([images[image] for image in asked.images], dtype=np.int64)
        self._knowledge = np.array(asked.knowledge, dtype=bool)
        words = np.array([QUESTION_WORDS.index(question_word(question)) for question in asked.questions])
        masks = {word: words == number for number, word in enumerate(QUESTION_WORDS)}
        self._words = {word: members for word, members in masks.items() if members.any()}
        tags = TagColumns()
        for of_sample in asked.tags:
            tags.add(of_sample)
        self._tags = {tag: (np.array(column), values) for tag, (column, values) in tags.columns().items()}

    def score(self, scores: Array) -> tuple[float | None, list[float] | None]:
        """Mean of all scores, and the ends of its interval."""
        (sums,), counts = self._by_image(np.ones(len(scores), dtype=bool), scores)
        return _mean(scores), _ends(bootstrap_intervals(sums, counts)[0])

    def difference(self, baseline: Array, scores: Array, members: Members) -> Difference:
        """Both means, their difference with its interval, and how many samples became better and worse."""
        (baseline_sums, sums), counts = self._by_image(members, baseline, scores)
        (difference,), (interval,) = paired_difference(baseline_sums, sums, counts)
        change = (scores - baseline)[members]
        return {
            "samples": int(counts.sum()),
            "images": counts.shape[1],
            "baseline_score": _mean(baseline[members]),
            "score": _mean(scores[members]),
            "difference": None if math.isnan(difference) else float(difference),
            "interval": _ends(interval),
            "gained": int((change > 0).sum()),
            "lost": int((change < 0).sum()),
        }

    def by_group(self, baseline: Array, scores: Array) -> GroupDifferences:
        """The difference in each group."""

        def of(members: Members) -> Difference:
            return self.difference(baseline, scores, members)

        return {
            "with_external_knowledge": of(self._knowledge),
            "without_external_knowledge": of(~self._knowledge),
            "by_question_word": {word: of(members) for word, members in self._words.items()},
            "by_tag": {
                tag: {value: of(column == number) for number, value in enumerate(values, start=1)}
                for tag, (column, values) in self._tags.items()
            },
        }

    def _by_image(self, members: Members, *scores: Array) -> tuple[list[Array], npt.NDArray[np.signedinteger[Any]]]:
        """For each of `scores` the sums [1, images] of the members, and their counts [1, images]."""
        clusters = np.unique(self._clusters[members], return_inverse=True)[1]
        counts = np.bincount(clusters)
        sums = [np.bincount(clusters, weights=one[members]).astype(np.float64)[None] for one in scores]
        return sums, counts[None]


def whole_differences(runs: Sequence[Run], groups: Groups) -> list[WholeDifference]:
    """All pairs of runs, each with the earlier run as the baseline."""
    everything = np.ones(len(runs[0].scores), dtype=bool)
    pairs = [
        _whole_difference(a, b, groups.difference(runs[a].scores, runs[b].scores, everything))
        for a, b in combinations(range(len(runs)), 2)
    ]
    if len(runs) > 2:
        for pair, adjusted in zip(pairs, holm([pair["p_value"] for pair in pairs]), strict=True):
            pair["adjusted_p_value"] = adjusted
    return pairs


def _whole_difference(baseline: int, run: int, found: Difference) -> WholeDifference:
    return {
        "baseline": baseline,
        "run": run,
        **found,
        "p_value": mcnemar_exact(found["lost"], found["gained"]),
        "adjusted_p_value": None,
    }


def changed_samples(asked: Asked, baseline: Run, run: Run) -> ChangedSamples:
    """The samples with another score in `run` than in its baseline."""
    change = run.scores - baseline.scores
    return {
        "gained_samples": [_changed(asked, baseline, run, place) for place in np.flatnonzero(change > 0).tolist()],
        "lost_samples": [_changed(asked, baseline, run, place) for place in np.flatnonzero(change < 0).tolist()],
    }


def _changed(asked: Asked, baseline: Run, run: Run, place: int) -> ChangedSample:
    changed: ChangedSample = {
        "sample_id": asked.ids[place],
        "image": asked.images[place],
        "question": asked.questions[place],
        "answers": list(asked.answers[place]),
        "scores": [float(each.scores[place]) for each in (baseline, run)],
    }
    if baseline.predictions and run.predictions:
        changed["predictions"] = [each.predictions[place] for each in (baseline, run)]
    return changed


def _mean(scores: Array) -> float | None:
    return float(scores.mean()) if len(scores) else None


def _ends(interval: Array) -> list[float] | None:
    return None if np.isnan(interval).any() else [float(end) for end in interval]
