"""Values of a cluster profile: how a text is checked and what becomes of it."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

from jobs.time_limit import seconds
from vizsage.files import expanded


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
    """The path is quoted in the script, where the shell does not expand variables."""
    kind, _, image = text.strip().partition(" ")
    image = expanded(image.strip())
    if (kind, image) != ("none", "") and (kind not in ("apptainer", "pyxis") or not image or not image.isprintable()):
        raise ValueError("expected none, apptainer FILE.sif or pyxis FILE.sqsh")
    if image.startswith("$"):
        raise ValueError("expected the image's path written out, without variables")
    return f"{kind} {image}".strip()


def _mount(text: str) -> str:
    """Both paths are quoted in the script; a comma would begin the next mount."""
    text = expanded(text)
    if not text.isprintable() or re.fullmatch(r"/[^:,]*:/[^:,]*(:ro|:rw)?", text) is None:
        raise ValueError("expected SRC:DST, SRC:DST:ro or SRC:DST:rw, two absolute paths without a comma")
    return text


def _cache(text: str) -> str:
    """The path is between double quotes in the script, where the shell expands variables."""
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
    # As a shell does in an assignment. A value that is no path may begin with ~ as well.
    return {name: expanded(value) if re.match("~(/|$)", value) else value for name, value in variables.items()}


def _lines(lines: tuple[str, ...]) -> tuple[str, ...]:
    if any("\0" in line for line in lines):
        raise ValueError("null character")
    return lines


Word = Annotated[str, AfterValidator(_word)]
Lines = Annotated[tuple[str, ...], AfterValidator(_lines)]
Program = Annotated[str, AfterValidator(_program)]
Memory = Annotated[str, AfterValidator(_memory)]
TimeLimit = Annotated[str, AfterValidator(_time)]
Container = Annotated[str, AfterValidator(_container)]
Mounts = tuple[Annotated[str, AfterValidator(_mount)], ...]
Cache = Annotated[str, AfterValidator(_cache)]
Environment = Annotated[dict[str, str], AfterValidator(_environment)]
