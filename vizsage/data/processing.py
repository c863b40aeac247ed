"""What the processor of a model makes of texts and images."""

from __future__ import annotations

import math
from typing import Any

import torch
from PIL import Image

from vizsage.config import Config
from vizsage.data.images import BadImage, EmbeddedImage, header_px
from vizsage.data.model_inputs import inputs_of
from vizsage.data.prompts import render_prompt
from vizsage.data.sample import ImageRef, Sample
from vizsage.errors import ConfigError

_BLANK_PX = 64


class Processing:
    """A processor, and what it makes of the blank prompt: no question, and a blank image.

    Attributes:
        blank_prompt: its text.
        blank_images: its image, in a list.
        blank_tokens: its length.
        add_special_tokens: whether the tokenizer must add its special tokens.
    """

    def __init__(self, processor: Any, config: Config) -> None:
        """Raises ConfigError when the chat template cannot serve."""
        self.processor, self.config = processor, config
        self.blank_images = [Image.new("RGB", (_BLANK_PX, _BLANK_PX), "white")]
        self.blank_prompt = render_prompt(processor, Sample("", (EmbeddedImage("", b""),), "", ""), config, None)
        self.add_special_tokens = True
        self.add_special_tokens = self._adds_special_tokens()
        blank = self.inputs([self.blank_prompt], [self.blank_images])
        self.blank_tokens = int(blank["input_ids"].shape[1])
        self._shapes = {name: tuple(value.shape) for name, value in blank.items()}
        self._blank_image_tokens = self.blank_tokens - self.text_tokens(self.blank_prompt)

    def refuse_undeclared_inputs(self) -> None:
        """Raise ConfigError if the model has an input with a value per token that its family does not declare.

        Batches would hold it as an input of the images: unpadded, and without values at the answer's tokens.
        """
        inputs, of_tokens = inputs_of(self.processor), self._shapes["input_ids"]
        for name, shape in self._shapes.items():
            if shape[:2] == of_tokens and not inputs.has_tokens(name):
                raise ConfigError(
                    f"model_name {self.config.model_name}: its processor makes an input {name!r} with a value per "
                    "token, and how to pad it is not known; declare it in the by_token of a family "
                    "(vizsage/models/families), or choose another model"
                )

    def inputs(self, texts: list[str], images: list[list[Image.Image]]) -> dict[str, torch.Tensor]:
        """The inputs of the model for left-padded rows, one per text with its images.

        Raises:
            ValueError: the processor refuses an image.
        """
        batch = self.processor(
            text=list(texts),
            images=images,
            add_special_tokens=self.add_special_tokens,
            padding=True,
            padding_side="left",
            return_tensors="pt",
        )
        return {name: value for name, value in batch.items() if isinstance(value, torch.Tensor)}

    def text_tokens(self, text: str) -> int:
        """The number of tokens of `text`, without special tokens that the tokenizer adds."""
        return len(self.processor.tokenizer(text, add_special_tokens=False)["input_ids"])

    def images_tokens(self, images: list[Image.Image]) -> int | None:
        """What the image adds to the tokens of a text, special tokens included.

        None where the processor refuses it, or where there are several: the blank prompt has one.
        """
        if len(images) != 1:
            return None
        try:
            whole = int(self.inputs([self.blank_prompt], [images])["input_ids"].shape[1])
        except ValueError:
            return None
        return whole - self.text_tokens(self.blank_prompt)

    def image_tokens(self, image: ImageRef) -> int:
        """About how many tokens replace the placeholder of `image`: precise enough to fill batches.

        The number that the processor gives for a square image with as many pixels; that of the blank image where the
        processor gives none, or the image cannot be read.
        """
        # Private to transformers; this module alone uses the name. Not all processors have it.
        count = getattr(self.processor, "_get_num_multimodal_tokens", None)
        if count is None:
            return self._blank_image_tokens
        try:
            px = min(header_px(image), self.config.resize_px or self.config.max_image_px)
            side = max(1, math.isqrt(px))
            return int(count(image_sizes=[(side, side)])["num_image_tokens"][0])
        except (BadImage, KeyError, TypeError, ValueError, AttributeError):
            return self._blank_image_tokens

    def _adds_special_tokens(self) -> bool:
        """Whether the tokenizer must add its special tokens: not if the template wrote the first one already.

        A prompt would otherwise begin with two of them, or end with an end of text.
        """
        tokenizer = self.processor.tokenizer
        ids = self.inputs([self.blank_prompt], [self.blank_images])["input_ids"][0].tolist()
        doubled = tokenizer.bos_token_id is not None and ids[:2] == [tokenizer.bos_token_id] * 2
        closed = ids[-1] == tokenizer.eos_token_id and not self.blank_prompt.rstrip().endswith(tokenizer.eos_token)
        return not (doubled or closed)
