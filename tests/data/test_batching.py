"""Orders and optimizer steps: every sample once per epoch, one sequence for all processes, restored positions."""

from __future__ import annotations

import json
import pickle
import random
import tracemalloc
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vizsage.config import build_config
from vizsage.data.batching import (
    SampleOrder,
    answer_batches,
    evaluation_order,
    memory_order,
    step_samples,
    stream_order,
)
from vizsage.data.formats.format import Format, Place
from vizsage.data.images import EmbeddedImage
from vizsage.data.sample import Sample
from vizsage.data.sources import Split, open_split
from vizsage.errors import DataError

SHARED = Path(__file__).parents[3] / "shared" / "data" / "aqua"


class ListSource(Format):
    """Records in a list; remembers where reading began."""

    layouts: ClassVar[tuple[str, ...]] = ()
    float_fields: ClassVar[tuple[str, ...]] = ()

    def __init__(self, records: list[object]) -> None:
        self.content = records
        self.starts: list[int] = []

    @classmethod
    def find(cls, place: Place) -> Iterable[Format]:
        return []

    @property
    def paths(self) -> tuple[Path, ...]:
        return (Path(__file__),)

    def records(self, start: int = 0) -> Iterator[object]:
        self.starts.append(start)
        return iter(self.content[start:])


class Unreadable(EmbeddedImage):
    """An image that must not be read."""

    def read(self) -> bytes:
        raise AssertionError("an image was read")


def record(image: int, question: int, need: bool = False) -> dict[str, object]:
    ref = Unreadable(f"{image}.jpg", b"")
    return {"image": ref, "question": f"q{question}", "answer": "a", "need_external_knowledge": need}


def split_of(images: list[int], left_out: frozenset[int] = frozenset()) -> tuple[Split, ListSource]:
    source = ListSource([record(image, i, i in left_out) for i, image in enumerate(images)])
    return Split("train", source, Path("Images")), source


def order_of(kind: str, images: list[int], seed: int = 0, buffer_size: int = 8) -> SampleOrder:
    split, _ = split_of(images)
    return memory_order(split.load(), seed) if kind == "memory" else stream_order(split, seed, buffer_size)


def ids(samples: Iterator[Sample], count: int) -> list[str]:
    return [s.sample_id for s in islice(samples, count)]


IMAGES = st.lists(st.integers(0, 6), min_size=1, max_size=40)
KINDS = st.sampled_from(["memory", "stream"])
SEEDS = st.integers(0, 2**31 - 1)


@given(KINDS, IMAGES, SEEDS, st.integers(1, 12), st.integers(0, 3))
def test_every_sample_exactly_once_an_epoch(kind: str, images: list[int], seed: int, buffer: int, epoch: int) -> None:
    order = order_of(kind, images, seed, buffer)
    assert order.total == len(images)
    seen = ids(order.from_position(epoch * order.total), order.total)
    assert sorted(seen) == sorted(f"train-{i}" for i in range(len(images)))


@given(KINDS, IMAGES, SEEDS, st.integers(1, 12), st.integers(0, 100))
def test_from_position_is_the_sequence_from_there_on(
    kind: str, images: list[int], seed: int, buffer: int, position: int
) -> None:
    order = order_of(kind, images, seed, buffer)
    assert ids(order.from_position(position), 50) == ids(order.from_position(0), position + 50)[position:]


@given(IMAGES, SEEDS, st.integers(0, 5))
def test_questions_on_one_image_are_neighbours_in_memory(images: list[int], seed: int, epoch: int) -> None:
    order = order_of("memory", images, seed)
    names = [s.images[0].name for s in islice(order.from_position(epoch * order.total), order.total)]
    assert len([1 for a, b in pairwise(names) if a != b]) + 1 == len(set(names))


