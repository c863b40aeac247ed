"""How a step is cut into micro-batches, and that the processes which read ahead end with the training."""

from __future__ import annotations

import functools
import math
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tests.families.data import image, samples, settings
from vizsage.data.batching import memory_order, step_samples
from vizsage.data.collate import TrainCollator
from vizsage.data.sample import Sample
from vizsage.data.sources import open_split
from vizsage.models.loading.hf import load_processor
from vizsage.training.loader import TrainLoader, cut_step, read_ahead
from vizsage.training.prefetch import pinned

# The iterator is in a cycle that no collection reached before the end, as in a trainer's frames.
PROGRAM = """
import multiprocessing
from vizsage.training.loader import TrainLoader
class Endless:
    def of_worker(self, worker, workers):
        while True:
            yield 1
loader = TrainLoader(Endless(), 2, False)
iterator = iter(loader)
next(iterator)
import builtins
builtins.kept = iterator
assert len(multiprocessing.active_children()) == 2
loader.end()
assert not multiprocessing.active_children()
loader.end()
"""


def test_a_process_ends_although_its_iterator_is_kept() -> None:
    subprocess.run([sys.executable, "-c", PROGRAM], check=True, timeout=120)


class Numbered:
    """Ten steps of tensors; odd workers are slow."""

    def of_worker(self, worker: int, workers: int) -> Iterator[Any]:
        for step in range(worker, 10, workers):
            time.sleep(0.05 * (worker % 2))
            yield {
                "step": step,
                "batches": [
                    {"large": torch.full((300, 300), step), "half": torch.full((3,), step, dtype=torch.bfloat16)}
                ],
                "part": torch.arange(12).reshape(3, 4)[:, 1::2],
            }


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_steps_arrive_in_order_and_as_they_were_sent(workers: int) -> None:
    """In order from workers of any speed; tensors small and large, in parts, and of a type that NumPy lacks."""
    loader = TrainLoader(Numbered(), workers, False, ahead=2)
    steps = list(loader)
    loader.end()
    assert [step["step"] for step in steps] == list(range(10))
    for number, step in enumerate(steps):
        [batch] = step["batches"]
        assert torch.equal(batch["large"], torch.full((300, 300), number))
        assert torch.equal(batch["half"], torch.full((3,), number, dtype=torch.bfloat16))
        assert step["part"].tolist() == [[1, 3], [5, 7], [9, 11]]
        step["part"] += 1  # a separate tensor, which may be written


