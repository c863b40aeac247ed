"""What counts as a lack of GPU memory, and what is said of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from vizsage.config import build_config
from vizsage.errors import RepeatingError, is_out_of_memory
from vizsage.models.memory import Activity, memory_exceeded, memory_reported


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (torch.AcceleratorError("CUDA error: out of memory\nCompile with `TORCH_USE_CUDA_DSA`"), True),
        (RuntimeError("NCCL error: unhandled cuda error\nLast error:\nCuda failure 2 'out of memory'"), True),
        (RuntimeError("Triton Error [CUDA]: out of memory"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (RuntimeError("DataLoader worker (pid 7) is killed: out of shared memory"), False),
        (MemoryError("out of memory"), False),
        (ValueError("CUDA out of memory"), False),
    ],
)
def test_what_counts_as_a_lack_of_gpu_memory(error: BaseException, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def said(during: Activity, **changes: Any) -> str:
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has a capacity of ...")
    return memory_exceeded(build_config(changes), error, during)


PLAIN = {"share_images": False, "use_gradient_checkpointing": False, "load_in_4bit": False}


def test_settings_stand_in_the_order_of_their_effect() -> None:
    message = said("training", **PLAIN, batch_size=6, grad_accum=2, resize_px=10**6)
    parts = [
        "set share_images: true",
        "set use_gradient_checkpointing: true",
        "set load_in_4bit: true",
        "lower batch_size to 3 with grad_accum 4 (the same step), or set batch_size: auto in a new run",
        "lower max_seq_length below 2048",
        "lower resize_px below 1000000",
    ]
    places = [message.index(part) for part in parts]
    assert places == sorted(places)
    assert message.endswith("(CUDA out of memory. Tried to allocate 2.00 GiB.)")
    assert "\n" not in message


def test_what_is_done_already_is_not_advised() -> None:
    message = said("training", share_images=True, batch_size=1, optim="adamw_8bit")
    helps = message.split("first: ")[1]
    assert helps.startswith("lower max_seq_length below 2048; set resize_px; take a GPU with more memory")
    assert "batch_size 1, use_gradient_checkpointing unsloth, share_images true" in message


@pytest.mark.parametrize(
    ("during", "changes", "first", "absent"),
    [
        ("a validation", {"num_beams": 4}, "lower max_seq_length", "num_beams"),  # it is greedy
        ("answering", {"num_beams": 4}, "lower num_beams", "eval_batch_size"),  # halved as often as it can be
        ("answering", {}, "lower max_seq_length", "use_gradient_checkpointing"),
        ("loading the base model", {"load_in_4bit": False}, "set load_in_4bit: true", "batch_size"),
        ("loading the base model", {}, "take a GPU with more memory", "batch_size"),
    ],
)
def test_each_activity_has_its_own_settings(during: Activity, changes: dict[str, Any], first: str, absent: str) -> None:
    message = said(during, **changes)
    assert message.split("the most effective first: ")[1].startswith(first)
    assert absent not in message
    assert f"during {during}" in message


@pytest.mark.parametrize("size", [2, 3, 5, 64])
def test_the_advised_batch_makes_the_same_step(size: int) -> None:
    """The run can be continued with it."""
    message = said("training", batch_size=size, grad_accum=3)
    lower, accum = message.split("lower batch_size to ")[1].split(" (the same step)")[0].split(" with grad_accum ")
    assert int(lower) * int(accum) == size * 3
    assert int(lower) < size


def test_other_errors_pass_as_they_are() -> None:
    with pytest.raises(RuntimeError, match="shapes"), memory_reported(build_config({}), "training"):
        raise RuntimeError("shapes")
    with pytest.raises(RepeatingError, match="CUBLAS"), memory_reported(build_config({}), "training"):
        raise RuntimeError("CUBLAS_STATUS_ALLOC_FAILED")
