"""The small run of the training tests, and a GPU that is whole again after each test."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator

import pytest

from tests.training.conftest import data_dir, make_config, settings, tiny_mllama

__all__ = ["data_dir", "leave", "make_config", "settings", "tiny_mllama"]


@pytest.fixture
def leave() -> Iterator[Callable[[int], None]]:
    """Leaves PyTorch so many bytes of the GPU's memory beyond what it has, 0: none; all of it again afterwards."""
    import torch

    held: list[torch.Tensor] = []

    def set_limit(free_bytes: int) -> None:
        held.clear()
        gc.collect()
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + free_bytes) / total)

        for size in (1 << 24, 1 << 21, 1 << 20, 1 << 14, 512) if not free_bytes else ():  # its own free blocks
            with contextlib.suppress(torch.OutOfMemoryError):
                while True:
                    held.append(torch.empty(size, dtype=torch.uint8, device="cuda"))

    yield set_limit
    held.clear()
    torch.cuda.set_per_process_memory_fraction(1.0)
    gc.collect()
    torch.cuda.empty_cache()
