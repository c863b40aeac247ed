"""The content of sample_hashes.json, which finds samples of a training split in a test split: hashes, and no text.

It is beside run.json (the samples of the training) and beside results.json (the samples that were asked), each of which
has its SHA-256. Inside run.json the hashes of a million samples would be 24 MB, which every table of runs would read
and every note on the run would write again.

A hash is the first 8 bytes of a SHA-256:

| of        | the SHA-256 of                                                                          |
|-----------|-----------------------------------------------------------------------------------------|
| image     | its bytes, undecoded (by content), or its name in the data set (by name)                |
| question  | its text in UTF-8: Unicode form NFC, case folded, white space collapsed                 |
| sample    | the hashes of its images in their order, of its question, and of each choice likewise   |
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from vizsage.contract import SAMPLE_HASHES
from vizsage.contract.file_model import FileModel, parsed
from vizsage.files import parse_json

HASH_BYTES = 8

ImagesBy = Literal["content", "name"]
"""How images are identified. Names are the fallback where reading every image at the start would take too long."""


def _whole_hashes(text: str) -> str:
    try:
        size = len(base64.b64decode(text, validate=True))
    except ValueError:
        raise ValueError("it is not base64") from None
    if size % HASH_BYTES:
        raise ValueError(f"expected {HASH_BYTES} bytes per hash, found {size} bytes in all")
    return text


Hashes = Annotated[str, AfterValidator(_whole_hashes)]
"""Base64 of distinct hashes, sorted, each a little-endian integer of 8 bytes."""


class ImageHashes(FileModel):
    """Images, and the samples on them, with the images identified in one way."""

    images: Hashes = Field(description="Base64 of sorted little-endian integers of 8 bytes, each once.")
    samples: Hashes = Field(description="Of questions on their images.")


class SampleHashes(FileModel):
    """sample_hashes.json. An evaluation has both kinds; a training by_name with use_streaming, else by_content."""

    schema_version: Literal[1] = 1
    function: Literal["sha256-8"] = "sha256-8"
    questions: Hashes = Field(description="Of the normalised texts.")
    by_content: ImageHashes | None = Field(default=None, description="The bytes of an image identify it.")
    by_name: ImageHashes | None = Field(
        default=None, description="Its name does; of an image without a name the bytes."
    )


class HashesFacts(FileModel):
    """What run.json and results.json contain about the sample_hashes.json beside them; numbers of distinct hashes."""

    sha256: str = Field(description="Of the file.")
    images_by: ImagesBy
    images: int
    questions: int
    samples: int


class Leaks(FileModel):
    """How much of what was asked is in the training split: distinct images, questions, and questions on an image."""

    train_run: str = Field(description="Folder of the training run.")
    images_by: ImagesBy = Field(description="How images were identified: by their bytes, or by their names only.")
    samples: int = Field(description="Different questions on an image that were asked.")
    samples_in_training: int
    images: int
    images_in_training: int
    questions: int
    questions_in_training: int = Field(description="The same text, on whatever image.")


def read_hashes(folder: Path, facts: HashesFacts) -> SampleHashes:
    """sample_hashes.json in `folder`, the very file that `facts` describes. Raises OSError, or ValueError."""
    content = (folder / SAMPLE_HASHES).read_bytes()
    if hashlib.sha256(content).hexdigest() != facts.sha256:
        raise ValueError("its SHA-256 is not the one that was recorded")
    return parsed(SampleHashes, parse_json(content))
