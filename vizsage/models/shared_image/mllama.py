"""Mllama (Llama 3.2 Vision) over a packed row: its cross-attention reads the images of all trees, each its own."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from vizsage.models.shared_image.masks import CrossMask

_IMAGES_AT_A_TIME = 4
_PASSED_ON = "cross_mask"  # a keyword that `base.model` does not know and therefore gives to its language model
_KERNELS = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]


def accept_cross_masks(base: Any) -> None:
    """Let `base.model` take a CrossMask as cross_attention_mask. Everything else it does as before.

    Its own code makes a dense mask from numbers of tiles, in which a token before its image would see those of all
    other trees. So it is called without a mask and without pixels, and its language model gets the CrossMask. Hooks
    and not another `forward`: what `forward` returns, and the name it has for the cache, depend on the release of
    transformers. Without images it goes on with those of the cache.
    """
    inner = base.model
    if getattr(inner, "takes_cross_masks", False):
        return
    for layer in inner.language_model.layers:
        if hasattr(layer, "cross_attn"):
            layer.cross_attn.is_causal = False  # what transformers takes it for where there is no mask
    inner.register_forward_pre_hook(_with_vision_states, with_kwargs=True)
    inner.language_model.register_forward_pre_hook(_with_cross_mask, with_kwargs=True)
    inner.takes_cross_masks = True


def _with_vision_states(inner: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
    """For `base.model`: images become what cross-attention reads, the mask is passed on to the language model."""
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
    """For the language model: the CrossMask in the two parts that its layers take."""
    mask = kwargs.pop(_PASSED_ON, None)
    if mask is None:
        return None
    parts = {"cross_attention_mask": mask.attention, "full_text_row_masked_out_mask": mask.reads_image}
    return args, kwargs | parts


def tokens_beside_row(base: Any) -> int:
    """Tokens of a row that take as much memory as the keys and values of an image's tiles, which stand beside it."""
    text, vision = base.config.get_text_config(), base.config.vision_config
    seen = vision.max_num_tiles * base.model.vision_model.num_patches
    return int(seen * len(text.cross_attention_layers) / text.num_hidden_layers)


def _vision_states(inner: Any, pixels: dict[str, Any]) -> torch.Tensor:
    """[I, 1, tiles, tile tokens, width]: what cross-attention reads of I images.

    Without gradients a few images at a time. Their thousands of tokens keep a GPU busy, and the attention kernels of
    its library, which are planned anew for every number of images, are planned for these few.
    """
    count = len(pixels["pixel_values"])
    size = count if torch.is_grad_enabled() else _IMAGES_AT_A_TIME
    with sdpa_kernel(_KERNELS):
        features = [
            inner.vision_model(**{name: value[i : i + size] for name, value in pixels.items()}).last_hidden_state
            for i in range(0, count, size)
        ]
    return torch.cat([inner.multi_modal_projector(part) for part in features])
