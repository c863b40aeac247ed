"""Samples -> prompts that fit into max_seq_length: rendered, decoded, shortened, tokenised.

Shapes: B samples, P prompt tokens. Image tokens are expanded by the model's own processor.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from vizsage.config import Config
from vizsage.data.image_groups import image_numbers
from vizsage.data.images import BadImage, load_image
from vizsage.data.processing import Processing
from vizsage.data.prompts import AnswerLayout, render_prompt
from vizsage.data.sample import ImageRef, Sample
from vizsage.errors import ConfigError, one_line, quoted

_QUESTION_TOKENS = 64  # of a long question, for a message
_SLACK = 8


@dataclass
class EncodedPrompts:
    """Left-padded prompts.

    Attributes:
        inputs: what the processor made.
        rejected: why a sample is replaced by a placeholder, by its index.
        images: the number of each sample's image (see `image_numbers`).
    """

    inputs: dict[str, torch.Tensor]
    rejected: dict[int, str]
    images: list[int]


@dataclass
class FittedPrompts:
    """Prompts that fit, for a library that makes its own inputs of them.

    Attributes:
        ids: token ids, the image still one placeholder.
        images: as the model is shown them.
        rejected: why a sample is replaced by a placeholder, by its index.
    """

    ids: list[list[int]]
    images: list[list[Image.Image]]
    rejected: dict[int, str]


@dataclass
class _Row:
    """One sample on its way into a batch; `words` of its description are in `text`."""

    sample: Sample
    images: list[Image.Image]
    text: str
    words: int
    rejected: str | None = None
    settled: bool = False


class PromptEncoder:
    """Samples -> left-padded prompts that fit into max_seq_length, the same for training and for generation.

    A description is shortened until the prompt leaves room for an answer; a sample that then does not fit is rejected.
    A blank image without a question replaces a rejected sample, so that no batch is empty.
    """

    def __init__(self, processor: Any, config: Config) -> None:
        """Raises ConfigError when the chat template cannot serve or the image alone exceeds max_seq_length."""
        self.processor, self.config = processor, config
        self.layout = AnswerLayout(processor, config)
        self.processing = Processing(processor, config)
        # A quarter of the window at most, so that small windows still hold a question.
        self.answer_room_tokens = min(config.max_new_tokens, config.max_seq_length // 4)
        blank_tokens = self.processing.blank_tokens
        if blank_tokens >= config.max_seq_length:
            room = self.answer_room_tokens
            raise ConfigError(
                f"max_seq_length {config.max_seq_length}: image and instruction alone take {blank_tokens} tokens "
                f"with {config.model_name}; set max_seq_length to {blank_tokens + room + _QUESTION_TOKENS} or more: "
                f"that and {room} for an answer and {_QUESTION_TOKENS} for a question"
            )

    def encode(self, samples: Sequence[Sample], answer_tokens: Sequence[int], *, skip_bad: bool) -> EncodedPrompts:
        """Prompts for `samples`, each leaving room for `answer_tokens[i]` tokens.

        Raises BadImage unless `skip_bad`.
        """
        numbers = image_numbers(samples)
        rows = self._rows(samples, numbers, skip_bad=skip_bad)
        inputs = self._settle(rows, answer_tokens, skip_bad=skip_bad)
        return EncodedPrompts(inputs, _rejected(rows), numbers)

    def fitted(self, samples: Sequence[Sample], answer_tokens: Sequence[int], *, skip_bad: bool) -> FittedPrompts:
        """The prompts of `encode` without its tensors: each image is processed once, to count its tokens.

        Raises BadImage unless `skip_bad`.
        """
        numbers = image_numbers(samples)
        rows = self._rows(samples, numbers, skip_bad=skip_bad)
        lengths: dict[int, int | None] = {}
        doubtful, limit = [], self.config.max_seq_length
        for i, (row, number) in enumerate(zip(rows, numbers, strict=True)):
            if number not in lengths:
                lengths[number] = self.processing.images_tokens(row.images)
            length, room = lengths[number], max(self.answer_room_tokens, answer_tokens[i])
            # Beside its image a text may have a few tokens more or fewer, so prompts close to the limit are measured.
            if length is None or self.processing.text_tokens(row.text) + length + room + _SLACK > limit:
                doubtful.append(i)
        if doubtful:
            self._settle([rows[i] for i in doubtful], [answer_tokens[i] for i in doubtful], skip_bad=skip_bad)
        tokenizer, special = self.processor.tokenizer, self.processing.add_special_tokens
        ids = [[int(i) for i in tokenizer(row.text, add_special_tokens=special)["input_ids"]] for row in rows]
        return FittedPrompts(ids, [row.images for row in rows], _rejected(rows))

    def _settle(self, rows: list[_Row], answer_tokens: Sequence[int], *, skip_bad: bool) -> dict[str, torch.Tensor]:
        """The model's inputs once all `rows` fit, shortened or rejected where they did not."""
        while True:
            try:
                inputs = self.processing.inputs([row.text for row in rows], [row.images for row in rows])
            except ValueError:
                if not self._reject_unfit_images(rows, skip_bad=skip_bad):
                    raise
                continue
            lengths = inputs["attention_mask"].sum(dim=1).tolist()
            fits = [self._fit(*each) for each in zip(rows, lengths, answer_tokens, strict=True)]
            if all(fits):
                return inputs

    def _fit(self, row: _Row, length: int, answer_tokens: int) -> bool:
        """Whether `row`, now `length` tokens, may stay as it is; if not, its text is shortened or the row rejected."""
        limit = self.config.max_seq_length
        room = max(self.answer_room_tokens, answer_tokens)
        if row.settled or length + room <= limit:
            return True
        if row.words > 0:
            row.words = self._fitting_words(row, length, limit - room)
            row.text = self._render(row.sample, row.words)
            return False
        row.settled = True
        if length + answer_tokens <= limit:  # less room than for an answer of max_new_tokens, but enough for this one
            return True
        self._reject(row, f"{length + answer_tokens} tokens without a description, max_seq_length is {limit}")
        return False

    def _reject(self, row: _Row, reason: str) -> None:
        row.rejected, row.settled = reason, True
        row.text, row.images = self.processing.blank_prompt, self.processing.blank_images

    def _reject_unfit_images(self, rows: list[_Row], *, skip_bad: bool) -> bool:
        """Reject each image that the processor refuses (far longer than wide, for example); whether there was one.

        Raises BadImage unless `skip_bad`.
        """
        found = False
        for row in rows:
            try:
                self.processing.inputs([row.text], [row.images])
            except ValueError as error:
                name = row.sample.image_names
                bad = BadImage(f"image {quoted(name)} is refused by the model's processor: {one_line(error)}", name)
                if not skip_bad:
                    raise bad from error
                if row.rejected:
                    return False  # even the blank image is refused, so the image is not the reason
                self._reject(row, str(bad))
                found = True
        return found

    def prompt_ids(self, sample: Sample) -> list[int]:
        """The token ids of a prompt with its whole description; the image is one placeholder."""
        text = self._render(sample, len(_word_ends(sample.description)))
        return [int(i) for i in self.processor.tokenizer(text, add_special_tokens=False)["input_ids"]]

    def answer_ids(self, sample: Sample) -> list[int]:
        """The supervised tokens of a sample: its answer and the end of the turn.

        The answer is tokenised behind a prompt, as the base model saw it in training: alone, a SentencePiece tokenizer
        would put one more space before it. Where the prompt's own tokens would change, it is tokenised alone after all,
        because generation has only the prompt.
        """
        tokenizer = self.processor.tokenizer
        suffix = self.layout.suffix(sample.answer)
        prompt = tokenizer(self.processing.blank_prompt, add_special_tokens=False)["input_ids"]
        whole = tokenizer(self.processing.blank_prompt + suffix, add_special_tokens=False)["input_ids"]
        if whole[: len(prompt)] == prompt:
            return [int(i) for i in whole[len(prompt) :]]
        return [int(i) for i in tokenizer(suffix, add_special_tokens=False)["input_ids"]]

    def image_tokens(self, image: ImageRef) -> int:
        """About how many tokens replace the placeholder of `image`: precise enough to fill batches."""
        return self.processing.image_tokens(image)

    def _render(self, sample: Sample, words: int) -> str:
        description = (sample.description or "")[: _word_ends(sample.description)[words - 1]] if words else None
        return render_prompt(self.processor, sample, self.config, description, reserved=self.layout.reserved)

    def _fitting_words(self, row: _Row, length: int, limit: int) -> int:
        """The largest number of words of its description with which `row` has at most `limit` tokens; fewer than now.

        `length` is the number of tokens of row.text with its image; those of the image do not depend on the words.
        """
        tokens_of_image = length - self.processing.text_tokens(row.text)
        low, high = 0, row.words - 1
        while low < high:
            middle = (low + high + 1) // 2
            if self.processing.text_tokens(self._render(row.sample, middle)) + tokens_of_image <= limit:
                low = middle
            else:
                high = middle - 1
        return low

    def _rows(self, samples: Sequence[Sample], images: Sequence[int], *, skip_bad: bool) -> list[_Row]:
        """Render and decode; the questions of an image group share its decoded images."""
        decoded: dict[int, list[Image.Image] | str] = {}
        rows = []
        for sample, number in zip(samples, images, strict=True):
            if number not in decoded:
                decoded[number] = self._load(sample, skip_bad=skip_bad)
            found = decoded[number]
            words = len(_word_ends(sample.description))
            row = _Row(sample, self.processing.blank_images, self._render(sample, words), words)
            if isinstance(found, str):
                self._reject(row, found)
            else:
                row.images = found
            rows.append(row)
        return rows

    def _load(self, sample: Sample, *, skip_bad: bool) -> list[Image.Image] | str:
        """The images, or why one is unusable."""
        max_px, resize_px = self.config.max_image_px, self.config.resize_px
        try:
            return [load_image(image, max_image_px=max_px, resize_px=resize_px) for image in sample.images]
        except BadImage as error:
            if not skip_bad:
                raise
            return str(error)


def _rejected(rows: Iterable[_Row]) -> dict[int, str]:
    return {i: row.rejected for i, row in enumerate(rows) if row.rejected}


def _word_ends(text: str | None) -> list[int]:
    return [match.end() for match in re.finditer(r"\S+", text or "")]
