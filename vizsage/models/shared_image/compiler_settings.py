"""Settings of PyTorch's compiler that have no public name. This module alone uses them."""

from __future__ import annotations

import torch
from torch.fx.experimental import _config as shapes

_RECOMPILATIONS = 64


def allow_recompilations() -> None:
    """Let one function be compiled more often than PyTorch's limit of 8.

    Each kind of attention is compiled for the inputs that have a gradient, for one length, then for any, and again for
    the sizes that were equal in the first two rows by chance. At the limit FlexAttention would go on as a plain
    product that holds all scores, and only warn.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _RECOMPILATIONS)


def compile_for_any_length() -> None:
    """Let code that is compiled with dynamic=True serve all packed rows."""
    # Otherwise a float (the epsilon of a norm, the scale of LoRA) would be an input tensor on the CPU, and its reading
    # be compiled in C++: that needs a second compiler, which a container may lack. All blocks have the same floats.
    torch._dynamo.config.specialize_float = True
    # Sizes that are equal in the first row, such as blocks of its mask and tiles of its image, may differ in the next.
    shapes.use_duck_shape = False
