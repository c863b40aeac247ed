"""The model that answers: which adapter, loaded by which library, and all that decides its answers."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vizsage.config import Config
from vizsage.contract import ADAPTER_WEIGHTS
from vizsage.errors import CheckpointError, ConfigError
from vizsage.files import sha256_file, unreadable
from vizsage.models.loaded import ADAPTER_CONFIG

if TYPE_CHECKING:
    from vizsage.models.loaded import Answering

log = logging.getLogger(__name__)

_BESIDE_WEIGHTS = {".json", ".jinja", ".model", ".txt", ".py"}


@dataclass(frozen=True)
class Answerer:
    """A model that can answer.

    Attributes:
        model: the model.
        config: the settings as resolved for this hardware.
        adapter: its folder; None for the base model.
        made_by: all that decides its answers besides the samples.
    """

    model: Answering
    config: Config
    adapter: Path | None
    made_by: dict[str, Any]


def find_adapter(config: Config, *, base: bool = False, adapter: Path | None = None) -> Path | None:
    """The adapter's folder: `adapter`, or the one that `config` trains; None for the base model.

    Raises:
        ConfigError: `base` together with `adapter`.
        CheckpointError: there is no adapter in the folder.
    """
    if base:
        if adapter is not None:
            raise ConfigError(f"the base model was asked for together with adapter {adapter}; leave one of them out")
        return None
    folder = adapter or config.adapter_dir
    if problem := unreadable(folder / name for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS)):
        raise CheckpointError(problem)
    if not (folder / ADAPTER_CONFIG).is_file():
        raise CheckpointError(
            f"{folder}: no adapter there (adapter_config.json is missing); train it first, name another folder, or "
            "evaluate the base model"
        )
    return folder


def load_answerer(config: Config, adapter: Path | None) -> Answerer:
    """Load the base model and the adapter in folder `adapter`; None: the base model alone.

    Raises:
        ConfigError: settings that the model or this machine does not support.
        CheckpointError: an adapter of another base, template, instruction or pixel limits.
        RepeatingError: GPU memory exceeded.
    """
    from vizsage.data.prompts import fingerprint
    from vizsage.models.loaded import base_path_of
    from vizsage.models.loading.hardware import resolve_for_hardware
    from vizsage.models.memory import memory_reported

    config, replaced = resolve_for_hardware(config)
    for warning in replaced:
        log.warning("%s", warning)
    with memory_reported(config, "loading the base model"):
        ready = _by_vllm(config, adapter) if config.backend == "vllm" else _by_transformers(config, adapter)
    prompt = fingerprint(ready.processor, config, ready.base_identity)
    del prompt["base_model"]  # the same base may have another name elsewhere; base_identity is the same
    made_by = {
        **_adapter_hashes(adapter),
        "base_files_sha256": _base_files_hash(Path(base_path_of(config))),
        "fingerprint": prompt,
        "generation": generation_settings(config),
        "precision": {"dtype": ready.dtype, "load_in_4bit": config.load_in_4bit},
        "max_seq_length": config.max_seq_length,  # longer descriptions are shortened to fit
    }
    if config.backend == "vllm":  # it has other kernels, which in bfloat16 may give another answer
        made_by["backend"] = "vllm"
    return Answerer(ready.model, config, adapter, made_by)


@dataclass(frozen=True)
class _Ready:
    """A model that answers, its processor, the identity of its base, and the type of its numbers."""

    model: Answering
    processor: Any
    base_identity: str
    dtype: str


def _by_transformers(config: Config, adapter: Path | None) -> _Ready:
    """Loaded by the backend hf or unsloth, which give a model of transformers."""
    from vizsage.models.adapters.lora import load_adapter
    from vizsage.models.generation import Generator
    from vizsage.models.loading.backends import load_base

    loaded = load_base(config)
    model = loaded.model if adapter is None else load_adapter(loaded, config, adapter)
    generator = Generator(model, loaded.processor, config)
    if generator.alone:
        log.info("each question is answered with its own copy of the image (slower): %s", generator.alone)
    return _Ready(generator, loaded.processor, loaded.base_identity, str(loaded.dtype).removeprefix("torch."))


def _by_vllm(config: Config, adapter: Path | None) -> _Ready:
    from vizsage.models.loading.vllm import serve

    generator, identity = serve(config, adapter)
    dtype = "bfloat16" if config.use_bf16 else "float32"
    return _Ready(generator, generator.encoder.processor, identity, dtype)


def generation_settings(config: Config) -> dict[str, Any]:
    """The settings that decide how an answer is generated."""
    names = ["max_new_tokens", "num_beams", "do_sample"]
    if config.do_sample:
        names += ["temperature", "top_p", "top_k", "seed"]
    return {name: getattr(config, name) for name in names}


def _adapter_hashes(adapter: Path | None) -> dict[str, str | None]:
    """Hashes of weights and configuration (rank, scale), which both decide the answers."""
    if adapter is None:
        return {"adapter_sha256": None, "adapter_config_sha256": None}
    weights = adapter / ADAPTER_WEIGHTS
    return {
        "adapter_sha256": sha256_file(weights),
        "adapter_config_sha256": sha256_file(adapter / ADAPTER_CONFIG),
    }


def _base_files_hash(base: Path) -> str | None:
    """The hash of the files beside a base model's weights: tokenizer, template, image processor, generation config.

    The weights are in `base_identity`. For a model of the hub this is None, because `base_identity` has its commit.
    """
    if not base.is_dir():
        return None
    files = sorted(path for path in base.iterdir() if path.suffix in _BESIDE_WEIGHTS and path.is_file())
    return hashlib.sha256(json.dumps([[path.name, sha256_file(path)] for path in files]).encode()).hexdigest()
