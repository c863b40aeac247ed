"""All changes to the code of a loaded model: what they are, and the one order in which they are applied.

They replace `forward` on single modules, add hooks, or change the name of an attention function. Each is written in
the room that it belongs to; only the functions here apply them, each at its moment: a model is loaded, it has got an
adapter to train, its questions are to share images, its training is about to begin.
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
    """The patches in their order. The value says what one does; the comment, what another order would break."""

    # First: it replaces the tower's forward as a whole, and with it all that was wrapped around it before.
    FAST_VISION = "the vision part of a family computes the same faster (Family.speed_up)"
    # After PEFT has put its layers in, because it replaces their forward.
    LORA_LAYERS = "LoRA layers with fewer kernels (adapters/lora_linear.py)"
    # After FAST_VISION, whose forward it wraps. After the adapter, because only then it is known what is trained.
    FROZEN_VISION = "a vision part without trained weights computes no gradient (adapters/frozen_vision.py)"
    # After the adapter: unsloth's looks for its layers, and transformers' makes the embeddings require a gradient,
    # which is undone once the model has one.
    CHECKPOINTING = "activations are computed again in the backward pass (LoadedModel.checkpointing)"
    # After the adapter: the kernels are tried in the precision that the model then has.
    BLOCK_MASKS = "FlexAttention where a mask is a BlockMask (shared_image/attention.py)"
    # Before COMPILED_BLOCKS: what it sets on layers with cross-attention would otherwise be compiled as it was.
    SHARED_IMAGES = "the model takes the masks of packed rows (Family.accept_shared_images)"
    # Last: it compiles what it finds, moves CHECKPOINTING into the compiled code, and is for rows with BLOCK_MASKS.
    COMPILED_BLOCKS = "the blocks of the language model are compiled (shared_image/compiled.py)"


_ORDER = list(Patch)


def applied(base: Any) -> list[Patch]:
    """The patches of `base`, a model of transformers, in the order in which they were applied first."""
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
    """Make `change`, and note it. A patch that is there already is applied again, which changes nothing.

    Raises RuntimeError where a patch that has to come later is there already: that is a mistake of the caller.
    """
    before = applied(base)
    if patch not in before:
        if later := [found for found in before if _ORDER.index(found) > _ORDER.index(patch)]:
            raise RuntimeError(f"{patch.name} has to be applied before {later[0].name}; see vizsage.models.patches")
        before.append(patch)
    result = change()
    setattr(base, _RECORD, before)
    return result
