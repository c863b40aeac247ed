"""The order in which samples are seen, and how it is cut into optimizer steps.

The unit of work is the image group: images with their questions, which follow each other so that they are in the same
batch. Images are distinguished by their names, and by their bytes where the data set gives them none.

An order is a pure function of seed and epoch. A position in it is one integer, the samples seen since the start of the
run. Only `random.Random.random` is used: Python guarantees its sequence for a seed on every platform and version, so
that a run can be continued on another machine.
"""

from __future__ import annotations

import hashlib
import random
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate, chain, groupby, islice
from typing import Protocol, TypeVar

from vizsage.data.packing import common_prefix
from vizsage.data.sample import ImageRef, Sample
from vizsage.data.sources import Split
from vizsage.errors import DataError

T = TypeVar("T")


class SampleOrder(Protocol):
    """An endless sequence of samples, epoch after epoch. Picklable."""

    total: int
    """Samples per epoch."""

    def from_position(self, seen: int) -> Iterator[Sample]:
        """The sequence without its first `seen` samples. Raises DataError.

        No image is read, except by a stream whose images have no names: their bytes show which are equal.
        """

    def unshuffled(self) -> Iterator[Sample]:
        """The samples of an epoch with their images in the order of the file. Raises DataError."""


def memory_order(samples: Sequence[Sample], seed: int) -> SampleOrder:
    """Image groups shuffled over the whole split, and the questions within each group; other shuffles in each epoch.

    Questions on one image may be anywhere in the file: AQUA has visual and knowledge questions in two places. Images
    without a name are read here, once. Raises DataError.
    """
    return _MemoryOrder(samples, seed)


def stream_order(split: Split, seed: int, buffer_size: int) -> SampleOrder:
    """Image groups shuffled within blocks of `buffer_size` consecutive records, one block in memory at a time.

    Reads the split once: every record is checked and the kept samples of each block are counted, so that a continued
    run begins at its block without making the samples before it. Raises DataError that lists the bad records.
    """
    return _StreamOrder(split, seed, buffer_size, split.scan(buffer_size))


def evaluation_order(samples: Iterable[Sample]) -> list[list[Sample]]:
    """Image groups in the order in which their images first appear."""
    groups: dict[tuple[str, ...], list[Sample]] = {}
    for sample in samples:
        groups.setdefault(sample.group, []).append(sample)
    return list(groups.values())


def answer_batches(
    samples: Iterable[Sample],
    prompt_ids: Callable[[Sample], Sequence[int]],
    image_tokens: Callable[[ImageRef], int],
    *,
    questions: int,
    tokens: int,
    shared: bool,
) -> list[list[Sample]]:
    """Batches for generation: questions on one image next to each other, groups of similar length together.

    A batch has at most `questions` samples and, unless it is a single one, at most `tokens` tokens of prompts, padding
    included. With `shared` a row is an image with all its questions, otherwise an image with one. The longest come
    first, so that memory that does not suffice is noticed at once and not after hours. The batches are a function of
    the samples and their order.

    Args:
        samples: with different ids.
        prompt_ids: the token ids of a prompt, the image a placeholder.
        image_tokens: about how many tokens replace the placeholder of an image.
        questions: most samples of a batch.
        tokens: most tokens of a batch.
        shared: whether an image is computed once for all its questions.
    """
    pieces: list[tuple[int, list[Sample]]] = []
    for group in evaluation_order(samples):
        asked = sorted(((list(prompt_ids(sample)), sample) for sample in group), key=lambda row: -len(row[0]))
        images = sum(map(image_tokens, group[0].images))
        row: list[Sample] = []
        length = 0
        for ids, sample in asked:
            # A lower bound of what the row shares with the others: the prefix that it shares with the longest.
            alike = common_prefix(asked[0][0], ids) if shared and row else 0
            if row and (not shared or len(row) == questions or length + len(ids) - alike > tokens):
                pieces.append((length, row))
                row, length, alike = [], 0, 0
            length += len(ids) - alike + (0 if row else images)
            row.append(sample)
        pieces.append((length, row))
    batches: list[list[Sample]] = []
    longest = rows = 0
    for length, row in sorted(pieces, key=lambda piece: -piece[0]):  # stable: rows of one image stay together
        full = not batches or len(batches[-1]) + len(row) > questions or (rows + 1) * longest > tokens
        if full:
            batches.append([])
            longest, rows = length, 0
        batches[-1] += row
        rows += 1
    return batches


