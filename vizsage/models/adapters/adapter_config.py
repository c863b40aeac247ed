"""Checks of adapter_config.json that PEFT does not make."""

from __future__ import annotations

import re
from pathlib import Path

from vizsage.errors import CheckpointError, one_line
from vizsage.files import read_json
from vizsage.models.loaded import ADAPTER_CONFIG

LOADING_ERRORS = (
    OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, AssertionError, RuntimeError,
    ImportError,
)  # fmt: skip
"""What PEFT and torch raise for a file that they did not write."""


def check_adapter_config(folder: Path) -> None:
    """Raise CheckpointError unless adapter_config.json in `folder` describes a LoRA adapter."""
    path = folder / ADAPTER_CONFIG
    try:
        saved = read_json(path)
        if not isinstance(saved, dict) or saved.get("peft_type") != "LORA":
            raise ValueError("expected an object with peft_type LORA")
        targets = saved.get("target_modules")
        if isinstance(targets, str):
            re.compile(targets)
        elif not isinstance(targets, list) or not all(isinstance(name, str) for name in targets):
            raise ValueError("target_modules is neither a pattern nor a list of names")
    except (OSError, ValueError, re.error, RecursionError, OverflowError) as error:
        raise CheckpointError(
            f"{path}: not the configuration of an adapter ({one_line(error)}); copy its whole folder again, or train "
            "the adapter again"
        ) from None
