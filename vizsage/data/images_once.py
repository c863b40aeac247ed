"""The pixels of an image computed once, however many texts of a batch show it."""

from __future__ import annotations

import copy
from typing import Any

from vizsage.data.model_inputs import inputs_of
from vizsage.errors import ConfigError

# Private to transformers, whose public interface takes an image per text. This module alone uses the name.
_METHOD = "_process_images"


def can_process_once(processor: Any) -> bool:
    """Whether `processor` computes pixels where ImagesOnce can do it instead."""
    return hasattr(processor, _METHOD)


class ImagesOnce:
    """Replaces the method of a processor that computes pixels: each image once, its result for each text.

    Attributes:
        processor: a copy of the given processor that uses this.
        count: images of the last call.
    """

    def __init__(self, processor: Any) -> None:
        """`processor` is one for which `can_process_once` is true; it is not changed."""
        self.original = getattr(processor, _METHOD)
        self.by_text = inputs_of(processor).by_text
        self.processor = copy.copy(processor)
        setattr(self.processor, _METHOD, self)
        self.count = 0

    def require(self, expected: int) -> None:
        """Raise ConfigError unless the last call found `expected` images.

        transformers may change a private method in any release; trees and pixels would then not belong together.
        """
        if self.count != expected:
            raise ConfigError(
                f"share_images: found the pixels of {self.count} images where there are {expected}: this release "
                "of transformers prepares images in another way; set share_images: false"
            )

    def __call__(self, images: Any, **kwargs: Any) -> tuple[Any, list[str]]:
        """What the replaced method returns for `images`, one or a list of one per text."""
        # One image per text: a text with several would need the number of its images here.
        decoded = [image for one in images for (image,) in [one if isinstance(one, (list, tuple)) else (one,)]]
        number: dict[int, int] = {}
        which = [number.setdefault(id(one), len(number)) for one in decoded]
        unique = [[decoded[which.index(i)]] for i in range(len(number))]
        self.count = len(unique)
        features, replacements = self.original(unique, **kwargs)
        for name in self.by_text:
            if name in features:
                features[name] = [features[name][i] for i in which]
        return features, [replacements[i] for i in which] if replacements else replacements
