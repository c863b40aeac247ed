"""The optimizer steps of a run, decoded and tokenised ahead in worker processes."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from multiprocessing.queues import Queue
from threading import Timer
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from torch.utils.data._utils import signal_handling

from vizsage.data.batching import SampleOrder, evaluation_order, step_samples
from vizsage.data.collate import TrainCollator
from vizsage.data.encoding import by_image, image_numbers
from vizsage.data.sample import Sample
from vizsage.errors import Interrupted, RepeatingError, VizSageError, one_line

T = TypeVar("T")
Batch = dict[str, Any]
_SAMPLES_AHEAD, _SAMPLES_IN_FLIGHT = 64, 256  # of a worker, of all; Llama 3.2 Vision's pixels are 15 MB per image
_TURN_S = 1.0  # how long data is waited for before signals and workers are looked after
_END_S = 3.0  # how long all workers together may take to end


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


class Steps(IterableDataset[Batch | VizSageError]):
    """Yields what this process does in each optimizer step from `first_step` on, in order.

    An item is {"micro_batches": batches as TrainCollator makes them, "left_out": (sample_id, reason) of all of them}.
    """

    def __init__(
        self, order: SampleOrder, collate: TrainCollator, share: Share, *, first_step: int, total_steps: int
    ) -> None:
        self.order, self.collate, self.share = order, collate, share
        self.first_step, self.total_steps = first_step, total_steps

    def __iter__(self) -> Iterator[Batch | VizSageError]:
        info = get_worker_info()
        steps = step_samples(
            self.order,
            first_step=self.first_step,
            steps=self.total_steps - self.first_step,
            of_process=self.share.of_process,
            rank=self.share.rank,
            world_size=self.share.world_size,
            worker=info.id if info else 0,
            workers=info.num_workers if info else 1,
        )
        try:
            for samples in steps:
                batches = list(cut_step(samples, self.collate, self.share.batch_size))
                left_out = [pair for batch in batches for pair in batch.pop("left_out")]
                yield {"micro_batches": batches, "left_out": left_out}
        except VizSageError as error:
            # Raised here it would reach the main process wrapped in a traceback; as a value it stays one line.
            yield error


def cut_step(samples: Sequence[Sample], collate: TrainCollator, batch_size: int) -> Iterator[Batch]:
    """The micro-batches of a step's samples, collated.

    Plain: `batch_size` rows each. With shared images at most `batch_size` images and batch_size x max_seq_length
    tokens: that many a plain micro-batch may hold, so memory that is enough for the one is enough for the other. Where
    rows are to be short, of a single image only what its questions do not share is counted: the rest would have to
    be computed again in each part.
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
        if int(batch["tree"].max()) >= len(groups):  # several images of one name, which only their bytes tell
            groups = [[together[i] for i in group] for group in by_image(image_numbers(together))]
            waiting += _in_batches(groups, batch_size)
        elif parts == 1 or len(together) == 1:
            yield batch
        elif len(groups) > 1:
            waiting += _cut(groups, parts)[::-1]
        else:
            waiting += [[part] for part in _cut(together, parts)][::-1]


def _in_batches(groups: list[T], batch_size: int) -> list[list[T]]:
    """`batch_size` groups each, the first ones last."""
    return [groups[start : start + batch_size] for start in range(0, len(groups), batch_size)][::-1]


def _shared_by_all(batch: Batch) -> int:
    """Tokens at the beginning of a packed row of one image that all of its questions share."""
    reaches_end = batch["subtree_end"] == len(batch["subtree_end"])
    return int(reaches_end.long().cumprod(dim=0).sum())


