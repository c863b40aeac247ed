"""`vizsage compare`: compares runs on the same samples, sample by sample."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vizsage.contract.results_file import Conditions
from vizsage.errors import ConfigError
from vizsage.evaluation.comparison.joining import Array, Asked, Run, find_predictions, read_run, same_samples
from vizsage.scoring.groups import QUESTION_WORDS, TagColumns, question_word
from vizsage.scoring.normalisation import MODES
from vizsage.scoring.registry import METRICS
from vizsage.scoring.statistics import (
    INTERVAL,
    bootstrap_intervals,
    holm,
    mcnemar_exact,
    paired_difference,
)

log = logging.getLogger(__name__)

SCHEMA_VERSION = 1
CONDITIONS = (
    "backend", "base_model", "revision", "precision", "knowledge", "blind", "limit", "mode", "generation",
    "max_seq_length", "instruction", "pixel_limits",
)  # fmt: skip
"""Names in results.json that should have equal values, so that a difference of scores has one cause."""

Members = npt.NDArray[np.bool_]


def compare(paths: Sequence[Path], *, split: str = "test", metric: str = "exact_match") -> dict[str, Any]:
    """Compare all pairs of runs, the earlier one of `paths` as the baseline.

    Args:
        paths: output folders (their evaluation of `split` is used), folders of an evaluation, or files of predictions,
            also those of other tools: one line per sample with image, question, answer or answers, and prediction.
        split: a name in evaluation_results/, such as test or test-base.
        metric: a name in `vizsage.scoring.registry.METRICS`. Scores are computed again; a record that failed (null)
            scores 0. The mode of exact match is that of the runs if all have the same one, else SQuAD's.

    Returns:
        What `vizsage compare --json` prints; docs/how-to/compare-runs.md lists the names.

    Raises:
        ConfigError: fewer than two runs, no predictions there, or an unknown metric.
        DataError: runs on different data, or an unusable file.
    """
    if len(paths) < 2:
        raise ConfigError("compare: name at least two runs")
    if metric not in METRICS:
        raise ConfigError(f"metric: expected one of {', '.join(METRICS)}, found {metric!r}")
    files = [find_predictions(path, split) for path in paths]
    modes = {str(conditions and conditions.mode) for _, conditions in files}
    mode = modes.pop() if len(modes) == 1 and modes <= MODES.keys() else "squad"
    scored_by, normalise = METRICS[metric], MODES[mode]
    first = read_run(*files[0], scored_by, normalise=normalise)
    runs = [first]
    for file, conditions in files[1:]:
        run = same_samples(first, read_run(file, conditions, scored_by, normalise=normalise))
        runs.append(run if len(files) == 2 else run.with_scores_only())
    groups = _Groups(first.asked)
    warnings = [warning for run in runs for warning in _warnings(first, run, metric)]
    for warning in warnings:
        log.warning("%s", warning)
    return {
        "schema_version": SCHEMA_VERSION,
        "metric": metric,
        "mode": mode,
        "samples": len(first.scores),
        "images": len(set(first.asked.images)),
        "interval": {**INTERVAL},
        "test": "mcnemar_exact" if scored_by.binary else "sign_exact",
        "correction": "holm" if len(runs) > 2 else None,
        "warnings": warnings,
        "runs": [{"path": str(path), **_scores(run, groups)} for path, run in zip(paths, runs, strict=True)],
        "pairs": _pairs(runs, groups),
    }


def _scores(run: Run, groups: _Groups) -> dict[str, Any]:
    """What is reported about a single run."""
    return {
        "predictions": str(run.path),
        **groups.score(run.scores),
        "failed_predictions": run.failed,
        **{
            name: None if run.conditions is None else _condition(run.conditions, name)
            for name in ("split", "adapter", *CONDITIONS)
        },
    }


def _pairs(runs: list[Run], groups: _Groups) -> list[dict[str, Any]]:
    """All pairs, each with the earlier run as the baseline."""
    pairs = [_pair(runs, a, b, groups) for a, b in combinations(range(len(runs)), 2)]
    if len(runs) > 2:
        for pair, adjusted in zip(pairs, holm([pair["p_value"] for pair in pairs]), strict=True):
            pair["adjusted_p_value"] = adjusted
    return pairs


def _pair(runs: list[Run], a: int, b: int, groups: _Groups) -> dict[str, Any]:
    """Run `b` compared with its baseline `a`."""
    baseline, run = runs[a], runs[b]

    def difference(members: Members) -> dict[str, Any]:
        return groups.difference(baseline.scores, run.scores, members)

    overall, change = difference(np.ones(len(run.scores), dtype=bool)), run.scores - baseline.scores
    return {
        "baseline": a,
        "run": b,
        **overall,
        "p_value": mcnemar_exact(overall["lost"], overall["gained"]),
        "adjusted_p_value": None,
        "with_external_knowledge": difference(groups.knowledge),
        "without_external_knowledge": difference(~groups.knowledge),
        "by_question_word": {word: difference(members) for word, members in groups.words.items()},
        "by_tag": {
            tag: {value: difference(column == number) for number, value in enumerate(values, start=1)}
            for tag, (column, values) in groups.tags.items()
        },
        "gained_samples": [_changed(runs[0], baseline, run, place) for place in np.flatnonzero(change > 0).tolist()],
        "lost_samples": [_changed(runs[0], baseline, run, place) for place in np.flatnonzero(change < 0).tolist()],
    }


def _changed(first: Run, baseline: Run, run: Run, place: int) -> dict[str, Any]:
    asked = first.asked
    changed: dict[str, Any] = {
        "sample_id": asked.ids[place],
        "image": asked.images[place],
        "question": asked.questions[place],
        "answers": list(asked.answers[place]),
        "scores": [float(each.scores[place]) for each in (baseline, run)],
    }
    if baseline.predictions and run.predictions:
        changed["predictions"] = [each.predictions[place] for each in (baseline, run)]
    return changed


class _Groups:
    """Scores and differences in parts of the samples, with intervals over images.

    Arrays have one entry per sample; `members` is true for the samples of the part.
    """

    def __init__(self, asked: Asked) -> None:
        images = {
            image: number for number, image in enumerate(sorted(set(asked.images)))
        }  # sorted, so that intervals do not depend on the order of lines
        self._clusters = np.array([images[image] for image in asked.images], dtype=np.int64)
        self.knowledge = np.array(asked.knowledge, dtype=bool)
        words = np.array([QUESTION_WORDS.index(question_word(question)) for question in asked.questions])
        masks = {word: words == number for number, word in enumerate(QUESTION_WORDS)}
        self.words = {word: members for word, members in masks.items() if members.any()}
        tags = TagColumns()
        for of_sample in asked.tags:
            tags.add(of_sample)
        self.tags = {tag: (np.array(column), values) for tag, (column, values) in tags.columns().items()}

    def score(self, scores: Array) -> dict[str, Any]:
        """Mean of all scores and its interval."""
        (sums,), counts = self._by_image(np.ones(len(scores), dtype=bool), scores)
        return {"score": _mean(scores), "interval": _ends(bootstrap_intervals(sums, counts)[0])}

    def difference(self, baseline: Array, scores: Array, members: Members) -> dict[str, Any]:
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

    def _by_image(self, members: Members, *scores: Array) -> tuple[list[Array], npt.NDArray[np.signedinteger[Any]]]:
        """For each of `scores` the sums [1, images] of the members, and their counts [1, images]."""
        clusters = np.unique(self._clusters[members], return_inverse=True)[1]
        counts = np.bincount(clusters)
        sums = [np.bincount(clusters, weights=one[members]).astype(np.float64)[None] for one in scores]
        return sums, counts[None]


def _mean(scores: Array) -> float | None:
    return float(scores.mean()) if len(scores) else None


def _ends(interval: Array) -> list[float] | None:
    return None if np.isnan(interval).any() else [float(end) for end in interval]


def _warnings(first: Run, run: Run, metric: str) -> Iterator[str]:
    """Reasons besides the models for which `run` may differ from the first one."""
    if run.not_scored:
        total = run.not_scored + len(run.scores)
        yield f"{run.path}: {run.not_scored} of {total} samples have no {metric} and are not compared"
    if run.conditions is None:
        yield f"{run.path}: no results.json beside it; its precision, knowledge and base model are not known"
    elif run is not first and first.conditions is not None:
        for name in CONDITIONS:
            here, there = (_condition(conditions, name) for conditions in (run.conditions, first.conditions))
            if here != there:
                yield f"{run.path}: {name} is {_shown(here)}, in {first.path} {_shown(there)}"


def _condition(conditions: Conditions, name: str) -> Any:
    if name in ("instruction", "pixel_limits"):
        return (conditions.fingerprint or {}).get(name)
    return getattr(conditions, name)


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_shown(one)}" for name, one in value.items())
    return value if isinstance(value, str) else json.dumps(value)
