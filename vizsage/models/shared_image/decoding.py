"""Greedy answers to all questions on a batch of images; each image and what its prompts share is computed once.

A row contains the tree of the prompts on one image (vizsage.data.packing). It is computed once; then, step by step,
each unfinished question adds a token to the row of its image. A token sees its own prompt and its own answer, so the
cache contains the keys and values of shared tokens once.

Shapes: I images, W tokens of the widest tree, Q unfinished questions per image at most, K keys so far.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import DynamicCache

from vizsage.models.families.registry import family_of
from vizsage.models.patches import patch_shared_images
from vizsage.models.shared_image.masks import (
    Rule,
    as_attended,
    build_mask,
    by_kind_of_layer,
    tree_rule,
    window_of,
    within_window,
)

# Not cuDNN: it plans its kernels for each number of keys, about 50 ms each time, and each token adds keys.
_KERNELS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
_COLUMNS = 4  # the questions of a row are padded to a multiple of this: fewer sizes of products


@dataclass
class _Branches:
    """The unfinished questions. A row with fewer than Q repeats one of them in the other columns, which are ignored.

    Attributes:
        tokens: [I, Q] the newest token of each question.
        visible: [I, Q, K] the keys that it sees besides itself.
        position: [I, Q] or [3, I, Q] its position ids.
        depth: [I, Q] its place in its own row.
        seen: [I, Q, ...] what it sees of its image by cross-attention; None without cross-attention.
    """

    tokens: torch.Tensor
    visible: torch.Tensor
    position: torch.Tensor
    depth: torch.Tensor
    seen: torch.Tensor | None

    def select(self, columns: torch.Tensor) -> _Branches:
        """The questions in `columns` [I, Q'] of each row."""

        def of(value: torch.Tensor) -> torch.Tensor:
            index = columns.view(*columns.shape, *[1] * (value.dim() - 2))
            return value.take_along_dim(index, dim=1)

        position = self.position.take_along_dim(columns.expand(*self.position.shape[:-2], *columns.shape), dim=-1)
        seen = None if self.seen is None else of(self.seen)
        return _Branches(of(self.tokens), of(self.visible), position, of(self.depth), seen)

    def rows(self, rows: torch.Tensor) -> _Branches:
        """The questions of the images `rows` [I']."""
        seen = None if self.seen is None else self.seen[rows]
        position = self.position.index_select(-2, rows)
        return _Branches(self.tokens[rows], self.visible[rows], position, self.depth[rows], seen)


class BranchDecoder:
    """Answers trees of prompts (vizsage.data.collate.PromptCollator.trees) with a model that can share images."""

    def __init__(self, base: Any) -> None:
        """Prepares `base`, a model of transformers for which sharing.why_plain is None."""
        self.base = base
        self.family = family_of(base.config)
        # "cache" in newer releases of transformers; 5.40 is to drop "past_key_values".
        named = inspect.signature(type(base).forward).parameters
        self.cache_name = "cache" if "cache" in named else "past_key_values"
        self.window = window_of(base)
        self.cross = self.family.cross_attention(base)
        patch_shared_images(base)

    def generate(
        self, trees: dict[str, torch.Tensor], last: Sequence[Sequence[int]], end_ids: Collection[int], max_tokens: int
    ) -> list[list[list[int]]]:
        """Answer all questions.

        Args:
            trees: inputs of the model with rows [I, W], "depth" and "subtree_end" among them, all on its device.
            last: per image, the node that ends the prompt of each question.
            end_ids: an answer ends with one of these.
            max_tokens: the maximum tokens of an answer.

        Returns:
            Per image and question, the ids of the answer, the one that ended it included.
        """
        with sdpa_kernel(_KERNELS):
            return self._generate(trees, last, end_ids, max_tokens)

    def _generate(
        self, trees: dict[str, torch.Tensor], last: Sequence[Sequence[int]], end_ids: Collection[int], max_tokens: int
    ) -> list[list[list[int]]]:
        answers: list[list[list[int]]] = [[[] for _ in nodes] for nodes in last]
        rows = list(range(len(last)))  # images with unfinished questions
        columns = [list(range(len(nodes))) for nodes in last]  # their questions, by row
        cache = DynamicCache()  # plain layers: layers with a window would drop keys that other questions still see
        key_depth = trees["depth"]
        branches = self._begin(trees, last, cache)
        for step in range(max_tokens):
            chosen = branches.tokens.tolist()
            kept: list[list[int]] = []
            for image, questions, tokens in zip(rows, columns, chosen, strict=True):
                for column, question in enumerate(questions):
                    answers[image][question].append(tokens[column])
                kept.append([c for c in range(len(questions)) if tokens[c] not in end_ids])
            if step + 1 == max_tokens or not any(kept):
                break
            if sum(map(bool, kept)) * 2 <= len(rows):  # copying the others costs time too
                alive = [i for i, left in enumerate(kept) if left]
                index = branches.tokens.new_tensor(alive)
                cache.batch_select_indices(index)
                branches, key_depth = branches.rows(index), key_depth[index]
                rows, columns, kept = [rows[i] for i in alive], [columns[i] for i in alive], [kept[i] for i in alive]
            if sum(map(len, kept)) < sum(map(len, columns)):
                width = _columns(kept)
                spare = [(left + [0] * width)[:width] for left in kept]
                branches = branches.select(branches.tokens.new_tensor(spare))
                columns = [[questions[c] for c in left] for questions, left in zip(columns, kept, strict=True)]
            branches, key_depth = self._step(branches, key_depth, cache)
        return answers

    def _begin(self, trees: dict[str, torch.Tensor], last: Sequence[Sequence[int]], cache: DynamicCache) -> _Branches:
        """Compute the trees and choose the first token of each answer."""
        inputs: dict[str, Any] = {k: value for k, value in trees.items() if k not in ("depth", "subtree_end")}
        depth, subtree_end = trees["depth"], trees["subtree_end"]
        width = _columns(last)
        node = depth.new_tensor([[*nodes, *[nodes[0]] * (width - len(nodes))] for nodes in last])  # [I, Q]
        position = self._positions(trees)
        seen = None
        if self.cross is not None:
            every = self.cross.seen(trees)  # [I, W, ...]
            inputs |= self.cross.of_rows(every)
            seen = every.take_along_dim(node.view(*node.shape, *[1] * (every.dim() - 2)), dim=1)
        wanted, place = node.unique(return_inverse=True)  # logits of no other token
        logits = self.base(
            **inputs,
            attention_mask=self._tree_masks(trees),
            position_ids=position,
            use_cache=True,
            logits_to_keep=wanted,
            **{self.cache_name: cache},
        ).logits
        key = torch.arange(depth.shape[1], device=depth.device)
        visible = (key <= node[..., None]) & (node[..., None] < subtree_end[:, None])
        return _Branches(
            logits.float().argmax(dim=-1).take_along_dim(place, dim=1),
            visible,
            position.take_along_dim(node.expand(*position.shape[:-2], *node.shape), dim=-1) + 1,
            depth.take_along_dim(node, dim=1) + 1,
            seen,
        )

    def _step(
        self, branches: _Branches, key_depth: torch.Tensor, cache: DynamicCache
    ) -> tuple[_Branches, torch.Tensor]:
        """Add the newest token of each answer to the row and choose the next one."""
        images, questions = branches.tokens.shape
        own = torch.eye(questions, dtype=torch.bool, device=key_depth.device).expand(images, -1, -1)
        visible = torch.cat([branches.visible, own], dim=-1)
        key_depth = torch.cat([key_depth, branches.depth], dim=1)
        inputs: dict[str, Any] = {}
        if self.cross is not None and branches.seen is not None:
            inputs |= self.cross.of_rows(branches.seen)
        near = None
        if self.window is not None:
            near = visible & (branches.depth[..., None] - key_depth[:, None] < self.window)
        logits = self.base(
            input_ids=branches.tokens,
            attention_mask=self._masks(visible, near),
            position_ids=branches.position,
            use_cache=True,
            **inputs,
            **{self.cache_name: cache},
        ).logits
        tokens = logits.float().argmax(dim=-1)
        return _Branches(tokens, visible, branches.position + 1, branches.depth + 1, branches.seen), key_depth

    def _positions(self, trees: dict[str, torch.Tensor]) -> torch.Tensor:
        """[I, W], or [3, I, W] where positions are multimodal."""
        depth = trees["depth"]
        number = torch.arange(len(depth), device=depth.device)[:, None].expand_as(depth)
        return self.family.positions(self.base, trees, depth, number)

    def _tree_masks(self, trees: dict[str, torch.Tensor]) -> Any:
        depth, width = trees["depth"], trees["depth"].shape[1]
        ends = trees["subtree_end"]
        rules = [self.family.rule(tree_rule(end), trees, row) for row, end in enumerate(ends)]

        def dense(rules: Sequence[Rule]) -> torch.Tensor:
            return torch.cat([build_mask(rule, width, width, depth.device, flex=False)[0] for rule in rules])

        near = None
        if self.window is not None:
            near = dense([within_window(*each, self.window) for each in zip(rules, depth, strict=True)])
        return self._masks(dense(rules), near)

    def _masks(self, visible: torch.Tensor, near: torch.Tensor | None) -> Any:
        """From who sees whom, [I, queries, keys], and the same within a window, to the masks that the model takes."""
        full = as_attended(self.base, visible[:, None])
        return by_kind_of_layer(full, None if near is None else as_attended(self.base, near[:, None]))


def _columns(questions: Sequence[Sequence[int]]) -> int:
    """The columns for the questions of the row that has the most."""
    return -(-max(map(len, questions)) // _COLUMNS) * _COLUMNS
