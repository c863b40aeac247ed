"""Samples -> the inputs of a model, with labels for the answer only.

Shapes: B samples, P prompt tokens, T tokens with the answer, N tokens of a packed row, I images.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from vizsage.config import Config
from vizsage.data.encoding import EncodedPrompts, PromptEncoder
from vizsage.data.image_groups import by_image
from vizsage.data.images_once import ImagesOnce
from vizsage.data.model_inputs import ModelInputs, inputs_of
from vizsage.data.packing import plant
from vizsage.data.sample import Sample
from vizsage.errors import DataError, quoted

_WIDTHS = 32  # trees are padded to a multiple of this: fewer sizes of products for which kernels are chosen
IGNORED = -100  # the label that PyTorch's cross entropy leaves out


class PromptCollator:
    """Samples -> the inputs for an answer to each, and "failed": (index, reason) of those that cannot be asked.

    Samples fail whose image is unusable or whose prompt is too long.
    """

    def __init__(
        self, processor: Any, config: Config, *, share_images: bool = False, pixels: torch.dtype = torch.float32
    ) -> None:
        """Prepares the processor.

        Args:
            processor: as `load_processor` returns it.
            config: the settings.
            share_images: whether the prompts on one image become one tree of tokens (vizsage.data.packing).
            pixels: the dtype of pixels; the model would round them to it first of all.

        Raises:
            ConfigError: the chat template cannot serve, the image alone exceeds max_seq_length, or the model has an
                input that its family does not declare.
        """
        self.share_images, self.pixels, self.inputs = share_images, pixels, inputs_of(processor)
        if share_images:
            self.once = ImagesOnce(processor)
            processor = self.once.processor
        self.encoder = PromptEncoder(processor, config)
        self.encoder.processing.refuse_undeclared_inputs()

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """One batch: that of `plain`, or with `share_images` that of `trees`."""
        batch = self.trees(samples) if self.share_images else self.plain(samples)
        return {k: v.to(self.pixels) if torch.is_tensor(v) and v.is_floating_point() else v for k, v in batch.items()}

    def plain(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """Left-padded rows: tensors [B, P] and those of the images. A placeholder takes the row of a failed sample."""
        encoded = self._encode(samples)
        return {**encoded.inputs, "failed": sorted(encoded.rejected.items())}

    def trees(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """One row per image, right-padded to W tokens, a little more than the widest tree has.

        Returns:
            Tensors [I, W] of the tokens, among them "depth" and "subtree_end" (see TokenTree); the tensors of the
            images, one entry per image; "asked": per image, the indices of its samples; "last": per image, the node
            that ends the prompt of each of them; "failed". If all samples failed, only "failed".
        """
        failed: dict[int, str] = {}
        asked = list(range(len(samples)))
        while asked:
            encoded = self._encode([samples[i] for i in asked])
            if not encoded.rejected:
                return {**self._plant(encoded, asked), "failed": sorted(failed.items())}
            failed |= {asked[i]: reason for i, reason in encoded.rejected.items()}
            asked = [index for i, index in enumerate(asked) if i not in encoded.rejected]
        return {"failed": sorted(failed.items())}

    def _encode(self, samples: Sequence[Sample]) -> EncodedPrompts:
        return self.encoder.encode(samples, [1] * len(samples), skip_bad=True)

    def _plant(self, encoded: EncodedPrompts, asked: Sequence[int]) -> dict[str, Any]:
        groups = by_image(encoded.images)
        self.once.require(len(groups))
        keep = encoded.inputs["attention_mask"].bool()
        first = keep.int().argmax(dim=1)  # the first token of a row, behind its padding
        rows = [ids[kept].tolist() for ids, kept in zip(encoded.inputs["input_ids"], keep, strict=True)]
        trees = [plant(rows, [len(row) for row in rows], [group]) for group in groups]
        width = -(-max(map(len, trees)) // _WIDTHS) * _WIDTHS
        row, depth = (torch.zeros(len(trees), width, dtype=torch.long) for _ in range(2))
        subtree_end = torch.arange(1, width + 1).repeat(len(trees), 1)  # padding sees itself only
        padding = torch.ones(len(trees), width, dtype=torch.bool)
        for i, tree in enumerate(trees):
            row[i, : len(tree)], depth[i, : len(tree)] = torch.tensor(tree.row), torch.tensor(tree.depth)
            subtree_end[i, : len(tree)] = torch.tensor(tree.subtree_end)
            padding[i, : len(tree)] = False
        batch: dict[str, Any] = {}
        for name, value in encoded.inputs.items():
            if self.inputs.has_tokens(name):
                value = value[row, first[row] + depth]
                value[padding] = self.inputs.padding(name, self._pad_token_id)
            batch[name] = value
        del batch["attention_mask"]
        return batch | {
            "depth": depth,
            "subtree_end": subtree_end,
            "asked": [[asked[i] for i in group] for group in groups],
            "last": [[tree.last[i] for i in group] for tree, group in zip(trees, groups, strict=True)],
        }

    @property
    def _pad_token_id(self) -> int:
        return int(self.encoder.processor.tokenizer.pad_token_id)


class TrainCollator:
    """Samples -> inputs with labels for the answer and the end of the turn only: separate rows or trees.

    A sample that is left out adds nothing to the loss.
    """

    def __init__(
        self,
        processor: Any,
        config: Config,
        *,
        share_images: bool = False,
        pixels: torch.dtype = torch.float32,
        row_tokens: int | None = None,
    ) -> None:
        """Prepares the processor.

        Args:
            processor: as `load_processor` returns it.
            config: the settings.
            share_images: whether the questions on one image become one tree of tokens (vizsage.data.packing).
            pixels: the dtype of pixels in packed rows. The model would round them to it first of all; rounded here,
                half of the bytes are copied from a worker to the GPU.
            row_tokens: maximum tokens of a packed row; for a row with one image only the tokens that its questions do
                not share are counted.

        Raises:
            ConfigError: the chat template cannot serve, the image alone exceeds max_seq_length, or the model has an
                input that its family does not declare.
        """
        if share_images:
            self.once = ImagesOnce(processor)
            processor = self.once.processor
        self.encoder = PromptEncoder(processor, config)
        self.encoder.processing.refuse_undeclared_inputs()
        self.inputs = inputs_of(processor)
        self.config, self.share_images, self.pixels, self.row_tokens = config, share_images, pixels, row_tokens

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """One micro-batch: that of `plain`, or with `share_images` that of `packed`."""
        return self.packed(samples) if self.share_images else self.plain(samples)

    def plain(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """Right-padded rows, one per sample; a placeholder without labels takes the row of one that is left out.

        Returns:
            Tensors [B, T] of the tokens, those of the images, "labels" [B, T], and "left_out": (sample_id, reason).

        Raises:
            BadImage: an image is unusable, and on_bad_image is "fail".
            DataError: a sample has no token to learn from.
        """
        answers = self._answers(samples)
        encoded = self._encode(samples, answers)
        batch = _append_answers(encoded, answers, self.inputs, self.encoder.processor.tokenizer.pad_token_id)
        batch["left_out"] = [(samples[i].sample_id, reason) for i, reason in sorted(encoded.rejected.items())]
        return batch

    def packed(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """One row of N tokens with a tree for each of I images; raises like `plain`.

        Returns:
            Tensors [1, N] of the tokens; those of the images, one entry per image in the order of the trees; "depth",
            "subtree_end" and "tree" [N], "target_positions" and "targets" [K] (see TokenTree); and "left_out".
        """
        left_out: dict[str, str] = {}
        while True:
            answers = self._answers(samples)
            encoded = self._encode(samples, answers)
            left_out |= {samples[i].sample_id: reason for i, reason in sorted(encoded.rejected.items())}
            kept = [sample for i, sample in enumerate(samples) if i not in encoded.rejected]
            if len(kept) == len(samples) or (not kept and len(samples) == 1):
                break
            samples = kept or samples[:1]  # its placeholder: the loss is 0, but it needs a gradient
        groups = by_image(encoded.images)
        self.once.require(len(groups))
        batch = _pack(_append_answers(encoded, answers, self.inputs, 0), groups, self.inputs)
        batch = {k: v.to(self.pixels) if v.is_floating_point() else v for k, v in batch.items()}
        batch["left_out"] = list(left_out.items())
        return batch

    def _answers(self, samples: Sequence[Sample]) -> list[list[int]]:
        answers = [self.encoder.answer_ids(sample) for sample in samples]
        for sample, answer in zip(samples, answers, strict=True):
            if not answer:
                raise DataError(f"{sample.sample_id}: its answer {quoted(sample.answer)} has no token to learn from")
        return answers

    def _encode(self, samples: Sequence[Sample], answers: list[list[int]]) -> EncodedPrompts:
        skip_bad = self.config.on_bad_image == "skip"
        return self.encoder.encode(samples, [len(answer) for answer in answers], skip_bad=skip_bad)


def _pack(batch: dict[str, Any], groups: list[list[int]], inputs: ModelInputs) -> dict[str, Any]:
    """Right-padded rows [B, T, ...] -> the tokens of their trees [1, N, ...]; see TrainCollator.packed."""
    lengths = batch.pop("attention_mask").sum(dim=1).tolist()
    labels = batch.pop("labels")
    rows = [ids[:length] for ids, length in zip(batch["input_ids"].tolist(), lengths, strict=True)]
    prompt_tokens = [n - int((row != IGNORED).sum()) for n, row in zip(lengths, labels, strict=True)]
    tree = plant(rows, prompt_tokens, groups)
    row, depth = torch.tensor(tree.row), torch.tensor(tree.depth)
    packed = {name: value[row, depth][None] if inputs.has_tokens(name) else value for name, value in batch.items()}
    return packed | {
        "depth": depth,
        "subtree_end": torch.tensor(tree.subtree_end),
        "tree": torch.tensor(tree.tree),
        "target_positions": torch.tensor(tree.target_positions, dtype=torch.long),
        "targets": torch.tensor(tree.targets, dtype=torch.long),
    }


def _append_answers(
    encoded: EncodedPrompts, answers: list[list[int]], inputs: ModelInputs, pad_token_id: int
) -> dict[str, Any]:
    """Left-padded prompts [B, P, ...] -> right-padded prompts with answers [B, T, ...] and labels [B, T]."""
    keep = encoded.inputs["attention_mask"].bool()
    answers = [[] if i in encoded.rejected else answer for i, answer in enumerate(answers)]
    prompt_tokens = keep.sum(dim=1).tolist()
    width = max(n + len(answer) for n, answer in zip(prompt_tokens, answers, strict=True))
    batch: dict[str, Any] = {}
    for name, value in encoded.inputs.items():
        if not inputs.has_tokens(name):
            batch[name] = value
            continue
        out = value.new_full((len(answers), width, *value.shape[2:]), inputs.padding(name, pad_token_id))
        for i, answer in enumerate(answers):
            end = prompt_tokens[i]
            out[i, :end] = value[i, keep[i]]
            out[i, end : end + len(answer)] = _answer_rows(inputs, name, value[i, -1], answer)
        batch[name] = out
    labels = batch["input_ids"].new_full((len(answers), width), IGNORED)
    for i, answer in enumerate(answers):
        labels[i, prompt_tokens[i] : prompt_tokens[i] + len(answer)] = labels.new_tensor(answer)
    batch["labels"] = labels
    return batch


def _answer_rows(inputs: ModelInputs, name: str, last_prompt_row: torch.Tensor, answer: list[int]) -> torch.Tensor:
    """The values of input `name` at the tokens of an answer, [len(answer), ...]."""
    if name == "input_ids":
        return last_prompt_row.new_tensor(answer)
    of_answer = inputs.by_token[name].of_answer
    if of_answer == "last":
        return last_prompt_row.expand(len(answer), *last_prompt_row.shape)
    return last_prompt_row.new_full((len(answer), *last_prompt_row.shape), 1 if of_answer == "ones" else 0)
