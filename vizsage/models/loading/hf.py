"""Loading a base model with transformers, on a GPU or a CPU."""

from __future__ import annotations

import difflib
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vizsage.config import Config
from vizsage.data.model_inputs import declare_inputs
from vizsage.errors import CheckpointError, ConfigError, is_out_of_memory, one_line
from vizsage.files import unreadable
from vizsage.models.loaded import TINY_MODEL, LoadedModel, base_path_of, content_identity
from vizsage.models.loading.hardware import resolve_for_hardware

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)
_HUB_TIMEOUT_S = 10.0


class HubUnreachable(ConfigError):
    """The base model is not on this machine, and the Hugging Face hub cannot be reached."""


def load_processor(config: Config) -> Any:
    """Load the model's processor (tokenizer, image processor, chat template), without weights.

    Raises:
        ConfigError: there is no such model, it is not a vision-language model, or a library is missing.
        CheckpointError: its files are damaged.
    """
    where, _, options = locate(config)
    return load_processor_from(config, where, options)


def load_base(config: Config) -> LoadedModel:
    """Load the base model, frozen and in eval mode, on the device of this process, and its processor.

    In 4 bits (NF4, double quantisation; QLoRA, arXiv:2305.14314) with load_in_4bit, where the hardware can. The GPU is
    that of LOCAL_RANK. Raises like `load_processor`.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForImageTextToText

    from vizsage.models.memory import allocation_failures
    from vizsage.models.patches import patch_loaded

    config, warnings = resolve_for_hardware(config)
    for warning in warnings:
        log.warning("%s", warning)
    where, identity, options = locate(config)
    processor = load_processor_from(config, where, options)
    dtype = torch.bfloat16 if config.use_bf16 else torch.float32
    if config.load_in_4bit:
        options["quantization_config"] = quantisation(dtype)
    if config.attn_implementation != "auto":
        options["attn_implementation"] = config.attn_implementation
    if config.device == "cuda":
        options["device_map"] = {"": device_of(config)}
    failures = allocation_failures()
    try:
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            where, dtype=dtype, output_loading_info=True, **options
        )
        model, info = loaded
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        if is_out_of_memory(error) or allocation_failures() > failures:
            raise torch.OutOfMemoryError(one_line(error)) from error
        raise CheckpointError(
            f"model_name {config.model_name}: its weights cannot be loaded: {one_line(error)}; fetch the model again"
        ) from error
    refuse_absent_weights(config, info)
    model.requires_grad_(False)
    model.eval()
    patch_loaded(model)
    return LoadedModel(model, processor, identity or content_identity(Path(where)), dtype, _switch_checkpointing)


def quantisation(dtype: torch.dtype) -> Any:
    """4 bits as in QLoRA, computing in `dtype`."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def refuse_absent_weights(config: Config, info: dict[str, Any]) -> None:
    """Raise CheckpointError where transformers' loading info names weights that it initialised at random."""
    absent = sorted(info["missing_keys"]) + sorted(str(key) for key in info["mismatched_keys"])
    if absent:
        raise CheckpointError(
            f"model_name {config.model_name}: {len(absent)} weights are missing or of the wrong shape, the first is "
            f"{absent[0]}; fetch the model again"
        )


def _switch_checkpointing(model: Any, config: Config) -> None:
    """Switch gradient checkpointing of `model` with its adapter on, if the settings require it.

    transformers, PEFT and the Trainer make the embeddings require a gradient, those of the vision tower too, which
    costs its backward pass. Checkpointing that is not reentrant does not need it.
    """
    if config.use_gradient_checkpointing:
        base = model.get_base_model()
        base.gradient_checkpointing_enable({"use_reentrant": False})
        base.disable_input_require_grads()


def device_of(config: Config) -> str:
    """The device of this process: "cpu" or "cuda:<LOCAL_RANK>"."""
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if config.device == "cuda" else "cpu"


