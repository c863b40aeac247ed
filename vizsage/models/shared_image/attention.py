"""FlexAttention for packed rows beside the attention that a model uses for everything else.

A model finds its attention function by the name in its configuration, also when activations are computed again in the
backward pass. So the name is the same for all its calls, and the function decides by the type of its mask.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch.nn.attention.flex_attention import BlockMask
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.flex_attention import flex_attention_forward

from vizsage.errors import one_line
from vizsage.models.attention_names import attention_of, set_attention
from vizsage.models.shared_image.compiler_settings import allow_recompilations
from vizsage.models.shared_image.masks import build_mask, tree_rule

log = logging.getLogger(__name__)
BESIDE_SDPA = "flex_beside_sdpa"


def use_flex_attention(base: Any) -> bool:
    """Let the language model of `base` use FlexAttention where its mask is a BlockMask.

    Not on a CPU, where its kernels are not faster than a dense mask; not beside an attention that the user chose by
    name; and not where the kernels cannot be compiled.

    Returns:
        Whether the model takes a BlockMask now.
    """
    text = base.config.get_text_config()
    if attention_of(text) == BESIDE_SDPA:
        return True
    if base.device.type != "cuda" or attention_of(text) != "sdpa" or getattr(text, "attention_dropout", 0.0):
        return False
    allow_recompilations()
    if not _compiles(base):
        return False
    AttentionInterface.register(BESIDE_SDPA, _attention)
    AttentionMaskInterface.register(BESIDE_SDPA, AttentionMaskInterface()["sdpa"])
    set_attention(text, BESIDE_SDPA)
    return True


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    if isinstance(attention_mask, BlockMask):
        return flex_attention_forward(module, query, key, value, attention_mask, **kwargs)
    attended: tuple[torch.Tensor, torch.Tensor | None] = AttentionInterface()["sdpa"](
        module, query, key, value, attention_mask, **kwargs
    )
    return attended


def _compiles(base: Any) -> bool:
    """Run the kernels once, forward and backward, on a few tokens with the shape and precision of this model.

    In float32 they need double the shared memory of the GPU, which not every GPU has.
    """
    text = base.config.get_text_config()
    heads, kv_heads = text.num_attention_heads, text.num_key_value_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // heads
    if width < 16 or width & (width - 1):
        return False  # the kernels take powers of two only
    in_bf16 = any(
        weight.dtype == torch.bfloat16 for weight in base.parameters()
    )  # trained weights are float32 in any case
    dtype = torch.bfloat16 if in_bf16 else torch.float32
    make: Any = {"device": base.device, "dtype": dtype, "requires_grad": True}
    query = torch.randn(1, heads, 256, width, **make)
    key, value = (torch.randn(1, kv_heads, 256, width, **make) for _ in range(2))
    mask = build_mask(tree_rule(torch.full((256,), 256, device=base.device)), 256, 256, base.device, flex=True)
    try:
        out, _ = flex_attention_forward(torch.nn.Module(), query, key, value, mask, scaling=width**-0.5)
        out.sum().backward()
    except Exception as error:  # torch.compile raises all that its compilers raise
        if isinstance(error, torch.OutOfMemoryError):
            raise
        kind = type(error).__name__
        log.warning(
            "FlexAttention cannot be compiled here (%s: %s); slower dense masks are used", kind, one_line(error)
        )
        return False
    return True
