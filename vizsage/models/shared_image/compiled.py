"""The language model's blocks, compiled for packed rows.

Without compilation, a step of LoRA on an 11B model launches about ten thousand small kernels, and a short row waits for
Python rather than for the GPU. Blocks of one class share their compiled code: one for an input with a gradient, one for
an input without. Lengths are dynamic, so a new length needs no compilation, with one exception: the mask of 128 tokens
or fewer is one block, and for a size of 1 PyTorch compiles once more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.attention.flex_attention import BlockMask
from torch.utils.checkpoint import checkpoint

from vizsage.models.shared_image.compiler_settings import compile_for_any_length

Forward = Callable[..., Any]


def compile_blocks(base: Any, *, backend: str = "inductor") -> None:
    """Compile the decoder layers of `base` for training on packed rows; all other inputs are computed as before.

    Gradient checkpointing, where it is on already, moves into the compiled code: around it, it would cost time in
    Python for each block, three times per step.
    """
    compile_for_any_length()
    # PyTorch before 2.12 keeps the outputs of bitsandbytes' layers although they are computed again.
    inside = torch.__version__ >= "2.12" or not getattr(base, "is_loaded_in_4bit", False)
    compiled: dict[type, Forward] = {}
    for block in base.get_decoder().layers:
        kind, recompute = type(block), getattr(block, "gradient_checkpointing", False)
        if kind not in compiled:
            forward = _recomputed(kind.forward) if recompute and inside else kind.forward
            compiled[kind] = torch.compile(forward, dynamic=True, backend=backend)
            if recompute and not inside:
                compiled[kind] = _recomputed(compiled[kind])
        if recompute:
            block.gradient_checkpointing = False
        block.forward = _choice(block, compiled[kind])


def _choice(block: nn.Module, compiled: Forward) -> Forward:
    plain = block.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        if block.training and is_packed(kwargs.get("attention_mask")):
            return compiled(block, *args, **kwargs)
        return plain(*args, **kwargs)

    return forward


def is_packed(mask: Any) -> bool:
    """Whether the mask of a layer is that of a packed row."""
    return isinstance(mask, BlockMask)


def _recomputed(forward: Forward) -> Forward:
    def recomputed(block: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return checkpoint(forward, block, *args, use_reentrant=False, **kwargs)

    return recomputed
