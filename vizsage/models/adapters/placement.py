"""Which modules of a model get an adapter or are trained in full."""

from __future__ import annotations

import logging
import re
from typing import Any

from torch import nn

from vizsage.config import Config
from vizsage.errors import ConfigError
from vizsage.models.families.registry import family_of

log = logging.getLogger(__name__)


def select_modules(model: Any, config: Config) -> tuple[list[str], list[str]]:
    """Choose the layers to train by the finetune_* settings.

    The decoder is the language part; the vision tower and its connection to the decoder are the vision part. The output
    head, embeddings and convolutions are never chosen.

    Returns:
        The names of the linear layers that get an adapter, and of the norm layers that are trained in full, sorted.

    Raises:
        ConfigError: no linear layer is chosen.
    """
    language = language_part(model)
    head = model.get_output_embeddings()
    family = family_of(model.config)
    skipped = tuple(f"{unused}." for unused in family.unused_modules(model))
    targets, norms = [], []
    for name, module in model.named_modules():
        in_language = name.startswith(f"{language}.")
        chosen = config.finetune_language_layers if in_language else config.finetune_vision_layers
        if module is head or not chosen or f"{name}.".startswith(skipped):
            continue
        if isinstance(module, nn.Linear):
            attention = family.is_attention(name)
            if config.finetune_attention_modules if attention else config.finetune_mlp_modules:
                targets.append(name)
        elif config.finetune_norm_layers and _is_norm(module):
            norms.append(name)
    experts = _fused_experts(model) if config.finetune_language_layers and config.finetune_mlp_modules else []
    if not targets:
        raise ConfigError(
            "finetune_* settings: no layer of this model fits them; switch more of them on"
            + (" (the experts of its MLPs are not linear layers and get no adapters)" if experts else "")
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
    """The name of the language model in `model`. Raises ConfigError where it is not a separate module."""
    return _name_of(model, model.get_decoder())


def exact_pattern(names: list[str], model: nn.Module) -> str:
    """A short regular expression that matches `names` and no other module of `model`."""
    shapes = sorted({re.sub(r"\\\.\d+(?=\\\.|$)", r"\\.\\d+", re.escape(name)) for name in names})
    pattern = "|".join(shapes)
    matched = {name for name, _ in model.named_modules() if re.fullmatch(pattern, name)}
    return pattern if matched == set(names) else "|".join(re.escape(name) for name in sorted(names))


def vision_parts(base: Any) -> list[nn.Module]:
    """The siblings of the decoder: vision tower, projector, connector."""
    decoder = base.get_decoder()
    parent = base.get_submodule(_name_of(base, decoder).rpartition(".")[0])
    return [child for child in parent.children() if child is not decoder]


def restrict_biases(model: Any, config: Config) -> None:
    """Freeze the biases of parts that were not chosen: PEFT's bias: all trains those of the whole model."""
    if config.bias != "all":
        return
    base = model.get_base_model()
    decoder = base.get_decoder()
    language = {id(p) for p in decoder.parameters()}
    unused = tuple(f"{name}." for name in family_of(base.config).unused_modules(base))
    for name, parameter in base.named_parameters():
        chosen = config.finetune_language_layers if id(parameter) in language else config.finetune_vision_layers
        if name.endswith("bias") and (not chosen or name.startswith(unused)):
            parameter.requires_grad_(False)


def _name_of(model: nn.Module, wanted: nn.Module) -> str:
    name = next((name for name, module in model.named_modules() if module is wanted), "")
    if not name:
        raise ConfigError(f"{type(model).__name__} has no separate language model, so LoRA cannot be placed on it")
    return name


def _is_norm(module: nn.Module) -> bool:
    own = [name for name, _ in module.named_parameters(recurse=False)]
    return "norm" in type(module).__name__.lower() and "weight" in own and not any(module.children())


def _fused_experts(model: Any) -> list[str]:
    """Layers of the language model with one parameter for the weights of all experts, [experts, out, in].

    PEFT's target_parameters would adapt them, but without dropout or DoRA, and with an adapted copy of all experts of
    a layer in memory.
    """
    return [
        name
        for name, module in model.get_submodule(language_part(model)).named_modules()
        if any(parameter.dim() == 3 for parameter in module.parameters(recurse=False))
    ]
