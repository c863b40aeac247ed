"""What every backend deals in: a loaded base model, where it lies and what identifies it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vizsage.config import Config

if TYPE_CHECKING:
    import torch

TINY_MODEL = "vizsage-tiny"
FINGERPRINT_FILE = "fingerprint.json"


@dataclass
class LoadedModel:
    """A base model in eval mode, every weight frozen, with its processor.

    `base_identity` tells bases apart wherever they lie: "commit:<sha>" of a Hugging Face repository, or
    "content:<sha256>" of a folder. `dtype` is what the model computes in.
    """

    model: Any
    processor: Any
    base_identity: str
    dtype: torch.dtype


def base_path_of(config: Config) -> str:
    """Folder or Hugging Face name of the base model; `vizsage-tiny` lies in the package."""
    if config.model_name == TINY_MODEL:
        return str(Path(__file__).parent / "tiny" / "weights")
    return config.model_name


def content_identity(folder: Path) -> str:
    """Hash of config.json and of the headers and sizes of the weight files: milliseconds, however large they are."""
    digest = hashlib.sha256()
    names = ["config.json", *sorted(p.name for p in folder.iterdir() if p.suffix in (".safetensors", ".bin"))]
    for name in names:
        path = folder / name
        digest.update(json.dumps([name, path.stat().st_size]).encode())
        digest.update(path.read_bytes() if name == "config.json" else _safetensors_header(path))
    return f"content:{digest.hexdigest()}"


def _safetensors_header(path: Path) -> bytes:
    """Names, shapes, types and places of the tensors: a JSON text after its length in 8 bytes, little-endian."""
    if path.suffix != ".safetensors":
        return b""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        return file.read(min(length, path.stat().st_size))


def cuda_devices(model: Any) -> list[Any]:
    """The GPU whose random state a computation of `model` draws from; empty on a CPU."""
    return [model.device] if model.device.type == "cuda" else []
