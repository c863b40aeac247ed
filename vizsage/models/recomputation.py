"""The function with which layers of transformers compute their activations again in the backward pass.

It is a private attribute of these layers. This module alone uses it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

_FUNCTION = "_gradient_checkpointing_func"


def recomputed(module: Any, layer: Callable[..., Any], *args: Any) -> Any:
    """Compute `layer(*args)` with the checkpointing of `module`, for which it is on."""
    return getattr(module, _FUNCTION)(layer, *args)


def recompute_by(checkpoint: Callable[..., Any], module: nn.Module) -> None:
    """Let `module` use `checkpoint`, the function of PyTorch, if it is a module that can be checkpointed."""
    if hasattr(module, _FUNCTION):
        setattr(module, _FUNCTION, partial(checkpoint, use_reentrant=False))
