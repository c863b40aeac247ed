"""The unit of data: a question with its images and answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"  # of the choices of a question, in their order


class ImageRef(Protocol):
    """Where the bytes of an image are. Small in memory and when pickled; equal references are the same image."""

    @property
    def name(self) -> str:
        """File name of the image: what its image group and its row in the table of descriptions are found by."""

    @property
    def named(self) -> bool:
        """Whether the data set names the image. If not, `name` is its record's, and only bytes distinguish images."""

    def read(self) -> bytes:
        """The undecoded bytes. Raises DataError that names the image where they cannot be read."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One question with its images and answers.

    Attributes:
        sample_id: the record's own "id", or "<split>-<index in the file>"; unique in its split and equal in all runs.
        images: one or more, in the order in which the prompt shows them. Samples with the same images form an image
            group (see `group`).
        question: as the record has it.
        answer: what training learns; always accepted.
        need_external_knowledge: whether the question needs a description.
        description: external knowledge on the images, from `vizsage.data.knowledge`.
        tags: the other scalar fields of the record, as text.
        answers: the record's list in file order, repeated answers kept, because VQA asked ten people; (answer,) where
            the record has no list.
        choices: the options of a multiple-choice question, in the order of their letters; () for an open question.
    """

    sample_id: str
    images: tuple[ImageRef, ...]
    question: str
    answer: str
    need_external_knowledge: bool = False
    description: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    answers: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.answers:
            object.__setattr__(self, "answers", (self.answer,))

    @property
    def group(self) -> tuple[str, ...]:
        """The key of the sample's image group: the names of its images."""
        if len(self.images) == 1:  # as nearly all samples have: no loop for them
            return (self.images[0].name,)
        return tuple(image.name for image in self.images)

    @property
    def image_names(self) -> str:
        """The names of the images as one text: "image" in predictions.jsonl, and in messages."""
        return ", ".join(self.group)


def text_chars(sample: Sample) -> int:
    """Characters of all texts of a sample: those with the most are likely to have the longest prompts."""
    return len(sample.question) + len(sample.answer) + len(sample.description or "") + sum(map(len, sample.choices))
