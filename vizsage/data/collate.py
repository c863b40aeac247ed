"""Samples -> model inputs and answer-only labels.

Shapes: B samples, P prompt tokens, T tokens with the answer. Image tokens are expanded by the model's own processor.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from vizsage.config import Config
from vizsage.data.images import BadImage, load_image
from vizsage.data.prompts import AnswerLayout, render_prompt
from vizsage.data.sample import Sample
from vizsage.errors import ConfigError, DataError

IGNORED = -100  # the label that PyTorch's cross entropy leaves out
# Inputs with one row a token, [B, P, ...], and what padding writes there; every other input belongs to the pictures.
_TOKEN_PADDING = {
    "input_ids": 0,  # replaced by the tokenizer's padding token
    "attention_mask": 0,
    "token_type_ids": 0,
    "mm_token_type_ids": 0,
    "cross_attention_mask": 0,
}
_BLANK_PX = 64


@dataclass
class EncodedPrompts:
    """Left-padded prompts: `inputs` as the processor made them, and why a sample is only stood in for, by index."""

    inputs: dict[str, torch.Tensor]
    rejected: dict[int, str]


@dataclass
class _Row:
    """One sample on its way into a batch; `words` of its description are in `text`."""

    sample: Sample
    image: Image.Image
    text: str
    words: int
    rejected: str | None = None
    settled: bool = False


class PromptEncoder:
    """Samples -> left-padded prompts that fit into max_seq_length, the same for training and for generation.

    A description is shortened until the prompt leaves room for an answer; what then does not fit is rejected. A
    rejected sample is stood in for by a blank picture without a question, so that shapes never become empty.
    """

    def __init__(self, processor: Any, config: Config) -> None:
        """Raises ConfigError when the chat template cannot serve or the image alone exceeds max_seq_length."""
        self.processor, self.config = processor, config
        self.layout = AnswerLayout(processor, config)
        # A quarter of the window at most, so that small windows still hold a question.
        self.answer_room_tokens = min(config.max_new_tokens, config.max_seq_length // 4)
        self._blank_image = Image.new("RGB", (_BLANK_PX, _BLANK_PX), "white")
        self._blank_prompt = render_prompt(processor, Sample("", _NoImage(), "", ""), config, None)
        self._add_special_tokens = True
        self._add_special_tokens = self._bos_is_the_tokenizers()
        blank_tokens = int(self._process([self._blank_prompt], [self._blank_image])["input_ids"].shape[1])
        if blank_tokens >= config.max_seq_length:
            raise ConfigError(
                f"max_seq_length {config.max_seq_length}: picture and instruction alone take {blank_tokens} tokens "
                f"with {config.model_name}; set max_seq_length to {blank_tokens + self.answer_room_tokens + 64} or more"
            )

    def encode(self, samples: Sequence[Sample], answer_tokens: Sequence[int], *, skip_bad: bool) -> EncodedPrompts:
        """Prompts for `samples`, each leaving room for `answer_tokens[i]` tokens.

        Raises BadImage unless `skip_bad`.
        """
        rows = self._rows(samples, skip_bad=skip_bad)
        while True:
            try:
                inputs = self._process([row.text for row in rows], [row.image for row in rows])
            except ValueError:
                if not self._reject_unfit_pictures(rows, skip_bad=skip_bad):
                    raise
                continue
            lengths = inputs["attention_mask"].sum(dim=1).tolist()
            fits = [self._fit(*each) for each in zip(rows, lengths, answer_tokens, strict=True)]
            if all(fits):
                return EncodedPrompts(inputs, {i: row.rejected for i, row in enumerate(rows) if row.rejected})

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
        if length + answer_tokens <= limit:  # less room than wanted, but enough
            return True
        self._reject(row, f"{length + answer_tokens} tokens without a description, max_seq_length is {limit}")
        return False

    def _reject(self, row: _Row, reason: str) -> None:
        row.rejected, row.settled = reason, True
        row.text, row.image = self._blank_prompt, self._blank_image

    def _reject_unfit_pictures(self, rows: list[_Row], *, skip_bad: bool) -> bool:
        """Reject each picture that the processor refuses (Qwen2-VL: 200 times as long as wide); whether there was one.

        Raises BadImage unless `skip_bad`.
        """
        found = False
        for row in rows:
            try:
                self._process([row.text], [row.image])
            except ValueError as error:
                name = row.sample.image.name
                bad = BadImage(f"image {name!r} is refused by the model's processor: {_one_line(error)}", name)
                if not skip_bad:
                    raise bad from error
                if row.rejected:
                    return False  # even the blank picture is refused, so the picture is not the reason
                self._reject(row, str(bad))
                found = True
        return found

    def answer_ids(self, sample: Sample) -> list[int]:
        """The supervised tokens of a sample: its answer and the end of the turn.

        They are cut where the prompt's tokens end, so that the prompt has the same tokens without an answer. Within
        its prompt an answer is split as the base model saw it in training: a SentencePiece tokenizer would begin a
        text of its own with one more space.
        """
        tokenizer = self.processor.tokenizer
        suffix = self.layout.suffix(sample.answer)
        prompt = tokenizer(self._blank_prompt, add_special_tokens=False)["input_ids"]
        whole = tokenizer(self._blank_prompt + suffix, add_special_tokens=False)["input_ids"]
        if whole[: len(prompt)] == prompt:
            return [int(i) for i in whole[len(prompt) :]]
        return [int(i) for i in tokenizer(suffix, add_special_tokens=False)["input_ids"]]

    def _render(self, sample: Sample, words: int) -> str:
        description = (sample.description or "")[: _word_ends(sample.description)[words - 1]] if words else None
        return render_prompt(self.processor, sample, self.config, description, reserved=self.layout.reserved)

    def _process(self, texts: list[str], images: list[Image.Image]) -> dict[str, torch.Tensor]:
        batch = self.processor(
            text=list(texts),
            images=[[image] for image in images],
            add_special_tokens=self._add_special_tokens,
            padding=True,
            padding_side="left",
            return_tensors="pt",
        )
        return {name: value for name, value in batch.items() if isinstance(value, torch.Tensor)}

    def _bos_is_the_tokenizers(self) -> bool:
        """Whether the tokenizer must add its special tokens: not if the template wrote the first one already."""
        tokenizer = self.processor.tokenizer
        ids = self._process([self._blank_prompt], [self._blank_image])["input_ids"][0].tolist()
        doubled = tokenizer.bos_token_id is not None and ids[:2] == [tokenizer.bos_token_id] * 2
        closed = ids[-1] == tokenizer.eos_token_id and not self._blank_prompt.rstrip().endswith(tokenizer.eos_token)
        return not (doubled or closed)

    def _fitting_words(self, row: _Row, length: int, limit: int) -> int:
        """The most description words with which `row` has at most `limit` tokens; always fewer than now.

        `length` counts the tokens of row.text with the image's; those of the image stay the same as words go.
        """
        image_tokens = length - self._text_tokens(row.text)
        low, high = 0, row.words - 1
        while low < high:
            middle = (low + high + 1) // 2
            if self._text_tokens(self._render(row.sample, middle)) + image_tokens <= limit:
                low = middle
            else:
                high = middle - 1
        return low

    def _text_tokens(self, text: str) -> int:
        return len(self.processor.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _rows(self, samples: Sequence[Sample], *, skip_bad: bool) -> list[_Row]:
        """Render and decode; the questions of an image group share one decoded picture."""
        decoded: dict[str, Image.Image | str] = {}
        rows = []
        for sample in samples:
            name = sample.image.name
            if name not in decoded:
                decoded[name] = self._load(sample, skip_bad=skip_bad)
            image = decoded[name]
            words = len(_word_ends(sample.description))
            row = _Row(sample, self._blank_image, self._render(sample, words), words)
            if isinstance(image, str):
                self._reject(row, image)
            else:
                row.image = image
            rows.append(row)
        return rows

    def _load(self, sample: Sample, *, skip_bad: bool) -> Image.Image | str:
        """The picture, or why it is unusable."""
        try:
            return load_image(sample.image, max_image_px=self.config.max_image_px, resize_px=self.config.resize_px)
        except BadImage as error:
            if not skip_bad:
                raise
            return str(error)


class PromptCollator:
    """samples -> left-padded inputs of `generate`, and "failed": (index, reason) of those only stood in for."""

    def __init__(self, processor: Any, config: Config) -> None:
        self.encoder = PromptEncoder(processor, config)

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """Tensors [B, P] and those of the pictures; "failed" counts unusable images and prompts that are too long."""
        encoded = self.encoder.encode(samples, [1] * len(samples), skip_bad=True)
        return {**encoded.inputs, "failed": sorted(encoded.rejected.items())}


class TrainCollator:
    """samples -> right-padded inputs with labels on the answer and the end of the turn only."""

    def __init__(self, processor: Any, config: Config) -> None:
        self.encoder = PromptEncoder(processor, config)
        self.config = config

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """Tensors [B, T], those of the pictures, "labels" [B, T], "sample_ids", and "left_out": (sample_id, reason).

        A sample that is left out keeps its row, with no label: its part of a mean over labels is exactly 0.
        Raises BadImage (on_bad_image: fail) and DataError (a sample without any supervised token).
        """
        answers = [self.encoder.answer_ids(sample) for sample in samples]
        for sample, answer in zip(samples, answers, strict=True):
            if not answer:
                raise DataError(f"{sample.sample_id}: its answer {sample.answer!r} has no token to learn from")
        encoded = self.encoder.encode(samples, [len(a) for a in answers], skip_bad=self.config.on_bad_image == "skip")
        batch = _append_answers(encoded, answers, self.encoder.processor.tokenizer.pad_token_id)
        batch["sample_ids"] = [sample.sample_id for sample in samples]
        batch["left_out"] = [(samples[i].sample_id, reason) for i, reason in sorted(encoded.rejected.items())]
        return batch


def _append_answers(encoded: EncodedPrompts, answers: list[list[int]], pad_token_id: int) -> dict[str, Any]:
    """Left-padded prompts [B, P, ...] -> right-padded prompts with answers [B, T, ...] and labels [B, T]."""
    keep = encoded.inputs["attention_mask"].bool()
    answers = [[] if i in encoded.rejected else answer for i, answer in enumerate(answers)]
    prompt_tokens = keep.sum(dim=1).tolist()
    width = max(n + len(answer) for n, answer in zip(prompt_tokens, answers, strict=True))
    batch: dict[str, Any] = {}
    for name, value in encoded.inputs.items():
        if name not in _TOKEN_PADDING:
            batch[name] = value
            continue
        padding = pad_token_id if name == "input_ids" else _TOKEN_PADDING[name]
        out = value.new_full((len(answers), width, *value.shape[2:]), padding)
        for i, answer in enumerate(answers):
            end = prompt_tokens[i]
            out[i, :end] = value[i, keep[i]]
            out[i, end : end + len(answer)] = _answer_rows(name, value[i, -1], answer)
        batch[name] = out
    labels = batch["input_ids"].new_full((len(answers), width), IGNORED)
    for i, answer in enumerate(answers):
        labels[i, prompt_tokens[i] : prompt_tokens[i] + len(answer)] = labels.new_tensor(answer)
    batch["labels"] = labels
    return batch


def _answer_rows(name: str, last_prompt_row: torch.Tensor, answer: list[int]) -> torch.Tensor:
    """What one input holds at the answer's tokens: text tokens that are attended to and see the same picture."""
    if name == "input_ids":
        return last_prompt_row.new_tensor(answer)
    if name == "attention_mask":
        return last_prompt_row.new_ones(len(answer))
    if name == "cross_attention_mask":
        return last_prompt_row.expand(len(answer), *last_prompt_row.shape)
    return last_prompt_row.new_zeros(len(answer))


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _word_ends(text: str | None) -> list[int]:
    return [match.end() for match in re.finditer(r"\S+", text or "")]


@dataclass(frozen=True)
class _NoImage:
    """Stands where a Sample needs an image that nobody will read."""

    name: str = ""

    def read(self) -> bytes:
        raise DataError("the stand-in picture has no file")
