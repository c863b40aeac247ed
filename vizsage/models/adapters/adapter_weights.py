"""Whether the file of an adapter contains each tensor that its model needs, in its shape, with finite values.

PEFT leaves a missing tensor as it was initialised and skips unknown ones, without an error: such a model would answer
with half of an adapter.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vizsage.contract import ADAPTER_WEIGHTS
from vizsage.errors import CheckpointError, one_line

if TYPE_CHECKING:
    import torch


def adapter_shapes(model: Any) -> dict[str, tuple[int, ...]]:
    """Name and shape of each tensor in the complete file of the adapter of `model`, which may be on the meta device."""
    from peft import get_peft_model_state_dict

    tensors = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def check_weights(
    folder: Path,
    expected: Mapping[str, tuple[int, ...]],
    remedy: str = "copy its whole folder again, or train the adapter again",
) -> None:
    """Raise CheckpointError unless the weights in `folder` are exactly `expected`, with finite values."""
    from safetensors import SafetensorError, safe_open

    path = folder / ADAPTER_WEIGHTS
    try:
        with safe_open(str(path), framework="pt") as weights:
            found = {name: tuple(weights.get_slice(name).get_shape()) for name in weights.keys()}  # noqa: SIM118
            unusable = [name for name in found if not _is_usable(weights.get_tensor(name))]
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: the adapter cannot be loaded: {one_line(error)}") from error
    problems = {
        "are missing": sorted(expected.keys() - found.keys()),
        "belong to no layer of this model": sorted(found.keys() - expected.keys()),
        "have another shape than the layers of this model": sorted(
            name for name, shape in found.items() if expected.get(name, shape) != shape
        ),
        "are not finite, or too large to compute with": sorted(unusable),
    }
    for problem, names in problems.items():
        if names:
            raise CheckpointError(
                f"{path}: {len(names)} of the adapter's tensors {problem} (expected {len(expected)} tensors, found "
                f"{len(found)}), the first is {names[0]}; {remedy}"
            )


def _is_usable(tensor: torch.Tensor) -> bool:
    """Whether its norm is finite in float32: products with a value above 1e19 would be infinite."""
    import torch

    return bool(torch.isfinite(torch.linalg.vector_norm(tensor.float())))
