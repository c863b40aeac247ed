"""What a run is, worked out before a model is loaded: samples, order, length, what decides its weights."""

from __future__ import annotations

import logging
import math
import secrets
from dataclasses import asdict, dataclass, replace
from typing import Any

from vizsage.config import Config
from vizsage.contract.run_files import Identity
from vizsage.data.batching import SampleOrder, memory_order, step_samples, stream_order
from vizsage.data.image_groups import image_numbers
from vizsage.data.sample import Sample
from vizsage.data.sources import Split, data_identity, find_split, open_split, split_identity
from vizsage.record import GLOBAL_BATCH, RunFacts, run_identity
from vizsage.training.loader import Share
from vizsage.training.validation import choose_samples

log = logging.getLogger(__name__)
_SAMPLES_LOOKED_AT = 500


@dataclass(frozen=True)
class Plan:
    """A run, the same on each of its processes but for `rank`.

    With batch_size: auto a plan is open until a model has been loaded and `with_batch_size` settles it: it has no
    `share` and no `total_steps` before.
    """

    config: Config  # as this machine can run it; its seed is the one in use
    rank: int
    processes: int
    order: SampleOrder
    validation: list[Sample]
    counts: dict[str, Any]
    data: str  # see vizsage.data.sources.data_identity

    @property
    def settled(self) -> bool:
        """Whether the batch size is a number."""
        return self.config.batch_size != "auto"

    @property
    def share(self) -> Share:
        """What each process trains on in a step."""
        assert self.config.batch_size != "auto"
        return Share(self.config.batch_size, self.config.grad_accum, self.rank, self.processes)

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        steps = math.ceil(self.order.total * self.config.epochs / self.share.global_batch - 1e-9)
        return self.config.max_steps or steps

    @property
    def identity(self) -> Identity:
        """See vizsage.record.run_identity."""
        open_batch = f"auto x {self.config.grad_accum} x {self.processes}"
        return run_identity(
            self.config,
            global_batch=self.share.global_batch if self.settled else open_batch,
            seed=self.config.seed,
            data=self.data,
        )

    @property
    def facts(self) -> RunFacts:
        """What run.json says of the run; of an open plan only what is known."""
        return {
            "identity": self.identity,
            "settings": self.config.model_dump(mode="json"),
            "counts": self.counts,
            "splits": _split_identities(self.config),
            "total_steps": self.total_steps if self.settled else None,
        }

    @property
    def example(self) -> Sample:
        """The sample whose answers before and after training are shown: a held-out one where there is one."""
        return self.validation[0] if self.validation else next(self.order.from_position(0))

    def questions_per_image(self) -> float:
        """The mean in the first optimizer steps; an image whose questions a step's border parts counts twice."""
        of_process = self.share.of_process
        steps = max(1, min(self.order.total, _SAMPLES_LOOKED_AT) // of_process)
        # Not those of this rank: all processes must come to the same mean.
        samples = step_samples(self.order, first_step=0, steps=steps, of_process=of_process)
        return steps * of_process / sum(len(set(image_numbers(step))) for step in samples)

    def with_batch_size(self, batch_size: int) -> Plan:
        """The same run with this number of questions in a forward pass."""
        return replace(self, config=self.config.model_copy(update={"batch_size": batch_size}))

    def continuing(self, before: Identity) -> Plan:
        """An open plan with the batch size that makes the optimizer step of the run that it continues.

        `before` is the identity of that run. A plan that is settled, or that cannot make the same step, stays as it is.
        """
        global_batch = before.get(GLOBAL_BATCH)
        if self.settled or not isinstance(global_batch, int):
            return self
        batch_size, rest = divmod(global_batch, self.config.grad_accum * self.processes)
        return self if rest or not batch_size else self.with_batch_size(batch_size)


def make_plan(config: Config, rank: int = 0, processes: int = 1) -> Plan:
    """Read the splits and count. Raises DataError where they are unusable or nothing is left to train on."""
    train = open_split(config, "train")
    order = _order(config, train)
    validation, counts = [], {"train": asdict(train.counts)}
    sources = [train.source]
    if find_split(config, "val"):
        val = open_split(config, "val")
        samples = val.stream() if config.use_val_streaming else val.load()
        validation = choose_samples(samples, config.val_samples)
        counts["val"] = {"answered_at_each_validation": len(validation)}
        sources.append(val.source)
    if not validation:
        log.warning("no validation split: no score during training, no early stopping, the last weights are saved")
    table = config.external_knowledge_path if config.external_knowledge else None
    return Plan(config, rank, processes, order, validation, counts, data_identity(sources, table))


def draw_seed(config: Config, recorded: int | None) -> int:
    """The seed of this run: the setting, or, not reproducible, the recorded one or a fresh one."""
    if config.reproducible:
        return config.seed
    return recorded if recorded is not None else secrets.randbelow(2**31)


def with_seed(config: Config, seed: int) -> Config:
    """`config` with the seed in use."""
    return config.model_copy(update={"seed": seed})


def _split_identities(config: Config) -> dict[str, str]:
    """Of all splits, so that an evaluation can tell whether it asks those of this run."""
    found = {name: split_identity(config, name) for name in ("train", "val", "test")}
    return {name: identity for name, identity in found.items() if identity is not None}


def _order(config: Config, train: Split) -> SampleOrder:
    if config.use_streaming:
        return stream_order(train, config.seed, config.stream_buffer_size)
    return memory_order(train.load(), config.seed)
