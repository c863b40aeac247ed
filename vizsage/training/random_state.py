"""The states of the random generators of a process, written as transformers' Trainer reads them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy
import torch


def save_random_state(checkpoint: Path, rank: int, processes: int) -> None:
    """Write the states of Python, NumPy, PyTorch and its GPUs into the folder `checkpoint`."""
    states: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": numpy.random.get_state(),
        "cpu": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state() if processes == 1 else torch.cuda.get_rng_state_all()
    torch.save(states, checkpoint / ("rng_state.pth" if processes == 1 else f"rng_state_{rank}.pth"))
