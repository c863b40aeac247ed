"""Samples on the same images: found by the names of the images and, where one name means several, by their bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from vizsage.data.sample import ImageRef, Sample


def image_numbers(samples: Sequence[Sample]) -> list[int]:
    """The number of each sample's image group, counted from 0 in the order of the samples.

    One name may belong to several images: data sets with embedded images often keep only the base name of a file. So
    where a name refers to several places, the bytes there decide. Raises DataError when they cannot be read.
    """
    places: dict[str, set[ImageRef]] = {}
    for sample in samples:
        for image in sample.images:
            places.setdefault(image.name, set()).add(image)
    keys = {
        ref: (name, hashlib.sha256(ref.read()).digest() if len(refs) > 1 else b"")
        for name, refs in places.items()
        for ref in refs
    }
    numbers: dict[tuple[tuple[str, bytes], ...], int] = {}
    return [numbers.setdefault(tuple([keys[image] for image in s.images]), len(numbers)) for s in samples]


def by_image(numbers: Iterable[int]) -> list[list[int]]:
    """From the image group of each sample to the indices of the samples of each group, in the order of the groups."""
    groups: dict[int, list[int]] = {}
    for i, number in enumerate(numbers):
        groups.setdefault(number, []).append(i)
    return list(groups.values())
