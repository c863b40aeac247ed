"""Inputs of a model, as far as prompts and batches depend on them; the families of `vizsage.models` declare them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

_ATTRIBUTE = "vizsage_inputs"


@dataclass(frozen=True)
class TokenInput:
    """An input with a value per token, [B, T, ...].

    Attributes:
        padding: the value at padding.
        of_answer: the values at the tokens of the answer, which the processor has not seen: all 0, all 1, or those of
            the last token of the prompt.
    """

    padding: int = 0
    of_answer: Literal["zeros", "ones", "last"] = "zeros"


ORDINARY = {
    "attention_mask": TokenInput(of_answer="ones"),
    "token_type_ids": TokenInput(),
    "mm_token_type_ids": TokenInput(),
}
"""Inputs with a value per token that many models of transformers have, beside "input_ids"."""


@dataclass(frozen=True)
class ModelInputs:
    """The inputs of a model. The defaults serve most models.

    Attributes:
        by_token: inputs with a value per token, beside "input_ids". All other inputs belong to the images.
        by_text: outputs of the image processor from which the processor makes inputs of a text, one entry per text.
        pixel_limits: attributes of the image processor that decide which pixels the model gets; the fingerprint of an
            adapter holds them. A family may add names, but not drop any: the fingerprints of existing adapters would
            differ.
        image_tokens: attributes of the processor that name tokens which the text of a sample must not contain.
    """

    by_token: Mapping[str, TokenInput] = field(default_factory=lambda: dict(ORDINARY))
    by_text: tuple[str, ...] = ()
    pixel_limits: tuple[str, ...] = (
        "size", "crop_size", "do_center_crop", "max_image_tiles", "max_image_size", "do_image_splitting",
        "do_pan_and_scan", "min_pixels", "max_pixels", "patch_size", "merge_size", "image_mean", "image_std",
    )  # fmt: skip
    image_tokens: tuple[str, ...] = (
        "image_token", "video_token", "boi_token", "eoi_token", "fake_image_token", "global_image_tag",
    )  # fmt: skip

    def has_tokens(self, name: str) -> bool:
        """Whether input `name` has a value per token."""
        return name == "input_ids" or name in self.by_token

    def padding(self, name: str, pad_token_id: int) -> int:
        """The value of input `name` at padding."""
        return pad_token_id if name == "input_ids" else self.by_token[name].padding


def declare_inputs(processor: Any, inputs: ModelInputs) -> None:
    """Note the inputs of its model on `processor`, an attribute that `save_pretrained` does not write.

    Everything in this package gets the processor, also in the worker processes that encode samples.
    """
    setattr(processor, _ATTRIBUTE, inputs)


def inputs_of(processor: Any) -> ModelInputs:
    """The inputs that `declare_inputs` noted, or the defaults."""
    found = getattr(processor, _ATTRIBUTE, None)
    return found if isinstance(found, ModelInputs) else ModelInputs()
