"""Who sees whom in a packed row: a rule, made into a dense mask or into FlexAttention's block mask.

A rule takes indices of queries and of keys, tensors that broadcast against each other, and returns whether the query
sees the key. FlexAttention (arXiv:2412.05496) skips blocks in which no query sees a key.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.attention.flex_attention import BlockMask

from vizsage.models.attention_names import language_attention

Rule = Callable[[Any, Any, torch.Tensor, torch.Tensor], torch.Tensor]
_BLOCK = 128  # FlexAttention's own
_CELLS = 2**24  # maximum pairs of a query and a key in one call of a rule


def build_mask(rule: Rule, queries: int, keys: int, device: torch.device, *, flex: bool) -> Any:
    """A BlockMask, or with `flex` false a boolean tensor [1, 1, queries, keys]."""
    if flex:
        return _block_mask(rule, queries, keys, device)
    q = torch.arange(queries, device=device)[:, None]
    k = torch.arange(keys, device=device)[None, :]
    return rule(0, 0, q, k)[None, None]


def _block_mask(rule: Rule, queries: int, keys: int, device: torch.device) -> BlockMask:
    """The mask of PyTorch's create_block_mask, without its 10 bytes per query and key: GBs for a few images.

    Blocks reach beyond the last query and key. There the rule is not asked, and no query sees a key.
    """
    k = torch.arange(_blocks(keys) * _BLOCK, device=device)[None]
    at_a_time = max(1, _CELLS // (k.numel() * _BLOCK)) * _BLOCK
    partial, full = [], []
    for q in torch.arange(_blocks(queries) * _BLOCK, device=device)[:, None].split(at_a_time):
        sees = rule(0, 0, q.clamp(max=queries - 1), k.clamp(max=keys - 1)) & (q < queries) & (k < keys)
        cells = sees.view(-1, _BLOCK, _blocks(keys), _BLOCK)
        full.append(cells.all(dim=3).all(dim=1))
        partial.append(cells.any(dim=3).any(dim=1) & ~full[-1])
    return BlockMask.from_kv_blocks(
        *_ordered(torch.cat(partial)), *_ordered(torch.cat(full)), _BLOCK, rule, seq_lengths=(queries, keys)
    )


def _blocks(length: int) -> int:
    return -(-length // _BLOCK)


def _ordered(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """[query blocks, key blocks] -> the count of true blocks per row, and all numbers, those of true blocks first."""
    numbers = blocks.int().argsort(dim=-1, descending=True, stable=True)
    return blocks.sum(dim=-1, dtype=torch.int32)[None, None], numbers.int()[None, None]


def tree_rule(subtree_end: torch.Tensor) -> Rule:
    """Each token sees its own row up to itself; `subtree_end` [N] as in vizsage.data.packing."""

    def sees(_b: Any, _h: Any, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        return (k <= q) & (q < subtree_end[k])

    return sees


def within_window(rule: Rule, depth: torch.Tensor, window: int) -> Rule:
    """`rule`, limited to the last `window` tokens of a token's own row; `depth` [N] as in vizsage.data.packing."""

    def sees(b: Any, h: Any, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        return rule(b, h, q, k) & (depth[q] - depth[k] < window)

    return sees


def window_of(base: Any) -> int | None:
    """The window in tokens of the layers of the language model that have one; None where none has."""
    text = base.config.get_text_config()
    windowed = "sliding_attention" in (getattr(text, "layer_types", None) or ())
    return int(text.sliding_window) if windowed else None


def by_kind_of_layer(full: Any, near: Any | None) -> Any:
    """The attention mask that a model takes: `full`, and `near` for layers with a window; None where it has none."""
    return full if near is None else {"full_attention": full, "sliding_attention": near}


def as_attended(base: Any, mask: torch.Tensor) -> torch.Tensor:
    """A boolean mask in the form that the attention of `base` takes: eager attention adds it to its scores."""
    if language_attention(base) != "eager":
        return mask
    return torch.zeros_like(mask, dtype=torch.float).masked_fill(~mask, torch.finfo(torch.float).min)