@given(IMAGES, SEEDS, st.integers(1, 12))
def test_a_stream_shuffles_within_blocks_only(images: list[int], seed: int, buffer: int) -> None:
    order = order_of("stream", images, seed, buffer)
    samples = list(islice(order.from_position(0), order.total))
    for start in range(0, len(samples), buffer):
        block = samples[start : start + buffer]
        numbers = [int(s.sample_id.split("-")[1]) for s in block]
        assert sorted(numbers) == list(range(start, start + len(block)))
        names = [s.images[0].name for s in block]
        assert len([1 for a, b in pairwise(names) if a != b]) + 1 == len(set(names))


@given(IMAGES, st.sets(st.integers(0, 39)), SEEDS, st.integers(1, 12), st.integers(0, 90))
def test_a_stream_with_samples_left_out(
    images: list[int], left_out: set[int], seed: int, buffer: int, position: int
) -> None:
    split, source = split_of(images, frozenset(left_out))
    kept = [f"train-{i}" for i in range(len(images)) if i not in left_out]
    if not kept:
        with pytest.raises(DataError, match=r"all .* records need external knowledge"):
            stream_order(split, seed, buffer)
        return
    order = stream_order(split, seed, buffer)
    assert order.total == len(kept)
    assert sorted(ids(order.from_position(0), order.total)) == sorted(kept)
    source.starts.clear()
    found = ids(order.from_position(position), 1)
    assert found == ids(order.from_position(0), position + 1)[position:]
    # Reading starts at the block of the sample that is sought.
    assert source.starts[0] == int(found[0].split("-")[1]) // buffer * buffer


