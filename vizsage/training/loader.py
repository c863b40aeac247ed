"""The optimizer steps of a run: their samples, cut into micro-batches and prepared ahead of the training."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, TypeVar

from vizsage.data.batching import SampleOrder, evaluation_order, step_samples
from vizsage.data.collate import TrainCollator
from vizsage.data.image_groups import by_image, image_numbers
from vizsage.data.sample import Sample
from vizsage.training.prefetch import StepSource, WorkerPool, pinned

T = TypeVar("T")
Batch = dict[str, Any]
# Prepared ahead by one worker, and by all; the pixels of Llama 3.2 Vision are 15 MB per image.
_SAMPLES_AHEAD, _SAMPLES_IN_FLIGHT = 64, 256


@dataclass(frozen=True)
class Share:
    """Which part of the endless sequence of samples this process trains on."""

    batch_size: int
    grad_accum: int
    rank: int = 0
    world_size: int = 1

    @property
    def of_process(self) -> int:
        """Samples of one optimizer step in this process."""
        return self.batch_size * self.grad_accum

    @property
    def global_batch(self) -> int:
        """Samples of one optimizer step, over all processes."""
        return self.of_process * self.world_size


class Step(TypedDict):
    """What one process does in one optimizer step."""

    micro_batches: list[Batch]
    """As TrainCollator makes them, without their "left_out"."""
    left_out: list[tuple[str, str]]
    """(sample_id, reason) of all of them."""


class Steps:
    """What this process does in each optimizer step from `first_step` on."""

    def __init__(
        self, order: SampleOrder, collate: TrainCollator, share: Share, *, first_step: int, total_steps: int
    ) -> None:
        self.order, self.collate, self.share = order, collate, share
        self.first_step, self.total_steps = first_step, total_steps

    def of_worker(self, worker: int, workers: int) -> Iterator[Step]:
        """The steps that one of `workers` processes prepares: see vizsage.data.batching.step_samples."""
        steps = step_samples(
            self.order,
            first_step=self.first_step,
            steps=self.total_steps - self.first_step,
            of_process=self.share.of_process,
            rank=self.share.rank,
            world_size=self.share.world_size,
            worker=worker,
            workers=workers,
        )
        for samples in steps:
            batches = list(cut_step(samples, self.collate, self.share.batch_size))
            left_out = [pair for batch in batches for pair in batch.pop("left_out")]
            yield {"micro_batches": batches, "left_out": left_out}


def cut_step(samples: Sequence[Sample], collate: TrainCollator, batch_size: int) -> Iterator[Batch]:
    """The collated micro-batches of the samples of one step.

    A plain micro-batch has `batch_size` rows. With shared images it is one packed row, of at most `batch_size` images
    and batch_size x max_seq_length tokens: as many as a plain one, so that both fit into the same memory. Where
    `collate.row_tokens` limits a packed row and it has one image, only the tokens that its questions do not share
    are counted, because each part of a row that is cut computes the shared ones again.
    """
    if not collate.share_images:
        for start in range(0, len(samples), batch_size):
            yield collate(samples[start : start + batch_size])
        return
    most = batch_size * collate.config.max_seq_length
    several = min(most, collate.row_tokens or most)
    waiting = _in_batches(evaluation_order(samples), batch_size)
    while waiting:
        groups = waiting.pop()
        together = [sample for group in groups for sample in group]
        batch = collate(together)
        tokens = batch["input_ids"].shape[1]
        own = tokens if len(groups) > 1 else tokens - _shared_by_all(batch)
        parts = max(math.ceil(tokens / most), math.ceil(own / several))
        if int(batch["tree"].max()) >= len(groups):  # images of one name that differ in their bytes
            groups = [[together[i] for i in group] for group in by_image(image_numbers(together))]
            waiting += _in_batches(groups, batch_size)
        elif parts == 1 or len(together) == 1:
            yield batch
        elif len(groups) > 1:
            waiting += _cut(groups, parts)[::-1]
        else:
            waiting += [[part] for part in _cut(together, parts)][::-1]


def _in_batches(groups: list[T], batch_size: int) -> list[list[T]]:
    """Lists of `batch_size` groups each, in reverse order, as a stack."""
    return [groups[start : start + batch_size] for start in range(0, len(groups), batch_size)][::-1]


def _shared_by_all(batch: Batch) -> int:
    """Number of tokens at the beginning of a packed row of one image that all of its questions share."""
    reaches_end = batch["subtree_end"] == len(batch["subtree_end"])
    return int(reaches_end.long().cumprod(dim=0).sum())


def _cut(items: list[T], parts: int) -> list[list[T]]:
    """`items` in `parts` contiguous parts of nearly equal length; none is empty."""
    parts = min(parts, len(items))
    return [items[i * len(items) // parts : (i + 1) * len(items) // parts] for i in range(parts)]


class TrainLoader:
    """Iterates over the steps of `source`, prepared by worker processes or, without any, when they are asked for."""

    def __init__(
        self,
        source: StepSource,
        workers: int,
        pin_memory: bool,
        ahead: int = 4,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Processes are started by `iter`.

        Args:
            source: the steps.
            workers: how many processes; 0: the steps are prepared in this one.
            pin_memory: whether tensors are copied to page-locked memory, for a GPU.
            ahead: steps that each worker prepares before they are asked for.
            stop: whether a signal asks to stop.
        """
        self.source, self.workers, self.pin_memory, self.ahead, self.stop = source, workers, pin_memory, ahead, stop
        self.waited_s = 0.0
        """Seconds that the training process has waited for its data."""
        self._pools: list[WorkerPool] = []

    def __iter__(self) -> Iterator[Any]:
        """Yield the steps. Raises as WorkerPool does."""
        if self.workers:
            pool = WorkerPool(self.source, self.workers, ahead=self.ahead, pin_memory=self.pin_memory, stop=self.stop)
            self._pools.append(pool)
            steps = iter(pool)
        else:
            steps = self.source.of_worker(0, 1)
            steps = map(pinned, steps) if self.pin_memory else steps
        while True:
            began = time.perf_counter()
            step = next(steps, None)
            self.waited_s += time.perf_counter() - began
            if step is None:
                return
            yield step

    def end(self) -> None:
        """End the worker processes. Otherwise they would first prepare all steps that they were asked for."""
        for pool in self._pools:
            pool.end()
        self._pools.clear()


def read_ahead(num_proc: int | None, of_process: int) -> tuple[int, int]:
    """Number of worker processes, and of steps of `of_process` samples that each of them prepares ahead.

    Large steps have fewer of both, because their images would fill the shared memory.
    """
    workers = worker_count(num_proc)
    return min(workers, max(1, _SAMPLES_IN_FLIGHT // of_process)), max(1, min(4, _SAMPLES_AHEAD // of_process))


def worker_count(num_proc: int | None) -> int:
    """Number of worker processes for the setting `num_proc`; None: up to 4, leaving a core to the training process."""
    if num_proc is not None:
        return num_proc
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(0, min(4, cores - 1))
