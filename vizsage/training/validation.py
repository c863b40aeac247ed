"""Scores on the validation split during training: answers are generated and compared, never teacher-forced."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

from vizsage.config import Config
from vizsage.data.batching import images_joined
from vizsage.data.images import refuse_bad_images
from vizsage.data.sample import Sample
from vizsage.distributed.group import Group
from vizsage.distributed.processes import Processes
from vizsage.errors import RepeatingError, is_out_of_memory
from vizsage.models.generation import Generator
from vizsage.models.memory import memory_exceeded
from vizsage.scoring.summary import summarise


def choose_samples(samples: Iterable[Sample], limit: int) -> list[Sample]:
    """At most `limit` samples, always the same ones, in whole image groups except perhaps the last.

    Images are ordered by a hash of their names: AQUA lists all visual questions before all knowledge questions, so the
    first `limit` samples would be of one kind only. At most `limit` samples are in memory.
    """
    keyed = ((hashlib.sha256("\0".join(s.group).encode()).digest(), i, s) for i, s in enumerate(images_joined(samples)))
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
    """Answer `samples` greedily and score them. Each process answers its share.

    An error in one process raises in all of them.

    Args:
        model: the model with its adapter.
        processor: its processor.
        samples: the validation samples, the same in each process.
        config: the settings.
        rank: number of this process.
        world_size: number of processes.
        stop: whether a signal asks to stop; looked at after each answer.

    Returns:
        What vizsage.scoring.summary.summarise returns, the same in each process; None when `stop` was true in one.

    Raises:
        BadImage: an image cannot be used, and by on_bad_image this stops the run.
    """
    by_id = {sample.sample_id: sample for sample in samples}
    rows: list[dict[str, Any]] = []
    problem: Exception | None = None
    stopped = False
    try:
        generator = Generator(model, processor, config, greedy=True)
        batches = generator.batches(samples)[rank::world_size]
        for answer in chain.from_iterable(generator.answer(batches)):
            sample = by_id[answer.sample_id]
            if answer.text is None:
                refuse_bad_images(sample.images, config)  # a sample that failed otherwise is recorded as failed
            rows.append(
                {
                    "image": sample.image_names,
                    "question": sample.question,
                    "prediction": answer.text,
                    "answer": sample.answer,
                    "answers": list(sample.answers),
                    "choices": list(sample.choices),
                    "need_external_knowledge": sample.need_external_knowledge,
                    "finish_reason": answer.finish_reason,
                }
            )
            if stopped := stop():
                break
    except Exception as error:  # noqa: BLE001 -- raised again below, when the other processes know of it
        problem = error
        if is_out_of_memory(error):
            problem = RepeatingError(memory_exceeded(config, error, "a validation"))
            problem.__cause__ = error
    parts = Processes(Group(rank, world_size)).gather((rows, stopped), problem)
    if any(stopped for _, stopped in parts):
        return None
    return summarise((row for rows, _ in parts for row in rows), normalise=config.use_text_normalization)
