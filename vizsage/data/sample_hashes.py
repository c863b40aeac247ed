"""The hashes of a split, as sample_hashes.json has them: collected, written, and counted in another split."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vizsage.contract import SAMPLE_HASHES
from vizsage.contract.hashes_file import HashesFacts, ImageHashes, ImagesBy, Leaks, SampleHashes
from vizsage.data.identity import name_hash, question_hash, sample_hash
from vizsage.data.sample import ImageRef, Sample
from vizsage.files import write_bytes

ImageIdentity = Callable[[ImageRef], bytes | None]
"""Gives the hash that identifies an image; None for one that cannot be read."""

HashArray = npt.NDArray[np.uint64]


class HashCollector:
    """Collects the hashes of samples, some 40 bytes per sample, until `hashes` is called."""

    def __init__(self, of_bytes: ImageIdentity, *, by_content: bool, by_name: bool) -> None:
        """`of_bytes` gives the hash of an image's bytes. It is asked for unnamed images alone unless `by_content`."""
        self._questions = bytearray()
        self._by_content = _Images(of_bytes) if by_content else None
        self._by_name = (
            _Images(lambda image: name_hash(image.name) if image.named else of_bytes(image)) if by_name else None
        )

    def watch(self, samples: Iterable[Sample]) -> Iterator[Sample]:
        """Yield the samples and add the hashes of each."""
        for sample in samples:
            question = question_hash(sample.question)
            self._questions += question
            for images in (self._by_content, self._by_name):
                if images is not None:
                    images.add(sample, question)
            yield sample

    def hashes(self) -> SampleHashes:
        """Those of all samples so far."""
        return SampleHashes(
            questions=_packed(self._questions),
            by_content=None if self._by_content is None else self._by_content.hashes(),
            by_name=None if self._by_name is None else self._by_name.hashes(),
        )


class _Images:
    """Hashes of images and of samples, with the images identified by `identify`."""

    def __init__(self, identify: ImageIdentity) -> None:
        self._identify = identify
        self._images, self._samples = bytearray(), bytearray()

    def add(self, sample: Sample, question: bytes) -> None:
        images = list(map(self._identify, sample.images))
        known = [image for image in images if image is not None]
        self._images += b"".join(known)
        if len(known) == len(images):
            self._samples += sample_hash(known, question, sample.choices)

    def hashes(self) -> ImageHashes:
        return ImageHashes(images=_packed(self._images), samples=_packed(self._samples))


def write_hashes(folder: Path, hashes: SampleHashes) -> HashesFacts:
    """Write sample_hashes.json into `folder`. Returns what run.json or results.json has to contain about it."""
    content = json.dumps(hashes.model_dump(), indent=2).encode() + b"\n"
    write_bytes(folder / SAMPLE_HASHES, content)
    by: ImagesBy = "name" if hashes.by_content is None else "content"
    images = images_of(hashes, by)
    return HashesFacts(
        sha256=hashlib.sha256(content).hexdigest(),
        images_by=by,
        images=len(unpacked(images.images)),
        questions=len(unpacked(hashes.questions)),
        samples=len(unpacked(images.samples)),
    )


def images_of(hashes: SampleHashes, by: ImagesBy) -> ImageHashes:
    """The hashes with the images identified in this way. Raises ValueError where the file has no such."""
    found = hashes.by_content if by == "content" else hashes.by_name
    if found is None:
        raise ValueError(f"it has no hashes of images by {by}")
    return found


def overlap(asked: SampleHashes, trained: SampleHashes, train_run: str) -> Leaks:
    """How much of what was asked was trained on: by the bytes of the images, or by names where the training has these.

    Raises ValueError where `asked` does not have what `trained` has.
    """
    by: ImagesBy = "name" if trained.by_content is None else "content"
    here, there = images_of(asked, by), images_of(trained, by)
    samples, images, questions = unpacked(here.samples), unpacked(here.images), unpacked(asked.questions)
    return Leaks(
        train_run=train_run,
        images_by=by,
        samples=len(samples),
        samples_in_training=_common(samples, there.samples),
        images=len(images),
        images_in_training=_common(images, there.images),
        questions=len(questions),
        questions_in_training=_common(questions, trained.questions),
    )


def unpacked(hashes: str) -> HashArray:
    """The hashes in a text of the file, sorted."""
    return np.frombuffer(base64.b64decode(hashes), "<u8")


def _packed(hashes: bytearray) -> str:
    return base64.b64encode(np.unique(np.frombuffer(hashes, "<u8")).tobytes()).decode("ascii")


def _common(here: HashArray, there: str) -> int:
    return len(np.intersect1d(here, unpacked(there), assume_unique=True))
