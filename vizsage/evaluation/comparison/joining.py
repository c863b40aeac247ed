"""Predictions of several runs, joined by sample. Runs on different samples are refused with the reason."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vizsage.contract import EVALUATIONS, PREDICTIONS, RESULTS
from vizsage.contract.results_file import READABLE_VERSIONS, Conditions, read_conditions
from vizsage.errors import ConfigError, DataError, one_line
from vizsage.evaluation.score import read_rows
from vizsage.scoring.normalisation import Normalise
from vizsage.scoring.registry import Metric
from vizsage.scoring.rows import PredictionRow

Array = npt.NDArray[np.float64]
NAMED = 3  # samples that a message names


@dataclass
class Asked:
    """What was asked: each list has one entry per sample. An id is None where a line has no sample_id.

    `answers` and `choices` are those that the metric of the comparison uses.
    """

    ids: list[str | None] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    questions: list[str] = field(default_factory=list)
    answers: list[tuple[str, ...]] = field(default_factory=list)  # sorted
    choices: list[tuple[str, ...]] = field(default_factory=list)
    knowledge: list[bool] = field(default_factory=list)
    tags: list[Mapping[str, Any]] = field(default_factory=list)

    def add(self, row: PredictionRow, metric: Metric) -> None:
        """Add the next line, which has an image and a question and is scored by `metric`."""
        self.ids.append(row["sample_id"])
        self.images.append(row["image"] or "")
        self.questions.append(row["question"] or "")
        self.answers.append(tuple(sorted(metric.answers(row))))
        self.choices.append(tuple(row.get("choices") or ()) if "choices" in metric.needs else ())
        self.knowledge.append(row["need_external_knowledge"])
        self.tags.append(row["tags"])


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        path: the file of predictions.
        conditions: those in results.json beside it; None without that file.
        asked: its samples.
        scores: [samples].
        predictions: None where the record failed.
        failed: how many failed.
        not_scored: lines to which the metric gives no score. They are not among the samples.
    """

    path: Path
    conditions: Conditions | None
    asked: Asked
    scores: Array
    predictions: list[str | None]
    failed: int
    not_scored: int

    def with_scores_only(self) -> Run:
        """The same without its texts, so that many runs fit in memory."""
        return replace(self, asked=Asked(), predictions=[])


def find_predictions(path: Path, split: str) -> tuple[Path, Conditions | None]:
    """The file of predictions that `path` refers to, and the conditions in results.json beside it, if there are any.

    Raises:
        ConfigError: there are no predictions.
        DataError: results.json is damaged.
    """
    places = [path] if path.is_file() else [path / PREDICTIONS, path / EVALUATIONS / split / PREDICTIONS]
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        evaluated = sorted(found.parent.name for found in path.glob(f"{EVALUATIONS}/*/{PREDICTIONS}"))
        there = f"; evaluated there: {', '.join(evaluated)} (--split)" if evaluated else ""
        raise ConfigError(
            f"{path}: no predictions there; expected an output_dir with {EVALUATIONS}/{split}/{PREDICTIONS}, a "
            f"folder with {PREDICTIONS}, or such a file{there}"
        )
    results = file.with_name(RESULTS)
    if file.name != PREDICTIONS or not results.is_file():
        return file, None
    try:
        return file, read_conditions(results.parent)
    except ValueError as error:
        raise DataError(f"{results}: cannot be read: {one_line(error)}; evaluate again") from None


def read_run(path: Path, conditions: Conditions | None, metric: Metric, *, normalise: Normalise) -> Run:
    """Read a file of predictions and score each line by one metric; see `read_scored`.

    Raises:
        DataError: also where the metric gives no line a score.
    """
    found = read_scored(path, conditions, [metric], normalise=normalise)
    if not found:
        raise DataError(
            f"{path}: no prediction can be scored by {metric.name}, for which a line needs {', '.join(metric.needs)}; "
            "name another --metric"
        )
    return found[metric.name]


def read_scored(
    path: Path, conditions: Conditions | None, metrics: Iterable[Metric], *, normalise: Normalise
) -> dict[str, Run]:
    """Read a file of predictions once and score each line by every metric.

    Args:
        path: the file.
        conditions: those of the run, where they are known.
        metrics: score each line.
        normalise: for exact match.

    Returns:
        The run by the name of each metric that gives at least one line a score.

    Raises:
        DataError: bad lines, which it names.
    """
    scored = [_ScoredBy(metric, normalise) for metric in metrics]
    for number, row in enumerate(read_rows(path, str(path)), start=1):
        for name in ("image", "question"):
            if row.get(name) is None:
                raise DataError(f"{path}: prediction {number}: {name} is missing; runs are compared image by image")
        for one in scored:
            one.add(row)
    return {one.metric.name: one.run(path, conditions) for one in scored if one.scores}


