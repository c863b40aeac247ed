"""Whether samples fit into max_seq_length, and checkpoints onto the disk; no weights are loaded for it."""

from __future__ import annotations

import heapq
import shutil
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from vizsage.config import Config
from vizsage.data.left_out import NOTICEABLE, require_some, summary
from vizsage.data.sample import ImageRef, Sample, text_chars
from vizsage.data.sources import open_split
from vizsage.data.survey import LEFT_OUT, Survey
from vizsage.errors import DataError
from vizsage.files import nearest_existing
from vizsage.models.loaded import base_path_of

MODEL = "base model not found, so not checked"
TOO_LONG = "too long, left out"
MEASURED = 24  # longest texts, and questions on the largest images, whose length in tokens is measured
_SPREAD = 200  # training samples by which the share that is left out is judged
_PROCESSOR_BYTES = 32 * 2**20  # a large tokenizer, saved with the adapter
_STATE_BYTES = 2**20  # random states, position and manifest of a checkpoint


def check_model(config: Config, survey: Survey, pixels: dict[ImageRef, int], notes: list[str]) -> None:
    """Check lengths in tokens and room on the disk, as far as the base model's processor and configuration are there.

    Args:
        config: the run.
        survey: has the splits, and takes the problems.
        pixels: of each image that can be decoded.
        notes: takes lines for the report.

    Raises:
        ConfigError: the settings do not fit the base model.
        CheckpointError: the files of the base model are damaged.
    """
    from vizsage.models.loading.hf import HubUnreachable, load_processor

    free = shutil.disk_usage(nearest_existing(config.output_dir)).free
    room = f"output_dir {config.output_dir}: {_gib(free)} free"
    try:
        processor = load_processor(config)
    except HubUnreachable as error:
        notes.append(room)
        survey.add(MODEL, f"{error}; lengths in tokens and the room needed are not known", warning=True)
        return
    if not survey.errors:
        notes.append(_measure_lengths(config, survey, pixels, processor))
    needed = _bytes_needed(config)
    room += f", about {_gib(needed)} needed"
    if free < needed:
        survey.add("disk", f"{room}; free some space, or lower n_saves or lora_r")
    else:
        notes.append(room)


def _measure_lengths(config: Config, survey: Survey, pixels: dict[ImageRef, int], processor: Any) -> str:
    """Encode the samples that are likely to be the longest and note those that do not fit. Raises ConfigError."""
    from vizsage.data.collate import TrainCollator

    collate = TrainCollator(processor, config)
    longest = measured = 0
    for row in survey.rows:
        for sample in long_samples(config, row.name, pixels):
            try:
                batch = collate([sample])
            except DataError as error:
                survey.add("answers", f"{row.name}: {error}")
                continue
            measured += 1
            longest = max(longest, int(batch["attention_mask"].sum()))
            for sample_id, reason in batch["left_out"]:
                survey.add(TOO_LONG, f"{row.name}: {sample_id}: {reason}", warning=True)
    if survey.kinds.keys() & {TOO_LONG, LEFT_OUT}:
        _check_share(config, survey, collate)
    return f"longest of {measured} samples measured: {longest} tokens of max_seq_length {config.max_seq_length}"


def _check_share(config: Config, survey: Survey, collate: Callable[..., Any]) -> None:
    """Note it if training would leave out many of its samples, by a share of them, or all."""
    total = next((row.samples for row in survey.rows if row.name == "train"), 0)
    every = max(1, total // _SPREAD)
    reasons, looked_at = list[str](), 0
    for sample in islice(open_split(config, "train").stream(), 0, None, every):
        looked_at += 1
        try:
            reasons += [reason for _, reason in collate([sample])["left_out"]]
        except DataError:  # an answer without a token, which _measure_lengths has noted
            continue
    if len(reasons) == looked_at:
        try:
            require_some(open_split(config, "train").stream(), collate)
        except DataError as error:
            survey.add("training", str(error))
            return
    if len(reasons) >= NOTICEABLE * looked_at:
        survey.add("training samples left out", f"train: {summary(reasons, looked_at)}", warning=True)


def long_samples(config: Config, split: str, pixels: dict[ImageRef, int]) -> list[Sample]:
    """The samples with the longest texts, and some on the largest images."""
    large = set(heapq.nlargest(MEASURED, pixels, key=lambda image: pixels[image]))
    on_large: list[Sample] = []

    def sound_samples() -> Iterator[Sample]:
        for sample in open_split(config, split).stream():
            if len(on_large) < MEASURED and any(image in large for image in sample.images):
                on_large.append(sample)
            if all(image in pixels for image in sample.images):
                yield sample

    longest = heapq.nlargest(MEASURED, sound_samples(), key=text_chars)
    return list({sample.sample_id: sample for sample in (*longest, *on_large)}.values())


def _bytes_needed(config: Config) -> int:
    """Bytes for the kept checkpoints, the best one, one that is being written, and the adapter.

    The model is built on PyTorch's meta device, which has no memory for weights, and its parameters are counted.
    """
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    from vizsage.models.adapters.placement import select_modules

    options = {"revision": config.revision, "trust_remote_code": config.trust_remote_code}
    architecture = AutoConfig.from_pretrained(base_path_of(config), **options)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(architecture, trust_remote_code=config.trust_remote_code)
    targets, norms = select_modules(model, config)
    parameters = 0
    for name in targets:
        layer = model.get_submodule(name)
        parameters += config.lora_r * (layer.in_features + layer.out_features)
    parameters += sum(int(weight.numel()) for name in norms for weight in model.get_submodule(name).parameters())
    # 4 bytes per weight in float32 and 8 for Adam's two moments.
    return (config.n_saves + 2) * (12 * parameters + _STATE_BYTES) + 4 * parameters + _PROCESSOR_BYTES


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:.1f} GiB"
