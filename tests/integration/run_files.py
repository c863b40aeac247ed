"""A run of seconds with the embedded model, what may happen to it, and what is read off it afterwards.

The tests with SLURM and with Kubernetes start such runs.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from vizsage.json_lines import read_jsonl

ROOT = Path(__file__).parents[2]
MISHAPS = Path(__file__).parent / "mishaps"
ADAPTER = "vizsage-adapter"


def settings(**changes: Any) -> dict[str, Any]:
    """Settings of a run of 9 steps with dropout; where data and run directory are must be added."""
    nine_steps: dict[str, Any] = {
        "model_name": "vizsage-tiny",
        "name_trained_model": ADAPTER,
        "device": "cpu",
        "backend": "hf",
        "load_in_4bit": False,
        "use_bf16": False,
        "use_gradient_checkpointing": False,
        "lora_r": 4,
        "lora_dropout": 0.1,
        "batch_size": 2,
        "grad_accum": 2,
        "max_steps": 9,
        "lr": 2e-3,
        "warmup_steps": 2,
        "logging_steps": 1,
        "eval_steps": 4,
        "save_steps": 3,
        "val_samples": 4,
        "max_new_tokens": 4,
        "eval_batch_size": 4,
        "num_proc": 0,
        "dataset": "Demo",
    }
    return nine_steps | changes


def attempts(run_dir: Path) -> list[dict[str, Any]]:
    """What run.json contains about each attempt."""
    found: list[dict[str, Any]] = json.loads((run_dir / "run.json").read_text())["attempts"]
    return found


def outcome(run_dir: Path) -> dict[str, Any]:
    """outcome.json."""
    found: dict[str, Any] = json.loads((run_dir / "outcome.json").read_text())
    return found


def adapter_sha256(run_dir: Path) -> str:
    """Hash of the weights that a run delivered."""
    return hashlib.sha256((run_dir / ADAPTER / "adapter_model.safetensors").read_bytes()).hexdigest()


def losses(run_dir: Path) -> list[float]:
    """The loss of each step."""
    return [line["loss"] for line in read_jsonl(run_dir / "metrics.jsonl") if "loss" in line]


def held(run_dir: Path, processes: int = 1) -> bool:
    """Whether each training process waits for a signal, as mishaps/sitecustomize.py has it."""
    return len(list(run_dir.glob("held-*"))) >= processes
