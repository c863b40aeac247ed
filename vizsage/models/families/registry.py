"""All families. To add one: a file beside this one, and a line in FAMILIES."""

from __future__ import annotations

from typing import Any

from vizsage.models.families.family import Family, Undeclared
from vizsage.models.families.gemma3 import Gemma3
from vizsage.models.families.idefics import Idefics
from vizsage.models.families.llava import Llava
from vizsage.models.families.mllama import Mllama
from vizsage.models.families.qwen_vl import QwenVL

FAMILIES: tuple[Family, ...] = (
    Mllama(),
    QwenVL(),
    Gemma3(),
    Idefics(),
    Llava(),
)
_BY_NAME = {name: family for family in FAMILIES for name in family.names}


def family_of(config: Any) -> Family:
    """The family of a model by its configuration, transformers' own."""
    return _BY_NAME.get(config.model_type) or Undeclared(config.model_type)


def examples() -> str:
    """Two models that a message may name."""
    return " or ".join(family.title for family in FAMILIES[:2])
