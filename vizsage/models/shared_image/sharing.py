"""Which models can share an image between its questions, and what they are given for a packed micro-batch."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

import torch

from vizsage.config import Config
from vizsage.data.prompts import image_precedes_question
from vizsage.models.shared_image.attention import BESIDE_SDPA, use_flex_attention
from vizsage.models.shared_image.compiled import compile_blocks
from vizsage.models.shared_image.masks import (
    CrossMask,
    build_mask,
    image_rule,
    tree_rule,
    with_image_blocks,
    within_window,
)
from vizsage.models.shared_image.mllama import accept_cross_masks

log = logging.getLogger(__name__)

# Names of the architectures in transformers. Others may well work; none is used that no test compares.
MULTIMODAL_POSITIONS = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
_PLAIN_POSITIONS = ("mllama", "llava", "idefics3", "smolvlm", "gemma3")
_DENSE_ROW_TOKENS = 1024
_STEPS_WORTH_COMPILING = 500
# Questions of an image in a step, from which on dense masks are no loss: between what the small models like Qwen2.5-VL
# and Llama 3.2 Vision of benchmarks/train_throughput.py need.
_WORTH_IT_ON_A_CPU = 2.0
_OF_THE_ROW = ("depth", "subtree_end", "tree")


def why_plain(base: Any, processor: Any, config: Config) -> str | None:
    """Why `base` has to train the plain way, a row for each question; None where it can share images."""
    kind = base.config.model_type
    text = base.config.get_text_config()
    if kind not in MULTIMODAL_POSITIONS + _PLAIN_POSITIONS:
        return f"models of the kind {kind!r} are not known to give the same result"
    if text._attn_implementation not in ("eager", "sdpa", BESIDE_SDPA):
        return f"attn_implementation {text._attn_implementation} cannot show each question only its own image and text"
    if getattr(text, "sliding_window", None) and not getattr(text, "layer_types", None):
        return "its language model sees a window of tokens only"
    if not hasattr(processor, "_process_images"):  # what vizsage.data.collate replaces; not of transformers' interface
        return "its processor prepares images in a way that is not known"
    if not image_precedes_question(processor, config):
        return "its chat template writes the question before the image"
    return None


def share_images(
    base: Any, processor: Any, config: Config, questions_per_image: Callable[[], float] = lambda: math.inf
) -> Sharing | None:
    """Prepare `base` to share images as config.share_images says; auto: where that is faster.

    `questions_per_image`, the mean in a step, is asked for where it decides: its answer may have to read images.
    None: it trains the plain way; where that is not what was asked for, the reason is logged.
    """
    if config.share_images is False:
        return None
    if reason := why_plain(base, processor, config):
        log.warning("share_images: each question is computed with an image of its own, which is slower: %s", reason)
        return None
    if config.share_images == "auto" and base.device.type == "cpu":
        found = questions_per_image()
        if found < _WORTH_IT_ON_A_CPU:
            log.info("share_images: auto: off; a step asks %.1f questions of an image, too few on a CPU", found)
            return None
    return Sharing(base)


def compile_layers(sharing: Sharing | None, config: Config, steps: int) -> None:
    """Compile the language model's layers where config.torch_compile asks for it, in a run of `steps`.

    Where that cannot be and config.torch_compile is true, the reason is logged.
    """
    if not (steps >= _STEPS_WORTH_COMPILING if config.torch_compile == "auto" else config.torch_compile):
        return
    reason = _why_eager(sharing, config)
    if sharing is not None and reason is None:
        log.info("torch_compile: the first steps compile the layers, which takes a minute or two")
        compile_blocks(sharing.base)
    elif config.torch_compile is True:
        log.warning("torch_compile: the layers are not compiled: %s", reason)


def _why_eager(sharing: Sharing | None, config: Config) -> str | None:
    if sharing is None:
        return "share_images is false" if config.share_images is False else "images are not shared"
    if sharing.base.device.type != "cuda":
        return "that needs a GPU"
    if config.backend == "unsloth":
        return "unsloth compiles them itself and switches their checkpointing"
    return None if sharing.flex else "FlexAttention cannot be used here"


class Sharing:
    """Turns packed micro-batches (vizsage.data.collate.TrainCollator.packed) into inputs of a model."""

    def __init__(self, base: Any) -> None:
        """Prepares `base`, a model of transformers for which `why_plain` is None."""
        self.base = base
        self.kind = base.config.model_type
        self.flex = use_flex_attention(base)
        if self.kind == "mllama":
            accept_cross_masks(base)

    @property
    def row_tokens(self) -> int | None:
        """Longest row that is worth its mask: a dense one grows with the square of the tokens. See TrainCollator."""
        return None if self.flex else _DENSE_ROW_TOKENS

    def with_positions(self, batch: dict[str, Any]) -> dict[str, Any]:
        """`batch`, on the CPU still, with "position_ids": [1, N], for multimodal positions [3, 1, N].

        A token has the position of its own row. All rows of a tree agree on it, because behind the image positions
        only count up.
        """
        depth = batch["depth"]
        if self.kind not in MULTIMODAL_POSITIONS:
            return batch | {"position_ids": depth[None]}
        positions = depth.new_zeros(3, 1, len(depth))
        for number, grid in enumerate(batch["image_grid_thw"]):
            members = (batch["tree"] == number).nonzero().flatten()
            ids, types = batch["input_ids"][0, members], batch["mm_token_type_ids"][0, members]
            positions[:, 0, members] = multimodal_positions(self.base, ids, types, depth[members], grid)
        return batch | {"position_ids": positions}

    def model_inputs(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Keyword arguments of the model's own forward for `batch`, which lies on the model's device.

        Its "target_positions" and "targets" are the caller's.
        """
        inputs = {name: value for name, value in batch.items() if name not in _OF_THE_ROW}
        rule = tree_rule(batch["subtree_end"])
        if self.kind == "gemma3":
            rule = with_image_blocks(rule, batch["token_type_ids"][0])
        text = self.base.config.get_text_config()
        if "sliding_attention" in (getattr(text, "layer_types", None) or ()):
            window = within_window(rule, batch["depth"], text.sliding_window)
            inputs["attention_mask"] = {
                "full_attention": self._mask(rule, batch),
                "sliding_attention": self._mask(window, batch),
            }
        else:
            inputs["attention_mask"] = self._mask(rule, batch)
        if self.kind == "mllama":
            inputs["cross_attention_mask"] = self._cross_mask(batch)
        return inputs

    def _mask(self, rule: Any, batch: dict[str, Any], keys: int | None = None) -> Any:
        tokens = batch["input_ids"].shape[1]
        mask = build_mask(rule, tokens, keys or tokens, batch["input_ids"].device, flex=self.flex)
        return mask if self.flex else as_attended(self.base, mask)

    def _cross_mask(self, batch: dict[str, Any]) -> CrossMask:
        tiles = batch["cross_attention_mask"][0, :, 0]  # [N, tiles]
        tile_tokens = self.base.model.vision_model.num_patches
        keys = batch["pixel_values"].shape[0] * tiles.shape[1] * tile_tokens
        rule = image_rule(batch["tree"], tiles, tile_tokens)
        reads = tiles.any(dim=1).to(self.base.dtype)[None, None, :, None]
        return CrossMask(self._mask(rule, batch, keys), reads)


def multimodal_positions(
    base: Any, ids: torch.Tensor, types: torch.Tensor, depth: torch.Tensor, grid: torch.Tensor
) -> torch.Tensor:
    """The positions [3, n] of Qwen's models for a tree of n tokens, each that of its own row.

    `ids`, `types` (multimodal token types) and `depth` are [n], `grid` [3] the image's patches.
    """
    # A node of each depth, whichever: rows differ behind the image only.
    order = depth.sort(stable=True).indices
    row = order[torch.searchsorted(depth[order], torch.arange(int(depth.max()) + 1))]
    found: torch.Tensor
    found, _ = base.model.get_rope_index(ids[row][None], mm_token_type_ids=types[row][None], image_grid_thw=grid[None])
    return found[:, 0, depth]


def as_attended(base: Any, mask: torch.Tensor) -> torch.Tensor:
    """A boolean mask as the attention of `base` takes it: eager adds it to its scores."""
    if base.config.get_text_config()._attn_implementation != "eager":
        return mask
    return torch.zeros_like(mask, dtype=torch.float).masked_fill(~mask, torch.finfo(torch.float).min)
