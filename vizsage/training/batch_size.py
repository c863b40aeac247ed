"""batch_size: auto: the largest number of questions that fits into one forward and backward pass, found by trying.

The longest samples of the training split are tried: a batch size that does not fit fails at once, not after hours.
"""

from __future__ import annotations

import gc
import heapq
import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import cycle, groupby, islice, zip_longest
from typing import Any

import torch

from vizsage.config import Config
from vizsage.data.batching import evaluation_order
from vizsage.data.collate import TrainCollator
from vizsage.data.images import header_px
from vizsage.data.sample import Sample, text_chars
from vizsage.distributed.messages import first_problem, to_all
from vizsage.errors import VizSageError, is_out_of_memory
from vizsage.models.loaded import cuda_devices
from vizsage.models.memory import limit_bytes, memory_reported, usage
from vizsage.models.shared_image.sharing import Sharing
from vizsage.training.loader import cut_step
from vizsage.training.loss import on_device, summed_loss
from vizsage.training.plan import Plan

log = logging.getLogger(__name__)

DEFAULT: int = Config.model_fields["batch_size"].default
LARGEST = 64
_IMAGES_LOOKED_AT = 5000  # the first ones in training's shuffled order; to read a header takes less than a millisecond
_HEAD_ROOM = 0.03  # share of the memory: for fragmentation, and for a step that needs a little more than the one tried
# Bytes of optimizer state per byte of a trained weight in float32. Paged states are moved out of GPU memory.
_STATE = {"adamw_torch": 2.0, "adamw_torch_fused": 2.0, "adamw_8bit": 0.6, "adafactor": 0.1}


def memory_is_limited(config: Config) -> bool:
    """Whether there is a limit to find. A CPU's memory ends in swapping or in a kill, not in an error."""
    return config.device == "cuda"


def find_batch_size(plan: Plan, model: Any, collate: TrainCollator, sharing: Sharing | None) -> int:
    """The largest power of two whose longest batches fit, up to 64 and one epoch per step; the same in all processes.

    Weights, random state, mode and memory of `model` are restored afterwards.

    Raises:
        RepeatingError: a single question does not fit.
        DataError: an image cannot be used, and by the settings this stops the run.
    """
    found, problem = 0, None
    log.info("batch_size: auto: trying the longest samples")
    try:
        trial = Trial(plan, model, collate, sharing)
        with memory_reported(plan.config.model_copy(update={"batch_size": 1}), "training"):
            found = largest_that_fits(sizes(plan), trial)
    except VizSageError as error:
        problem = error
    if met := first_problem(problem, plan.processes):
        raise met
    smallest = min(to_all(found)) if plan.processes > 1 else found
    log.info("batch_size: auto: %d fits in each process: %s", smallest, usage())
    return smallest


def sizes(plan: Plan) -> list[int]:
    """The batch sizes to try, the largest first; a step has at most as many samples as the split."""
    most = plan.order.total // (plan.config.grad_accum * plan.processes)
    powers = [2**exponent for exponent in range(LARGEST.bit_length())]
    return [size for size in powers if size <= max(1, most)][::-1]


def largest_that_fits(candidates: Iterable[int], try_batch: Callable[[int], None]) -> int:
    """The first of `candidates` with which `try_batch` does not run out of GPU memory.

    Raises:
        torch.OutOfMemoryError: none fits; the message is that of the last one.
    """
    failed = "nothing was tried"
    for size in candidates:
        try:
            try_batch(size)
            return size
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            failed = str(error)
        # After the except clause: within it the traceback still refers to the tensors of the trial.
        _give_back()
        log.info("batch_size: auto: %d does not fit", size)
    raise torch.OutOfMemoryError(failed)


