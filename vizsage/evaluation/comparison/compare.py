"""`vizsage compare`: compares runs on the same samples, sample by sample."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from vizsage.contract.results_file import Conditions
from vizsage.errors import ConfigError, DataError
from vizsage.evaluation.comparison.comparison_types import Comparison, Pair, RunScore, WholeDifference
from vizsage.evaluation.comparison.differences import Groups, changed_samples, whole_differences
from vizsage.evaluation.comparison.joining import Run, find_predictions, read_run, read_scored, same_samples
from vizsage.scoring.normalisation import MODES
from vizsage.scoring.registry import EXACT_MATCH, METRICS
from vizsage.scoring.statistics import INTERVAL

log = logging.getLogger(__name__)

SCHEMA_VERSION = 1
CONDITIONS = (
    "backend", "base_model", "revision", "precision", "knowledge", "blind", "limit", "mode", "generation",
    "max_seq_length", "instruction", "pixel_limits",
)  # fmt: skip
"""Names in results.json that should have equal values, so that a difference of scores has one cause."""

File = tuple[Path, Conditions | None]
"""A file of predictions and what the results.json beside it says."""


def compare(paths: Sequence[Path], *, split: str = "test", metric: str = "exact_match") -> Comparison:
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
    mode = common_mode(files)
    scored_by, normalise = METRICS[metric], MODES[mode]
    first = read_run(*files[0], scored_by, normalise=normalise)
    runs = [first]
    for file, conditions in files[1:]:
        run = same_samples(first, read_run(file, conditions, scored_by, normalise=normalise))
        runs.append(run if len(files) == 2 else run.with_scores_only())
    groups = Groups(first.asked)
    warnings = [*condition_warnings(runs, metric), *leak_warnings(runs)]
    for warning in warnings:
        log.warning("%s", warning)
    return {
        "schema_version": SCHEMA_VERSION,
        "metric": metric,
        "mode": mode,
        "samples": len(first.scores),
        "images": groups.images,
        "interval": {**INTERVAL},
        "test": exact_test(metric),
        "correction": "holm" if len(runs) > 2 else None,
        "warnings": warnings,
        "runs": [_scores(path, run, groups) for path, run in zip(paths, runs, strict=True)],
        "pairs": [_pair(runs, whole, groups) for whole in whole_differences(runs, groups)],
    }


def common_mode(files: Sequence[File]) -> str:
    """The mode of exact match: that of the runs if all have the same one, else SQuAD's."""
    modes = {str(conditions and conditions.mode) for _, conditions in files}
    return modes.pop() if len(modes) == 1 and modes <= MODES.keys() else "squad"


def exact_test(metric: str) -> str:
    """The name of the exact test of a pair."""
    return "mcnemar_exact" if METRICS[metric].binary else "sign_exact"


@dataclass(frozen=True)
class JoinedRuns:
    """Runs scored by several metrics, their samples in one order.

    Attributes:
        mode: of exact match.
        by_metric: the runs by each metric that scores some samples of all of them; the texts of predictions are kept by
            exact match alone.
        left_out: metrics that are not among them although they score samples of all runs, and why.
        warnings: reasons besides the models for which the runs may differ, and runs that were asked what they were
            trained on.
    """

    mode: str
    by_metric: dict[str, list[Run]]
    left_out: dict[str, str]
    warnings: list[str]

    @property
    def runs(self) -> list[Run]:
        """The runs by exact match, with their texts."""
        return self.by_metric[EXACT_MATCH.name]


def join_runs(files: Sequence[File], metrics: Sequence[str] = tuple(METRICS)) -> JoinedRuns:
    """Read each run once and score it by all `metrics`, exact match among them. The first run decides the order.

    Raises:
        DataError: runs on different data, or an unusable file.
    """
    mode = common_mode(files)
    scored_by = [METRICS[name] for name in metrics]
    firsts = read_scored(*files[0], scored_by, normalise=MODES[mode])
    joined = {name: [first] for name, first in firsts.items()}
    left_out: dict[str, str] = {}
    for file in files[1:]:
        found = read_scored(*file, scored_by, normalise=MODES[mode])
        for name, first in firsts.items():
            if name == EXACT_MATCH.name:
                joined[name].append(same_samples(first, found[name]))
            elif name in joined and name in found:
                try:
                    joined[name].append(same_samples(first, found[name]).with_scores_only())
                except DataError as error:  # the runs differ only in what this metric needs, such as choices
                    left_out[name] = str(error)
                    del joined[name]
            else:
                joined.pop(name, None)
    runs = joined[EXACT_MATCH.name]
    warnings = [*condition_warnings(runs, EXACT_MATCH.name), *leak_warnings(runs)]
    return JoinedRuns(mode, joined, left_out, warnings)


@dataclass(frozen=True)
class AgainstBaseline:
    """A run compared with its baseline by exact match.

    Attributes:
        difference: on all samples.
        predictions: those of the baseline in the order of the run's file; None where the record failed.
        right: whether they are, in the same order.
        warnings: reasons besides the models for which the two may differ.
    """

    difference: WholeDifference
    predictions: list[str | None]
    right: list[bool]
    warnings: list[str]


def against_baseline(folder: Path, baseline: Path) -> AgainstBaseline:
    """Compare the evaluation in `folder` with the one in `baseline`, as `vizsage compare BASELINE RUN` does.

    Raises:
        ConfigError: one of them has no predictions.
        DataError: they are on different data, or a file is unusable.
    """
    joined = join_runs([find_predictions(path, "") for path in (folder, baseline)], [EXACT_MATCH.name])
    run, before = joined.runs
    [difference] = whole_differences([before, run], Groups(run.asked))
    warnings = condition_warnings(joined.runs, EXACT_MATCH.name)  # the report has a statement on leaks
    return AgainstBaseline(difference, before.predictions, (before.scores == 1).tolist(), warnings)


def _scores(path: Path, run: Run, groups: Groups) -> RunScore:
    """What is reported about a single run, with its conditions by name."""
    score, interval = groups.score(run.scores)
    found: RunScore = {
        "path": str(path),
        "predictions": str(run.path),
        "score": score,
        "interval": interval,
        "failed_predictions": run.failed,
    }
    names = ("split", "adapter", *CONDITIONS)
    known = {name: None if run.conditions is None else _condition(run.conditions, name) for name in names}
    return cast("RunScore", {**found, **known})


def _pair(runs: list[Run], whole: WholeDifference, groups: Groups) -> Pair:
    """A run compared with its baseline."""
    baseline, run = runs[whole["baseline"]], runs[whole["run"]]
    return {
        **whole,
        **groups.by_group(baseline.scores, run.scores),
        **changed_samples(runs[0].asked, baseline, run),
    }


def condition_warnings(runs: Sequence[Run], metric: str) -> list[str]:
    """Reasons besides the models for which runs may differ from the first one."""
    return [warning for run in runs for warning in _warnings(runs[0], run, metric)]


def leak_warnings(runs: Sequence[Run]) -> list[str]:
    """One line for each run that was asked samples or images of its adapter's training split."""
    return [
        f"{run.path}: {leaks.samples_in_training:,} of {leaks.samples:,} samples and {leaks.images_in_training:,} of "
        f"{leaks.images:,} images are in the training split of {leaks.train_run}, so its score may be too high"
        for run in runs
        if run.conditions is not None and run.conditions.split != "train"
        if (leaks := run.conditions.leaks) is not None and (leaks.samples_in_training or leaks.images_in_training)
    ]


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
