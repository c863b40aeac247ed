"""What a job asks of a cluster: partition, GPUs, memory, time, container. One YAML file a cluster."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from vizsage.config import Count, PositiveInt, build, read_yaml
from vizsage.errors import ConfigError
from vizsage.files import expanded

FOLDER = Path("config/clusters")
SHIPPED = Path(__file__).parent / "clusters"  # those of the package; in the repository a link to FOLDER
DEFAULT = "default"

# As SLURM names them; the number of parts decides what they are.
_TIMES = (
    r"(?P<minutes>\d+)",
    r"(?P<minutes>\d+):(?P<seconds>\d+)",
    r"(?P<hours>\d+):(?P<minutes>\d+):(?P<seconds>\d+)",
    r"(?P<days>\d+)-(?P<hours>\d+)",
    r"(?P<days>\d+)-(?P<hours>\d+):(?P<minutes>\d+)",
    r"(?P<days>\d+)-(?P<hours>\d+):(?P<minutes>\d+):(?P<seconds>\d+)",
)
_UNIT_S = {"days": 86400, "hours": 3600, "minutes": 60, "seconds": 1}
# Key of a profile: the variables of sbatch that say the same.
_DEFAULTS = {
    "clusters": ("SLURM_CLUSTERS", "SBATCH_CLUSTERS"),
    "partition": ("SBATCH_PARTITION",),
    "account": ("SBATCH_ACCOUNT",),
    "qos": ("SBATCH_QOS",),
    "reservation": ("SBATCH_RESERVATION",),
}
_UNLIMITED = ("UNLIMITED", "INFINITE")
_KEEP_OUT = (
    "looks like a secret, which would stand in the script: export it in your shell, from where it is passed through, "
    "or read it from a file, NAME=$(cat FILE), or, if it is none, add not_secrets"
)


def _line(text: str) -> str:
    if not text.strip() or not text.isprintable():
        raise ValueError("expected a text in one line")
    return text.strip()


def _word(text: str) -> str:
    """A value of an #SBATCH line, where a blank would begin something else."""
    if not text.isprintable() or re.fullmatch(r"\S+", text) is None:
        raise ValueError("expected one word without blanks")
    return text


def _program(text: str) -> str:
    return expanded(_line(text))


def _memory(text: str) -> str:
    if re.fullmatch(r"\d+[KMGT]?", text, re.IGNORECASE) is None:
        raise ValueError("expected a number with K, M, G or T, for example 64G, or 0 for all that a node has")
    return text


def _time(text: str) -> str:
    seconds(text)
    return text


def _container(text: str) -> str:
    """The image stands quoted in the script, where the shell fills nothing in."""
    kind, _, image = text.strip().partition(" ")
    image = expanded(image.strip())
    if (kind, image) != ("none", "") and (kind not in ("apptainer", "pyxis") or not image or not image.isprintable()):
        raise ValueError("expected none, apptainer FILE.sif or pyxis FILE.sqsh")
    if image.startswith("$"):
        raise ValueError("expected the image's path written out, without variables")
    return f"{kind} {image}".strip()


def _mount(text: str) -> str:
    """Both paths stand quoted in the script; a comma would begin the next mount."""
    text = expanded(text)
    if not text.isprintable() or re.fullmatch(r"/[^:,]*:/[^:,]*(:ro|:rw)?", text) is None:
        raise ValueError("expected SRC:DST, SRC:DST:ro or SRC:DST:rw, two absolute paths without a comma")
    return text


def _cache(text: str) -> str:
    """It stands between double quotes in the script, where the shell fills variables in."""
    text = expanded(text)
    if not text.isprintable() or re.fullmatch(r"[/$][^\"`\\]*", text) is None or "$(" in text:
        raise ValueError("expected an absolute path; variables such as $USER are filled in on the node")
    return text


def _environment(variables: dict[str, str]) -> dict[str, str]:
    for name, value in variables.items():
        if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) is None:
            raise ValueError(f"{name!r} is no name of a variable")
        if "\0" in value:
            raise ValueError(f"{name} has a null character")
    # As a shell does in an assignment; what is no path may begin with ~ as well.
    return {name: expanded(value) if re.match("~(/|$)", value) else value for name, value in variables.items()}


def _lines(lines: tuple[str, ...]) -> tuple[str, ...]:
    if any("\0" in line for line in lines):
        raise ValueError("null character")
    return lines


Word = Annotated[str, AfterValidator(_word)]
# Not shown in messages (repr=False below): what somebody wrote there against all advice shall not reach a log.
Lines = Annotated[tuple[str, ...], AfterValidator(_lines)]


