"""The questions about an architecture. The rest of the package asks them here and knows no architecture by name.

The defaults serve an ordinary decoder-only model: the tokens of its images are part of the row, each token sees those
before it, and its position is its place in the row. A family overrides the methods for which its models differ.

Shapes: R rows, W tokens of the longest, N tokens of a packed row, I images, Q questions on an image.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch

from vizsage.data.model_inputs import ModelInputs
from vizsage.models.shared_image.masks import Rule


class CrossAttention(Protocol):
    """Inputs of a model that reads its images by cross-attention, for rows and trees that share an image."""

    def of_packed_row(self, batch: Mapping[str, Any], mask: Callable[[Rule, int], Any]) -> dict[str, Any]:
        """Inputs for a packed row (see TrainCollator.packed).

        `mask(rule, keys)` is the mask of the row's tokens over `keys` keys.
        """

    def seen(self, trees: Mapping[str, Any]) -> torch.Tensor:
        """[I, W, ...] what each token of `trees` (see PromptCollator.trees) sees of its image."""

    def of_rows(self, seen: torch.Tensor) -> dict[str, Any]:
        """Inputs for rows [I, N], one per image, whose tokens see `seen` [I, N, ...] of it."""


class Family:
    """An architecture family; `registry` lists them all.

    Attributes:
        names: the model types of transformers that belong to it.
        title: its common name, for messages.
        inputs: the inputs of its models, and the attributes of its processor that fingerprint and prompts depend on.
        last_vllm: the last release of vLLM that served it; None if the current one does.
    """

    names: tuple[str, ...] = ()
    title = ""
    inputs = ModelInputs()
    last_vllm: str | None = None

    def why_plain(self, base: Any) -> str | None:
        """Why each question needs a separate row; None where the questions on an image can share it."""
        return None

    def speed_up(self, base: Any) -> None:
        """Patch `base`, just loaded, to compute the same faster. See vizsage.models.patches."""

    def accept_shared_images(self, base: Any) -> None:
        """Patch `base` to take the inputs of its CrossAttention. See vizsage.models.patches."""

    def positions(self, base: Any, batch: Mapping[str, Any], depth: torch.Tensor, tree: torch.Tensor) -> torch.Tensor:
        """Position ids [R, W], or [3, R, W] where positions are multimodal, on the device of `depth`.

        Args:
            base: the model.
            batch: its inputs; those of the images in the order of the trees.
            depth: [R, W] place of a token in its own row.
            tree: [R, W] number of the tree that a token belongs to.
        """
        return depth

    def rule(self, rule: Rule, batch: Mapping[str, Any], row: int) -> Rule:
        """Who sees whom in row `row` of `batch`: `rule` contains it for a causal model."""
        return rule

    def cross_attention(self, base: Any) -> CrossAttention | None:
        """How the model reads its images by cross-attention; None where their tokens are part of the row."""
        return None

    def tokens_beside_row(self, base: Any) -> int:
        """The memory that an answer needs beside its row, as the number of tokens of a row that need as much."""
        return 0

    def is_attention(self, name: str) -> bool:
        """Whether the linear layer `name` belongs to an attention; the others count as feed-forward layers."""
        return any("attn" in part or "attention" in part for part in name.split("."))

    def unused_modules(self, base: Any) -> list[str]:
        """Names of modules whose output is not used, so that they must not have an adapter.

        It would never get a gradient, and DistributedDataParallel refuses such a parameter. The default: vision layers
        behind the one whose output the configuration names as the features.
        """
        layer = getattr(base.config, "vision_feature_layer", None)
        if not isinstance(layer, int):
            return []
        used = layer + base.config.vision_config.num_hidden_layers + 1 if layer < 0 else layer
        unused = []
        for name, _ in base.named_modules():
            number = re.search(r"vision.*\.layers\.(\d+)$", name)
            if (number and int(number[1]) >= used) or re.search(r"vision.*\.post_layernorm$", name):
                unused.append(name)
        return unused


class Undeclared(Family):
    """A model type that no family declares: it trains and answers with a row for each question."""

    def __init__(self, kind: str) -> None:
        """`kind` is its model type in transformers."""
        self.names = (kind,)

    def why_plain(self, base: Any) -> str | None:
        """Sharing an image could change its numbers: no test compares them."""
        return f"models of the kind {self.names[0]!r} are not known to give the same result"