@settings(deadline=None)
@given(KINDS, IMAGES, st.integers(1, 4), st.integers(1, 9), st.integers(0, 7), st.integers(0, 5))
def test_workers_and_ranks_partition_the_sequence(
    kind: str, images: list[int], world_size: int, of_process: int, first_step: int, steps: int
) -> None:
    order = order_of(kind, images)
    size = of_process * world_size
    expected = ids(order.from_position(first_step * size), steps * size)
    for workers in (1, 2, 3):
        found: list[str] = []
        of_rank = []
        for rank in range(world_size):
            made = [
                list(
                    step_samples(
                        order, first_step=first_step, steps=steps, of_process=of_process, rank=rank,
                        world_size=world_size, worker=worker, workers=workers,
                    )
                )
                for worker in range(workers)
            ]  # fmt: skip
            of_rank.append([made[step % workers][step // workers] for step in range(steps)])  # as a DataLoader asks
            assert sum(map(len, made)) == steps
        for step in range(steps):
            for rank in range(world_size):
                assert len(of_rank[rank][step]) == of_process
                found += [s.sample_id for s in of_rank[rank][step]]
        assert found == expected


@given(KINDS, IMAGES, SEEDS, st.integers(0, 4))
def test_world_sizes_with_one_global_batch_see_the_same(kind: str, images: list[int], seed: int, step: int) -> None:
    order = order_of(kind, images, seed)
    seen = []
    for world_size in (1, 2, 3, 4, 12):
        batches = [
            step_samples(order, first_step=step, steps=1, of_process=12 // world_size, rank=rank, world_size=world_size)
            for rank in range(world_size)
        ]
        seen.append(Counter(s.sample_id for made in batches for batch in made for s in batch))
    assert all(counts == seen[0] for counts in seen)


def test_ranks_and_workers_that_do_not_exist() -> None:
    order = order_of("memory", [1, 2])
    for wrong in ({"rank": 1}, {"worker": 1}, {"rank": 2, "world_size": 2}, {"worker": -1}):
        with pytest.raises(ValueError, match="does not exist"):
            next(step_samples(order, first_step=0, steps=1, of_process=1, **wrong))


@pytest.mark.parametrize("kind", ["memory", "stream"])
def test_order_depends_on_seed_and_epoch_and_on_nothing_else(kind: str) -> None:
    images = [i // 4 for i in range(64)]
    order = order_of(kind, images, seed=1, buffer_size=32)
    first, second = (ids(order.from_position(64 * epoch), 64) for epoch in (0, 1))
    assert first != second
    assert first != ids(order_of(kind, images, seed=2, buffer_size=32).from_position(0), 64)
    assert first == ids(order_of(kind, images, seed=1, buffer_size=32).from_position(0), 64)
    assert first == ids(pickle.loads(pickle.dumps(order)).from_position(0), 64)
    of_one_image = [[i for i in epoch if int(i.split("-")[1]) // 4 == 0] for epoch in (first, second)]
    questions = {tuple(e) for e in of_one_image} | {
        tuple(i for i in ids(order.from_position(64 * e), 64) if int(i.split("-")[1]) // 4 == 0) for e in range(2, 8)
    }
    assert len(questions) > 1  # the questions inside of a group change places as well


def test_order_is_the_same_on_every_platform_and_version() -> None:
    """Golden: a change of this sequence breaks the continuation of every saved run."""
    images = [0, 0, 1, 1, 1, 2, 3, 3]
    assert ids(order_of("memory", images, seed=3407).from_position(0), 8) == [
        f"train-{i}" for i in [0, 1, 5, 6, 7, 4, 2, 3]
    ]
    assert ids(order_of("stream", images, seed=3407, buffer_size=4).from_position(8), 8) == [
        f"train-{i}" for i in [3, 2, 0, 1, 7, 6, 5, 4]
    ]


def test_memory_order_joins_the_two_blocks_of_aqua() -> None:
    split, _ = split_of([0, 0, 1, 2, 0, 1, 1, 2])  # visual questions, then knowledge questions
    order = memory_order(split.load(), seed=5)
    names = [s.images[0].name for s in islice(order.from_position(0), 8)]
    assert [names.count(n) for n in dict.fromkeys(names)] == [len(list(g)) for g in _runs(names)]


def _runs(names: list[str]) -> list[list[str]]:
    runs: list[list[str]] = []
    for name in names:
        if not runs or runs[-1][-1] != name:
            runs.append([])
        runs[-1].append(name)
    return runs


def test_evaluation_order_is_that_of_first_appearance() -> None:
    split, _ = split_of([2, 1, 2, 0, 1])
    groups = evaluation_order(split.load())
    assert [[s.sample_id for s in g] for g in groups] == [["train-0", "train-2"], ["train-1", "train-4"], ["train-3"]]


def test_no_samples() -> None:
    with pytest.raises(DataError, match="no samples"):
        memory_order([], seed=0)


def test_stream_of_a_file(tmp_path: Path) -> None:
    folder = tmp_path / "AQUA"
    folder.mkdir()
    lines = [json.dumps({"image": f"{i // 3}.jpg", "question": "q", "answer": str(i)}) + "\n" for i in range(90)]
    (folder / "train.jsonl").write_text("".join(lines))
    order = stream_order(open_split(build_config({"base_path": str(tmp_path)}), "train"), 0, 30)
    sequence = order.from_position(90 + 35)
    assert {int(s.answer) // 30 for s in islice(sequence, 25)} == {1}


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_memory_of_a_stream_is_flat(tmp_path: Path, suffix: str) -> None:
    def peak_bytes(records: int) -> int:
        folder = tmp_path / f"{records}" / "AQUA"
        folder.mkdir(parents=True)
        rows = [
            json.dumps({"image": f"{i // 3}.jpg", "question": f"what is {i}", "answer": f"{i}"}) for i in range(records)
        ]
        (folder / f"train.{suffix}").write_text(f"[{', '.join(rows)}]" if suffix == "json" else "\n".join(rows))
        del rows
        split = open_split(build_config({"base_path": str(folder.parent)}), "train")
        tracemalloc.start()
        order = stream_order(split, 0, 100)
        assert sum(1 for _ in islice(order.from_position(0), records)) == records
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    small, large = peak_bytes(1_000), peak_bytes(20_000)
    assert large - small < 2 * 2**20  # 20,000 samples held in memory are more than 8 MiB


@pytest.mark.skipif(not (SHARED / "val.json").is_file(), reason="AQUA's validation split in ../shared is not here")
def test_the_real_validation_split_has_one_group_a_painting() -> None:
    config = build_config(
        {"base_path": str(SHARED.parent), "dataset": SHARED.name, "external_knowledge": True,
         "external_knowledge_path": str(SHARED / "semart_val.csv")}
    )  # fmt: skip
    samples = open_split(config, "val").load()
    order = memory_order(samples, seed=0)
    names = [s.images[0].name for s in islice(order.from_position(order.total), order.total)]
    assert len(_runs(names)) == 1040
    assert len(_runs([s.images[0].name for s in samples])) > 2000  # as AQUA has them


# --- batches of answers ----------------------------------------------------------------------------------------------


def asked(counts: dict[str, tuple[int, int]], seed: int = 0) -> list[Sample]:
    """Questions on images, by name: how many, and the words of the shortest; each next one has a word more."""
    rows = [
        Sample(f"{name}-{n}", (EmbeddedImage(name, b""),), " ".join(["the"] + ["word"] * (words + n)), "a")
        for name, (count, words) in counts.items()
        for n in range(count)
    ]
    random.Random(seed).shuffle(rows)
    return rows


def batches_of(samples: list[Sample], **options: Any) -> list[list[Sample]]:
    """Prompts of one token per word, images of 10 tokens."""
    return answer_batches(samples, lambda s: list(map(hash, s.question.split())), lambda _: 10, **options)


@pytest.mark.parametrize("shared", [True, False])
def test_batches_of_answers_keep_an_image_together_and_the_longest_first(shared: bool) -> None:
    rows = asked({"long": (4, 90), "short": (4, 5), "middle": (4, 40)})
    batches = batches_of(rows, questions=4, tokens=10_000, shared=shared)
    assert [{s.images[0].name for s in batch} for batch in batches] == [{"long"}, {"middle"}, {"short"}]
    assert [len(s.question.split()) for s in batches[0]] == [94, 93, 92, 91]
    five = batches_of(rows, questions=5, tokens=10_000, shared=shared)
    assert sorted(s.sample_id for batch in five for s in batch) == sorted(s.sample_id for s in rows)
    assert max(map(len, five)) <= 5


def test_batches_of_answers_are_filled_up_to_a_budget_of_tokens() -> None:
    rows = asked({str(i): (1, 29) for i in range(20)})  # 30 tokens and 10 of the image each
    assert [len(b) for b in batches_of(rows, questions=99, tokens=320, shared=False)] == [8, 8, 4]
    assert [len(b) for b in batches_of(rows, questions=99, tokens=319, shared=False)] == [7, 7, 6]
    assert [len(b) for b in batches_of(rows, questions=99, tokens=1, shared=True)] == [1] * 20
    # Each question on one image adds the word that it does not share with the longest: 10 + 30 + 19.
    alike = asked({"one": (20, 10)})
    assert [len(b) for b in batches_of(alike, questions=99, tokens=10 + 30, shared=True)] == [20]
    assert len(batches_of(alike, questions=99, tokens=10 + 30, shared=False)) == 20
    apart = [replace(s, question=f"{s.sample_id} {s.question}") for s in alike]
    whole = 10 + sum(len(s.question.split()) for s in apart)
    assert [len(b) for b in batches_of(apart, questions=99, tokens=whole, shared=True)] == [20]
    assert len(batches_of(apart, questions=99, tokens=whole - 1, shared=True)) == 2


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 60)), min_size=1, max_size=12), st.booleans())
def test_batches_of_answers_hold_every_sample_once_within_their_bounds(
    groups: list[tuple[int, int]], shared: bool
) -> None:
    rows = asked({str(i): group for i, group in enumerate(groups)})
    batches = batches_of(rows, questions=6, tokens=150, shared=shared)
    assert sorted(s.sample_id for batch in batches for s in batch) == sorted(s.sample_id for s in rows)
    for batch in batches:
        assert len(batch) <= 6
        if not shared and len(batch) > 1:
            assert len(batch) * (10 + max(len(s.question.split()) for s in batch)) <= 150