class Profile(BaseModel):
    """What a job asks of one cluster, validated. A request that is None is left to the cluster's own default."""

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
    gpus_per_node: Count = Field(1, description="GPUs on each node, one process a GPU; 0: none.")
    gres: Word | None = Field(None, description="Asked for instead of gpus_per_node, for example gpu:a100:4.")
    cpus_per_task: PositiveInt = Field(
        8, description="CPU cores on each node; changed in proportion where other GPUs are asked for."
    )
    mem: Annotated[str, AfterValidator(_memory)] | None = Field(
        None,
        description="Memory of each node, in proportion too: 64G, K, M or T; 0: all; null: the cluster's default.",
    )
    time: Annotated[str, AfterValidator(_time)] = Field(
        "24:00:00",
        description="Time limit of one attempt: MM, MM:SS, HH:MM:SS, D-HH, D-HH:MM, D-HH:MM:SS or UNLIMITED.",
    )

    # interruption
    signal_delay_s: PositiveInt = Field(
        600, le=65535, description="Seconds before the time limit at which the run saves, ends and is queued again."
    )
    max_retries: Count = Field(3, description="Times that a job is queued again after an unknown failure.")

    # what the command finds
    setup: Lines = Field(
        (),
        repr=False,
        description="Lines of bash before the command, run on the first node; what they export reaches all.",
    )
    environment: Annotated[dict[str, str], AfterValidator(_environment)] = Field(
        {}, repr=False, description="Variables of the command."
    )
    container: Annotated[str, AfterValidator(_container)] = Field(
        "none", description="none, apptainer FILE.sif or pyxis FILE.sqsh."
    )
    mounts: tuple[Annotated[str, AfterValidator(_mount)], ...] = Field(
        (), description="Folders that the container sees: SRC:DST, SRC:DST:ro or SRC:DST:rw."
    )
    local_cache: Annotated[str, AfterValidator(_cache)] | None = Field(
        None, description="Folder on the node's own disk for caches, for example /tmp/$USER; null: none."
    )
    srun_options: Lines = Field((), repr=False, description="More options of srun, one word each.")
    not_secrets: tuple[str, ...] = Field(
        (),
        description="What looks like a secret in setup or environment and is none, by the name that the message gives.",
    )
    python: Annotated[str, AfterValidator(_program)] | None = Field(
        None, description="Python that runs the job; null: the one that submits, python3 in a container."
    )

    @model_validator(mode="after")
    def _together(self) -> Profile:
        """Rules over several keys."""
        problems = []
        if self.time_limit_s is not None and self.signal_delay_s >= self.time_limit_s:
            problems.append(
                f"signal_delay_s: {self.signal_delay_s} seconds before the end must lie within time: {self.time}"
            )
        if self.mounts and self.container_kind == "none":
            problems.append("mounts: only a container has mounts, and container is none")
        problems += self._secrets()
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _secrets(self) -> list[str]:
        from jobs.secret_check import (
            in_lines,
            in_variables,
        )  # it loads detect-secrets when there is something to search

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
        """The file behind the kind, as srun or apptainer takes it."""
        kind, _, image = self.container.partition(" ")
        # pyxis looks for a name without a folder in a registry.
        return f"./{image}" if kind == "pyxis" and re.match(r"(?![./]).*\.sqsh$", image) else image or None


def load_profile(name: str | None, changes: dict[str, Any]) -> Profile:
    """The profile NAME of config/clusters/, or the one in a YAML file given by its path, with `changes` laid over it.

    A NAME that is not there may be a profile of the package.

    None means config/clusters/default.yaml, and the defaults of Profile where there is no such file. Raises
    ConfigError with every problem, a clause each, in one line.
    """
    path = _path(name)
    # As texts: 24:00:00 without quotes would be a number, and a variable's `yes` a switch.
    settings = read_yaml(path, as_text=True) if path else {}
    return build(Profile, settings | changes, source=str(path or "profile"))


def with_gpus(profile: Profile, gpus: int, *, of_a_kind: bool = False) -> Profile:
    """`profile` with `gpus` GPUs on each node; cores and memory, which are for the GPUs that it has, in proportion.

    Args:
        profile: one without GPUs keeps its cores and memory.
        gpus: 0 keeps cores and memory too, because the work is done there.
        of_a_kind: of the kind that gres names, where it names one; else of any.
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
    """gpu:a100:4 as ("gpu:a100", 4); without a number it is one."""
    kind, _, number = gres.rpartition(":")
    return (kind, int(number)) if number.isdecimal() else (gres, 1)


def fill(profile: Profile, environment: Mapping[str, str]) -> tuple[Profile, list[str]]:
    """`profile` with what it leaves open and a variable of sbatch in `environment` says, and a line on each of these.

    Only what names a place is taken: a count or a time of the environment would contradict the profile and the options
    unseen. Raises ConfigError for a value that no profile may have.
    """
    taken = {
        key: (name, environment[name])
        for key, names in _DEFAULTS.items()
        for name in names
        if environment.get(name) and getattr(profile, key) in (None, environment[name])
    }
    open_keys = {key: (name, value) for key, (name, value) in taken.items() if getattr(profile, key) is None}
    lines = [f"{key}: {value}, from {name} in the environment" for key, (name, value) in open_keys.items()]
    known = {name for name, _ in taken.values()} | {"SBATCH_EXPORT"}  # a surrounding job has it
    options = {name for name in environment if name.startswith("SBATCH_")} | {"SLURM_CLUSTERS"} & environment.keys()
    if ignored := sorted(name for name in options - known if environment[name]):
        lines.append(f"{', '.join(ignored)} in the environment: not passed on to sbatch; profile and options decide")
    if open_keys:
        settings = profile.model_dump() | {key: value for key, (_, value) in open_keys.items()}
        profile = build(
            Profile, settings, source=f"{', '.join(name for name, _ in open_keys.values())} in the environment"
        )
    return profile, lines


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
    there = sorted({path.stem for folder in (FOLDER, SHIPPED) for path in folder.glob("*.yaml")})
    near = difflib.get_close_matches(name, there, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ConfigError(f"{FOLDER / file}: no such profile; {hint}there are {', '.join(there)}, or name a YAML file")


def seconds(text: str) -> int | None:
    """Seconds of a time as SLURM reads it: whole minutes, rounded up; None for no limit. Raises ValueError."""
    if text.upper() in _UNLIMITED:
        return None
    for form in _TIMES:
        if found := re.fullmatch(form, text, re.ASCII):
            seconds = sum(int(number) * _UNIT_S[unit] for unit, number in found.groupdict().items())
            return -(-seconds // 60) * 60 or None
    raise ValueError("expected MM, MM:SS, HH:MM:SS, D-HH, D-HH:MM, D-HH:MM:SS or UNLIMITED")