class _ScoredBy:
    """What one metric makes of the lines of a file."""

    def __init__(self, metric: Metric, normalise: Normalise) -> None:
        self.metric, self._normalise = metric, normalise
        self._asked, self._not_scored = Asked(), 0
        self.scores: list[float] = []
        self._predictions: list[str | None] = []

    def add(self, row: PredictionRow) -> None:
        score = self.metric.score(row, normalise=self._normalise)
        if score is None:
            self._not_scored += 1
            return
        self._asked.add(row, self.metric)
        self.scores.append(float(score))
        self._predictions.append(row["prediction"])

    def run(self, path: Path, conditions: Conditions | None) -> Run:
        failed = sum(text is None for text in self._predictions)
        return Run(path, conditions, self._asked, np.array(self.scores), self._predictions, failed, self._not_scored)


def same_samples(first: Run, run: Run) -> Run:
    """`run` in the order of `first`: samples joined by sample_id where all have one, else by image and question.

    Raises:
        DataError: the samples are not the same: one is missing in a run, or has another image, question, answers or
            choices. The message names samples.
    """
    by_id = None not in first.asked.ids and None not in run.asked.ids
    here, there = _places(first, by_id=by_id), _places(run, by_id=by_id)
    _refuse_other_samples(first, here, run, there)
    order = [there[key] for key in here]
    _refuse_other_content(first, here, run, order)
    _refuse_other_images(first, run)
    predictions = [run.predictions[place] for place in order]
    return replace(run, asked=first.asked, scores=run.scores[order], predictions=predictions)


def _places(run: Run, *, by_id: bool) -> dict[Hashable, int]:
    """The index of each sample in the file by what identifies it, in the order of the file."""
    asked = run.asked
    if by_id:
        return {sample_id: place for place, sample_id in enumerate(asked.ids)}
    same: defaultdict[tuple[str, str], list[tuple[tuple[str, ...], int]]] = defaultdict(list)
    for place, (image, question) in enumerate(zip(asked.images, asked.questions, strict=True)):
        same[image, question].append((asked.answers[place], place))
    # The answers distinguish samples that ask the same question about the same image.
    numbered = {place: (*key, number) for key, found in same.items() for number, (_, place) in enumerate(sorted(found))}
    return {numbered[place]: place for place in range(len(asked.images))}


def _refuse_other_samples(first: Run, here: dict[Hashable, int], run: Run, there: dict[Hashable, int]) -> None:
    """Raise DataError that names samples that only one of the runs has."""
    lacking = ((first, [key for key in here if key not in there]), (run, [key for key in there if key not in here]))
    if only := [f"{len(keys)} only in {each.path} ({_named(keys)})" for each, keys in lacking if keys]:
        raise DataError(
            f"the runs answer different samples: {', '.join(only)}; evaluate the same split with the same --limit and "
            "external_knowledge"
        )


def _refuse_other_content(first: Run, here: dict[Hashable, int], run: Run, order: list[int]) -> None:
    """Raise DataError that names samples whose content differs; `order`: their indices in `run`."""
    for name in ("images", "questions", "answers", "choices"):
        ours, theirs = getattr(first.asked, name), getattr(run.asked, name)
        pairs = [(key, ours[place], theirs[other]) for (key, place), other in zip(here.items(), order, strict=True)]
        if other := [f"{_name(key)}: {_text(a)} and {_text(b)}" for key, a, b in pairs if a != b]:
            raise DataError(
                f"{first.path} and {run.path} have other {name} in {len(other)} samples, so they were not asked the "
                f"same: {'; '.join(other[:NAMED])}"
            )


def _refuse_other_images(first: Run, run: Run) -> None:
    """Raise DataError if two results.json show that the data was not the same, and computed its hash the same way."""
    if first.conditions is None or run.conditions is None:
        return
    version, other_version = first.conditions.schema_version, run.conditions.schema_version
    sha256, other_sha256 = first.conditions.data.sha256, run.conditions.data.sha256
    alike = version == other_version or {version, other_version} <= set(READABLE_VERSIONS)
    if alike and sha256 and other_sha256 and sha256 != other_sha256:
        raise DataError(
            f"{first.path} and {run.path} have another data.sha256 in their results.json: questions and answers are "
            "the same, so the images or their order differ; evaluate one of them again"
        )


def _named(keys: list[Any]) -> str:
    return ", ".join(map(_name, keys[:NAMED])) + (", ..." if len(keys) > NAMED else "")


def _name(key: Any) -> str:
    return key if isinstance(key, str) else f"{key[1]!r} on {key[0]}"


def _text(value: Any) -> str:
    return repr(value if isinstance(value, str) else list(value))[:80]
