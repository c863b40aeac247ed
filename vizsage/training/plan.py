"""The plan of a run, made before a model is loaded: samples, their order, number of steps, what decides the weights."""

from __future__ import annotations

import logging
import math
import secrets
from dataclasses import asdict, dataclass, replace
from typing import Any

from vizsage.check.findings import without_val
from vizsage.config import Config
from vizsage.contract.run_files import EXTENSIONS, Extension, Identity, extensions_of
from vizsage.data.batching import SampleOrder, memory_order, step_samples, stream_order
from vizsage.data.image_groups import image_numbers
from vizsage.data.sample import Sample
from vizsage.data.sources import Split, data_identity, find_split, open_split, split_identity
from vizsage.models.adapters.init_adapter import init_sha256
from vizsage.record import GLOBAL_BATCH, RunFacts, run_identity
from vizsage.training.loader import Share
from vizsage.training.validation import choose_samples

log = logging.getLogger(__name__)
_SAMPLES_LOOKED_AT = 500


@dataclass(frozen=True)
class Plan:
    """A run; the same in each of its processes, except for `rank`.

    With batch_size: auto a plan is not settled until a model has been loaded and a batch size found. Until then it has
    neither `share` nor `total_steps`.
    """

    config: Config  # adapted to this machine's hardware; its seed is the one in use
    rank: int
    processes: int
    order: SampleOrder
    validation: list[Sample]
    counts: dict[str, Any]
    data: str  # see vizsage.data.sources.data_identity
    init_sha256: str | None = None  # of the weights in init_adapter
    extensions: tuple[Extension, ...] = ()  # how the run was made longer, see vizsage.training.longer

    @property
    def settled(self) -> bool:
        """Whether the batch size is a number."""
        return self.config.batch_size != "auto"

    @property
    def share(self) -> Share:
        """Which samples of an optimizer step this process trains on."""
        assert self.config.batch_size != "auto"
        return Share(self.config.batch_size, self.config.grad_accum, self.rank, self.processes)

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.config.max_steps or self._steps(self.config.epochs, self.share.global_batch)

    def _steps(self, epochs: float, global_batch: int) -> int:
        return math.ceil(self.order.total * epochs / global_batch - 1e-9)

    def planned_steps(self, before: Identity) -> int | None:
        """The optimizer steps that a run on the same data was planned for; None where `before` does not contain them.

        Args:
            before: the identity of that run.
        """
        epochs, max_steps, global_batch = (before.get(key) for key in ("epochs", "max_steps", GLOBAL_BATCH))
        if type(max_steps) is int and max_steps > 0:
            return max_steps
        if max_steps is not None or not isinstance(global_batch, int) or not isinstance(epochs, (int, float)):
            return None
        return self._steps(epochs, global_batch) if global_batch > 0 and 0 < epochs <= 1e6 else None

    @property
    def identity(self) -> Identity:
        """See vizsage.record.run_identity."""
        open_batch = f"auto x {self.config.grad_accum} x {self.processes}"
        identity = run_identity(
            self.config,
            global_batch=self.share.global_batch if self.settled else open_batch,
            seed=self.config.seed,
            data=self.data,
            init_sha256=self.init_sha256,
        )
        longer = {EXTENSIONS: [one.content() for one in self.extensions]} if self.extensions else {}
        return identity | longer

    @property
    def facts(self) -> RunFacts:
        """What run.json contains about the plan; total_steps is None until the plan is settled."""
        return {
            "identity": self.identity,
            "settings": self.config.model_dump(mode="json"),
            "counts": self.counts,
            "splits": _split_identities(self.config),
            "total_steps": self.total_steps if self.settled else None,
        }

    @property
    def example(self) -> Sample:
        """The sample whose answers before and after training are shown: of the validation split where there is one."""
        return self.validation[0] if self.validation else next(self.order.from_position(0))

    def questions_per_image(self) -> float:
        """Mean over the first optimizer steps; an image with questions in two of them counts once in each."""
        of_process = self.share.of_process
        steps = max(1, min(self.order.total, _SAMPLES_LOOKED_AT) // of_process)
        # The samples of all processes, not only of this one: each process must compute the same mean.
        samples = step_samples(self.order, first_step=0, steps=steps, of_process=of_process)
        return steps * of_process / sum(len(set(image_numbers(step))) for step in samples)

    def with_batch_size(self, batch_size: int) -> Plan:
        """The same run with this number of questions per forward pass."""
        return replace(self, config=self.config.model_copy(update={"batch_size": batch_size}))

    def continuing(self, before: Identity) -> Plan:
        """The plan with the batch size that gives the same optimizer step as the run that it continues.

        Args:
            before: the identity of that run.

        Returns:
            This plan, unchanged, where it is settled or no batch size gives the same step.
        """
        global_batch = before.get(GLOBAL_BATCH)
        if self.settled or not isinstance(global_batch, int):
            return self
        batch_size, rest = divmod(global_batch, self.config.grad_accum * self.processes)
        return self if rest or not batch_size else self.with_batch_size(batch_size)

    def extended(self, before: Identity, at_step: int) -> Plan:
        """The plan of a run that goes on after `at_step`, with one more `Extension` if it has more steps than before.

        Args:
            before: the identity of the run until then.
            at_step: optimizer steps done.

        Raises:
            ValueError: `before` contains something else than a run writes.
        """
        known, planned = extensions_of(before), self.planned_steps(before)
        if planned is None or self.total_steps <= planned:
            return replace(self, extensions=known)
        more = Extension(
            at_step=at_step, from_steps=planned, to_steps=self.total_steps, schedule=self.config.longer_schedule
        )
        return replace(self, extensions=(*known, more))


def make_plan(config: Config, rank: int = 0, processes: int = 1, known_init: str | None = None) -> Plan:
    """Read and count the splits, and the weights in init_adapter.

    Args:
        config: the settings.
        rank: number of this process.
        processes: how many there are.
        known_init: the SHA-256 sum of the weights that the run in output_dir began from. They are not needed to
            continue it, so they may be gone.

    Raises:
        DataError: the splits are unusable, or no training sample is left.
        CheckpointError: init_adapter contains no adapter.
    """
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
        log.warning("%s", without_val(config))
    table = config.external_knowledge_path if config.external_knowledge else None
    init = init_sha256(config, known_init)
    return Plan(config, rank, processes, order, validation, counts, data_identity(sources, table), init)


def draw_seed(config: Config, recorded: int | None) -> int:
    """The seed of this run: the setting; with reproducible: false the recorded one, or a new one."""
    if config.reproducible:
        return config.seed
    return recorded if recorded is not None else secrets.randbelow(2**31)


def with_seed(config: Config, seed: int) -> Config:
    """`config` with the seed in use."""
    return config.model_copy(update={"seed": seed})


def _split_identities(config: Config) -> dict[str, str]:
    """The identity of each split, by which an evaluation recognises the data of this run."""
    found = {name: split_identity(config, name) for name in ("train", "val", "test")}
    return {name: identity for name, identity in found.items() if identity is not None}


def _order(config: Config, train: Split) -> SampleOrder:
    if config.use_streaming:
        return stream_order(train, config.seed, config.stream_buffer_size)
    return memory_order(train.load(), config.seed)
