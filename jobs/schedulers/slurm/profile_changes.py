"""A profile changed for one job: by options, settings and the environment."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from jobs.schedulers.scheduler import JobOptions
from jobs.schedulers.slurm.profile import Profile, load_profile
from jobs.terminal import warn
from vizsage.config import build

# Key of a profile: the variables of sbatch with the same meaning.
_DEFAULTS = {
    "clusters": ("SLURM_CLUSTERS", "SBATCH_CLUSTERS"),
    "partition": ("SBATCH_PARTITION",),
    "account": ("SBATCH_ACCOUNT",),
    "qos": ("SBATCH_QOS",),
    "reservation": ("SBATCH_RESERVATION",),
}


def with_gpus(profile: Profile, gpus: int, *, of_a_kind: bool = False) -> Profile:
    """`profile` with `gpus` GPUs on each node, and cores and memory changed in proportion.

    Args:
        profile: if it has no GPUs, cores and memory are not changed.
        gpus: with 0, cores and memory are not changed either, because the CPUs do the work.
        of_a_kind: request the kind of GPU that gres names, if it names one, instead of any.
    """
    kinds = (profile.gres or "").split(",")
    counted = [name for name in kinds if name.partition(":")[0] == "gpu"]
    had = sum(_counts(name)[1] for name in counted) if profile.gres else profile.gpus_per_node
    changes: dict[str, Any] = {"gpus_per_node": gpus, "gres": None}
    if of_a_kind and profile.gres:
        renamed = (f"{_counts(name)[0]}:{gpus}" if name in counted else name for name in kinds)
        changes = {"gres": ",".join(renamed)}
    if had and gpus and gpus != had:
        changes["cpus_per_task"] = -(-profile.cpus_per_task * gpus // had)
        if profile.mem and profile.mem.rstrip("KMGTkmgt").strip("0"):  # 0: all that the node has
            amount, unit = re.fullmatch(r"(\d+)(.?)", profile.mem).groups()  # type: ignore[union-attr]
            changes["mem"] = f"{-(-int(amount) * gpus // had)}{unit}"
    return profile.model_copy(update=changes)


def _counts(gres: str) -> tuple[str, int]:
    """gpu:a100:4 as ("gpu:a100", 4); the number is 1 where there is none."""
    kind, _, number = gres.rpartition(":")
    return (kind, int(number)) if number.isdecimal() else (gres, 1)


def fill(profile: Profile, environment: Mapping[str, str]) -> tuple[Profile, list[str]]:
    """`profile` with the values of sbatch's variables for keys that are None in it; a remark on each variable.

    Only keys that name a place are taken from the environment. A count or a time in it would contradict the profile and
    the options without anybody noticing.

    Raises:
        ConfigError: a value is not valid in a profile.
    """
    taken = {
        key: (name, environment[name])
        for key, names in _DEFAULTS.items()
        for name in names
        if environment.get(name) and getattr(profile, key) in (None, environment[name])
    }
    open_keys = {key: (name, value) for key, (name, value) in taken.items() if getattr(profile, key) is None}
    lines = [f"{key}: {value}, from {name} in the environment" for key, (name, value) in open_keys.items()]
    known = {name for name, _ in taken.values()} | {"SBATCH_EXPORT"}  # set inside every job
    options = {name for name in environment if name.startswith("SBATCH_")} | {"SLURM_CLUSTERS"} & environment.keys()
    if ignored := sorted(name for name in options - known if environment[name]):
        lines.append(f"{', '.join(ignored)} in the environment: not passed on to sbatch; profile and options decide")
    if open_keys:
        settings = profile.model_dump() | {key: value for key, (_, value) in open_keys.items()}
        profile = build(
            Profile, settings, source=f"{', '.join(name for name, _ in open_keys.values())} in the environment"
        )
    return profile, lines


def profile_of(options: JobOptions, *, on_cpu: bool) -> Profile:
    """The profile that the options name, changed for one training. Warns of what the environment changes.

    Args:
        options: the command line.
        on_cpu: whether the settings ask for no GPU.

    Raises:
        ConfigError: there is no such profile, or a value is not valid.
    """
    given = {"nodes": options.nodes, "time": options.time}
    changes = {key: value for key, value in given.items() if value is not None}
    profile, remarks = fill(load_profile(options.own.get("profile"), changes), os.environ)
    if options.gpus_per_node is not None:
        profile = with_gpus(profile, options.gpus_per_node)
    elif on_cpu:
        profile = with_gpus(profile, 0)  # the job would wait for GPUs that it does not use
    for remark in remarks:
        warn(remark)
    return profile


def for_eval(profile: Profile, nodes: int | None = None, gpus_per_node: int | None = None) -> Profile:
    """The profile of an evaluation: one process, however large the trainings are, unless more is asked for."""
    if gpus_per_node is None and (profile.gres or profile.gpus_per_node):
        profile = with_gpus(profile, 1, of_a_kind=True)
    return profile if nodes is not None else profile.model_copy(update={"nodes": 1})