class Trial:
    """Called with a batch size, it does what training does with the longest samples, and raises if memory runs out."""

    def __init__(self, plan: Plan, model: Any, collate: TrainCollator, sharing: Sharing | None) -> None:
        self.config, self.processes = plan.config, plan.processes
        self.model, self.collate, self.sharing = model, collate, sharing
        self.groups = longest_groups(plan, collate, limit=sizes(plan)[0])

    def __call__(self, batch_size: int) -> None:
        """Run forward and backward with `batch_size`. Raises an error for which `is_out_of_memory` is true."""
        with _as_in_training(self.model), self._reserved():
            for batch in self.batches(batch_size):
                self._forward_backward(batch)
        _give_back()

    def batches(self, batch_size: int) -> list[dict[str, Any]]:
        """The micro-batches with the most tokens and with the most pixels of a step, cut as training cuts it."""
        found = list(cut_step(self._samples(batch_size), self.collate, batch_size))
        tokens = max(found, key=lambda batch: batch["input_ids"].numel())
        pixels = max(found, key=lambda batch: sum(v.numel() for v in batch.values() if torch.is_tensor(v)))
        return [tokens] if pixels is tokens else [tokens, pixels]

    def _samples(self, batch_size: int) -> list[Sample]:
        """The samples of a step that needs the most memory: `batch_size` groups with the longest questions of each.

        The groups take turns, since a step may contain a part of a group only. Groups may be cycled only when images
        are not shared: a repeated shared image would cost nothing.
        """
        longest = self.groups if self.collate.share_images else cycle(self.groups)
        groups = [sorted(group, key=text_chars, reverse=True) for group in islice(longest, batch_size)]
        in_turn = (sample for turn in zip_longest(*groups) for sample in turn if sample is not None)
        return list(islice(in_turn, batch_size * self.config.grad_accum))

    def _forward_backward(self, batch: dict[str, Any]) -> None:
        device = self.model.device
        inputs = on_device(batch, self.sharing, device)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.config.use_bf16):
            loss, _ = summed_loss(self.model, inputs, self.sharing)
        loss.backward()

    @contextmanager
    def _reserved(self) -> Iterator[None]:
        """Allocate what training needs besides: optimizer state, the buckets of several processes, head room."""
        device = self.model.device
        if device.type != "cuda":
            yield
            return
        torch.cuda.reset_peak_memory_stats()
        weights = sum(p.numel() * p.element_size() for p in self.model.parameters() if p.requires_grad)
        factor = _STATE.get(self.config.optim, 0.0) + (self.processes > 1)
        held = torch.empty(int(factor * weights + _HEAD_ROOM * limit_bytes()), dtype=torch.uint8, device=device)
        yield
        del held


def longest_groups(plan: Plan, collate: TrainCollator, limit: int) -> list[list[Sample]]:
    """At most `limit` groups with the most tokens once they are collated, the longest first.

    A group is what a batch contains as a unit: an image with its questions, or one question if images are not shared.
    Candidates are the longest texts and the largest images. Samples that training leaves out do not count.
    """
    found = (*_longest_texts(plan, collate, limit), *_on_largest(plan, collate, limit))
    candidates = {sample.sample_id: sample for group in found for sample in group}.values()
    # A stream may have several groups of one image. A batch that contains them shares the image among all.
    groups = evaluation_order(candidates) if collate.share_images else [[sample] for sample in candidates]
    measured = []
    for group in groups:
        batch = collate(group)
        if len(batch["left_out"]) < len(group):
            measured.append((int(batch["input_ids"].shape[1]), group))
    longest = heapq.nlargest(limit, measured, key=lambda pair: pair[0])
    return [group for _, group in longest] or groups[:limit]


def _longest_texts(plan: Plan, collate: TrainCollator, limit: int) -> list[list[Sample]]:
    groups = _groups(plan, collate)
    if collate.share_images:
        groups = _first_of_each_image(groups)
    return heapq.nlargest(limit, groups, key=lambda group: sum(map(text_chars, group)))


def _first_of_each_image(groups: Iterable[list[Sample]]) -> Iterator[list[Sample]]:
    seen: set[tuple[str, ...]] = set()
    for group in groups:
        if (images := group[0].group) not in seen:
            seen.add(images)
            yield group


def _on_largest(plan: Plan, collate: TrainCollator, limit: int) -> list[list[Sample]]:
    groups = islice(_groups(plan, collate), _IMAGES_LOOKED_AT)
    with ThreadPoolExecutor(8) as threads:  # a network file system answers several requests at once
        with_px = list(threads.map(lambda group: (_px(group, plan.config), group), groups))
    # Among equally large images the one with the most text.
    largest = heapq.nlargest(limit, with_px, key=lambda pair: (pair[0], sum(map(text_chars, pair[1]))))
    return [group for _, group in largest]


def _groups(plan: Plan, collate: TrainCollator) -> Iterator[list[Sample]]:
    """The groups of an epoch, at most one step long; if images are not shared, the longest question of each image."""
    epoch = islice(plan.order.from_position(0), plan.order.total)
    longest = sizes(plan)[0] * plan.config.grad_accum if collate.share_images else None
    for _, group in groupby(epoch, key=lambda sample: sample.group):
        samples = list(islice(group, longest))
        yield samples if collate.share_images else [max(samples, key=text_chars)]


def _px(group: list[Sample], config: Config) -> int:
    return sum(min(header_px(image), config.resize_px or sys.maxsize) for image in group[0].images)


@contextmanager
def _as_in_training(model: Any) -> Iterator[None]:
    """Train mode, with gradients allocated as from the second micro-batch on. Restores random state and modes."""
    evaluated = [module for module in model.modules() if not module.training]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.train()
    try:
        with torch.random.fork_rng(devices=cuda_devices(model)):
            for parameter in trained:
                parameter.grad = torch.zeros_like(parameter)
            yield
    finally:
        for module in evaluated:
            module.training = False
        for parameter in trained:
            parameter.grad = None


def _give_back() -> None:
    """Free the memory of a trial, and PyTorch's cached blocks, whose sizes may not suit the next trial."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