def locate(config: Config) -> tuple[str, str | None, dict[str, Any]]:
    """Folder or name of the base model, "commit:<sha>" if it is from the hub, and the options of `from_pretrained`."""
    path = base_path_of(config)
    options: dict[str, Any] = {"trust_remote_code": config.trust_remote_code}
    if problem := unreadable([Path(path) / "config.json", *sorted(Path(path).glob("*"))]):
        raise CheckpointError(f"model_name: {problem}")
    if Path(path).is_dir():
        if not (Path(path) / "config.json").is_file():
            raise ConfigError(f"model_name: {path} has no config.json, so it is not a model of transformers")
        return path, None, options
    if path.startswith(("/", ".", "~")) or path.count("/") > 1:
        raise ConfigError(f"model_name: {path}: no such folder; name a folder with a model or a Hugging Face model")
    commit, offline = _hub_commit(config)
    if offline:
        options["local_files_only"] = True
    options["revision"] = commit
    return path, f"commit:{commit}", options


def _hub_commit(config: Config) -> tuple[str, bool]:
    """The commit of `revision`, asked of the hub; without a network the one in the cache, and True."""
    import httpx
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    name, revision = config.model_name, config.revision or "main"
    try:
        commit = HfApi().model_info(name, revision=revision, timeout=_HUB_TIMEOUT_S).sha
        return str(commit), False
    except GatedRepoError:
        problem = "its licence must be accepted on huggingface.co first, then log in with `hf auth login`"
        raise ConfigError(f"model_name {name}: {problem}") from None
    except RevisionNotFoundError:
        raise ConfigError(f"revision {revision}: {name} has no such branch, tag or commit") from None
    except (RepositoryNotFoundError, HFValidationError):
        raise ConfigError(
            f"model_name {name}: neither a folder here nor a model on Hugging Face{_tiny_hint(name)}; check the "
            "spelling, and log in with `hf auth login` if it is private"
        ) from None
    except (OfflineModeIsEnabled, HfHubHTTPError, httpx.HTTPError, OSError) as error:
        cached = try_to_load_from_cache(name, "config.json", revision=revision)
        if not isinstance(cached, str):
            raise HubUnreachable(
                f"model_name {name}: no such folder, not in the Hugging Face cache, and the hub cannot be reached "
                f"({one_line(error)}){_tiny_hint(name)}; download it where there is a network, or name a folder"
            ) from None
        log.info("the Hugging Face hub cannot be reached; %s is taken from the cache", name)
        return Path(cached).parent.name, True


def _tiny_hint(name: str) -> str:
    """What follows the message on a model that is not there: whether its name is almost that of the embedded one."""
    near = difflib.get_close_matches(name.lower(), [TINY_MODEL], cutoff=0.8)
    return f", did you mean {TINY_MODEL}?" if near else ""


def load_processor_from(config: Config, where: str, options: dict[str, Any]) -> Any:
    """Load the processor of a base model that `locate` has found. Raises like `load_processor`."""
    from transformers import AutoConfig, AutoProcessor
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    from vizsage.models.families.registry import examples, family_of

    name = config.model_name
    try:
        model_config = AutoConfig.from_pretrained(where, **options)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"model_name {name}: its config.json cannot be used: {one_line(error)}") from error
    remote = config.trust_remote_code and "AutoModelForImageTextToText" in getattr(model_config, "auto_map", {})
    if model_config.model_type not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES and not remote:
        raise ConfigError(
            f"model_name {name}: found a {model_config.model_type} model, which is not a vision-language model of "
            f"transformers; choose one that reads an image and text, for example {examples()}"
        )
    try:
        processor = AutoProcessor.from_pretrained(where, **options)
    except (ImportError, OSError, ValueError, KeyError, TypeError) as error:
        if library := _missing_library(error):
            raise ConfigError(
                f"model_name {name}: its processor needs {library}, which is not installed; `pip install {library}`"
            ) from error
        raise CheckpointError(f"model_name {name}: its processor cannot be loaded: {one_line(error)}") from error
    if getattr(processor, "image_processor", None) is None or getattr(processor, "tokenizer", None) is None:
        raise CheckpointError(f"model_name {name}: its processor files are missing; fetch the whole model")
    tokenizer = processor.tokenizer
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # padding has no labels, so it may be the end of a turn
    declare_inputs(processor, family_of(model_config).inputs)
    return processor


def _missing_library(error: Exception) -> str | None:
    """The library that transformers lacks: it raises an ImportError, or a ValueError that lists what is missing."""
    text = str(error).lower()
    if not isinstance(error, ImportError) and "missing optional dependencies" not in text:
        return None
    return next((name for name in ("torchvision", "num2words", "sentencepiece") if name in text), None)
