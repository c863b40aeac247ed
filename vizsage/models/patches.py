"""All changes to the code of a loaded model: what they are, and the one order in which they are applied.

They replace `forward` on single modules, add hooks, or change the name of an attention function. The code of each
is in the package that it belongs to, but only the functions here apply them: when a model is loaded, when it has an
adapter to train, when its questions are to share images, and before it trains on many packed rows.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any, TypeVar

from vizsage.models.adapters.frozen_vision import freeze_vision
from vizsage.models.adapters.lora_linear import fast_lora
from vizsage.models.families.registry import family_of
from vizsage.models.shared_image.attention import use_flex_attention
from vizsage.models.shared_image.compiled import compile_blocks

T = TypeVar("T")
_RECORD = "vizsage_patches"


class Patch(Enum):
    """The patches in their order. The value describes what one does, the comment what another order would break."""

    # First: it replaces the forward of the tower, and anything wrapped around that before would be lost.
    FAST_VISION = "the vision part of a family computes the same faster (Family.speed_up)"
    # After PEFT has added its layers, because it replaces their forward; before COMPILED_BLOCKS, which compiles it.
    LORA_LAYERS = "LoRA layers with fewer kernels (adapters/lora_linear.py)"
    # After FAST_VISION, whose forward it wraps; after PEFT, because only then it is known which weights are trained.
    FROZEN_VISION = "a vision part without trained weights computes no gradient (adapters/frozen_vision.py)"
    # After PEFT: unsloth looks for the layers of the adapter, and transformers makes the embeddings require a gradient,
    # which is undone then. Before COMPILED_BLOCKS, which moves it into the compiled code.
    CHECKPOINTING = "activations are computed again in the backward pass (LoadedModel.checkpointing)"
    # After PEFT: the kernels are tried in the precision that the model has then.
    BLOCK_MASKS = "FlexAttention where a mask is a BlockMask (shared_image/attention.py)"
    # Before COMPILED_BLOCKS: otherwise layers are compiled without what it sets on them.
    SHARED_IMAGES = "the model takes the masks of packed rows (Family.accept_shared_images)"
    # Last: it compiles the layers as they are then, for rows with the masks of BLOCK_MASKS.
    COMPILED_BLOCKS = "the blocks of the language model are compiled (shared_image/compiled.py)"


_ORDER = list(Patch)


def applied(base: Any) -> list[Patch]:
    """The patches of `base`, a model of transformers, in the order in which each was first applied."""
    return list(getattr(base, _RECORD, ()))


def patch_loaded(base: Any) -> None:
    """Patch a model that has been loaded just now."""
    _apply(base, Patch.FAST_VISION, lambda: family_of(base.config).speed_up(base))


def patch_adapter(model: Any, checkpointing: Callable[[], None]) -> None:
    """Patch `model`, a PeftModel that is to be trained; `checkpointing` is that of its LoadedModel."""
    base = model.get_base_model()
    _apply(base, Patch.LORA_LAYERS, lambda: fast_lora(model))
    _apply(base, Patch.FROZEN_VISION, lambda: freeze_vision(base))
    _apply(base, Patch.CHECKPOINTING, checkpointing)


def patch_packed_rows(base: Any) -> bool:
    """Patch a model that is to train on packed rows; returns whether it takes a BlockMask."""
    flex = _apply(base, Patch.BLOCK_MASKS, lambda: use_flex_attention(base))
    patch_shared_images(base)
    return flex


def patch_shared_images(base: Any) -> None:
    """Patch a model whose questions share images, in training or in answering."""
    _apply(base, Patch.SHARED_IMAGES, lambda: family_of(base.config).accept_shared_images(base))


def patch_blocks(base: Any) -> None:
    """Patch a model that is to train on many packed rows with a BlockMask."""
    _apply(base, Patch.COMPILED_BLOCKS, lambda: compile_blocks(base))


def _apply(base: Any, patch: Patch, change: Callable[[], T]) -> T:
    """Make `change` and record it. A patch that was applied before may be applied again.

    Raises:
        RuntimeError: a later patch was applied already, a mistake of the caller.
    """
    before = applied(base)
    if patch not in before:
        if later := [found for found in before if _ORDER.index(found) > _ORDER.index(patch)]:
            raise RuntimeError(f"{patch.name} has to be applied before {later[0].name}; see vizsage.models.patches")
        before.append(patch)
    result = change()
    setattr(base, _RECORD, before)
    return result
