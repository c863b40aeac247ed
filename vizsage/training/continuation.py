"""What stands in output_dir already: whether the run is done, and what an attempt takes over from those before it."""

from __future__ import annotations

import logging
from pathlib import Path

from accelerate import PartialState

from vizsage.check import quick_check
from vizsage.config import Config
from vizsage.distributed.group import own_group
from vizsage.record import RunRecord, check_same_run, differences, read_outcome
from vizsage.training import checkpoints
from vizsage.training.directory import on_main
from vizsage.training.plan import Plan, adapter_is_there, draw_seed, make_plan

log = logging.getLogger(__name__)


def is_done_for(config: Config) -> bool:
    """Whether the run is done, found out without the other processes: they may have ended for good."""
    if not (config.output_dir / "outcome.json").is_file():
        return False
    record, outcome = RunRecord(config.output_dir), read_outcome(config.output_dir)
    if not (outcome and outcome["exit_code"] == 0 and record.exists and adapter_is_there(config)):
        return False
    quick_check(config)
    seed = draw_seed(config, record.recorded_seed())
    return is_done(config, record, make_plan(config.model_copy(update={"seed": seed}), *own_group()))


def is_done(config: Config, record: RunRecord, plan: Plan) -> bool:
    """Whether the run of `plan` has delivered all. Raises ConfigError where another one has."""
    outcome = read_outcome(config.output_dir)
    if not (outcome and outcome["exit_code"] == 0 and record.exists):
        return False
    before = record.content["identity"]
    check_same_run(config.output_dir, before, plan.continuing(before).identity)
    if adapter_is_there(config):
        log.info("%s: already done after %d steps", config.output_dir, outcome["step"])
        return True
    return False


def plan_here(config: Config, world: PartialState) -> tuple[RunRecord, Plan]:
    """The record in output_dir and the plan of this attempt, with the seed and the batch size of those before it."""
    record = RunRecord(config.output_dir)
    seed = on_main(world, lambda: draw_seed(config, record.recorded_seed()))
    plan = make_plan(config.model_copy(update={"seed": seed}), world.process_index, world.num_processes)
    if record.exists:
        before = record.content["identity"]
        continued = plan.continuing(before)
        # Where something else differs it is another run: for a mistake that is mended the number is found anew.
        plan = plan if differences(before, continued.identity) else continued
    return record, plan


def from_checkpoint(plan: Plan, world: PartialState) -> tuple[Plan, Path | None]:
    """`plan` as the run of the newest whole checkpoint, and that checkpoint, if any.

    Raises ConfigError where it is another run's.
    """
    output_dir = plan.config.output_dir
    name = on_main(world, lambda: (found := checkpoints.newest_whole(output_dir)) and found.name)
    checkpoint = output_dir / name if name else None
    if checkpoint:
        before = checkpoints.read_identity(checkpoint)
        plan = plan.continuing(before)
        check_same_run(output_dir, before, plan.identity)
    return plan, checkpoint
