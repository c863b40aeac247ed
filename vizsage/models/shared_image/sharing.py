"""Which models can share an image between its questions, and their inputs for a packed micro-batch."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

from vizsage.config import Config
from vizsage.data.images_once import can_process_once
from vizsage.data.prompts import image_precedes_question
from vizsage.models.attention_names import attention_of
from vizsage.models.families.registry import family_of
from vizsage.models.patches import patch_blocks, patch_packed_rows
from vizsage.models.shared_image.attention import BESIDE_SDPA
from vizsage.models.shared_image.masks import (
    Rule,
    as_attended,
    build_mask,
    by_kind_of_layer,
    tree_rule,
    window_of,
    within_window,
)

log = logging.getLogger(__name__)

_DENSE_ROW_TOKENS = 1024
_STEPS_WORTH_COMPILING = 500
# With this many questions per image in a step, dense masks cost no time: between the numbers that the two small models
# of benchmarks/train_throughput.py need.
_WORTH_IT_ON_A_CPU = 2.0
_OF_THE_ROW = ("depth", "subtree_end", "tree")


def why_plain(base: Any, processor: Any, config: Config) -> str | None:
    """Why each question on `base` needs a separate row; None where the questions on an image can share it."""
    text = base.config.get_text_config()
    if reason := family_of(base.config).why_plain(base):
        return reason
    if (name := attention_of(text)) not in ("eager", "sdpa", BESIDE_SDPA):
        return f"attn_implementation {name} cannot show each question only its own image and text"
    if getattr(text, "sliding_window", None) and not getattr(text, "layer_types", None):
        return "its language model sees a window of tokens only"
    if not can_process_once(processor):
        return "its processor prepares images in a way that is not known"
    if not image_precedes_question(processor, config):
        return "its chat template writes the question before the image"
    return None


def share_images(
    base: Any, processor: Any, config: Config, questions_per_image: Callable[[], float] = lambda: math.inf
) -> Sharing | None:
    """Prepare `base` to share images by config.share_images; with auto, where that is faster.

    Args:
        base: a model of transformers.
        processor: its processor.
        config: the settings.
        questions_per_image: the mean in a step; called only where it decides, because it may read images.

    Returns:
        None where each question has a separate row. If the settings ask for sharing, the reason is logged.
    """
    if config.share_images is False:
        return None
    if reason := why_plain(base, processor, config):
        log.warning("share_images: each question is computed with its own copy of the image (slower): %s", reason)
        return None
    if config.share_images == "auto" and base.device.type == "cpu":
        found = questions_per_image()
        if found < _WORTH_IT_ON_A_CPU:
            log.info("share_images: auto: off; a step asks %.1f questions of an image, too few on a CPU", found)
            return None
    return Sharing(base)


def compile_layers(sharing: Sharing | None, config: Config, steps: int) -> None:
    """Compile the layers of the language model if config.torch_compile requires it for a run of `steps`.

    If that is not possible and config.torch_compile is true, the reason is logged.
    """
    if not (steps >= _STEPS_WORTH_COMPILING if config.torch_compile == "auto" else config.torch_compile):
        return
    reason = _why_eager(sharing, config)
    if sharing is not None and reason is None:
        log.info("torch_compile: the first steps compile the layers, which takes a minute or two")
        patch_blocks(sharing.base)
    elif config.torch_compile is True:
        log.warning("torch_compile: the layers are not compiled: %s", reason)


def _why_eager(sharing: Sharing | None, config: Config) -> str | None:
    if sharing is None:
        return "share_images is false" if config.share_images is False else "images are not shared"
    if sharing.base.device.type != "cuda":
        return "that needs a GPU"
    if config.backend == "unsloth":
        return "unsloth compiles them itself and switches their checkpointing"
    return None if sharing.flex else "FlexAttention cannot be used here"


class Sharing:
    """Turns packed micro-batches (vizsage.data.collate.TrainCollator.packed) into inputs of a model."""

    def __init__(self, base: Any) -> None:
        """Prepares `base`, a model of transformers for which `why_plain` is None."""
        self.base = base
        self.family = family_of(base.config)
        self.flex = patch_packed_rows(base)
        self.cross = self.family.cross_attention(base)

    @property
    def row_tokens(self) -> int | None:
        """The longest useful row: a dense mask grows with the square of the tokens. See TrainCollator."""
        return None if self.flex else _DENSE_ROW_TOKENS

    def with_positions(self, batch: dict[str, Any]) -> dict[str, Any]:
        """`batch`, still on the CPU, with "position_ids": [1, N], or [3, 1, N] for multimodal positions.

        Each token has the position that it has in its own row.
        """
        depth, tree = batch["depth"][None], batch["tree"][None]
        return batch | {"position_ids": self.family.positions(self.base, batch, depth, tree)}

    def model_inputs(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Keyword arguments of the model's forward for `batch`, which is on the model's device.

        "target_positions" and "targets" stay among them; the caller takes them out.
        """
        inputs = {name: value for name, value in batch.items() if name not in _OF_THE_ROW}
        rule = self.family.rule(tree_rule(batch["subtree_end"]), batch, 0)
        near = None
        if (window := window_of(self.base)) is not None:
            near = self._mask(within_window(rule, batch["depth"], window), batch)
        inputs["attention_mask"] = by_kind_of_layer(self._mask(rule, batch), near)
        if self.cross is not None:
            inputs |= self.cross.of_packed_row(batch, lambda rule, keys: self._mask(rule, batch, keys))
        return inputs

    def _mask(self, rule: Rule, batch: dict[str, Any], keys: int | None = None) -> Any:
        tokens = batch["input_ids"].shape[1]
        mask = build_mask(rule, tokens, keys or tokens, batch["input_ids"].device, flex=self.flex)
        return mask if self.flex else as_attended(self.base, mask)
