"""Llama 3.2 Vision (Mllama): some decoder layers read the tiles of an image by cross-attention, beside the row."""

from __future__ import annotations

from typing import Any

from vizsage.data.model_inputs import ORDINARY, ModelInputs, TokenInput
from vizsage.models.families.family import Family
from vizsage.models.families.mllama_cross import MllamaCross, accept_cross_masks
from vizsage.models.families.mllama_tower import fast_tower


class Mllama(Family):
    """Llama 3.2 Vision."""

    names = ("mllama",)
    title = "Llama 3.2 Vision"
    inputs = ModelInputs(
        # [B, T, images, tiles] the tiles that a token sees. The tokens of an answer see those of the prompt's last one.
        by_token=ORDINARY | {"cross_attention_mask": TokenInput(of_answer="last")},
        by_text=("num_tiles",),  # from these the processor makes the cross_attention_mask of a text
    )
    last_vllm = "0.10.2"

    def speed_up(self, base: Any) -> None:
        """Compute the vision tower without its dense attention mask."""
        fast_tower(base)

    def accept_shared_images(self, base: Any) -> None:
        """Let cross-attention take a mask for packed rows."""
        accept_cross_masks(base)

    def cross_attention(self, base: Any) -> MllamaCross:
        """Each token reads the tiles of its own image."""
        return MllamaCross(base)

    def tokens_beside_row(self, base: Any) -> int:
        """The memory of the keys and values of an image's tiles in the layers with cross-attention."""
        text, vision = base.config.get_text_config(), base.config.vision_config
        seen = vision.max_num_tiles * base.model.vision_model.num_patches
        return int(seen * len(text.cross_attention_layers) / text.num_hidden_layers)
