"""What a run is, worked out before a model is loaded: samples, order, length, what decides its weights."""

from __future__ import annotations

import logging
import math
import secrets
from dataclasses import asdict, dataclass
from typing import Any

from vizsage.config import Config
from vizsage.data.batching import SampleOrder, memory_order, stream_order
from vizsage.data.sample import Sample
from vizsage.data.sources import Split, find_split, open_split
from vizsage.record import data_identity, run_identity
from vizsage.training.loader import Share
from vizsage.training.validation import choose_samples

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """A run, the same on each of its processes but for `share.rank`."""

    config: Config  # as this machine can run it; its seed is the one in use
    share: Share
    order: SampleOrder
    validation: list[Sample]
    total_steps: int
    counts: dict[str, Any]
    identity: dict[str, Any]  # see vizsage.record.run_identity

    @property
    def example(self) -> Sample:
        """The sample whose answers before and after training are shown: a held-out one where there is one."""
        return self.validation[0] if self.validation else next(self.order.from_position(0))


def make_plan(config: Config, share: Share) -> Plan:
    """Read the splits and count. Raises DataError where they are unusable or nothing is left to train on."""
    train = open_split(config, "train")
    order = _order(config, train)
    total_steps = config.max_steps or math.ceil(order.total * config.epochs / share.global_batch - 1e-9)
    validation, counts = [], {"train": asdict(train.counts)}
    files = [*train.source.paths]
    if find_split(config, "val") is not None:
        val = open_split(config, "val")
        samples = val.stream() if config.use_val_streaming else val.load()
        validation = choose_samples(samples, config.val_samples)
        counts["val"] = {"answered_at_each_validation": len(validation)}
        files += val.source.paths
    if not validation:
        log.warning("no validation split: no score during training, no early stopping, the last weights are saved")
    if config.external_knowledge and config.external_knowledge_path:
        files.append(config.external_knowledge_path)
    identity = run_identity(config, global_batch=share.global_batch, seed=config.seed, data=data_identity(files))
    return Plan(config, share, order, validation, total_steps, counts, identity)


def draw_seed(config: Config, recorded: int | None) -> int:
    """The seed of this run: the setting, or, not reproducible, the recorded one or a fresh one."""
    if config.reproducible:
        return config.seed
    return recorded if recorded is not None else secrets.randbelow(2**31)


def adapter_is_there(config: Config) -> bool:
    """Whether the run delivered what it was to deliver."""
    return not config.save_model or (config.adapter_dir / "adapter_model.safetensors").exists()


def _order(config: Config, train: Split) -> SampleOrder:
    if config.use_streaming:
        return stream_order(train, config.seed, config.stream_buffer_size)
    return memory_order(train.load(), config.seed)
