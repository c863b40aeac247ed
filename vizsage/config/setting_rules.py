"""Rules over the values of settings that are more than a bound."""

from __future__ import annotations

from pathlib import Path

from vizsage.contract import PREVIOUS_PREFIX


def is_own_folder(output_dir: Path, path: Path) -> bool:
    """Whether `path` is in `output_dir`, but not in an earlier run that was moved aside there."""
    own, path = output_dir.absolute(), path.absolute()
    return path == own or (own in path.parents and not path.relative_to(own).parts[0].startswith(PREVIOUS_PREFIX))


def loftq_problems(loftq: dict[str, int]) -> list[str]:
    """What is wrong with a loftq_config, one clause each."""
    allowed = {"loftq_bits": (4, 8), "loftq_iter": range(1, 101)}
    problems = [f"loftq_config: unknown key {k!r}, allowed are {', '.join(allowed)}" for k in loftq if k not in allowed]
    if loftq.get("loftq_bits", 4) not in allowed["loftq_bits"]:
        problems.append(f"loftq_config: loftq_bits must be 4 or 8, found {loftq['loftq_bits']}")
    if loftq.get("loftq_iter", 1) not in allowed["loftq_iter"]:
        problems.append(f"loftq_config: loftq_iter must be 1 to 100, found {loftq['loftq_iter']}")
    return problems
