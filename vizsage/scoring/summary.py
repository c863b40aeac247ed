"""The scores of a set of answered questions: the numbers of results.json, from whichever command."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from vizsage.scoring.caveats import CAVEATS, affected_by, answer_caveats
from vizsage.scoring.groups import QUESTION_WORDS, TagColumns, question_word
from vizsage.scoring.normalisation import Normalise
from vizsage.scoring.registry import EXACT_MATCH, METRICS, score_row
from vizsage.scoring.rows import Scorable, accepted_answers
from vizsage.scoring.statistics import INTERVAL, bootstrap_intervals

FAILED_LISTED = 100


def summarise(rows: Iterable[Scorable], *, normalise: Normalise = True) -> dict[str, Any]:
    """All scores of `rows`, and exact match with its interval for every group of them.

    Reads the rows once and keeps numbers only, some 60 bytes per row, so an iterator over a long file is fine. Scores
    that a row already has are computed again. Questions on one image are one cluster; a row without an image is a
    separate cluster.

    Args:
        rows: mappings with `prediction` (text, or None where the record failed), `answers` or `answer`, and if known
            `image`, `question`, `choices`, `need_external_knowledge` (else false), `tags`, `finish_reason` ("length"
            where the answer was cut at max_new_tokens), `sample_id` and `error`.
        normalise: the normalisation of exact match: SQuAD's (True), the light one, or none (False).

    Returns:
        What `vizsage.contract.results_file.Scores` describes. A failed record counts as incorrect; a group without
        samples has null scores.
    """
    columns = _Columns(normalise)
    for row in rows:
        columns.add(row)
    return columns.summary()


class _Columns:
    """What is kept of the rows: columns with one number per row."""

    def __init__(self, normalise: Normalise) -> None:
        self._normalise = normalise
        self._images: dict[str, int] = {}
        self._cluster, self._unnamed = array("q"), 0
        self._correct, self._knowledge, self._word = array("b"), array("b"), array("b")
        self._scores = {name: array("d") for name in METRICS if name != EXACT_MATCH.name}
        self._tags = TagColumns()
        self._failed_count = self._truncated = 0
        self._failed: list[dict[str, Any]] = []
        self._caveats = {name: {"samples": 0, "affected": 0} for name in CAVEATS}

    def add(self, row: Scorable) -> None:
        scored = score_row(row, normalise=self._normalise)
        self._correct.append(scored["exact_match"])
        for name, score in scored["scores"].items():  # without the metrics that give this row no score
            self._scores[name].append(score)
        self._cluster.append(self._cluster_of(row.get("image")))
        self._knowledge.append(bool(row.get("need_external_knowledge")))
        question = row.get("question")
        self._word.append(-1 if question is None else QUESTION_WORDS.index(question_word(question)))
        self._tags.add(row.get("tags") or {})
        self._truncated += row.get("finish_reason") == "length"
        self._count_caveats(row["prediction"], accepted_answers(row))
        if row["prediction"] is None:
            self._failed_count += 1
            if len(self._failed) < FAILED_LISTED:
                self._failed.append({"sample_id": row.get("sample_id"), "error": row.get("error")})

    def _count_caveats(self, prediction: str | None, answers: Sequence[str]) -> None:
        for name in {name for answer in dict.fromkeys(answers) for name in answer_caveats(answer)}:
            self._caveats[name]["samples"] += 1
        if affecting := affected_by(prediction, answers):
            self._caveats[affecting]["affected"] += 1

    def _cluster_of(self, image: str | None) -> int:
        """The number of the image's cluster, from 0; a new negative one for a row without an image."""
        if image is not None:
            return self._images.setdefault(image, len(self._images))
        self._unnamed += 1
        return -self._unnamed

    def summary(self) -> dict[str, Any]:
        groups = _Groups(self._ordered_clusters(), np.array(self._correct, dtype=bool))
        everything = groups.group(np.ones(len(self._correct), dtype=bool))
        correct, total = sum(self._correct), len(self._correct)
        knowledge, words = np.array(self._knowledge, dtype=bool), np.array(self._word)
        present = [(number, word) for number, word in enumerate(QUESTION_WORDS) if (words == number).any()]
        means_of = {name: scores for name, scores in self._scores.items() if scores or not METRICS[name].partial}
        partial = {name: len(scores) for name, scores in means_of.items() if METRICS[name].partial}
        return {
            "total_samples": total,
            "images": everything["images"],
            "correct_predictions": correct,
            "incorrect_predictions": total - correct,
            **{name: everything[name] for name in everything if name.startswith("exact_match")},
            "with_external_knowledge": groups.group(knowledge),
            "without_external_knowledge": groups.group(~knowledge),
            "by_question_word": {word: groups.group(words == number) for number, word in present},
            "by_tag": {tag: groups.by_value(*column) for tag, column in self._tags.columns().items()},
            "tags_not_grouped": sorted(self._tags.dropped),
            "metrics": {
                EXACT_MATCH.name: everything["exact_match_score"],
                **{name: math.fsum(scores) / len(scores) if scores else None for name, scores in means_of.items()},
            },
            **({"scored_samples": partial} if partial else {}),
            "normalisation": self._caveats,
            "interval": {**INTERVAL},
            "failed_predictions": self._failed_count,
            "truncated_predictions": self._truncated,
            "failed": self._failed,
        }

    def _ordered_clusters(self) -> np.ndarray:
        """A number from 0 per row, by the names of the images, so that intervals do not depend on the order of rows."""
        place = np.empty(len(self._images), dtype=np.int64)
        place[[self._images[name] for name in sorted(self._images)]] = np.arange(len(self._images))
        clusters = np.array(self._cluster, dtype=np.int64)
        named = clusters >= 0
        clusters[named] = place[clusters[named]]
        clusters[~named] = len(place) - 1 - clusters[~named]
        return clusters


class _Groups:
    """Exact match in parts of the rows; clusters and correct have one entry per row."""

    def __init__(self, clusters: np.ndarray, correct: np.ndarray) -> None:
        self._clusters, self._correct = clusters, correct

    def group(self, members: np.ndarray) -> dict[str, Any]:
        """Scores and interval of the rows where `members` is true."""
        _, clusters = np.unique(self._clusters[members], return_inverse=True)
        counts = np.bincount(clusters)
        sums = np.bincount(clusters, weights=self._correct[members])
        samples, correct = int(counts.sum()), int(sums.sum())
        interval = bootstrap_intervals(sums[None], counts[None])[0] if samples else [math.nan]
        return {
            "samples": samples,
            "images": len(counts),
            "exact_match_score": correct / samples if samples else None,
            "exact_match_percentage": 100 * correct / samples if samples else None,
            "exact_match_interval": None if math.isnan(interval[0]) else [float(end) for end in interval],
        }

    def by_value(self, numbers: array[int], values: list[str]) -> dict[str, dict[str, Any]]:
        """A group for each value of a tag, the largest first; see TagColumns.columns."""
        column = np.array(numbers)
        groups = {value: self.group(column == number) for number, value in enumerate(values, start=1)}
        return dict(sorted(groups.items(), key=lambda item: (-item[1]["samples"], item[0])))