def step_samples(
    order: SampleOrder,
    *,
    first_step: int,
    steps: int,
    of_process: int,
    rank: int = 0,
    world_size: int = 1,
    worker: int = 0,
    workers: int = 1,
) -> Iterator[list[Sample]]:
    """What one worker of one process prepares: the process's samples of an optimizer step, step by step.

    Step s takes the G = of_process * world_size samples [s * G, (s + 1) * G) of the endless sequence; each rank takes
    its contiguous part. Worker w prepares the steps first_step + w, first_step + w + workers and so on, because workers
    are asked in turn.
    """
    if not (0 <= rank < world_size and 0 <= worker < workers):
        raise ValueError(f"rank {rank} of {world_size} or worker {worker} of {workers} does not exist")
    global_batch = of_process * world_size
    sequence = order.from_position(first_step * global_batch)
    for step in range(steps):
        if step % workers != worker:
            _skip(sequence, global_batch)
            continue
        _skip(sequence, rank * of_process)
        yield list(islice(sequence, of_process))
        _skip(sequence, (world_size - rank - 1) * of_process)


class _MemoryOrder:
    def __init__(self, samples: Sequence[Sample], seed: int) -> None:
        if not samples:
            raise DataError("no samples to train on")
        self.total = len(samples)
        self._groups = evaluation_order(images_joined(samples))
        self._seed = seed

    def from_position(self, seen: int) -> Iterator[Sample]:
        epoch, skip = divmod(seen, self.total)
        while True:
            yield from islice(_shuffled_groups(self._groups, _generator(self._seed, epoch, 0)), skip, None)
            epoch, skip = epoch + 1, 0

    def unshuffled(self) -> Iterator[Sample]:
        return chain.from_iterable(self._groups)


class _StreamOrder:
    def __init__(self, split: Split, seed: int, buffer_size: int, kept: Sequence[int]) -> None:
        self.total = sum(kept)
        self._split = split
        self._seed = seed
        self._buffer_size = buffer_size
        self._kept_before = list(accumulate(kept, initial=0))

    def from_position(self, seen: int) -> Iterator[Sample]:
        epoch, seen = divmod(seen, self.total)
        while True:
            block = bisect_right(self._kept_before, seen) - 1
            skip = seen - self._kept_before[block]
            records = self._split.numbered(block * self._buffer_size)
            for number, part in groupby(records, key=lambda record: record[0] // self._buffer_size):
                groups = evaluation_order(images_joined(sample for _, sample in part))
                yield from islice(_shuffled_groups(groups, _generator(self._seed, epoch, number)), skip, None)
                skip = 0
            epoch, seen = epoch + 1, 0

    def unshuffled(self) -> Iterator[Sample]:
        return self._split.stream()


def images_joined(samples: Iterable[Sample]) -> Iterator[Sample]:
    """`samples` in which unnamed images of the same bytes have one reference, that of the first."""
    first: dict[bytes, ImageRef] = {}
    for sample in samples:
        if all(image.named for image in sample.images):
            yield sample
            continue
        joined = (
            image if image.named else first.setdefault(hashlib.sha256(image.read()).digest(), image)
            for image in sample.images
        )
        yield replace(sample, images=tuple(joined))


def _generator(seed: int, epoch: int, block: int) -> random.Random:
    return random.Random(f"{seed}/{epoch}/{block}")


def _shuffled_groups(groups: Sequence[Sequence[Sample]], generator: random.Random) -> Iterator[Sample]:
    for group in _shuffled(groups, generator):
        yield from _shuffled(group, generator)


def _shuffled(items: Sequence[T], generator: random.Random) -> list[T]:
    keys = [generator.random() for _ in items]
    return [items[i] for i in sorted(range(len(items)), key=keys.__getitem__)]


def _skip(sequence: Iterator[Sample], count: int) -> None:
    next(islice(sequence, count, count), None)
