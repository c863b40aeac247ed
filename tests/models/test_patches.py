"""Patches are on a model that is set up for training, in the order that `vizsage.models.patches` writes down."""

from __future__ import annotations

from typing import Any

import pytest

from tests.families.data import settings
from vizsage.models import patches
from vizsage.models.adapters import frozen_vision, lora_linear
from vizsage.models.adapters.lora import add_adapter
from vizsage.models.families import mllama_tower
from vizsage.models.loaded import LoadedModel
from vizsage.models.loading.hf import load_base
from vizsage.models.patches import Patch, applied, patch_blocks, patch_loaded
from vizsage.models.shared_image import compiled
from vizsage.models.shared_image.sharing import Sharing, share_images


def set_up() -> tuple[LoadedModel, Any, Sharing]:
    """A model, its adapter and its sharing of images, as training sets them up."""
    config = settings("mllama", use_gradient_checkpointing=True)
    loaded = load_base(config)
    model = add_adapter(loaded, config)
    sharing = share_images(loaded.model, loaded.processor, config)
    assert sharing is not None
    return loaded, model, sharing


def test_all_are_applied_in_their_order_and_each_is_found_on_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patches, "compile_blocks", lambda base: compiled.compile_blocks(base, backend="eager"))
    loaded, model, sharing = set_up()
    base = loaded.model
    assert applied(base) == list(Patch)[:-1]
    assert all(layer.gradient_checkpointing for layer in base.get_decoder().layers)
    patch_blocks(sharing.base)
    assert applied(base) == list(Patch)
    # The tower: a forward without gradient, around the fast one, around that of its class.
    tower = base.model.vision_model
    assert tower.forward.__code__.co_filename == frozen_vision.__file__
    fast = tower.forward.__wrapped__
    assert fast.__code__.co_filename == mllama_tower.__file__
    assert fast.__wrapped__.__func__ is type(tower).forward
    adapters = [module for module in model.modules() if hasattr(module, "lora_A")]
    assert adapters
    assert {layer.forward.__code__.co_filename for layer in adapters} == {lora_linear.__file__}
    assert base.model.takes_cross_masks
    for layer in base.get_decoder().layers:
        assert layer.forward.__code__.co_filename == compiled.__file__
        assert not layer.gradient_checkpointing  # moved into the compiled code


def test_one_that_comes_too_late_is_refused() -> None:
    loaded, _, _ = set_up()
    del loaded.model.vizsage_patches[0]
    with pytest.raises(RuntimeError, match="FAST_VISION has to be applied before LORA_LAYERS"):
        patch_loaded(loaded.model)


def test_one_that_is_there_already_may_come_again() -> None:
    loaded, _, sharing = set_up()
    before = applied(loaded.model)
    Sharing(sharing.base)
    assert applied(loaded.model) == before