def test_pinning_reaches_all_tensors_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no GPU nothing can be pinned: here each tensor is replaced by its sum."""
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: int(self.sum()))
    step = {"micro_batches": [{"a": torch.ones(2), "n": 3}, {"b": torch.ones(4)}], "left_out": [("id", "why")]}
    assert pinned(step) == {"micro_batches": [{"a": 2, "n": 3}, {"b": 4}], "left_out": [("id", "why")]}


@functools.cache
def collator(max_seq_length: int, share_images: bool) -> TrainCollator:
    config = settings("qwen2_vl", max_seq_length=max_seq_length)
    return TrainCollator(load_processor(config), config, share_images=share_images)


def asked(*group_sizes: int) -> list[Sample]:
    return [
        replace(
            samples()[number % 2], sample_id=f"{name}-{number}", images=(replace(image("red"), name=f"{name}.png"),)
        )
        for name, size in enumerate(group_sizes)
        for number in range(size)
    ]


def images(batch: dict[str, Any]) -> int:
    return len(batch["image_grid_thw"])


def test_plain_micro_batches_hold_batch_size_rows() -> None:
    batches = list(cut_step(asked(5, 3), collator(512, False), 2))
    assert [len(batch["labels"]) for batch in batches] == [2, 2, 2, 2]


def test_packed_micro_batches_hold_batch_size_images() -> None:
    """All questions of a step in one forward pass where the plain way takes four."""
    batches = list(cut_step(asked(5, 3), collator(512, True), 2))
    assert [images(batch) for batch in batches] == [2]
    assert [images(batch) for batch in cut_step(asked(1, 1, 1, 1, 1), collator(512, True), 2)] == [2, 2, 1]


def test_images_of_one_name_are_counted_one_by_one() -> None:
    """Memory holds batch_size images, whatever they are called."""
    step = [
        replace(sample, images=(replace(image("red", 30 + i), name="0.png"),))
        for i, sample in enumerate(asked(*[1] * 5))
    ]
    assert [images(batch) for batch in cut_step(step, collator(512, True), 2)] == [2, 2, 1]


def test_a_image_embedded_again_in_each_row_stands_once_in_a_step(tmp_path: Path) -> None:
    """Without paths, as many data sets on the Hub have it: rows are one image group by the bytes that they embed."""
    config = settings("qwen2_vl", max_seq_length=512, base_path=str(tmp_path))
    config.split_dir.mkdir()
    embedded = [{"bytes": image(colour).read(), "path": None} for colour in ("red", "blue")] * 3
    texts = [f"what colour is number {i}" for i in range(6)]
    content = {"image": embedded, "question": texts, "answer": ["red", "blue"] * 3}
    pq.write_table(pa.table(content), config.split_dir / "train.parquet")
    order = memory_order(open_split(config, "train").load(), seed=0)
    [step] = step_samples(order, first_step=0, steps=1, of_process=6)
    [batch] = cut_step(step, collator(512, True), 2)
    assert images(batch) == 2
    assert sorted(set(batch["tree"].tolist())) == [0, 1]


def test_packed_micro_batches_hold_batch_size_times_max_seq_length_tokens() -> None:
    """Groups are kept together while they fit, and one that does not fit is cut."""
    collate = collator(128, True)
    whole = collate(asked(2, 9))["input_ids"].shape[1]
    batches = list(cut_step(asked(2, 9), collate, 1))
    lengths = [batch["input_ids"].shape[1] for batch in batches]
    assert max(lengths) <= 128 < whole
    assert [images(batch) for batch in batches] == [1] * len(batches)
    assert sum(len(batch["targets"]) for batch in batches) == len(collate(asked(2, 9))["targets"])


def test_rows_of_several_images_can_be_kept_short() -> None:
    """A dense mask of a long row costs more than the images that it saves; what questions share is not counted."""
    config = settings("qwen2_vl")
    collate = TrainCollator(load_processor(config), config, share_images=True, row_tokens=80)
    batches = list(cut_step(asked(2, 2, 2, 6), collate, 8))
    assert [images(batch) for batch in batches] == [1, 1, 1, 1]
    assert batches[-1]["input_ids"].shape[1] > 80


def test_a_row_of_many_questions_on_one_image_is_kept_short_too() -> None:
    """By the tokens of the questions: those of the image are in each part again."""
    config = settings("qwen2_vl", max_seq_length=2048)
    collate = TrainCollator(load_processor(config), config, share_images=True, row_tokens=80)
    questions = [replace(sample, question=f"{i} what is it", sample_id=str(i)) for i, sample in enumerate(asked(30))]
    whole, shared = collate(questions), collate(questions[:1])["input_ids"].shape[1]
    batches = list(cut_step(questions, collate, 8))
    lengths = [batch["input_ids"].shape[1] for batch in batches]
    assert 2 < len(batches) <= math.ceil(whole["input_ids"].shape[1] / 80) + 1
    assert max(lengths) < shared + 80
    assert [images(batch) for batch in batches] == [1] * len(batches)
    assert sum(len(batch["targets"]) for batch in batches) == len(whole["targets"])


def test_a_sample_that_is_too_long_for_the_budget_stands_alone() -> None:
    """max_seq_length holds for each row, so a separate row always fits."""
    [batch] = cut_step(asked(1), collator(128, True), 1)
    assert batch["input_ids"].shape[1] <= 128


@pytest.mark.parametrize(
    ("of_process", "found"), [(1, (8, 4)), (8, (8, 4)), (32, (8, 2)), (64, (4, 1)), (1000, (1, 1))]
)
def test_large_steps_are_prepared_less_far_ahead_by_fewer_workers(of_process: int, found: tuple[int, int]) -> None:
    assert read_ahead(8, of_process) == found


def test_no_worker_stays_none() -> None:
    assert read_ahead(0, 1000)[0] == 0
