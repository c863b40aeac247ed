"""The content of results.json: the scores of an evaluation, and what was run to get them.

The file is described in two parts, because they are also used apart. `vizsage score` computes the scores of a file of
predictions of which nothing else is known, and `vizsage compare` reads the conditions of runs and computes the scores
itself. Unknown keys are kept. The readers raise OSError, or ValueError with one line about what the file contains.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, Field

from vizsage.contract import RESULTS
from vizsage.contract.file_model import FileModel, Number, parsed
from vizsage.contract.hashes_file import HashesFacts, Leaks
from vizsage.files import parse_json

SCHEMA_VERSION = 3
READABLE_VERSIONS = (2, SCHEMA_VERSION)
"""Before 3, VQA accuracy and ANLS took an `answer` that `answers` did not contain for one more annotator's."""

BASE, BLIND = "-base", "-blind"
"""Endings of the name of an evaluation's folder: the base model without an adapter; the images withheld."""

Interval = Annotated[list[Number], Field(min_length=2, max_length=2)]
Share = Annotated[Number | None, Field(description="0 to 1; null where there is no sample.")]


def _readable(version: int) -> int:
    if version not in READABLE_VERSIONS:
        raise ValueError(f"expected schema_version {SCHEMA_VERSION}, found {version}")
    return version


class GroupScores(FileModel):
    """Exact match of a group of samples."""

    samples: int
    images: int | None = Field(default=None, description="Different images among the samples.")
    exact_match_score: Share = None
    exact_match_percentage: Number | None = None
    exact_match_interval: Interval | None = Field(
        default=None, description="Ends, 0 to 1; null for fewer than two images."
    )


class FailedRecord(FileModel):
    """A sample without a prediction."""

    sample_id: str | None = None
    error: str | None = Field(default=None, description="One line: why there is no prediction.")


class CaveatCount(FileModel):
    """How often SQuAD's normalisation changes what an answer means."""

    samples: int = Field(description="Samples with such an answer.")
    affected: int = Field(description="Predictions that are right, or wrong, for this reason alone.")


class IntervalMethod(FileModel):
    """How the intervals were computed."""

    confidence: Number = 0.95
    method: str = ""
    clusters: str = Field(default="image", description="What is drawn as a whole.")
    resamples: int = 0
    seed: int = 0


class Scores(FileModel):
    """What the predictions decide, and `vizsage score --json` prints."""

    schema_version: Annotated[int, AfterValidator(_readable)]
    total_samples: int
    images: int | None = None
    correct_predictions: int = Field(description="By exact match.")
    incorrect_predictions: int
    exact_match_score: Share = None
    exact_match_percentage: Number | None = None
    exact_match_interval: Interval | None = None
    with_external_knowledge: GroupScores
    without_external_knowledge: GroupScores
    by_question_word: dict[str, GroupScores]
    by_tag: dict[str, dict[str, GroupScores]] = Field(description="Groups by tag and value, the largest first.")
    tags_not_grouped: list[str] = Field(default=[], description="Tags with too many values.")
    metrics: dict[str, Share] = Field(description="Means by name; docs/reference/metrics.md describes each metric.")
    scored_samples: dict[str, int] = Field(
        default={}, description="Samples that a metric scored, for metrics that need what not every sample has."
    )
    normalisation: dict[str, CaveatCount] | None = None
    interval: IntervalMethod | None = None
    failed_predictions: int
    truncated_predictions: int = Field(description="Answers cut at max_new_tokens.")
    failed: list[FailedRecord] = Field(default=[], description="The first of the samples without a prediction.")

    def whole(self) -> GroupScores:
        """All samples as a group."""
        return GroupScores(
            samples=self.total_samples,
            images=self.images,
            exact_match_score=self.exact_match_score,
            exact_match_percentage=self.exact_match_percentage,
            exact_match_interval=self.exact_match_interval,
        )


class DataFacts(FileModel):
    """The data that was asked."""

    path: str | None = None
    sha256: str | None = Field(
        default=None, description="Of sample ids, images, questions and answers, in their order."
    )
    descriptions_sha256: str | None = Field(default=None, description="Of the descriptions, in the same order.")
    sample_hashes: HashesFacts | None = Field(default=None, description="The sample_hashes.json beside this file.")


class Conditions(FileModel):
    """What was run: the split, the model and all that decides its answers. A file of an earlier version lacks some."""

    schema_version: int | None = None
    split: str | None = None
    limit: int | None = Field(default=None, description="Only the first so many samples were asked.")
    blind: bool = Field(default=False, description="The images were withheld.")
    mode: str | None = Field(default=None, description="Of exact match: squad, light or rigorous.")
    knowledge: str | None = Field(default=None, description="none, oracle or retrieved.")
    adapter_sha256: str | None = None
    adapter_config_sha256: str | None = None
    base_files_sha256: str | None = None
    fingerprint: dict[str, Any] | None = Field(default=None, description="What decides the prompt and the pixels.")
    generation: dict[str, Any] | None = Field(default=None, description="Settings of generation.")
    precision: dict[str, Any] | None = None
    max_seq_length: int | None = None
    backend: str | None = Field(default=None, description="Where its answers differ from those of transformers.")
    left_out: dict[str, int] = Field(default={}, description="Samples of the split that were not asked, by reason.")
    missing_descriptions: int = Field(
        default=0, description="Samples that were asked without the description that they need."
    )
    data: DataFacts = Field(default_factory=DataFacts)
    base_model: str | None = None
    revision: str | None = None
    adapter: str | None = Field(default=None, description="Its folder; null: the base model.")
    settings: dict[str, Any] | None = None
    leaks: Leaks | None = Field(
        default=None,
        description="What of it was trained on; null: no adapter, or one whose training run was not there.",
    )
    throughput: dict[str, Any] | None = None
    processes: int | None = None
    seed: int | None = None
    versions: dict[str, str] | None = None
    hardware: dict[str, Any] | None = None
    finished: str | None = Field(default=None, description="UTC, ISO 8601.")

    def has(self, name: str) -> bool:
        """Whether the file contains the key `name`."""
        return name in self.model_fields_set


class ResultsFile(Scores, Conditions):
    """results.json as an evaluation writes it."""

    schema_version: Annotated[int, AfterValidator(_readable)]
    split: str
    mode: str
    knowledge: str
    settings: dict[str, Any]


class HeadlineScore(FileModel):
    """What a list of runs shows of an evaluation. Files of every version have it."""

    exact_match_score: Share
    limit: int | None = Field(default=None, description="Only the first samples were asked: how many; null: all.")


def evaluation_name(split: str, *, base: bool = False, blind: bool = False) -> str:
    """The name of an evaluation's folder below evaluation_results/."""
    return split + (BASE if base else "") + (BLIND if blind else "")


def read_results(folder: Path) -> ResultsFile:
    """results.json in the folder of an evaluation, complete and of a readable version."""
    return _read(ResultsFile, folder)


def read_conditions(folder: Path) -> Conditions:
    """The conditions in the results.json of `folder`, of any version and whatever else is missing there."""
    return _read(Conditions, folder)


def read_headline(folder: Path) -> HeadlineScore:
    """The main score in results.json, of any version and whatever else is missing there."""
    return _read(HeadlineScore, folder)


_Part = TypeVar("_Part", Conditions, HeadlineScore, ResultsFile)


def _read(part: type[_Part], folder: Path) -> _Part:
    return parsed(part, parse_json((folder / RESULTS).read_text(encoding="utf-8")))
