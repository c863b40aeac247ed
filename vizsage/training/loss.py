"""The loss of a micro-batch: cross entropy of the answer tokens, with logits for these tokens only."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import cross_entropy

from vizsage.data.collate import IGNORED
from vizsage.models.shared_image.sharing import Sharing


def count_targets(batch: dict[str, Any]) -> int:
    """Number of answer tokens of a micro-batch, packed or plain."""
    if "targets" in batch:
        return len(batch["targets"])
    return int((batch["labels"][:, 1:] != IGNORED).sum())


def on_device(batch: dict[str, Any], sharing: Sharing | None, device: torch.device) -> dict[str, torch.Tensor]:
    """The tensors of a micro-batch on `device`, for `summed_loss`. Copies from pinned memory are asynchronous."""
    if sharing is not None:
        batch = sharing.with_positions(batch)
    return {name: value.to(device, non_blocking=True) for name, value in batch.items() if torch.is_tensor(value)}


def summed_loss(model: Any, batch: dict[str, Any], sharing: Sharing | None) -> tuple[torch.Tensor, Any]:
    """Cross entropy summed over the answer tokens of a micro-batch.

    Logits are computed for answer tokens only: an answer has a few tokens, a prompt some hundred. Without any answer
    token the loss is 0 and still has a gradient, as several processes need it.

    Args:
        model: the model with its adapter.
        batch: a micro-batch from `on_device`.
        sharing: runs packed micro-batches; None for plain ones.

    Returns:
        The sum in nats, and the outputs of the model.
    """
    batch = dict(batch)
    if "targets" in batch:
        assert sharing is not None
        positions, targets = batch.pop("target_positions"), batch.pop("targets")
        inputs = sharing.model_inputs(batch)
    else:
        labels = batch.pop("labels")[:, 1:]
        positions = (labels != IGNORED).any(dim=0).nonzero().flatten()
        targets = labels[:, positions].flatten()
        inputs = batch
    if not len(positions):
        positions = torch.zeros(1, dtype=torch.long, device=positions.device)
        targets = torch.full((len(batch["input_ids"]),), IGNORED, device=positions.device)
    outputs = model(**inputs, use_cache=False, logits_to_keep=positions)
    logits = outputs.logits.float().flatten(0, 1)
    return cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum"), outputs
