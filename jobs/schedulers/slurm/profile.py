"""What a job requests of a cluster: partition, GPUs, memory, time, container. One YAML file per cluster."""

from __future__ import annotations

import difflib
import json
import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from jobs.schedulers.slurm.profile_values import (
    Cache,
    Container,
    Environment,
    Lines,
    Memory,
    Mounts,
    Program,
    TimeLimit,
    Word,
)
from jobs.time_limit import seconds
from vizsage.config import Count, PositiveInt, build, read_yaml
from vizsage.errors import ConfigError

FOLDER = Path("config/clusters")
SHIPPED = Path(__file__).parent / "clusters"  # those of the package; in the repository a link to FOLDER
DEFAULT = "default"

_KEEP_OUT = (
    "looks like a secret, which would be written into the script: export it in your shell, which passes it on, "
    "or read it from a file, NAME=$(cat FILE), or, if it is none, add not_secrets"
)


class Profile(BaseModel):
    """What a job requests of one cluster. For a request that is None, the cluster's own default holds."""

    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True, title="Cluster profile")

    # where
    clusters: Word | None = Field(
        None, description="Cluster, or several with commas between; null: the one you are on."
    )
    partition: Word | None = Field(None, description="Partition (queue); null: the cluster's default.")
    account: Word | None = Field(None, description="Account that is charged; null: your default.")
    qos: Word | None = Field(None, description="Quality of service; null: your default.")
    constraint: Word | None = Field(None, description="Features that the nodes must have, for example a100&ib.")
    reservation: Word | None = Field(None, description="Reservation whose nodes are taken; null: none.")

    # how much
    nodes: PositiveInt = Field(1, description="Nodes of a training; an evaluation takes one.")
    gpus_per_node: Count = Field(1, description="GPUs on each node, one process per GPU; 0: none.")
    gres: Word | None = Field(None, description="Requested instead of gpus_per_node, for example gpu:a100:4.")
    cpus_per_task: PositiveInt = Field(
        8, description="CPU cores on each node; changed in proportion where another number of GPUs is requested."
    )
    mem: Memory | None = Field(
        None,
        description="Memory of each node, in proportion too: 64G, K, M or T; 0: all; null: the cluster's default.",
    )
    time: TimeLimit = Field(
        "24:00:00",
        description="Time limit of one attempt: MM, MM:SS, HH:MM:SS, D-HH, D-HH:MM, D-HH:MM:SS or UNLIMITED.",
    )

    # interruption
    signal_delay_s: PositiveInt = Field(
        600, le=65535, description="Seconds before the time limit at which the run saves, ends and is requeued."
    )
    max_retries: Count = Field(3, description="How often a job is requeued after an unknown failure.")

    # what the command finds; setup, environment and srun_options are not shown in messages (repr=False), because
    # a secret in them, which is against all advice, would be copied into a log
    setup: Lines = Field(
        (),
        repr=False,
        description="Lines of bash before the command, run on the first node; what they export reaches all.",
    )
    environment: Environment = Field({}, repr=False, description="Variables of the command.")
    container: Container = Field("none", description="none, apptainer FILE.sif or pyxis FILE.sqsh.")
    mounts: Mounts = Field((), description="Folders that the container sees: SRC:DST, SRC:DST:ro or SRC:DST:rw.")
    local_cache: Cache | None = Field(
        None, description="Folder on the node's own disk for caches, for example /tmp/$USER; null: none."
    )
    srun_options: Lines = Field((), repr=False, description="More options of srun, one word each.")
    not_secrets: tuple[str, ...] = Field(
        (),
        description="Names from messages about secrets in setup or environment that are no secrets.",
    )
    python: Program | None = Field(
        None, description="Python that runs the job; null: the one that submits, python3 in a container."
    )

    @model_validator(mode="after")
    def _together(self) -> Profile:
        """Rules over several keys."""
        problems = []
        if self.time_limit_s is not None and self.signal_delay_s >= self.time_limit_s:
            problems.append(
                f"signal_delay_s: {self.signal_delay_s} seconds before the end must be less than time: {self.time}"
            )
        if self.mounts and self.container_kind == "none":
            problems.append("mounts: only a container has mounts, and container is none")
        problems += self._secrets()
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _secrets(self) -> list[str]:
        from jobs.schedulers.secret_check import in_lines, in_variables

        found = {f"environment: {name}": name for name in in_variables(self.environment, self.not_secrets)}
        for key, lines in (("setup", self.setup), ("srun_options", self.srun_options)):
            for number, name in in_lines("\n".join(lines), self.not_secrets):
                found[f"{key}: line {number}: {name}"] = name
        return [f"{place} {_KEEP_OUT}: [{json.dumps(name)}]" for place, name in found.items()]

    @property
    def time_limit_s(self) -> int | None:
        """Seconds of one attempt; None: unlimited."""
        return seconds(self.time)

    @property
    def container_kind(self) -> str:
        """none, apptainer or pyxis."""
        return self.container.partition(" ")[0]

    @property
    def container_image(self) -> str | None:
        """The file of the image, as srun or apptainer takes it; None without a container."""
        kind, _, image = self.container.partition(" ")
        # pyxis would look for a name without a folder in a registry of images.
        return f"./{image}" if kind == "pyxis" and re.match(r"(?![./]).*\.sqsh$", image) else image or None


def load_profile(name: str | None, changes: dict[str, Any]) -> Profile:
    """A profile, with the values of `changes` instead of its own.

    A NAME without a file in the project may be a profile of the package.

    Args:
        name: NAME of config/clusters/NAME.yaml, or the path of a YAML file. None: config/clusters/default.yaml, or
            the defaults of Profile where there is no such file.
        changes: values by key.

    Raises:
        ConfigError: with every problem, one clause each, in one line.
    """
    path = _path(name)
    # As texts: without quotes, 24:00:00 would be a number, and the value `yes` of a variable would be true.
    settings = read_yaml(path, as_text=True) if path else {}
    return build(Profile, settings, str(path or "profile"), changes)


def profile_names() -> list[str]:
    """The NAMEs of the profiles of the project and of the package."""
    return sorted({path.stem for folder in (FOLDER, SHIPPED) for path in folder.glob("*.yaml")})


def _path(name: str | None) -> Path | None:
    if name is None:
        path = FOLDER / f"{DEFAULT}.yaml"
        return path if path.exists() else None
    if "/" in name or name.endswith((".yaml", ".yml")):
        return Path(name)
    file = f"{name}.yaml"
    for folder in (FOLDER, SHIPPED):
        if (folder / file).exists():
            return folder / file
    there = profile_names()
    near = difflib.get_close_matches(name, there, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ConfigError(f"{FOLDER / file}: no such profile; {hint}there are {', '.join(there)}, or name a YAML file")
