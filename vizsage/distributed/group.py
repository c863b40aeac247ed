"""Which process of how many this one is: the variables of the environment, and their mistakes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

from vizsage.errors import ConfigError

_NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
# Set by launchers of MPI. accelerate would join such a group by itself, in a training on CPUs only.
_OTHER_SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


class Group(NamedTuple):
    """This process and its peers: `rank` of `size`."""

    rank: int
    size: int


def own_group(environment: Mapping[str, str] = os.environ) -> Group:
    """The group that torchrun's variables describe; without them this is the only process.

    Raises:
        ConfigError: they are incomplete or contradict each other. Libraries would wait minutes for processes that
            do not exist.
    """
    given = {name: environment[name] for name in _NAMES if environment.get(name)}
    numbers = {name: int(text) for name, text in given.items() if name != "MASTER_ADDR" and text.isdecimal()}
    rank, count, local_rank = (numbers.get(name, default) for name, default in zip(_NAMES, (0, 1, 0), strict=False))
    if wrong := [name for name in given if name != "MASTER_ADDR" and name not in numbers]:
        raise _unusable(given, f"{wrong[0]} is not a number")
    if not {"RANK", "WORLD_SIZE", "LOCAL_RANK"} & set(given):
        for name in _OTHER_SIZES:
            if environment.get(name, "1") not in ("", "1"):
                raise _unusable({name: environment[name]}, "processes of MPI do not know each other here")
        return Group(0, 1)
    if rank >= count:
        raise _unusable(given, "RANK must be less than WORLD_SIZE")
    if local_rank > rank:
        raise _unusable(given, "LOCAL_RANK is never more than RANK")
    if count == 1 and "LOCAL_RANK" not in given:
        return Group(0, 1)
    if missing := [name for name in _NAMES if name not in given]:
        raise _unusable(given, f"{', '.join(missing)} missing")
    if not 0 < numbers["MASTER_PORT"] < 65536:
        raise _unusable(given, "MASTER_PORT is no port")
    return Group(rank, count)


def _unusable(given: Mapping[str, str], problem: str) -> ConfigError:
    found = " ".join(f"{name}={text[:80]}" for name, text in given.items())
    return ConfigError(
        f"the environment has {found}: {problem}. One of several processes needs {', '.join(_NAMES)}, which torchrun "
        f"sets; for a single process: unset {' '.join(given)}"
    )
