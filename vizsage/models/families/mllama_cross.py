"""Mllama (Llama 3.2 Vision) on packed rows and trees: by cross-attention each token reads its own image."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from vizsage.models.shared_image.masks import Rule, as_attended

_IMAGES_AT_A_TIME = 4
_PASSED_ON = "cross_mask"  # a keyword that `base.model` does not know, so that it passes it to its language model
_KERNELS = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]


@dataclass(frozen=True)
class CrossMask:
    """The cross-attention mask of rows of trees, instead of one of the model's own [B, T, images, tiles].

    Attributes:
        attention: mask [B, 1, N, vision tokens of all images of the row]; None: each token sees all of them.
        reads_image: [B, 1, N, 1], 0 where a token is before its image, else 1.
    """

    attention: Any
    reads_image: torch.Tensor


class MllamaCross:
    """The cross-attention inputs of packed rows and of trees; see vizsage.models.families.family.CrossAttention."""

    def __init__(self, base: Any) -> None:
        """`base` has accepted cross masks."""
        self.base = base

    def of_packed_row(self, batch: Mapping[str, Any], mask: Callable[[Rule, int], Any]) -> dict[str, Any]:
        """Each token sees the tiles of its own image; the keys are those of all images of the row."""
        tiles = self.seen(batch)[0]  # [N, tiles]
        tile_tokens = self.base.model.vision_model.num_patches
        keys = batch["pixel_values"].shape[0] * tiles.shape[1] * tile_tokens
        rule = image_rule(batch["tree"], tiles, tile_tokens)
        reads = tiles.any(dim=1).to(self.base.dtype)[None, None, :, None]
        return {"cross_attention_mask": CrossMask(mask(rule, keys), reads)}

    def seen(self, trees: Mapping[str, Any]) -> torch.Tensor:
        """[I, W, tiles] 1 for a tile that a token sees."""
        tiles: torch.Tensor = trees["cross_attention_mask"][:, :, 0]
        return tiles

    def of_rows(self, seen: torch.Tensor) -> dict[str, Any]:
        """A token that sees no tile is given all; see image_rule."""
        reads = seen.any(dim=-1)
        visible = seen.bool() | ~reads[..., None]
        attention = None
        if not visible.all():
            every = visible.repeat_interleave(self.base.model.vision_model.num_patches, dim=-1)
            attention = as_attended(self.base, every[:, None])
        return {"cross_attention_mask": CrossMask(attention, reads.to(self.base.dtype)[:, None, :, None])}


def image_rule(tree: torch.Tensor, tiles: torch.Tensor, tile_tokens: int) -> Rule:
    """Each token sees the vision tokens of its own image, those of the tiles that `tiles` shows it.

    `tree` [N] is the number of its image, `tiles` [N, tiles] is 1 for a tile that it may see. Keys are the vision
    tokens of all images, `tile_tokens` per tile. A token that may see none is before its image: as in transformers'
    and Meta's code it sees all tiles, padding too, because a softmax over nothing is not a number.
    """
    count = tiles.shape[1]
    visible = tiles.bool() | ~tiles.bool().any(dim=1, keepdim=True)

    def sees(_b: Any, _h: Any, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        tile = k // tile_tokens
        return (tree[q] == tile // count) & visible[q, tile % count]

    return sees


def accept_cross_masks(base: Any) -> None:
    """Let `base.model` take a CrossMask as cross_attention_mask. Everything else it does as before.

    Its own code makes a dense mask from the numbers of tiles, in which a token before its image would see the images of
    all other trees. So it is called without a mask and without pixels, and its language model gets the CrossMask. By
    hooks rather than another `forward`, because the output of `forward` and its keyword for the cache depend on the
    release of transformers. Without pixels the model uses the images in the cache.
    """
    inner = base.model
    if getattr(inner, "takes_cross_masks", False):
        return
    for layer in inner.language_model.layers:
        if hasattr(layer, "cross_attn"):
            layer.cross_attn.is_causal = False  # otherwise transformers makes it causal where there is no mask
    inner.register_forward_pre_hook(_with_vision_states, with_kwargs=True)
    inner.language_model.register_forward_pre_hook(_with_cross_mask, with_kwargs=True)
    inner.takes_cross_masks = True


def _with_vision_states(inner: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
    """For `base.model`: compute the states that cross-attention reads, and pass the mask on to the language model."""
    mask = kwargs.get("cross_attention_mask")
    if not isinstance(mask, CrossMask):
        return None
    pixels = {name: kwargs.get(name) for name in ("pixel_values", "aspect_ratio_ids", "aspect_ratio_mask")}
    states = None
    if pixels["pixel_values"] is not None:
        states = _vision_states(inner, pixels)
        states = states.reshape(len(mask.reads_image), -1, states.shape[-1])
    without_pixels = dict.fromkeys([*pixels, "cross_attention_mask"])
    return args, kwargs | without_pixels | {"cross_attention_states": states, _PASSED_ON: mask}


def _with_cross_mask(_: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
    """For the language model: the two parts of the CrossMask that its layers take."""
    mask = kwargs.pop(_PASSED_ON, None)
    if mask is None:
        return None
    parts = {"cross_attention_mask": mask.attention, "full_text_row_masked_out_mask": mask.reads_image}
    return args, kwargs | parts


def _vision_states(inner: Any, pixels: dict[str, Any]) -> torch.Tensor:
    """The states of I images that cross-attention reads, [I, 1, tiles, tile tokens, width].

    Without gradients a few images at a time: their thousands of tokens are enough work for a GPU, and cuDNN plans its
    attention kernels for few numbers of images.
    """
    count = len(pixels["pixel_values"])
    size = count if torch.is_grad_enabled() else _IMAGES_AT_A_TIME
    with sdpa_kernel(_KERNELS):
        features = [
            inner.vision_model(**{name: value[i : i + size] for name, value in pixels.items()}).last_hidden_state
            for i in range(0, count, size)
        ]
    return torch.cat([inner.multi_modal_projector(part) for part in features])
