"""The micro-batches of a run, decoded and tokenised ahead in worker processes."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from vizsage.data.batching import SampleOrder, micro_batches
from vizsage.data.sample import Sample
from vizsage.errors import VizSageError

Batch = dict[str, Any]


@dataclass(frozen=True)
class Share:
    """Which part of the endless sequence of samples this process trains on."""

    batch_size: int
    grad_accum: int
    rank: int = 0
    world_size: int = 1

    @property
    def global_batch(self) -> int:
        """Samples of one optimizer step, over all processes."""
        return self.batch_size * self.grad_accum * self.world_size


class MicroBatches(IterableDataset[Batch | VizSageError]):
    """Yields the collated micro-batches of the optimizer steps from `first_step` on, in order."""

    def __init__(
        self,
        order: SampleOrder,
        collate: Callable[[list[Sample]], Batch],
        share: Share,
        *,
        first_step: int,
        total_steps: int,
    ) -> None:
        self.order, self.collate, self.share = order, collate, share
        self.first_step, self.total_steps = first_step, total_steps

    def __iter__(self) -> Iterator[Batch | VizSageError]:
        info = get_worker_info()
        batches = micro_batches(
            self.order,
            first_step=self.first_step,
            steps=self.total_steps - self.first_step,
            batch_size=self.share.batch_size,
            grad_accum=self.share.grad_accum,
            rank=self.share.rank,
            world_size=self.share.world_size,
            worker=info.id if info else 0,
            workers=info.num_workers if info else 1,
        )
        try:
            for samples in batches:
                yield self.collate(samples)
        except VizSageError as error:
            # Raised here it would reach the main process wrapped in a traceback; as a value it stays one line.
            yield error


class TrainLoader:
    """An iterable over batches that raises, in the main process, the error a worker met."""

    def __init__(self, batches: MicroBatches, workers: int, pin_memory: bool) -> None:
        self.loader = DataLoader(
            batches,
            batch_size=None,
            collate_fn=_as_it_is,
            num_workers=workers,
            pin_memory=pin_memory,
            prefetch_factor=4 if workers else None,
            worker_init_fn=_start_worker,
            # Of its own, because a loader draws from the global generator when it starts: dropout would then differ
            # between a run that was interrupted and one that was not.
            generator=torch.Generator(),
        )

        self._iterators: list[Any] = []

    def __iter__(self) -> Iterator[Batch]:
        iterator = iter(self.loader)
        self._iterators.append(iterator)
        for batch in iterator:
            if isinstance(batch, VizSageError):
                raise batch
            yield batch

    def end(self) -> None:
        """End the workers. Left to the garbage collector, some live at the end of the process, which waits for them
        while they ignore the signal that is meant to end them: a finished run would hang.
        """
        for iterator in self._iterators:
            if hasattr(iterator, "_shutdown_workers"):  # what the iterator's own __del__ calls; not so without workers
                iterator._shutdown_workers()
        self._iterators.clear()


def worker_count(num_proc: int | None) -> int:
    """Worker processes for `num_proc`; None: up to 4, one core left to the training process."""
    if num_proc is not None:
        return num_proc
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(0, min(4, cores - 1))


def _as_it_is(batch: Any) -> Any:
    return batch


def _start_worker(_: int) -> None:
    """A signal to the process group is the main process's to act on: it ends its workers itself."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
