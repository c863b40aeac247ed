"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL: three positions per token, of time, height and width."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from vizsage.models.families.family import Family


class QwenVL(Family):
    """Qwen2-VL, Qwen2.5-VL and Qwen3-VL."""

    names = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
    title = "Qwen2.5-VL"

    def positions(self, base: Any, batch: Mapping[str, Any], depth: torch.Tensor, tree: torch.Tensor) -> torch.Tensor:
        """[3, R, W]: those of each token in its own row.

        All rows that contain a token give it the same ones, because behind the image positions only count up.
        """
        ids, types, places, trees = (t.cpu() for t in (batch["input_ids"], batch["mm_token_type_ids"], depth, tree))
        positions = places.new_zeros(3, *places.shape)
        for number, grid in enumerate(batch["image_grid_thw"].cpu()):
            member = trees == number
            positions[:, member] = _tree_positions(base, ids[member], types[member], places[member], grid)
        return positions.to(depth.device)


def _tree_positions(
    base: Any, ids: torch.Tensor, types: torch.Tensor, depth: torch.Tensor, grid: torch.Tensor
) -> torch.Tensor:
    """The positions [3, n] of a tree of n tokens.

    `ids`, `types` (multimodal token types) and `depth` are [n], `grid` [3] is the number of patches of the image in
    time, height and width.
    """
    # Any node of each depth: the rows of a tree differ only behind the image.
    order = depth.sort(stable=True).indices
    row = order[torch.searchsorted(depth[order], torch.arange(int(depth.max()) + 1))]
    found, _ = base.model.get_rope_index(ids[row][None], mm_token_type_ids=types[row][None], image_grid_thw=grid[None])
    positions: torch.Tensor = found[:, 0, depth]
    return positions
