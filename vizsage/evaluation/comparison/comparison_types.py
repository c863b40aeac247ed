"""What a comparison contains: the objects that `vizsage compare --json` prints, and that tables and pages show."""

from __future__ import annotations

from typing import Any, TypedDict


class Difference(TypedDict):
    """Two runs on a group of samples. Scores are 0 to 1, and null where the group has no sample."""

    samples: int
    images: int
    baseline_score: float | None
    score: float | None
    difference: float | None
    interval: list[float] | None
    """Ends, -1 to 1; null for fewer than two images."""
    gained: int
    """Samples with a higher score than in the baseline."""
    lost: int


class WholeDifference(Difference):
    """Two runs on all samples, with the exact test; `baseline` and `run` are indices of the runs."""

    baseline: int
    run: int
    p_value: float
    adjusted_p_value: float | None
    """By Holm's method; null for two runs."""


class GroupDifferences(TypedDict):
    """Two runs on each group of samples."""

    with_external_knowledge: Difference
    without_external_knowledge: Difference
    by_question_word: dict[str, Difference]
    by_tag: dict[str, dict[str, Difference]]


class _Changed(TypedDict):
    sample_id: str | None
    image: str
    question: str
    answers: list[str]
    scores: list[float]


class ChangedSample(_Changed, total=False):
    """A sample with another score than in the baseline; lists have the baseline first."""

    predictions: list[str | None]
    """Only where two runs are compared."""


class ChangedSamples(TypedDict):
    """All samples with another score than in the baseline."""

    gained_samples: list[ChangedSample]
    lost_samples: list[ChangedSample]


class Pair(WholeDifference, GroupDifferences, ChangedSamples):
    """All that is computed of two runs."""


class RunScore(TypedDict):
    """A run alone. `vizsage compare --json` adds its conditions, such as base_model and precision, by name."""

    path: str
    predictions: str
    score: float | None
    interval: list[float] | None
    failed_predictions: int


class Comparison(TypedDict):
    """What `vizsage compare --json` prints."""

    schema_version: int
    metric: str
    mode: str
    samples: int
    images: int
    interval: dict[str, Any]
    """How intervals were computed: `vizsage.scoring.statistics.INTERVAL`."""
    test: str
    correction: str | None
    warnings: list[str]
    runs: list[RunScore]
    pairs: list[Pair]
