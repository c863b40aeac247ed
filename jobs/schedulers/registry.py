"""The schedulers of `python -m jobs`, one line each: the name on the command line, and the class."""

from __future__ import annotations

import functools
import pkgutil
from typing import Any

from jobs.schedulers.scheduler import Scheduler
from vizsage.errors import ConfigError

SCHEDULERS = {
    "slurm": "jobs.schedulers.slurm.slurm_scheduler:Slurm",
    "kubernetes": "jobs.schedulers.kubernetes.kubernetes_scheduler:Kubernetes",
    "local": "jobs.schedulers.local.local_scheduler:Local",
}


@functools.cache
def scheduler_named(name: str) -> Scheduler[Any]:
    """The scheduler of that name. Raises ConfigError where there is none."""
    if name not in SCHEDULERS:
        raise ConfigError(f"{name}: no such scheduler; there are {', '.join(SCHEDULERS)}")
    scheduler: Scheduler[Any] = pkgutil.resolve_name(SCHEDULERS[name])()
    return scheduler


def schedulers() -> list[Scheduler[Any]]:
    """All of them, in the order of the registry."""
    return [scheduler_named(name) for name in SCHEDULERS]
