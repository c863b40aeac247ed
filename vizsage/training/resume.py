"""Is the run in output_dir done, can it continue, or does it begin?

One answer from run.json, outcome.json and the checkpoints:

| what is in output_dir                                   | the answer                                               |
|---------------------------------------------------------|----------------------------------------------------------|
| nothing                                                 | `Begin`                                                  |
| a run, and resume is false                              | it is moved to previous-<n>, then `Begin`                |
| this run, begun with resume: false and not ended        | as with resume: true, or a retried job would never end   |
| outcome 0 and the adapter, same settings                | `Done`                                                   |
| outcome 0 without the adapter, same settings            | `Continue` from the newest checkpoint, which delivers it |
| a whole checkpoint, same settings                       | `Continue`                                               |
| outcome 0 or a whole checkpoint, other settings         | ConfigError, which names them                            |
| neither outcome 0 nor a checkpoint, whatever settings   | `Begin`: nothing that was trained is lost                |

"Same settings" means that the identities of both are equal: see vizsage.record.run_identity.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from accelerate import PartialState

from vizsage.check import quick_check
from vizsage.config import Config
from vizsage.contract import EXIT_DONE, OUTCOME
from vizsage.contract.run_files import Identity, Outcome, adapter_is_there
from vizsage.distributed.group import own_group
from vizsage.errors import ConfigError
from vizsage.record import RunRecord, differences, outcome_of
from vizsage.training import checkpoints
from vizsage.training.directory import on_main, set_aside
from vizsage.training.plan import Plan, draw_seed, make_plan, with_seed

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Done:
    """The run has delivered all that it was asked for."""

    step: int


@dataclass(frozen=True)
class Begin:
    """Nothing to continue from: step 0."""

    plan: Plan
    record: RunRecord


@dataclass(frozen=True)
class Continue:
    """The attempt goes on from a whole checkpoint."""

    plan: Plan
    record: RunRecord
    checkpoint: Path


Resumption = Done | Begin | Continue


def resumption(config: Config, world: PartialState) -> Resumption:
    """The answer for `config`, the same in each process. Needs the lock of output_dir: it may move files aside.

    Raises:
        ConfigError: output_dir contains a result or a checkpoint of a run with other settings.
        CheckpointError: a file of the run cannot be read.
        DataError: the splits are unusable.
    """
    record, plan = _record_and_plan(config, world)
    if not config.resume and not record.is_restart_under_way(plan.identity):
        on_main(world, lambda: set_aside(config, record))
        record, plan = _record_and_plan(config, world)
    if done := _done(config, record, plan):
        return done
    name = on_main(world, lambda: (newest := checkpoints.newest_whole(config.output_dir)) and newest.name)
    if name is None:
        return Begin(plan, record)
    checkpoint = config.output_dir / name
    before = checkpoints.read_identity(checkpoint)
    plan = plan.continuing(before)
    _require_same_run(config.output_dir, before, plan.identity)
    return Continue(plan, record, checkpoint)


def done_without_peers(config: Config) -> Done | None:
    """`Done`, or None, found out without the other processes: their nodes may never start again.

    Takes no lock and moves nothing. Raises as `resumption` does.
    """
    if not config.resume or not (config.output_dir / OUTCOME).is_file():
        return None
    record = RunRecord(config.output_dir)
    if not (_ended_well(config, record) and _has_adapter(config)):
        return None
    quick_check(config)
    seed = draw_seed(config, record.seed)
    return _done(config, record, make_plan(with_seed(config, seed), *own_group()))


def _done(config: Config, record: RunRecord, plan: Plan) -> Done | None:
    """`Done`, or None. Raises ConfigError where a run with other settings has ended with exit code 0."""
    outcome = _ended_well(config, record)
    if outcome is None or record.identity is None:
        return None
    _require_same_run(config.output_dir, record.identity, plan.continuing(record.identity).identity)
    if not _has_adapter(config):
        return None
    log.info("%s: already done after %d steps", config.output_dir, outcome.step)
    return Done(outcome.step)


def _ended_well(config: Config, record: RunRecord) -> Outcome | None:
    """The outcome of a run whose last attempt ended with exit code 0, else None."""
    outcome = outcome_of(config.output_dir)
    return outcome if outcome and outcome.exit_code == EXIT_DONE and record.exists else None


def _has_adapter(config: Config) -> bool:
    return adapter_is_there(config.adapter_dir if config.save_model else None)


def _record_and_plan(config: Config, world: PartialState) -> tuple[RunRecord, Plan]:
    """The record in output_dir, and the plan of this attempt with the seed and the batch size of those before it."""
    record = RunRecord(config.output_dir)
    seed = on_main(world, lambda: draw_seed(config, record.seed))
    plan = make_plan(with_seed(config, seed), world.process_index, world.num_processes)
    if record.identity is None:
        return record, plan
    continued = plan.continuing(record.identity)
    # If other settings differ, the batch size found for the earlier ones must not be taken: it may not fit any more.
    return record, plan if differences(record.identity, continued.identity) else continued


def _require_same_run(output_dir: Path, before: Identity, now: Identity) -> None:
    """Raise ConfigError naming every setting that differs from how the run in `output_dir` began."""
    if keys := differences(before, now):
        changes = "; ".join(f"{k} was {before.get(k)!r}, is now {now.get(k)!r}" for k in keys)
        raise ConfigError(
            f"{output_dir}: holds a run with other settings ({changes}); give it the same settings to continue, "
            "another output_dir for a new run, or resume=false to set this one aside and begin a new one"
        )
