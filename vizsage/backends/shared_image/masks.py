"""Who sees whom in a packed row: one rule, as a dense mask or as FlexAttention's block mask.

A rule takes indices of a query and of a key, tensors that broadcast against each other, and says whether the query
sees the key. FlexAttention (arXiv:2412.05496) skips the blocks in which nobody sees anybody.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.attention.flex_attention import create_block_mask

Rule = Callable[[Any, Any, torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class CrossMask:
    """What Mllama's cross-attention gets in a packed row, in the place of a mask [B, T, pictures, tiles]."""

    attention: Any  # mask [1, 1, N, vision tokens of all pictures]
    reads_picture: torch.Tensor  # [1, 1, N, 1]: 0 where a token stands before its picture, else 1


def build_mask(rule: Rule, queries: int, keys: int, device: torch.device, *, flex: bool) -> Any:
    """A BlockMask, or with `flex` false a boolean tensor [1, 1, queries, keys]."""
    if flex:
        return create_block_mask(rule, None, None, queries, keys, device=device)
    q = torch.arange(queries, device=device)[:, None]
    k = torch.arange(keys, device=device)[None, :]
    return rule(0, 0, q, k)[None, None]


def tree_rule(subtree_end: torch.Tensor) -> Rule:
    """Each token sees its own row up to itself; `subtree_end` [N] as in vizsage.data.packing."""

    def sees(_b: Any, _h: Any, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        return (k <= q) & (q < subtree_end[k])

    return sees


def with_picture_blocks(rule: Rule, token_type_ids: torch.Tensor) -> Rule:
    """And the tokens of a picture (type 1, [N]) see each other both ways: Gemma 3."""
    picture = token_type_ids == 1
    begins = picture & ~torch.nn.functional.pad(picture, (1, 0))[:-1]
    block = torch.where(picture, begins.cumsum(0), 0)

    def sees(b: Any, h: Any, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        return rule(b, h, q, k) | ((block[q] == block[k]) & (block[q] > 0))

    return sees


def within_window(rule: Rule, depth: torch.Tensor, window: int) -> Rule:
    """And only the last `window` tokens of its own row; `depth` [N]."""

    def sees(b: Any, h: Any, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        return rule(b, h, q, k) & (depth[q] - depth[k] < window)

    return sees


def picture_rule(tree: torch.Tensor, tiles: torch.Tensor, tile_tokens: int) -> Rule:
    """Each token sees the vision tokens of its own picture, those of the tiles that `tiles` shows it.

    `tree` [N] is the number of its picture, `tiles` [N, tiles] is 1 for a tile that it may see. Keys are the vision
    tokens of all pictures, `tile_tokens` a tile. A token that may see none stands before the picture: like
    transformers' (and Meta's) model it is given all tiles, padding too, rather than an empty softmax.
    """
    count = tiles.shape[1]
    visible = tiles.bool() | ~tiles.bool().any(dim=1, keepdim=True)

    def sees(_b: Any, _h: Any, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        tile = k // tile_tokens
        return (tree[q] == tile // count) & visible[q, tile % count]

    return sees
