"""When two images, questions or samples are the same: hashes of 8 bytes, and what they are computed from.

`vizsage check` finds samples in two splits by them, and sample_hashes.json contains them; vizsage.contract.hashes_file
describes each. In a million of them two are equal by chance with a probability of 3 in 100 million.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from vizsage.contract.hashes_file import HASH_BYTES
from vizsage.data.sample import Sample
from vizsage.scoring.normalisation import normalise_light


def bytes_hash(data: bytes) -> bytes:
    """The hash of the bytes of an image, or of anything else."""
    return hashlib.sha256(data).digest()[:HASH_BYTES]


def hash_of_sha256(sha256: str) -> bytes:
    """The hash of bytes whose SHA-256 is known, in hexadecimal."""
    return bytes.fromhex(sha256)[:HASH_BYTES]


def name_hash(name: str) -> bytes:
    """The hash of the name of an image."""
    return bytes_hash(name.encode())


def question_hash(question: str) -> bytes:
    """Equal for texts that differ only in case, white space and Unicode form."""
    return bytes_hash(normalise_light(question).encode())


def sample_hash(images: Iterable[bytes], question: bytes, choices: Sequence[str]) -> bytes:
    """The hash of a question on images with these hashes, in their order; with other choices it is another sample."""
    return bytes_hash(b"".join((*images, question, *map(question_hash, choices))))


def named_sample_hash(sample: Sample) -> bytes:
    """The hash of a sample whose images are identified by their names."""
    return sample_hash(map(name_hash, sample.group), question_hash(sample.question), sample.choices)
