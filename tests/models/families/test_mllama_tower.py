"""Mllama's tower without a mask gives what transformers' own gives: features, gradients, answers."""

from __future__ import annotations

import copy
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText

from tests.families.data import randomise_adapter, samples, settings
from vizsage.config import Config
from vizsage.data.collate import TrainCollator
from vizsage.models.adapters.lora import add_adapter
from vizsage.models.families.mllama_tower import fast_tower
from vizsage.models.loading.hf import load_base

# Supported aspect ratios of the family's model, by number of tiles; ids begin at 1.
IDS = {1: 1, 2: 2, 3: 3, 4: 4}


def as_transformers_loads(config: Config) -> Any:
    """The base model without what `load_base` does to its tower."""
    attention = "sdpa" if config.attn_implementation == "auto" else config.attn_implementation
    model = AutoModelForImageTextToText.from_pretrained(
        config.model_name, dtype=torch.float32, attn_implementation=attention
    )
    return model.requires_grad_(False).eval()


def tower_of(**changed: Any) -> tuple[Any, Any]:
    """A base model and its tower, whose embeddings of tiles and positions are no longer gated away."""
    base = as_transformers_loads(settings("mllama", **changed))
    tower = base.model.vision_model
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in tower.named_parameters():
            if "embedding" in name:
                value = 0.7 if name.endswith("gate") else torch.randn(parameter.shape, generator=generator)
                parameter.copy_(torch.as_tensor(value))
            elif "self_attn" in name:  # sharp attention: who reads whom makes a difference
                parameter.mul_(8)
    return base, tower


def pixels(*tiles: int, media: int = 1) -> dict[str, torch.Tensor]:
    """Images of so many tiles, `media` in a row of the batch; padding tiles are zeros, as from the processor."""
    generator = torch.Generator().manual_seed(sum(tiles))
    real = torch.arange(4) < torch.tensor(tiles).reshape(-1, media, 1)
    values = torch.randn(len(tiles) // media, media, 4, 3, 28, 28, generator=generator)
    return {
        "pixel_values": values * real[..., None, None, None],
        "aspect_ratio_ids": torch.tensor([IDS[n] for n in tiles]).reshape(-1, media),
        "aspect_ratio_mask": real.long(),
    }


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


BATCHES = [(1,), (2,), (3,), (4,), (4, 4), (1, 4, 4, 2), (3, 1, 2, 3)]


@pytest.mark.parametrize("tiles", BATCHES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_the_features_are_those_of_the_plain_tower(tiles: tuple[int, ...], dtype: torch.dtype) -> None:
    base, tower = tower_of()
    base.to(dtype)
    inputs = pixels(*tiles)
    with torch.no_grad():
        plain = tower(**inputs).last_hidden_state
        fast_tower(base)
        fast = tower(**inputs).last_hidden_state
    assert fast.shape == plain.shape
    assert fast.dtype == plain.dtype
    # Of every patch, those of padding tiles too: a token in front of its image reads them.
    worst = ((fast - plain).norm(dim=-1) / plain.norm(dim=-1)).max()
    assert worst < (1e-5 if dtype is torch.float32 else 3e-2)


def test_padding_is_read_by_the_image_and_reads_it() -> None:
    """What makes the masks necessary: without padding, or with padding that reads padding, features differ."""
    base, tower = tower_of()
    fast_tower(base)
    inputs = pixels(2)
    with torch.no_grad():
        expected = tower(**inputs).last_hidden_state[:, :, :2]
        inputs["pixel_values"][:, :, 2:] += 1
        assert distance(tower(**inputs).last_hidden_state[:, :, :2], expected) > 1e-3
        unmasked = tower(**pixels(2) | {"aspect_ratio_mask": torch.ones(1, 1, 4, dtype=torch.long)})
        assert distance(unmasked.last_hidden_state[:, :, :2], expected) > 1e-3


def test_several_images_in_a_row_of_the_batch() -> None:
    base, tower = tower_of()
    inputs = pixels(1, 4, 2, 2, media=2)
    with torch.no_grad():
        plain = tower(**inputs).last_hidden_state
        fast_tower(base)
        assert distance(tower(**inputs).last_hidden_state, plain) < 1e-5


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "checkpointed"])
def test_gradients_of_trained_vision_layers(checkpointing: bool) -> None:
    found = []
    for prepare in (lambda _: None, fast_tower):
        config = settings("mllama", finetune_vision_layers=True, use_gradient_checkpointing=checkpointing)
        loaded = replace(load_base(config), model=as_transformers_loads(config))
        prepare(loaded.model)
        model = add_adapter(loaded, config).train()
        randomise_adapter(model)
        batch = TrainCollator(loaded.processor, config)(samples())
        batch.pop("left_out")
        loss = model(**batch).loss
        loss.backward()
        found.append((loss.item(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}))
    (plain_loss, plain), (fast_loss, fast) = found
    assert fast_loss == pytest.approx(plain_loss, rel=1e-6)
    assert plain.keys() == fast.keys()
    vision = [name for name in plain if "vision_model" in name]
    assert vision
    assert all(plain[name].norm() > 0 for name in vision)
    assert max(distance(fast[name], plain[name]) for name in plain) < 1e-4


