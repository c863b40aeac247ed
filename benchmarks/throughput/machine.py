"""The machine of a measurement, and what a process took of it."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import platform
from pathlib import Path
from typing import Any

from benchmarks.throughput.contenders import Contender, NotHere

LIBRARIES = ("torch", "transformers", "peft", "trl", "bitsandbytes", "unsloth", "unsloth_zoo")


def describe_machine() -> dict[str, Any]:
    """Device, cores and versions; two measurements with the same ones can be compared."""
    import torch

    device = platform.machine()
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        device = f"{properties.name}, {properties.total_memory / 1e9:.0f} GB"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions = {name: _version(name) for name in LIBRARIES}
    return {"device": device, "cores": cores, "python": platform.python_version(), **versions}


def check_possible(contender: Contender) -> None:
    """Raises NotHere where this machine lacks what the contender needs. Imports torch."""
    import torch

    cuda = torch.cuda.is_available()
    needs_unsloth = "unsloth" in (contender.kind, contender.backend)
    if needs_unsloth and not cuda:
        raise NotHere("unsloth needs a GPU")
    if needs_unsloth and importlib.util.find_spec("unsloth") is None:
        raise NotHere("the package unsloth is not installed")
    if contender.bits == 4 and not cuda:
        raise NotHere("4 bits need a GPU")
    if contender.bits == 4 and importlib.util.find_spec("bitsandbytes") is None:
        raise NotHere("4 bits need bitsandbytes, which is not installed")


def free_memory() -> bool:
    """Whether the last measurement has left (nearly) nothing on the GPU; resets the peaks."""
    import gc

    import torch

    gc.collect()
    if not torch.cuda.is_available():
        _reset_resident_peak()
        return True
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated() < 1e9


def peak_gb() -> float | None:
    """Most memory since the last start: of the GPU as torch counts it, else resident memory of this process (Linux)."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    words = status.read_text(encoding="ascii").split()
    return int(words[words.index("VmHWM:") + 1]) * 1024 / 1e9


def _reset_resident_peak() -> None:
    """Let Linux count the resident peak from now on; elsewhere, or where that is forbidden, it stays."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
