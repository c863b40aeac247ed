"""The contenders that are measured, and the settings that the process of one receives."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Contender:
    """`kind`: vizsage, unsloth or trl. Backend and sharing concern vizsage; on a CPU, "16 bits" are float32."""

    name: str
    kind: str
    bits: int
    backend: str | None = None
    shared: bool = False


def _vizsage(backend: str, *, shared: bool, bits: int) -> Contender:
    return Contender(f"vizsage-{backend}-{'shared' if shared else 'plain'}-{bits}bit", "vizsage", bits, backend, shared)


# In the order in which they run: first what the ratios and bars are about.
CONTENDERS = {
    contender.name: contender
    for contender in (
        Contender("unsloth-16bit", "unsloth", 16),
        Contender("trl-16bit", "trl", 16),
        _vizsage("hf", shared=True, bits=16),
        _vizsage("unsloth", shared=True, bits=16),
        Contender("unsloth-4bit", "unsloth", 4),
        _vizsage("hf", shared=True, bits=4),
        _vizsage("unsloth", shared=True, bits=4),
        _vizsage("hf", shared=False, bits=16),
        _vizsage("unsloth", shared=False, bits=16),
        _vizsage("hf", shared=False, bits=4),
        _vizsage("unsloth", shared=False, bits=4),
    )
}


@dataclass(frozen=True)
class Job:
    """What is measured; the same for every contender. The result contains all of it except the folders."""

    size: str
    family: str
    text_tokens: int  # of a row with its answer, without the image's
    step_questions: int  # of an optimizer step
    our_batch: int  # questions of a forward pass, sharing
    their_batch: int  # questions of a forward pass, one row each
    warmup: int
    steps: int
    overrides: tuple[str, ...]  # key=value for this project's settings
    unsloth_resize: str
    work: str
    models: str

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides a figure."""
        return {key: value for key, value in asdict(self).items() if key not in ("work", "models")}

    @property
    def max_length(self) -> int:
        """Longest row in tokens."""
        return MAX_LENGTH[self.size, self.family]

    def measured_steps(self, contender: Contender) -> tuple[int, int]:
        """Optimizer steps before and during the measurement.

        A contender that computes an image for each question takes fewer: its steps are long and all alike. One that
        shares images needs many, because the first steps find their data already read during the warm-up.
        """
        if contender.shared:
            return self.warmup, self.steps
        return max(2, self.warmup // 2), max(2, self.steps // 6)

    def data_folder(self, questions: float) -> Path:
        """The data set with that many questions per image."""
        return Path(self.work) / f"data-{questions:g}"

    def save(self, path: Path) -> None:
        """Write it for a process to read."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Job:
        """Read what `save` wrote."""
        values = json.loads(path.read_text(encoding="utf-8"))
        return cls(**{**values, "overrides": tuple(values["overrides"])})


class NotHere(Exception):
    """A contender cannot run on this machine; the text is the reason."""


# What all train alike: LoRA on attention and feed-forward layers of the language model.
LORA: dict[str, Any] = {"r": 32, "lora_alpha": 32, "lora_dropout": 0.0, "bias": "none"}
LEARNING_RATE = 1e-4
WEIGHT_DECAY = 0.01
SEED = 3407
# Longest row, and questions of a forward pass when sharing. On a CPU the mask of a shared row is dense: short rows.
MAX_LENGTH = {
    ("real", "mllama"): 2048, ("real", "qwen2_5_vl"): 2048, ("tiny", "mllama"): 256, ("tiny", "qwen2_5_vl"): 1024
}  # fmt: skip
OUR_BATCH = {
    ("real", "mllama"): 24, ("real", "qwen2_5_vl"): 24, ("tiny", "mllama"): 4, ("tiny", "qwen2_5_vl"): 4
}  # fmt: skip
