"""The samples that an evaluation asks, and what the model is shown of them."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from itertools import islice

from PIL import Image

from vizsage.data.batching import images_joined
from vizsage.data.images import EmbeddedImage
from vizsage.data.sample import Sample
from vizsage.data.sources import Split

log = logging.getLogger(__name__)

_SCAN_RECORDS = 1000
_WITHHELD_PX = 448


class Questions:
    """The samples of a split that are asked, in file order; kept in memory, or read again each time if `streaming`.

    Embedded images of the same bytes that have no name are one image, that of the first. Otherwise
    questions on it would not be answered together, and would be several clusters of an interval.

    Attributes:
        path: of the split.
        total: the number of samples.
        left_out: in the whole split, the samples left out because they need external knowledge, and those whose
            description is not in the table.

    Raises:
        DataError: bad records, which it lists.
    """

    def __init__(self, split: Split, *, streaming: bool, limit: int | None) -> None:
        self._split, self._limit, self.path = split, limit, split.path
        loaded = None if streaming else split.load()
        kept = sum(split.scan(_SCAN_RECORDS)) if loaded is None else len(loaded)
        self.total = kept if limit is None else min(limit, kept)
        self._samples = None if loaded is None else list(islice(images_joined(loaded), limit))
        counts = split.counts
        self.left_out = {
            "left_out": {"need_external_knowledge": counts.left_out_knowledge},
            "missing_descriptions": counts.missing_description,
        }
        if counts.left_out_knowledge:
            log.info(
                "%s: %d of %d samples need external knowledge and are left out (external_knowledge: false)",
                split.path,
                counts.left_out_knowledge,
                counts.records,
            )
        if counts.missing_description:
            log.warning(
                "%s: %d samples need a description that the table of external knowledge lacks; asked without it",
                split.path,
                counts.missing_description,
            )

    def __iter__(self) -> Iterator[Sample]:
        if self._samples is not None:
            return iter(self._samples)
        return islice(images_joined(self._split.stream()), self._limit)

    def chunks(self, size: int) -> Iterator[list[Sample]]:
        """All samples at once if in memory, so that questions on an image are together; else `size` at a time."""
        if self._samples is not None:
            yield list(self)
            return
        samples = iter(self)
        while chunk := list(islice(samples, size)):
            yield chunk


def as_shown(sample: Sample) -> Sample:
    """A sample as the model sees it, which is the sample itself."""
    return sample


def blinded(sample: Sample) -> Sample:
    """A sample as a blind evaluation shows it: with a plain grey image instead of each image.

    So the prompt has the form that the model was trained on, without any information from the image.
    """
    return replace(sample, images=(_grey(),) * len(sample.images))


@cache
def _grey() -> EmbeddedImage:
    buffer = io.BytesIO()
    Image.new("RGB", (_WITHHELD_PX, _WITHHELD_PX), (128, 128, 128)).save(buffer, "PNG")
    return EmbeddedImage("withheld.png", buffer.getvalue())
