"""A run that is given more steps: whether it goes on, and its learning rate from there.

A higher max_steps or epochs makes a run longer, wherever it stands: finished, ended by early stopping, or interrupted.
It continues from its newest checkpoint. The steps before that keep what they were trained with; the setting
longer_schedule decides the learning rate of those after it:

- stretch: that of a run which was planned for all steps from the beginning;
- rewarm: warm-up and schedule again, from the first of the added steps to the last;
- constant: the setting lr.

The learning rate is a function of the settings, the step and the `Extension`s of the run, which run.json and every
checkpoint contain. So an interruption changes nothing, also where several extensions follow each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from transformers import get_scheduler

from vizsage.config import Config
from vizsage.contract import ADAPTER_WEIGHTS, checkpoint_name
from vizsage.contract.run_files import Extension, Identity
from vizsage.errors import CheckpointError, ConfigError
from vizsage.training.checkpoints import PROGRESS
from vizsage.training.plan import Plan
from vizsage.training.progress import read_progress
from vizsage.training.trainer_arguments import warmup_steps

RateFactor = Callable[[int], float]
"""What lr is multiplied by, given the number of optimizer steps done."""


def goes_on(plan: Plan, before: Identity, step: int) -> bool:
    """Whether a run that ended well has steps left to do.

    Args:
        plan: of this attempt.
        before: the identity of the run.
        step: the optimizer steps that it did.

    Raises:
        ConfigError: more steps are asked for, and early stopping would end the run at once.
        CheckpointError: more steps are asked for, and the last checkpoint is gone.
    """
    total, config = plan.total_steps, plan.config
    if step >= total:
        return False
    longer = total > (plan.planned_steps(before) or total)
    checkpoint = config.output_dir / checkpoint_name(step)
    if not (checkpoint / PROGRESS).is_file():
        if longer:
            raise cannot_go_on(config, step)
        return False
    progress = read_progress(checkpoint)
    if not progress.stays_stopped(config, total, step):
        return True
    if longer:
        ratio = (step - progress.reference_step) / total
        raise ConfigError(
            f"{config.output_dir}: early stopping ended this run at step {step}, with no better score since step "
            f"{progress.reference_step}, and would end it there again: to train on to step {total}, set "
            f"early_stopping_patience_ratio (now {config.early_stopping_patience_ratio:g}) above {ratio:.3g}, or "
            "use_early_stopping: false"
        )
    return False


def cannot_go_on(config: Config, step: int) -> CheckpointError:
    """The error for a run that is to be longer, and whose state after its last `step` is not there any more."""
    instead = "begin again with resume=false"
    if (config.adapter_dir / ADAPTER_WEIGHTS).is_file():
        instead = f"begin a new run from its adapter: init_adapter={config.adapter_dir} and another output_dir"
    return CheckpointError(
        f"{config.output_dir}: {checkpoint_name(step)} is missing or damaged, so the run cannot go on from there; "
        f"{instead}"
    )


def rate_factor(config: Config, total_steps: int, extensions: Sequence[Extension]) -> RateFactor:
    """The learning rate over a run of `total_steps`, as a factor of lr."""
    planned = extensions[0].from_steps if extensions else total_steps
    parts = [(0, _schedule(config, planned)), *((one.at_step, _part(config, one)) for one in extensions)]

    def factor(step: int) -> float:
        return next(part(step) for begins, part in reversed(parts) if begins <= step)

    return factor


def _part(config: Config, extension: Extension) -> RateFactor:
    """The factor from the first step of `extension` on."""
    first, total = extension.at_step, extension.to_steps
    if extension.schedule == "constant":
        return lambda step: 1.0
    if extension.schedule == "stretch":
        return _schedule(config, total)
    again = _schedule(config, total - first)
    return lambda step: again(step - first)


def _schedule(config: Config, steps: int) -> RateFactor:
    """The factor of a run of `steps` that is never made longer; transformers makes it for an optimizer."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=config.lr)
    schedule = get_scheduler(config.scheduler, optimizer, warmup_steps(config, steps), steps)
    factor: RateFactor = schedule.lr_lambdas[0]
    return factor


def described(config: Config, extensions: Sequence[Extension]) -> str:
    """One line about the last of `extensions`: from where to where, and the learning rate."""
    *earlier, last = extensions
    before = rate_factor(config, last.from_steps, earlier)(max(0, last.at_step - 1))
    since = rate_factor(config, last.to_steps, extensions)(last.at_step)
    return (
        f"trained to step {last.at_step} with a schedule for {last.from_steps} steps; now to step {last.to_steps}, "
        f"longer_schedule: {last.schedule}: the learning rate of the next step is {config.lr * since:.3g}, that of "
        f"the last one was {config.lr * before:.3g}"
    )
