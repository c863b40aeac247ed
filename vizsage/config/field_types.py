"""Types of settings: numbers that are no switches, paths that begin with a home folder, names that others define.

A profile of a cluster is described with the same types.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from vizsage.contract import TRACKERS
from vizsage.files import expanded

OPTIMIZERS = Literal[
    "adamw_torch", "adamw_torch_fused", "adamw_8bit", "paged_adamw_8bit", "paged_adamw_32bit", "adafactor", "sgd"
]
SCHEDULERS = Literal[
    "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt"
]

_PROJECT = r"^[^/\\#?%:]+$"
_LARGEST_INT = 10**15  # larger ones overflow floating point, or libraries refuse them; no setting needs one


def no_switch(value: Any) -> Any:
    """`value`, unless it is a switch or too large. Pydantic alone would read True as 1.

    Raises:
        ValueError: for these.
    """
    if isinstance(value, bool):
        raise ValueError("expected a number")
    if isinstance(value, int) and abs(value) > _LARGEST_INT:
        raise ValueError(f"expected a number of at most {_LARGEST_INT}")
    return value


def _path_text(value: Any) -> Any:
    """`value` with the home folder for ~. Pydantic alone would read an empty text as the current directory."""
    if not isinstance(value, (str, Path)) or not str(value).strip() or "\0" in str(value):
        raise ValueError("expected the path of a file or folder")
    return expanded(str(value))


def _name_or_path(value: Any) -> Any:
    return expanded(value) if isinstance(value, str) else value


def _project(name: str) -> str:
    if not re.search(_PROJECT, name):
        raise ValueError("expected a name without / \\ # ? % and :; a team is named by WANDB_ENTITY in the environment")
    return name


def _tracker(name: str) -> str:
    if name not in TRACKERS:
        raise ValueError(f"expected {' or '.join(TRACKERS)}")
    return name


def _list(value: Any) -> Any:
    if isinstance(value, str):
        raise ValueError(f"expected a list, for example [{', '.join(TRACKERS)}]")
    return value


# The validator is the last entry, so that the bounds before it reach the JSON Schema.
Float = Annotated[float, BeforeValidator(no_switch)]
PositiveInt = Annotated[int, Field(ge=1), BeforeValidator(no_switch)]
Count = Annotated[int, Field(ge=0), BeforeValidator(no_switch)]
FilePath = Annotated[Path, BeforeValidator(_path_text)]
NameOrPath = Annotated[str, Field(min_length=1), BeforeValidator(_name_or_path)]
_TrackerName = Annotated[str, Field(json_schema_extra={"enum": [*TRACKERS]}), AfterValidator(_tracker)]
TrackerNames = Annotated[tuple[_TrackerName, ...], BeforeValidator(_list)]
ProjectName = Annotated[
    str, Field(min_length=1, max_length=128, json_schema_extra={"pattern": _PROJECT}), AfterValidator(_project)
]
