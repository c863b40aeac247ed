"""Is the run in output_dir done, can it continue, or does it begin?

One answer from run.json, outcome.json and the checkpoints:

| what is in output_dir                                   | the answer                                               |
|---------------------------------------------------------|----------------------------------------------------------|
| nothing                                                 | `Begin`                                                  |
| a run, and resume is false                              | it is moved to previous-<n>, then `Begin`                |
| this run, begun with resume: false and not ended        | as with resume: true, or a retried job would never end   |
| outcome 0 and the adapter, same settings                | `Done`                                                   |
| outcome 0, and more steps than it has done              | `Continue` from its last checkpoint                      |
| outcome 0 without the adapter, same settings            | `Continue` from the newest checkpoint, which delivers it |
| a whole checkpoint, same settings or more steps         | `Continue`                                               |
| outcome 0 or a whole checkpoint, other settings         | ConfigError, which names them                            |
| neither outcome 0 nor a checkpoint, whatever settings   | `Begin`: nothing that was trained is lost                |

"Same settings" means that the identities of both are equal: see vizsage.record.run_identity. More steps are a higher
max_steps or epochs, or the steps that early stopping left out: see vizsage.training.longer. Fewer are other settings.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from accelerate import PartialState

from vizsage.check import quick_check
from vizsage.config import Config
from vizsage.contract import EXIT_DONE, OUTCOME, checkpoint_name
from vizsage.contract.run_files import Identity, Outcome, adapter_is_there
from vizsage.distributed.group import own_group
from vizsage.errors import ConfigError, in_yaml
from vizsage.record import INIT_WEIGHTS, RunRecord, differences, outcome_of
from vizsage.training import checkpoints
from vizsage.training.directory import on_main, set_aside
from vizsage.training.longer import cannot_go_on, goes_on
from vizsage.training.plan import Plan, draw_seed, make_plan, with_seed

log = logging.getLogger(__name__)
_LENGTH = ("epochs", "max_steps")


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
    ended = _ended_well(config, record)
    more = on_main(world, lambda: ended is not None and _has_steps_left(config, record, plan, ended))
    if ended and not more and _has_adapter(config):
        return _done(config, record, ended)
    name = on_main(world, lambda: (newest := checkpoints.newest_whole(config.output_dir)) and newest.name)
    if more and ended and name != checkpoint_name(ended.step):
        raise cannot_go_on(config, ended.step)
    if name is None:
        if extensions := record.content.extensions:
            raise cannot_go_on(config, extensions[-1].at_step)
        return Begin(plan, record)
    checkpoint = config.output_dir / name
    before = checkpoints.read_identity(checkpoint)
    plan = plan.continuing(before)
    _require_same_run(config.output_dir, before, plan)
    known = before
    if record.identity is not None and not differences(record.identity, plan.identity):
        known = record.identity  # it has an extension of which no checkpoint has been written yet, or none is whole
    try:
        plan = plan.extended(known, checkpoints.step_of(checkpoint))
    except ValueError as error:
        raise checkpoints.not_as_written(checkpoint / checkpoints.IDENTITY, str(error)) from None
    return Continue(plan, record, checkpoint)


def done_without_peers(config: Config) -> Done | None:
    """`Done`, or None, found out without the other processes: their nodes may never start again.

    Takes no lock and moves nothing. Raises as `resumption` does.
    """
    if not config.resume or not (config.output_dir / OUTCOME).is_file():
        return None
    record = RunRecord(config.output_dir)
    ended = _ended_well(config, record)
    if ended is None or not _has_adapter(config):
        return None
    quick_check(config)
    plan = _plan(config, record, draw_seed(config, record.seed), *own_group())
    return None if _has_steps_left(config, record, plan, ended) else _done(config, record, ended)


def _done(config: Config, record: RunRecord, ended: Outcome) -> Done:
    other_epochs = config.max_steps is not None and (record.identity or {}).get("epochs") != config.epochs
    note = f"; max_steps: {config.max_steps} counts, not epochs" if other_epochs else ""
    log.info("%s: already done after %d steps%s", config.output_dir, ended.step, note)
    return Done(ended.step)


def _has_steps_left(config: Config, record: RunRecord, plan: Plan, ended: Outcome) -> bool:
    """Whether a run that has ended with exit code 0 is to go on.

    Raises:
        ConfigError: it is a run with other settings, or early stopping would end it at once.
        CheckpointError: its last checkpoint is gone.
    """
    if record.identity is None:
        return False
    plan = plan.continuing(record.identity)
    _require_same_run(config.output_dir, record.identity, plan)
    return plan.settled and goes_on(plan, record.identity, ended.step)


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
    plan = _plan(config, record, seed, world.process_index, world.num_processes)
    if record.identity is None:
        return record, plan
    continued = plan.continuing(record.identity)
    # If other settings differ, the batch size found for the earlier ones must not be taken: it may not fit any more.
    other = set(differences(record.identity, continued.identity)).difference(_LENGTH)
    return record, plan if other else continued


def _plan(config: Config, record: RunRecord, seed: int, rank: int, processes: int) -> Plan:
    init = (record.identity or {}).get(INIT_WEIGHTS)
    return make_plan(with_seed(config, seed), rank, processes, init if isinstance(init, str) else None)


def _require_same_run(output_dir: Path, before: Identity, plan: Plan) -> None:
    """Raise ConfigError naming every setting that differs from how the run in `output_dir` began, or fewer steps."""
    now, planned = plan.identity, plan.planned_steps(before)
    keys = [key for key in differences(before, now) if planned is None or key not in _LENGTH]
    rest = (
        "give it the same settings to continue, another output_dir for a new run, or resume=false to set this one "
        "aside and begin a new one"
    )
    if keys:
        raise ConfigError(f"{output_dir}: holds a run with other settings ({_changes(keys, before, now)}); {rest}")
    if planned is not None and plan.settled and plan.total_steps < planned:
        keys = [key for key in differences(before, now) if key in _LENGTH]
        raise ConfigError(
            f"{output_dir}: holds a run of {planned} steps, and these settings are for {plan.total_steps} "
            f"({_changes(keys, before, now)}): a run can be made longer, not shorter; {rest}"
        )


def _changes(keys: list[str], before: Identity, now: Identity) -> str:
    return "; ".join(f"{key} was {in_yaml(before.get(key))}, is now {in_yaml(now.get(key))}" for key in keys)