def _cut(items: list[T], parts: int) -> list[list[T]]:
    """`items` in `parts` contiguous parts, as equal as they can be; none is empty."""
    parts = min(parts, len(items))
    return [items[i * len(items) // parts : (i + 1) * len(items) // parts] for i in range(parts)]


class TrainLoader:
    """An iterable over steps that raises, in the main process, the error a worker met."""

    def __init__(
        self,
        steps: IterableDataset[Any],
        workers: int,
        pin_memory: bool,
        ahead: int = 4,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """`ahead`: steps that each worker prepares before they are asked for; `stop`: whether a signal came."""
        self.stop = stop
        self.loader = DataLoader(
            steps,
            batch_size=None,
            collate_fn=_as_it_is,
            num_workers=workers,
            pin_memory=pin_memory,
            prefetch_factor=ahead if workers else None,
            worker_init_fn=_start_worker,
            # Of its own, because a loader draws from the global generator when it starts: dropout would then differ
            # between a run that was interrupted and one that was not.
            generator=torch.Generator(),
        )

        self.waited_s = 0.0
        """Seconds that the training process has waited for its data."""
        self._iterators: list[Any] = []

    def __iter__(self) -> Iterator[Batch]:
        """Raises what a worker met or came to, and Interrupted when a signal comes while data is waited for."""
        try:
            iterator = iter(self.loader)
        except OSError as error:
            raise _failed(error) from error
        self._iterators.append(iterator)
        if self.loader.num_workers:
            self._wait_in_turns(iterator)
        while True:
            began = time.perf_counter()
            try:
                step = next(iterator, None)
            except RuntimeError as error:
                if not str(error).startswith("DataLoader worker"):
                    raise
                raise _failed(error.__cause__ if isinstance(error.__cause__, RuntimeError) else error) from error
            self.waited_s += time.perf_counter() - began
            if step is None:
                return
            if isinstance(step, VizSageError):
                raise step
            yield step

    def _wait_in_turns(self, iterator: Any) -> None:
        """Make torch ask after the interruption too: it waits in turns of 5 s and checks its workers after each."""
        try_get = iterator._try_get_data

        def turn() -> tuple[bool, Any]:
            got: tuple[bool, Any] = try_get(timeout=_TURN_S)
            if not got[0] and self.stop():
                raise Interrupted("stopped while data was waited for")
            return got

        iterator._try_get_data = turn

    def end(self) -> None:
        """End the workers.

        Left to the garbage collector, some live at the end of the process, which waits for them while they ignore the
        signal that is meant to end them: a finished run would hang.
        """
        for iterator in self._iterators:
            if hasattr(iterator, "_shutdown_workers"):  # what the iterator's own __del__ calls; not so without workers
                # One stuck in reading ignores torch's SIGTERM as it ignores all others, and torch waits for each in
                # turn, longer than a scheduler may leave. By then nobody reads what they have ready. First an end to
                # torch's watch over them: a worker that is killed would be an error.
                if iterator._worker_pids_set:
                    signal_handling._remove_worker_pids(id(iterator))  # type: ignore[attr-defined]
                    iterator._worker_pids_set = False
                late = Timer(_END_S, _kill, [iterator._workers])
                late.start()
                iterator._shutdown_workers()
                late.cancel()
        self._iterators.clear()


def read_ahead(num_proc: int | None, of_process: int) -> tuple[int, int]:
    """Worker processes, and steps of `of_process` samples that each prepares ahead.

    Fewer of both where steps are large, whose images would fill the shared memory; at least one step is prepared.
    """
    workers = worker_count(num_proc)
    return min(workers, max(1, _SAMPLES_IN_FLIGHT // of_process)), max(1, min(4, _SAMPLES_AHEAD // of_process))


def worker_count(num_proc: int | None) -> int:
    """Worker processes for `num_proc`; None: up to 4, one core left to the training process."""
    if num_proc is not None:
        return num_proc
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(0, min(4, cores - 1))


def _kill(workers: Sequence[BaseProcess]) -> None:
    for worker in workers:
        worker.kill()


def _as_it_is(batch: Any) -> Any:
    return batch


def _failed(error: BaseException) -> VizSageError:
    """The error of a run whose workers cannot start or hand over what they read, or were killed."""
    what = one_line(error)
    if "No space left on device" in what or "Bus error" in what:
        return RepeatingError(
            f"/dev/shm: the shared memory through which worker processes hand over batches is full ({what}); set "
            "num_proc lower, or to 0 to read without workers, or give the container more: docker run --shm-size 4g, or "
            "in a pod a larger emptyDir of medium Memory at /dev/shm"
        )
    return VizSageError(
        f"a worker process that reads data failed ({what}); set num_proc lower, or to 0 to read without workers"
    )


def _not_handed_over(queue: Any, error: Exception, item: Any) -> None:
    """Put the error in the place of the step: the queue only prints it, and the main process would wait for ever."""
    if not isinstance(item, tuple):
        os._exit(1)  # bytes: the step was ready to go, and it is the pipe that is broken
    queue._sem.acquire()
    with queue._notempty:
        queue._buffer.appendleft((item[0], _failed(error)))  # not behind the last step: nothing is read after it


def _start_worker(_: int) -> None:
    """A signal to the process group is the main process's to act on: it ends its workers itself."""
    Queue._on_queue_feeder_error = _not_handed_over  # type: ignore[attr-defined]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
