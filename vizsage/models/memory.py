"""GPU memory: how much there is, which processes use it, and which settings help when it is not enough."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from vizsage.config import Config
from vizsage.errors import RepeatingError, is_out_of_memory

Activity = Literal["loading the base model", "training", "a validation", "answering"]
_GIB = 2**30
# The driver and the context of this process use about this much, which PyTorch does not count.
_CONTEXT_BYTES = _GIB


@contextmanager
def memory_reported(config: Config, during: Activity) -> Iterator[None]:
    """Turn running out of GPU memory into a RepeatingError of one line: the numbers, and what would help."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise RepeatingError(memory_exceeded(config, error, during)) from error


def memory_exceeded(config: Config, error: BaseException, during: Activity) -> str:
    """A message: memory used and limit, other processes, and the settings that would help, the most effective first."""
    first_line = (str(error).splitlines() or [type(error).__name__])[0]
    advice = [*_advice(config, during), "take a GPU with more memory or a smaller base model"]
    return (
        f"GPU memory exceeded during {during}: {usage()} with {_settings(config, during)}; what helps, the most "
        f"effective first: {'; '.join(advice)} ({first_line})"
    )


def limit_bytes() -> int:
    """Bytes of GPU memory that this process may use: all, or the fraction that PyTorch was given."""
    device = torch.cuda.current_device()
    share = torch.cuda.get_per_process_memory_fraction(device)
    return int(torch.cuda.get_device_properties(device).total_memory * share)


def allocation_failures() -> int:
    """How often this process ran out of GPU memory; transformers reports it as an error of conversion when it loads."""
    return int(torch.cuda.memory_stats().get("num_ooms", 0)) if torch.cuda.is_initialized() else 0


def usage() -> str:
    """Peak and limit of this process, and the memory that other processes use on its GPU."""
    if not torch.cuda.is_available():
        return "not counted without a GPU"
    try:
        free, total = torch.cuda.mem_get_info()
    except RuntimeError:
        return "no memory is left even for CUDA itself (see nvidia-smi)"
    peak = torch.cuda.max_memory_allocated() / _GIB
    text = f"peak {peak:.1f} of {limit_bytes() / _GIB:.1f} GiB"
    others = total - free - torch.cuda.memory_reserved() - _CONTEXT_BYTES
    if others > 0:
        text += f" ({others / _GIB:.1f} GiB more in use by other processes, see nvidia-smi)"
    return text


def _settings(config: Config, during: Activity) -> str:
    """The settings that decide how much memory is needed, with their values."""
    names = ["load_in_4bit"]
    if during == "training":
        names += ["batch_size", "use_gradient_checkpointing", "share_images"]
    if during in ("a validation", "answering"):
        names += ["max_new_tokens"]
    if during == "answering":
        names += ["num_beams"]
    if during != "loading the base model":
        names += ["max_seq_length", "resize_px"]
    shown = ((name, getattr(config, name)) for name in names)
    return ", ".join(f"{name} {json.dumps(value).strip(chr(34))}" for name, value in shown)


def _advice(config: Config, during: Activity) -> Iterator[str]:
    if during == "training":
        if config.share_images is False:
            yield "set share_images: true"
        if not config.use_gradient_checkpointing:
            yield "set use_gradient_checkpointing: true"
    elif during == "answering" and config.num_beams > 1:
        yield "lower num_beams"  # eval_batch_size was halved already, down to one
    if not config.load_in_4bit and config.backend != "vllm":
        yield "set load_in_4bit: true"
    if during == "loading the base model":
        return
    if during == "training":
        size = config.batch_size
        if size != "auto" and size > 1:
            factor = 2 if size % 2 == 0 else size
            yield (
                f"lower batch_size to {size // factor} with grad_accum {config.grad_accum * factor} (the same step), "
                "or set batch_size: auto in a new run"
            )
        if config.optim in ("adamw_torch", "adamw_torch_fused"):
            yield "set optim: adamw_8bit"
    yield f"lower max_seq_length below {config.max_seq_length}"
    yield "set resize_px" if config.resize_px is None else f"lower resize_px below {config.resize_px}"
