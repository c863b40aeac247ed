"""What all backends share: a loaded base model, where it is stored, what identifies it, and an answer."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import vizsage
from vizsage.config import Config
from vizsage.data.sample import Sample
from vizsage.files import read_json

if TYPE_CHECKING:
    import torch

TINY_MODEL = "vizsage-tiny"
FINGERPRINT_FILE = "fingerprint.json"
ADAPTER_CONFIG = "adapter_config.json"
_SAMPLES, _SAMPLE_BYTES = 64, 4096
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


@dataclass
class LoadedModel:
    """A base model in eval mode, all weights frozen, with its processor.

    Attributes:
        model: a model of transformers.
        processor: tokenizer, image processor and chat template.
        base_identity: "commit:<sha>" of a Hugging Face repository, or "content:<sha256>" of a folder; it does not
            depend on where the model is stored.
        dtype: the precision in which the model computes.
        checkpointing: switches the gradient checkpointing of the backend on, by the settings, for a model that has
            an adapter to train.
    """

    model: Any
    processor: Any
    base_identity: str
    dtype: torch.dtype
    checkpointing: Callable[[Any, Config], None]


@dataclass(frozen=True)
class Answer:
    """The model's answer to one sample.

    Attributes:
        sample_id: of the sample.
        text: decoded from `token_ids`, without outer white space and special tokens; None when the sample failed.
        token_ids: the generated ids before the end.
        finish_reason: "stop" at an end, "length" at max_new_tokens.
        error: why the sample failed.
        raw_text: decoded with white space and special tokens.
    """

    sample_id: str
    text: str | None
    token_ids: list[int] = field(default_factory=list)
    finish_reason: Literal["stop", "length", "failed"] = "stop"
    error: str | None = None
    raw_text: str | None = None


class Answering(Protocol):
    """A loaded model that answers samples, with any library."""

    def prompt_ids(self, sample: Sample) -> list[int]:
        """The token ids of a sample's prompt with its whole description; the image is one placeholder."""

    def batches(self, samples: Sequence[Sample]) -> list[list[Sample]]:
        """All of `samples` in the batches that `answer` takes; they depend only on samples and settings."""

    def answer(self, batches: Sequence[Sequence[Sample]]) -> Iterator[list[Answer]]:
        """The answers to each of `batches`, in its order. Raises DataError and torch.OutOfMemoryError."""


def base_path_of(config: Config) -> str:
    """Folder or Hugging Face name of the base model; `vizsage-tiny` is a folder of the package."""
    if config.model_name == TINY_MODEL:
        return str(Path(vizsage.__file__).parent / "demo" / "tiny" / "weights")
    return config.model_name


def hub_name(config: Config) -> str | None:
    """The name of the base model on the Hugging Face hub, never a path: other machines do not have it.

    That of a folder is the one which its config.json names. None if there is none.
    """
    folder = Path(base_path_of(config))
    if not folder.is_dir():
        return config.model_name
    try:
        saved = read_json(folder / "config.json")
    except (OSError, ValueError, RecursionError):
        return None
    name = saved.get("_name_or_path") if isinstance(saved, dict) else None
    # A relative path has the form of a name; one that exists here is a path.
    is_name = isinstance(name, str) and _HUB_NAME.fullmatch(name) and not Path(name).exists()
    return name if is_name else None


def content_identity(folder: Path) -> str:
    """Hash of config.json and of the headers, sizes and samples of the weight files. Takes milliseconds.

    Fine-tuning changes most weights at least a little, so 64 samples per file distinguish two models of one
    architecture.
    """
    digest = hashlib.sha256()
    names = ["config.json", *sorted(p.name for p in folder.iterdir() if p.suffix in (".safetensors", ".bin"))]
    for name in names:
        path = folder / name
        digest.update(json.dumps([name, path.stat().st_size]).encode())
        digest.update(path.read_bytes() if name == "config.json" else _header_and_samples(path))
    return f"content:{digest.hexdigest()}"


def _header_and_samples(path: Path) -> bytes:
    """The header of a safetensors file (a JSON text after its length in 8 bytes) and 64 samples of the file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        header = file.read(min(int.from_bytes(file.read(8), "little"), size)) if path.suffix == ".safetensors" else b""
        places = []
        for part in range(_SAMPLES):
            file.seek(part * max(size - _SAMPLE_BYTES, 0) // (_SAMPLES - 1))
            places.append(file.read(_SAMPLE_BYTES))
    return header + b"".join(places)


def foreign_folder(folder: Path) -> str | None:
    """Why no adapter can be written to `folder`: it exists and contains something else. None if one can."""
    if not folder.exists() or (folder / ADAPTER_CONFIG).is_file() or (folder.is_dir() and not any(folder.iterdir())):
        return None
    return f"name_trained_model: {folder} is there already and is no adapter; choose another name or save_path"


def cuda_devices(model: Any) -> list[Any]:
    """The GPU whose random state a computation of `model` uses; empty on a CPU."""
    return [model.device] if model.device.type == "cuda" else []
