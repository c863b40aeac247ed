"""Validation during training: exact match on generated answers, and the loss of training on the right ones.

Early stopping and the best checkpoint follow exact match. The loss is for the curves.
"""

from __future__ import annotations

import hashlib
import heapq
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch

from vizsage.config import Config
from vizsage.data.batching import evaluation_order, images_joined
from vizsage.data.collate import TrainCollator
from vizsage.data.images import refuse_bad_images
from vizsage.data.sample import Sample
from vizsage.distributed.group import Group
from vizsage.distributed.processes import Processes
from vizsage.errors import RepeatingError, is_out_of_memory
from vizsage.models.generation import Generator, evaluating, made_ahead
from vizsage.models.memory import memory_exceeded
from vizsage.models.shared_image.sharing import Sharing
from vizsage.scoring.summary import summarise
from vizsage.training.loader import cut_step
from vizsage.training.loss import count_targets, on_device, summed_loss


@dataclass(frozen=True)
class Validation:
    """What a validation found.

    Attributes:
        scores: of the generated answers; see vizsage.scoring.summary.summarise.
        loss: see LossSum.mean.
        answers_s: seconds that the answers took.
        loss_s: seconds that the loss took.
    """

    scores: dict[str, Any]
    loss: float | None
    answers_s: float
    loss_s: float


@dataclass(frozen=True)
class LossSum:
    """Cross entropy summed over answer tokens.

    Attributes:
        total: nats; None where it is not finite.
        tokens: how many.
    """

    total: float | None
    tokens: int

    @property
    def mean(self) -> float | None:
        """Nats per answer token; None without a token, or where the sum is not finite."""
        return None if self.total is None or not self.tokens else self.total / self.tokens


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
        problem = _reported(error, config)
    parts = Processes(Group(rank, world_size)).gather((rows, stopped), problem)
    if any(stopped for _, stopped in parts):
        return None
    return summarise((row for rows, _ in parts for row in rows), normalise=config.use_text_normalization)


def validation_loss(
    model: Any,
    samples: list[Sample],
    collate: TrainCollator,
    sharing: Sharing | None,
    *,
    batch_size: int,
    rank: int = 0,
    world_size: int = 1,
    stop: Callable[[], bool] = lambda: False,
) -> LossSum | None:
    """The loss of training on `samples`, without dropout, summed over all processes, each of which computes its share.

    Samples that training would leave out do not count. An error in one process raises in all of them.

    Args:
        model: the model with its adapter.
        samples: the validation samples, the same in each process.
        collate: that of the training.
        sharing: runs its packed micro-batches; None where they are plain.
        batch_size: of a micro-batch, see vizsage.training.loader.cut_step.
        rank: number of this process.
        world_size: number of processes.
        stop: whether a signal asks to stop; looked at after each micro-batch.

    Returns:
        The sum, the same in each process; None when `stop` was true in one.

    Raises:
        BadImage: an image cannot be used, and by on_bad_image this stops the run.
    """
    config = collate.config
    groups = evaluation_order(samples)[rank::world_size]
    # A chunk is made while the model works on the one before it. Each has as many images as a micro-batch may have.
    chunks = [[*chain.from_iterable(groups[i : i + batch_size])] for i in range(0, len(groups), batch_size)]
    total, tokens, stopped = 0.0, 0, False
    problem: Exception | None = None
    try:
        with evaluating(model), torch.autocast(model.device.type, torch.bfloat16, enabled=config.use_bf16):
            made = made_ahead(chunks, lambda chunk: [*cut_step(chunk, collate, batch_size)])
            for batch in chain.from_iterable(batches for _, batches in made):
                loss, _ = summed_loss(model, on_device(batch, sharing, model.device), sharing)
                total += float(loss)
                tokens += count_targets(batch)
                if stopped := stop():
                    break
    except Exception as error:  # noqa: BLE001 -- raised again below, when the other processes know of it
        problem = _reported(error, config)
    told = (total if math.isfinite(total) else None, tokens, stopped)  # JSON, which the processes exchange, has no NaN
    parts = Processes(Group(rank, world_size)).gather(told, problem)
    if any(stopped for _, _, stopped in parts):
        return None
    totals = [total for total, _, _ in parts if total is not None]
    return LossSum(math.fsum(totals) if len(totals) == len(parts) else None, sum(tokens for _, tokens, _ in parts))


def _reported(error: Exception, config: Config) -> Exception:
    """`error`; if memory ran out, an error with what would help."""
    if not is_out_of_memory(error):
        return error
    problem = RepeatingError(memory_exceeded(config, error, "a validation"))
    problem.__cause__ = error
    return problem
