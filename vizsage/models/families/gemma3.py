"""Gemma 3: the tokens of an image see each other both ways; most layers have a window."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from vizsage.models.families.family import Family
from vizsage.models.shared_image.masks import Rule


class Gemma3(Family):
    """Gemma 3."""

    names = ("gemma3",)
    title = "Gemma 3"

    def rule(self, rule: Rule, batch: Mapping[str, Any], row: int) -> Rule:
        """`rule`, and the tokens of an image see each other both ways."""
        return with_image_blocks(rule, batch["token_type_ids"][row])


def with_image_blocks(rule: Rule, token_type_ids: torch.Tensor) -> Rule:
    """`rule`, and the tokens of an image (type 1 in `token_type_ids` [N]) see each other both ways."""
    image = token_type_ids == 1
    begins = image & ~torch.nn.functional.pad(image, (1, 0))[:-1]
    block = torch.where(image, begins.cumsum(0), 0)

    def sees(b: Any, h: Any, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        return rule(b, h, q, k) | ((block[q] == block[k]) & (block[q] > 0))

    return sees