@pytest.mark.parametrize("fast", [False, True])
def test_only_the_states_that_are_returned_are_kept(fast: bool) -> None:
    """Whose states live while the third layer runs: transformers' those of all before, here the intermediate one."""
    base, tower = tower_of()
    layers = tower.transformer.layers
    layers.append(copy.deepcopy(layers[0]))
    layers[2].self_attn.config = tower.config
    if fast:
        fast_tower(base)
    states: list[Any] = []
    alive: list[bool] = []
    for layer in layers[:2]:
        layer.register_forward_hook(lambda _module, _args, output: states.append(weakref.ref(output)))
    layers[2].register_forward_hook(lambda *_: alive.extend(state() is not None for state in states))
    with torch.no_grad():
        tower(**pixels(4))
    assert tower.intermediate_layers_indices == [1]
    assert alive == [not fast, True]


def test_checkpointed_layers_keep_little_for_the_backward_pass() -> None:
    def kept(checkpointing: bool) -> int:
        base, tower = tower_of()
        fast_tower(base)
        if checkpointing:
            base.gradient_checkpointing_enable({"use_reentrant": False})
        base.train().requires_grad_(True)
        total = 0

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal total
            total += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            tower(**pixels(4, 4))
        return total

    assert kept(True) < 0.5 * kept(False)


def test_a_frozen_tower_keeps_nothing_whoever_asks_for_a_gradient_of_its_input() -> None:
    base, tower = tower_of()
    base.enable_input_require_grads()
    fast_tower(base)
    assert not tower(**pixels(2)).last_hidden_state.requires_grad
    tower.layernorm_post.requires_grad_(True)
    assert tower(**pixels(2)).last_hidden_state.requires_grad


def test_outputs_of_every_layer_can_still_be_asked_for() -> None:
    base, tower = tower_of()
    fast_tower(base)
    with torch.no_grad():
        found = tower(**pixels(2), output_hidden_states=True).last_hidden_state
        assert distance(found, tower(**pixels(2)).last_hidden_state) < 1e-5


def test_a_second_call_changes_nothing_and_the_saved_configuration_does_not_name_it(tmp_path: Path) -> None:
    base, tower = tower_of()
    fast_tower(base)
    forward = tower.forward
    fast_tower(base)
    assert tower.forward is forward
    assert base.config.text_config._attn_implementation == "sdpa"
    base.config.save_pretrained(tmp_path)
    assert "padding_last" not in (tmp_path / "config.json").read_text()


def test_a_tower_with_an_attention_of_the_users_choice_is_left_alone() -> None:
    base, tower = tower_of(attn_implementation="eager")
    fast_tower(base)
    assert "forward" not in vars(tower)
    assert tower.config._attn_implementation == "eager"


def test_other_families_are_left_alone() -> None:
    base = load_base(settings("llava")).model
    assert not [module for module in base.modules() if "forward" in vars(module)]


def test_a_loaded_mllama_has_it() -> None:
    assert "forward" in vars(load_base(settings("mllama")).model.model.vision_model)
