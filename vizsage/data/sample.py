"""The unit of data: a question about an image, with its answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol


class ImageRef(Protocol):
    """Where the bytes of an image lie. Cheap to hold and to pickle; nothing is read before `read`."""

    @property
    def name(self) -> str:
        """File name of the image: the key of its image group and of the external-knowledge table."""

    @property
    def named(self) -> bool:
        """Whether `name` is the image's own. If not it is that of its record, and only bytes tell two images apart."""

    def read(self) -> bytes:
        """The undecoded bytes. Raises DataError naming the image when they cannot be had."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One question about one image.

    `sample_id` is the record's own "id" or "<split>-<index in the file>": unique in its split, stable across runs.
    `answer` is what training learns and is always accepted. `answers` is the list of the record, in file order and as
    often as each stands there, because VQA asked ten people: `answer` is added only where there is no list.
    `description` is the external knowledge on the image, filled in by `vizsage.data.knowledge`.
    """

    sample_id: str
    image: ImageRef
    question: str
    answer: str
    need_external_knowledge: bool = False
    description: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    answers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.answers:
            object.__setattr__(self, "answers", (self.answer,))
