"""Predictions of several runs joined by sample: the same questions and answers, or an error that says why not."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from vizsage.errors import ConfigError, DataError
from vizsage.evaluation.predictions import PREDICTIONS
from vizsage.evaluation.results import READABLE_VERSIONS
from vizsage.evaluation.score import read_rows
from vizsage.files import parse_json
from vizsage.scoring.metrics import answers_for

RESULTS = "results.json"
NAMED = 3  # samples that a message names


@dataclass
class Asked:
    """What was asked: a list entry a sample in each. `ids` holds None where a line has no sample_id."""

    ids: list[str | None] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    questions: list[str] = field(default_factory=list)
    answers: list[tuple[str, ...]] = field(default_factory=list)  # sorted
    knowledge: list[bool] = field(default_factory=list)
    tags: list[Mapping[str, Any]] = field(default_factory=list)

    def add(self, row: Mapping[str, Any], metric: str) -> None:
        """Take in the next line, which `metric` scores."""
        self.ids.append(row["sample_id"])
        self.images.append(row["image"])
        self.questions.append(row["question"])
        self.answers.append(tuple(sorted(answers_for(metric, row))))
        self.knowledge.append(row["need_external_knowledge"])
        self.tags.append(row["tags"])


@dataclass(frozen=True)
class Run:
    """One run: `scores` [samples]; predictions None where the record failed; `results`: its results.json, if any."""

    path: Path
    results: Mapping[str, Any] | None
    asked: Asked
    scores: np.ndarray
    predictions: list[str | None]
    failed: int

    def with_scores_only(self) -> Run:
        """The same without its texts, so that many runs fit in memory."""
        return replace(self, asked=Asked(), predictions=[])


def find_predictions(path: Path, split: str) -> tuple[Path, Mapping[str, Any] | None]:
    """The file of predictions that `path` means, and results.json beside it; None where there is none.

    Raises ConfigError when there are no predictions, DataError for a damaged results.json.
    """
    places = [path] if path.is_file() else [path / PREDICTIONS, path / "evaluation_results" / split / PREDICTIONS]
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        evaluated = sorted(found.parent.name for found in path.glob(f"evaluation_results/*/{PREDICTIONS}"))
        there = f"; evaluated there: {', '.join(evaluated)} (--split)" if evaluated else ""
        raise ConfigError(
            f"{path}: no predictions there; expected an output_dir with evaluation_results/{split}/{PREDICTIONS}, a "
            f"folder with {PREDICTIONS}, or such a file{there}"
        )
    results = file.with_name(RESULTS)
    if file.name != PREDICTIONS or not results.is_file():
        return file, None
    try:
        content = parse_json(results.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{results}: not JSON ({error}); evaluate again") from None
    if not isinstance(content, dict):
        raise DataError(f"{results}: expected an object, found {type(content).__name__}; evaluate again")
    return file, content


def read_run(
    path: Path, results: Mapping[str, Any] | None, metric: str, score: Callable[[Mapping[str, Any]], float]
) -> Run:
    """Read a file of predictions and `score` each line by `metric`. Raises DataError that names the bad lines."""
    asked, scores, predictions = Asked(), [], []
    for number, row in enumerate(read_rows(path, str(path)), start=1):
        for name in ("image", "question"):
            if row[name] is None:
                raise DataError(f"{path}: prediction {number}: {name} is missing; runs are compared image by image")
        asked.add(row, metric)
        scores.append(float(score(row)))
        predictions.append(row["prediction"])
    return Run(path, results, asked, np.array(scores), predictions, sum(text is None for text in predictions))


def same_samples(first: Run, run: Run) -> Run:
    """`run` in the order of `first`: samples joined by sample_id where all have one, else by image and question.

    Raises DataError, naming samples, where they are not the same: one is missing in a run, or image, question, answers
    or images differ.
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
    """Where each sample stands in the file, by what tells it from others, in the order of the file."""
    asked = run.asked
    if by_id:
        return {sample_id: place for place, sample_id in enumerate(asked.ids)}
    same: defaultdict[tuple[str, str], list[tuple[tuple[str, ...], int]]] = defaultdict(list)
    for place, (image, question) in enumerate(zip(asked.images, asked.questions, strict=True)):
        same[image, question].append((asked.answers[place], place))
    # A question that is asked twice of an image, with different answers, is told apart by them.
    numbered = {place: (*key, number) for key, found in same.items() for number, (_, place) in enumerate(sorted(found))}
    return {numbered[place]: place for place in range(len(asked.images))}


def _refuse_other_samples(first: Run, here: dict[Hashable, int], run: Run, there: dict[Hashable, int]) -> None:
    """Raise DataError that names samples of one run that the other has not."""
    lacking = ((first, [key for key in here if key not in there]), (run, [key for key in there if key not in here]))
    if only := [f"{len(keys)} only in {each.path} ({_named(keys)})" for each, keys in lacking if keys]:
        raise DataError(
            f"the runs answer different samples: {', '.join(only)}; evaluate the same split with the same --limit and "
            "external_knowledge"
        )


def _refuse_other_content(first: Run, here: dict[Hashable, int], run: Run, order: list[int]) -> None:
    """Raise DataError that names samples with other images, questions or answers; `order`: their places in `run`."""
    for name in ("images", "questions", "answers"):
        ours, theirs = getattr(first.asked, name), getattr(run.asked, name)
        pairs = [(key, ours[place], theirs[other]) for (key, place), other in zip(here.items(), order, strict=True)]
        if other := [f"{_name(key)}: {_text(a)} and {_text(b)}" for key, a, b in pairs if a != b]:
            raise DataError(
                f"{first.path} and {run.path} have other {name} in {len(other)} samples, so they were not asked the "
                f"same: {'; '.join(other[:NAMED])}"
            )


def _refuse_other_images(first: Run, run: Run) -> None:
    """Raise DataError where two results.json of the same making say that the data was not the same."""
    if first.results is None or run.results is None:
        return
    (version, sha256), (other_version, other_sha256) = map(_made_from, (first.results, run.results))
    alike = version == other_version or {version, other_version} <= set(READABLE_VERSIONS)
    if alike and sha256 and other_sha256 and sha256 != other_sha256:
        raise DataError(
            f"{first.path} and {run.path} were made from other data, says data.sha256 in their results.json: questions "
            "and answers are the same, so the images or their order are not; evaluate one of them again"
        )


def _made_from(results: Mapping[str, Any]) -> tuple[Any, Any]:
    return results.get("schema_version"), (results.get("data") or {}).get("sha256")


def _named(keys: list[Any]) -> str:
    return ", ".join(map(_name, keys[:NAMED])) + (", ..." if len(keys) > NAMED else "")


def _name(key: Any) -> str:
    return key if isinstance(key, str) else f"{key[1]!r} on {key[0]}"


def _text(value: Any) -> str:
    return repr(value if isinstance(value, str) else list(value))[:80]
