"""LoRA adapters: which modules get one, how they are trained, saved and loaded.

LoRA: arXiv:2106.09685. rsLoRA: arXiv:2312.03732. DoRA: arXiv:2402.09353. LoftQ: arXiv:2310.08659.
"""

from __future__ import annotations

import logging
import re
import shutil
import warnings
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vizsage.config import Config
from vizsage.data.prompts import compare_fingerprints, fingerprint
from vizsage.errors import CheckpointError, ConfigError, is_out_of_memory, one_line
from vizsage.files import (
    exchange,
    fsync_dir,
    new_folder,
    read_json,
    remove_remains,
    settle_tree,
    unreadable,
    write_json,
)
from vizsage.models.adapters.adapter_config import LOADING_ERRORS, check_adapter_config
from vizsage.models.adapters.adapter_weights import adapter_shapes, check_weights
from vizsage.models.adapters.lora_linear import fast_lora
from vizsage.models.loaded import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    FINGERPRINT_FILE,
    LoadedModel,
    cuda_devices,
    foreign_folder,
)

log = logging.getLogger(__name__)
_LOFTQ = {"loftq_bits": 4, "loftq_iter": 1}  # PEFT's own values, which it lacks where one of them is named


def add_adapter(loaded: LoadedModel, config: Config) -> Any:
    """A fresh LoRA adapter on `loaded.model` as the finetune_* settings say; only it is trainable.

    Its first weights depend on config.seed alone; the global random state is left as it was. Raises ConfigError.
    """
    from peft import LoraConfig, get_peft_model

    targets, norms = select_modules(loaded.model, config)
    settings: dict[str, Any] = {"lora_alpha": config.lora_alpha}
    if config.loftq_config is not None:
        settings |= {"init_lora_weights": "loftq", "loftq_config": _LOFTQ | config.loftq_config}
    try:
        lora = LoraConfig(
            task_type="CAUSAL_LM",
            r=config.lora_r,
            lora_dropout=config.lora_dropout,
            bias=config.bias,
            use_rslora=config.use_rslora,
            use_dora=config.use_dora,
            # A pattern, not a list: PEFT turns lists into sets, whose order in the saved file changes by process.
            target_modules=exact_pattern(targets, loaded.model),
            modules_to_save=norms or None,
            **settings,
        )
        with torch.random.fork_rng(devices=cuda_devices(loaded.model)):
            torch.manual_seed(config.seed)
            model = get_peft_model(loaded.model, lora)
    except (ImportError, ValueError, RuntimeError) as error:
        if config.loftq_config is None or is_out_of_memory(error):
            raise
        raise ConfigError(
            f"loftq_config: LoftQ needs a GPU, bitsandbytes and scipy ({one_line(error)}); set loftq_config: null"
        ) from error
    _restrict_biases(model, config)
    _prepare_training(model)
    loaded.checkpointing(model, config)
    return model


def select_modules(model: Any, config: Config) -> tuple[list[str], list[str]]:
    """Names of the linear layers that get LoRA and of the norm layers that are trained in full, both sorted.

    The decoder is the language part; the vision tower and whatever joins it to the decoder are the vision part.
    The output head, embeddings and convolutions are never chosen.
    """
    language = language_part(model)
    head = model.get_output_embeddings()
    skipped = tuple(f"{unused}." for unused in _unused_vision_layers(model))
    targets, norms = [], []
    for name, module in model.named_modules():
        in_language = name.startswith(f"{language}.")
        chosen = config.finetune_language_layers if in_language else config.finetune_vision_layers
        if module is head or not chosen or f"{name}.".startswith(skipped):
            continue
        if isinstance(module, nn.Linear):
            attention = _is_attention(name)
            if config.finetune_attention_modules if attention else config.finetune_mlp_modules:
                targets.append(name)
        elif config.finetune_norm_layers and _is_norm(module):
            norms.append(name)
    experts = _fused_experts(model) if config.finetune_language_layers and config.finetune_mlp_modules else []
    if not targets:
        raise ConfigError(
            "finetune_* settings: no layer of this model fits them; switch more of them on"
            + (" (the experts of its MLPs are no linear layers and get no adapters)" if experts else "")
        )
    if experts:
        log.warning(
            "finetune_mlp_modules: the experts of this model get no adapters: %d layers such as %s keep the weights of "
            "all experts in one parameter, and adapters are for linear layers; the other layers are trained",
            len(experts),
            experts[0],
        )
    return sorted(targets), sorted(norms)


