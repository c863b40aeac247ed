"""A vision part without trained weights computes no gradient."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch

from vizsage.models.adapters.placement import vision_parts


def freeze_vision(base: Any) -> None:
    """Keep nothing of a frozen vision part for the backward pass, even where a library makes its inputs trainable.

    Only where all of it is frozen: a projector without adapters still passes on the gradient of a tower with some.
    """
    parts = vision_parts(base)
    if not any(parameter.requires_grad for part in parts for parameter in part.parameters()):
        for part in parts:
            part.forward = _no_grad(part.forward)


def _no_grad(forward: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(forward)
    def without_gradient(*args: Any, **kwargs: Any) -> Any:
        with torch.no_grad():
            return forward(*args, **kwargs)

    return without_gradient
