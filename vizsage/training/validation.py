"""Exact match on the validation split during training: generated, then compared; never teacher-forced."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable, Iterable
from typing import Any

from accelerate.utils import gather_object

from vizsage.backends.generation import generate_answers
from vizsage.config import Config
from vizsage.data.sample import Sample
from vizsage.scoring.metrics import summarise


def choose_samples(samples: Iterable[Sample], limit: int) -> list[Sample]:
    """At most `limit` samples, the same ones each time, whole image groups except perhaps the last.

    Images are taken in the order of a hash of their names: AQUA lists all visual questions before all knowledge
    questions, so the first `limit` would hold one kind only. Keeps `limit` samples in memory.
    """
    keyed = ((hashlib.sha256(s.image.name.encode()).digest(), i, s) for i, s in enumerate(samples))
    return [sample for _, _, sample in heapq.nsmallest(limit, keyed, key=lambda item: item[:2])]


def validate(
    model: Any,
    processor: Any,
    samples: list[Sample],
    config: Config,
    *,
    rank: int = 0,
    world_size: int = 1,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any] | None:
    """Answer `samples` greedily, a share a process, and score them all.

    Returns summarise()'s dictionary, the same on each process; None when `stop` became true on any of them.
    """
    share = samples[rank * len(samples) // world_size : (rank + 1) * len(samples) // world_size]
    by_id = {sample.sample_id: sample for sample in share}
    rows: list[dict[str, Any] | None] = []
    for answer in generate_answers(model, processor, share, config, batch_size=config.eval_batch_size, greedy=True):
        sample = by_id[answer.sample_id]
        rows.append(
            {
                "prediction": answer.text,
                "answer": sample.answer,
                "need_external_knowledge": sample.need_external_knowledge,
                "finish_reason": answer.finish_reason,
            }
        )
        if stop():
            rows = [None]
            break
    gathered = gather_object(rows) if world_size > 1 else rows
    whole = [row for row in gathered if row is not None]
    return summarise(whole, normalise=config.use_text_normalization) if len(whole) == len(gathered) else None
