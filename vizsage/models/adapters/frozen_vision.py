"""A vision part without trained weights computes no gradient."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch

from vizsage.models.adapters.placement import vision_parts


def freeze_vision(base: Any) -> None:
    """Nothing of a frozen vision part is kept for the backward pass, whatever its inputs.

    All of it or nothing: a projector without adapters still carries the gradient of a tower with some.
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