def language_part(model: Any) -> str:
    """The name of the language model inside `model`; all else belongs to the vision part. Raises ConfigError."""
    return _name_of(model, model.get_decoder())


def exact_pattern(names: list[str], model: nn.Module) -> str:
    """A short regular expression that matches `names` and no other module of `model`."""
    shapes = sorted({re.sub(r"\\\.\d+(?=\\\.|$)", r"\\.\\d+", re.escape(name)) for name in names})
    pattern = "|".join(shapes)
    matched = {name for name, _ in model.named_modules() if re.fullmatch(pattern, name)}
    return pattern if matched == set(names) else "|".join(re.escape(name) for name in sorted(names))


def load_adapter(loaded: LoadedModel, config: Config, folder: Path, *, trainable: bool = False) -> Any:
    """The adapter in `folder` on `loaded.model`, in eval mode unless `trainable`.

    Raises CheckpointError: no adapter there, trained on another base, or with another prompt or other pixels, or its
    weights are not those of a whole adapter.
    """
    from peft import PeftModel
    from safetensors import SafetensorError

    check_adapter(loaded.processor, loaded.base_identity, config, folder)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Found missing adapter keys")  # check_weights says it
            model = PeftModel.from_pretrained(loaded.model, str(folder), is_trainable=trainable)
            shapes = adapter_shapes(model)
    except (*LOADING_ERRORS, SafetensorError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise CheckpointError(f"{folder}: the adapter cannot be loaded: {one_line(error)}") from error
    check_weights(folder, shapes)
    _restrict_biases(model, config)
    if trainable:
        _prepare_training(model)
        loaded.checkpointing(model, config)
    return model if trainable else model.eval()


def check_adapter(processor: Any, base_identity: str, config: Config, folder: Path) -> None:
    """Raise CheckpointError unless `folder` holds an adapter for this base, prompt and pixel limits."""
    if problem := unreadable(folder / name for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS)):
        raise CheckpointError(problem)
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such adapter; train one first, or name its folder")
    if not (folder / ADAPTER_CONFIG).is_file():
        raise CheckpointError(f"{folder}: found no {ADAPTER_CONFIG}, so it is no adapter; name the folder of one")
    check_adapter_config(folder)
    if not (folder / ADAPTER_WEIGHTS).is_file():  # PEFT would look for other formats, then ask the hub
        raise CheckpointError(
            f"{folder}: found no {ADAPTER_WEIGHTS}; copy its whole folder again, or train the adapter again"
        )
    try:
        saved = read_json(folder / FINGERPRINT_FILE)
    except FileNotFoundError:
        raise CheckpointError(
            f"{folder}: found no {FINGERPRINT_FILE}, so what it was trained on is not known; train it with vizsage"
        ) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder / FINGERPRINT_FILE}: cannot be read: {error}") from None
    if not isinstance(saved, dict):
        raise CheckpointError(f"{folder / FINGERPRINT_FILE}: found no object; train the adapter again")
    current = fingerprint(processor, config, base_identity)
    different = compare_fingerprints(saved, current)
    if "base_identity" in different:
        raise CheckpointError(
            f"{folder}: trained on {saved.get('base_model')} ({saved.get('base_identity')}), but model_name is "
            f"{current['base_model']} ({current['base_identity']}); use the base that it was trained on"
        )
    if different:
        clauses = [f"{key} is {current[key]!r}, the adapter was trained with {saved.get(key)!r}" for key in different]
        raise CheckpointError(f"{folder}: " + "; ".join(clauses) + "; use the settings of its training")


