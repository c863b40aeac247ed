"""Samples that training leaves out: their number by reason, and an error where none is left."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from vizsage.data.sample import Sample
from vizsage.errors import DataError

NOTICEABLE = 0.1
"""The share of samples left out from which on `vizsage check` warns."""
_TOO_LONG = re.compile(r"\d+ tokens .*max_seq_length is \d+")

Collate = Callable[[Sequence[Sample]], Mapping[str, Any]]


def summary(reasons: Collection[str], seen: int) -> str:
    """How many of `seen` training samples were left out, each for one of `reasons`."""
    share = len(reasons) / seen
    return f"{len(reasons)} of {seen} training samples ({share:.1%}) are left out: {by_reason(reasons)}"


def by_reason(reasons: Collection[str]) -> str:
    """How many samples were left out for which reason, which setting helps, and the first reason in full."""
    too_long = sum(bool(_TOO_LONG.fullmatch(reason)) for reason in reasons)
    unusable = len(reasons) - too_long
    counts = [f"{too_long} too long, which a higher max_seq_length fixes"] if too_long else []
    counts += [f"{unusable} with an image that cannot be used"] if unusable else []
    return f"{', '.join(counts)}; the first: {next(iter(reasons))}"


def nothing_to_learn(reasons: Collection[str]) -> DataError:
    """The error of a run that left out all of its samples."""
    return DataError(f"nothing to learn from: all {len(reasons)} training samples are left out: {by_reason(reasons)}")


def require_some(samples: Iterable[Sample], collate: Collate) -> None:
    """Raise DataError unless one of `samples` can be trained on; stops at the first that can.

    `collate` is a vizsage.data.collate.TrainCollator; its errors are not caught.
    """
    reasons = []
    for sample in samples:
        left_out = collate([sample])["left_out"]
        if not left_out:
            return
        reasons.append(left_out[0][1])
    raise nothing_to_learn(reasons)
