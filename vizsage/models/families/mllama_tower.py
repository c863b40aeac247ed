"""Mllama's vision tower without its dense attention mask: the same numbers, from kernels that take no mask.

An image is T tiles of P patches (the class token is one of them), each padded to a multiple of 8. In transformers only
padding does not see padding: a position of padding reads only the positions of the image, while these read all
positions, padding too. So neither padding nor whole tiles of it can be left out: from the second layer on its states
are part of those of the image, here as in Meta's code, and the weights were trained that way.

With the positions of the image at the front of the sequence (attention does not depend on the order) two products
without a mask do the same: the front over all positions, the rest over the front. The tower of transformers adds a
[S, S] mask to one product, with S = 6,432 for 4 tiles, which no flash kernel takes; for an image of one tile it
computes three times as many scores as are used.

Shapes: I images, T tiles, P patches per tile, S = T * padded patches, D channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import wraps
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch.nn import functional as F
from transformers import AttentionInterface
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput

from vizsage.models.attention_names import attention_of, set_attention
from vizsage.models.recomputation import recomputed

_ATTENTION = "sdpa_padding_last"


def fast_tower(base: Any) -> None:
    """Let the vision tower of `base`, a loaded Mllama, run without a dense mask, and keep only the states it returns.

    A tower whose attention was chosen by name (eager, flash_attention_2) is not changed.
    With an aspect_ratio_mask on the CPU the tower never waits for its device.
    """
    tower = base.model.vision_model
    if attention_of(tower.config) != "sdpa":
        return
    AttentionInterface.register(_ATTENTION, _attention)
    set_attention(tower.config, _ATTENTION)
    original: Callable[..., Any] = tower.forward

    @wraps(original)
    def forward(
        pixel_values: torch.Tensor, aspect_ratio_ids: torch.Tensor, aspect_ratio_mask: torch.Tensor, **kwargs: Any
    ) -> Any:
        if kwargs:  # the caller wants hidden states or attentions of each layer; `_attention` takes the dense mask too
            return original(pixel_values, aspect_ratio_ids, aspect_ratio_mask, **kwargs)
        trained = any(parameter.requires_grad for parameter in tower.parameters())
        with torch.set_grad_enabled(trained and torch.is_grad_enabled()), _own_precision(tower):
            return _features(tower, pixel_values, aspect_ratio_ids, aspect_ratio_mask)

    tower.forward = forward


def _own_precision(tower: Any) -> Any:
    """No autocast for a tower in one precision: it would convert each state to float32 and back, for the norms."""
    one_dtype = all(p.dtype == tower.dtype for p in tower.parameters() if p.is_floating_point())
    return torch.autocast(tower.device.type, enabled=False) if one_dtype else nullcontext()


class _Layout(NamedTuple):
    """Which positions of each image are real. The layers get it as their mask, which they only pass on."""

    real_tiles: tuple[int, ...]
    patches: int

    def image_first(self, states: torch.Tensor) -> torch.Tensor:
        """[I, T, padded patches, D] -> [I, S, D]: the patches of real tiles, their padding, the padding tiles."""
        return self._each(states, self._sorted)

    def restore(self, states: torch.Tensor, tiles: int) -> torch.Tensor:
        """The inverse: [I, S, D] -> [I, T, padded patches, D]."""
        return self._each(states, lambda part, real: self._unsorted(part, real, tiles))

    def _each(self, states: torch.Tensor, move: Callable[[torch.Tensor, int], torch.Tensor]) -> torch.Tensor:
        return _joined([move(states[images], real) for images, real in self.runs(1)], dim=0)

    def _sorted(self, states: torch.Tensor, real: int) -> torch.Tensor:
        parts = states[:, :real, : self.patches], states[:, :real, self.patches :], states[:, real:]
        return torch.cat([part.flatten(1, 2) for part in parts], dim=1)

    def _unsorted(self, states: torch.Tensor, real: int, tiles: int) -> torch.Tensor:
        padded = states.shape[1] // tiles
        sizes = real * self.patches, real * (padded - self.patches), (tiles - real) * padded
        patches, padding, padding_tiles = states.split(sizes, dim=1)
        found = torch.cat([patches.unflatten(1, (real, -1)), padding.unflatten(1, (real, -1))], dim=2)
        return torch.cat([found, padding_tiles.unflatten(1, (tiles - real, padded))], dim=1) if real < tiles else found

    def runs(self, unit: int) -> list[tuple[slice, int]]:
        """Neighbouring images with the same number of real tiles, and that number times `unit`."""
        found, start = [], 0
        for real, members in groupby(self.real_tiles):
            end = start + len(list(members))
            found.append((slice(start, end), real * unit))
            start = end
        return found


def _layout_of(aspect_ratio_mask: torch.Tensor, patches: int) -> _Layout:
    """From [images of rows..., T], 1 for a real tile. Waits for the device of the mask."""
    rows: list[list[int]] = aspect_ratio_mask.flatten(0, -2).tolist()
    real = tuple(int(sum(row)) for row in rows)
    assert all(row[0] and row == sorted(row, reverse=True) for row in rows), "padding tiles are behind real ones"
    return _Layout(real, patches)


def _features(
    tower: Any, pixel_values: torch.Tensor, aspect_ratio_ids: torch.Tensor, aspect_ratio_mask: torch.Tensor
) -> BaseModelOutput:
    """The features of MllamaVisionModel.forward: [B, images of a row, T, P, D * (1 + intermediate layers)]."""
    rows, media, tiles = pixel_values.shape[:3]
    ids = aspect_ratio_ids.reshape(rows * media, 1)
    weight = tower.patch_embedding.weight
    states = tower.patch_embedding(pixel_values.flatten(0, 2).to(weight.device, weight.dtype))
    states = states.flatten(2).transpose(1, 2).unflatten(0, (rows * media, tiles))
    states = tower.pre_tile_positional_embedding(states, ids)
    states = tower.apply_class_embedding(states.flatten(0, 1)).unflatten(0, (rows * media, tiles))
    states = tower.layernorm_pre(tower.gated_positional_embedding(states, ids))

    layout = _layout_of(aspect_ratio_mask, patches=states.shape[2])
    states = layout.image_first(F.pad(states, (0, 0, 0, -layout.patches % 8)))
    states, intermediate = _run(tower.transformer, states, layout, tower.intermediate_layers_indices)
    states = layout.restore(tower.layernorm_post(states), tiles)
    states = layout.image_first(tower.post_tile_positional_embedding(states, ids))
    states, _ = _run(tower.global_transformer, states, layout, ())

    final, *others = (layout.restore(found, tiles)[:, :, : layout.patches] for found in (states, *intermediate))
    features = torch.cat([final, torch.stack(others, dim=-1).flatten(-2)], dim=-1)
    return BaseModelOutput(last_hidden_state=features.unflatten(0, (rows, media)))


def _run(
    encoder: Any, states: torch.Tensor, layout: _Layout, wanted: Sequence[int]
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The states [I, S, D] after the last layer, and those after the layers `wanted`; no others are kept.

    With gradient checkpointing where it is on: transformers switches it on for this encoder, but does not use it.
    """
    checkpoint = encoder.gradient_checkpointing and encoder.training and torch.is_grad_enabled()
    kept: dict[int, torch.Tensor] = {}
    indices = [index % len(encoder.layers) for index in wanted]
    for number, layer in enumerate(encoder.layers):
        if checkpoint and not isinstance(layer, GradientCheckpointingLayer):
            states = recomputed(encoder, layer.__call__, states, layout)
        else:
            states = layer(states, attention_mask=layout)
        if number in indices:
            kept[number] = states
    return states, [kept[index] for index in indices]


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """[I, heads, S, width] each -> [I, S, heads, width]; the positions of the image are first."""
    if not isinstance(attention_mask, _Layout):
        attended: tuple[torch.Tensor, torch.Tensor | None] = AttentionInterface()["sdpa"](
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
        return attended
    found = []
    for images, real in attention_mask.runs(attention_mask.patches):
        q, k, v = query[images], key[images], value[images]
        of_image = F.scaled_dot_product_attention(q[:, :, :real], k, v, scale=scaling)
        of_padding = F.scaled_dot_product_attention(q[:, :, real:], k[:, :, :real], v[:, :, :real], scale=scaling)
        found.append(torch.cat([of_image.transpose(1, 2), of_padding.transpose(1, 2)], dim=1))
    return _joined(found, dim=0), None


def _joined(parts: list[torch.Tensor], dim: int) -> torch.Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=dim)