def save_adapter(model: Any, processor: Any, config: Config, folder: Path, base_identity: str) -> None:
    """Write adapter, processor and fingerprint to `folder`: whole or not at all, also over an earlier one."""
    if problem := foreign_folder(folder):
        raise ConfigError(problem)
    folder.parent.mkdir(parents=True, exist_ok=True)
    remove_remains(folder.parent, [folder.name])
    temporary = new_folder(folder)
    try:
        model.save_pretrained(str(temporary))
        processor.save_pretrained(str(temporary))
        write_json(temporary / FINGERPRINT_FILE, fingerprint(processor, config, base_identity))
        settle_tree(temporary)
        if folder.exists():
            exchange(temporary, folder)
        else:
            temporary.rename(folder)
        fsync_dir(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _prepare_training(model: Any) -> None:
    for parameter in model.parameters():
        # PEFT does this for LoRA weights only; in bfloat16 a norm's weight of 1 would not feel an update of 0.003.
        if parameter.requires_grad and parameter.is_floating_point():
            parameter.data = parameter.data.float()
    fast_lora(model)
    _run_frozen_vision_without_gradient(model.get_base_model())


def _run_frozen_vision_without_gradient(base: Any) -> None:
    """Nothing of a frozen vision part is kept for the backward pass, whatever its inputs.

    All of it or nothing: a projector without adapters still carries the gradient of a tower with some.
    """
    parts = _vision_parts(base, base.get_decoder())
    if not any(parameter.requires_grad for part in parts for parameter in part.parameters()):
        for part in parts:
            part.forward = _no_grad(part.forward)


def _no_grad(forward: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(forward)
    def without_gradient(*args: Any, **kwargs: Any) -> Any:
        with torch.no_grad():
            return forward(*args, **kwargs)

    return without_gradient


def _vision_parts(base: nn.Module, decoder: nn.Module) -> list[nn.Module]:
    """The siblings of the decoder: vision tower, projector, connector."""
    parent = base.get_submodule(_name_of(base, decoder).rpartition(".")[0])
    return [child for child in parent.children() if child is not decoder]


def _restrict_biases(model: Any, config: Config) -> None:
    """PEFT's bias: all reaches into parts that were not chosen; those stay frozen."""
    if config.bias != "all":
        return
    base = model.get_base_model()
    decoder = base.get_decoder()
    language = {id(p) for p in decoder.parameters()}
    unused = tuple(f"{name}." for name in _unused_vision_layers(base))
    for name, parameter in base.named_parameters():
        chosen = config.finetune_language_layers if id(parameter) in language else config.finetune_vision_layers
        if name.endswith("bias") and (not chosen or name.startswith(unused)):
            parameter.requires_grad_(False)


def _name_of(model: nn.Module, wanted: nn.Module) -> str:
    name = next((name for name, module in model.named_modules() if module is wanted), "")
    if not name:
        raise ConfigError(f"{type(model).__name__} has no separate language model, so LoRA cannot be placed on it")
    return name


def _is_attention(name: str) -> bool:
    return any("attn" in part or "attention" in part for part in name.split("."))


def _is_norm(module: nn.Module) -> bool:
    own = [name for name, _ in module.named_parameters(recurse=False)]
    return "norm" in type(module).__name__.lower() and "weight" in own and not any(module.children())


def _fused_experts(model: Any) -> list[str]:
    """Layers of the language model with one parameter for the weights of all experts, [experts, out, in].

    PEFT's target_parameters would adapt them, but without dropout or DoRA, and each step would hold the adapted copy of
    every expert of a layer.
    """
    return [
        name
        for name, module in model.get_submodule(language_part(model)).named_modules()
        if any(parameter.dim() == 3 for parameter in module.parameters(recurse=False))
    ]


def _unused_vision_layers(model: Any) -> list[str]:
    """Vision layers whose output nobody reads: LLaVA takes its features from a layer before the last.

    An adapter there would never get a gradient, which DistributedDataParallel refuses.
    """
    layer = getattr(model.config, "vision_feature_layer", None)
    if not isinstance(layer, int):
        return []
    used = layer + model.config.vision_config.num_hidden_layers + 1 if layer < 0 else layer
    unused = []
    for name, _ in model.named_modules():
        number = re.search(r"vision.*\.layers\.(\d+)$", name)
        if (number and int(number[1]) >= used) or re.search(r"vision.*\.post_layernorm$", name):
            unused.append(name)
    return unused
