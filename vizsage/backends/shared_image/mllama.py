"""Mllama (Llama 3.2 Vision) over a packed row: its cross-attention reads the pictures of all trees, each its own."""

from __future__ import annotations

from functools import wraps
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from vizsage.backends.shared_image.masks import CrossMask

_PICTURES_AT_A_TIME = 4
_KERNELS = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]


def accept_cross_masks(base: Any) -> None:
    """Let `base.model` take a CrossMask as cross_attention_mask. Everything else it does as before.

    Its own code makes a dense mask from numbers of tiles, in which a token before its picture would see those of all
    other trees. Without pictures it goes on with those of the cache.
    """
    inner = base.model
    if getattr(inner.forward, "takes_cross_masks", False):
        return
    original = inner.forward

    @wraps(original)
    def forward(*args: Any, **kwargs: Any) -> Any:
        mask = kwargs.get("cross_attention_mask")
        if not isinstance(mask, CrossMask):
            return original(*args, **kwargs)
        pixels = {name: kwargs.pop(name) for name in ("pixel_values", "aspect_ratio_ids", "aspect_ratio_mask")}
        kwargs.pop("cross_attention_mask")
        kwargs.pop("cross_attention_states", None)
        states = None
        if pixels["pixel_values"] is not None:
            states = _vision_states(inner, pixels)
            states = states.reshape(len(mask.reads_picture), -1, states.shape[-1])
        return inner.language_model(
            *args,
            cross_attention_states=states,
            cross_attention_mask=mask.attention,
            full_text_row_masked_out_mask=mask.reads_picture,
            **kwargs,
        )

    for layer in inner.language_model.layers:
        if hasattr(layer, "cross_attn"):
            layer.cross_attn.is_causal = False  # what transformers takes it for where there is no mask
    forward.takes_cross_masks = True  # type: ignore[attr-defined]
    inner.forward = forward


def tokens_beside_row(base: Any) -> int:
    """Tokens of a row that take as much memory as the keys and values of a picture's tiles, which stand beside it."""
    text, vision = base.config.get_text_config(), base.config.vision_config
    seen = vision.max_num_tiles * base.model.vision_model.num_patches
    return int(seen * len(text.cross_attention_layers) / text.num_hidden_layers)


def _vision_states(inner: Any, pixels: dict[str, torch.Tensor]) -> torch.Tensor:
    """[I, 1, tiles, tile tokens, width]: what cross-attention reads of I pictures.

    Without gradients a few pictures at a time. Their thousands of tokens keep a GPU busy, and the attention kernels of
    its library, which are planned anew for every number of pictures, are planned for these few.
    """
    count = len(pixels["pixel_values"])
    size = count if torch.is_grad_enabled() else _PICTURES_AT_A_TIME
    with sdpa_kernel(_KERNELS):
        features = [
            inner.vision_model(**{name: value[i : i + size] for name, value in pixels.items()}).last_hidden_state
            for i in range(0, count, size)
        ]
    return torch.cat([inner.multi_modal_projector(part) for part in features])
