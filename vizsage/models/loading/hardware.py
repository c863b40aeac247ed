"""Settings that cannot work on this machine, replaced by the nearest ones that can."""

from __future__ import annotations

import importlib.util
import logging
from dataclasses import dataclass
from typing import Literal

from vizsage.config import Config
from vizsage.errors import ConfigError

log = logging.getLogger(__name__)

# auto: hf, on every model and GPU. Training is fast because an image is computed once for all of its questions; that
# works with unsloth as well, but there the rest of a step takes a few percent longer. On one H200 in 16 bits, in
# samples/s, hf against unsloth: a model of 11B with cross-attention 35.8 against 34.5 at 4.8 questions per image, 13.5
# against 13.3 at 1 question, 9.4 against 9.1 with a row for each question; a decoder-only one of 7B 18.7 against 17.6,
# where unsloth takes 20.1 and hf 22.2 GB (benchmarks/results; a test checks this choice against them). A rule by model
# or GPU would belong here.
_AUTO_BACKEND: Literal["hf", "unsloth"] = "hf"
_NEED_BITSANDBYTES = ("adamw_8bit", "paged_adamw_8bit", "paged_adamw_32bit")


@dataclass(frozen=True)
class Hardware:
    """The hardware and the libraries of this machine."""

    cuda: bool
    bf16: bool = False
    bitsandbytes: bool = False
    flash_attention: bool = False
    unsloth: bool = False
    vllm: bool = False


def choose_backend(config: Config) -> Literal["hf", "unsloth", "vllm"]:
    """The library that runs the model; `resolve_for_hardware` checks whether it can. Imports nothing."""
    return _AUTO_BACKEND if config.backend == "auto" else config.backend


def detect_hardware() -> Hardware:
    """Detect them. Imports torch."""
    import torch

    cuda = torch.cuda.is_available()
    return Hardware(
        cuda=cuda,
        bf16=cuda and torch.cuda.is_bf16_supported(including_emulation=False),
        bitsandbytes=importlib.util.find_spec("bitsandbytes") is not None,
        flash_attention=importlib.util.find_spec("flash_attn") is not None,
        unsloth=is_installed("unsloth"),
        vllm=is_installed("vllm"),
    )


def is_installed(package: str) -> bool:
    """Whether the package is installed; it is not imported."""
    return importlib.util.find_spec(package) is not None


def resolve_for_hardware(config: Config, facts: Hardware | None = None) -> tuple[Config, list[str]]:
    """Replace the settings that cannot work here. A second call with the result changes nothing.

    Args:
        config: the settings.
        facts: the machine; detected if it is None.

    Returns:
        The settings, with device "cpu" or "cuda" and backend "hf", "unsloth" or "vllm", and one warning per replaced
        setting that was written in a file, on the command line or in code. Of replaced defaults one line is logged.

    Raises:
        ConfigError: the settings demand a GPU or a backend that is not available.
    """
    resolved, replaced = _resolved(config, facts or detect_hardware())
    written = config.model_fields_set
    defaults = [f"{key}: {_yaml(getattr(resolved, key))}" for key in replaced if key not in written]
    if defaults:
        log.info("defaults replaced by what can act here: %s", ", ".join(defaults))
    return resolved, [warning for key, warning in replaced.items() if key in written]


def _resolved(config: Config, facts: Hardware) -> tuple[Config, dict[str, str]]:
    """The settings that can act, and a warning for each that was replaced, by its name. Raises ConfigError."""
    if config.device == "cuda" and not facts.cuda:
        raise ConfigError("device: found 'cuda', but PyTorch sees no GPU here; set device to auto or cpu")
    cuda = facts.cuda and config.device != "cpu"
    where = "on a CPU" if not cuda else "on this GPU"
    backend = choose_backend(config)
    if backend == "unsloth":
        demand_unsloth(facts)
    if backend == "vllm":
        hint = "`pip install -e '.[vllm]'` in a separate environment"
        _demand("vllm", facts, there=facts.vllm, hint=hint)
    changes: dict[str, object] = {"device": "cuda" if cuda else "cpu", "backend": backend}
    replaced: dict[str, str] = {}

    def replace(key: str, value: object, reason: str) -> None:
        changes[key] = value
        replaced[key] = f"{key}: {_yaml(getattr(config, key))} replaced by {_yaml(value)}: {reason}"

    if config.load_in_4bit and backend == "vllm":
        replace("load_in_4bit", False, "vLLM no longer quantises with bitsandbytes; the base model is not quantised")
    elif config.load_in_4bit and not (cuda and facts.bitsandbytes):
        missing = "4-bit weights need a GPU" if not cuda else "4-bit weights need bitsandbytes, which is not installed"
        replace("load_in_4bit", False, f"{missing}; the base model is held in full precision")
    if config.use_bf16 and not (cuda and facts.bf16):
        replace("use_bf16", False, f"bfloat16 is not used {where}; computing in float32")
    if config.optim in _NEED_BITSANDBYTES and not (cuda and facts.bitsandbytes):
        missing = "a GPU" if not cuda else "bitsandbytes, which is not installed"
        replace("optim", "adamw_torch", f"this optimizer needs {missing}")
    if backend == "vllm":  # it does not train, and has its own attention kernels
        if config.attn_implementation != "auto":
            replace("attn_implementation", "auto", "vLLM chooses its attention kernels itself")
        return config.model_copy(update=changes), replaced
    if config.use_gradient_checkpointing == "unsloth" and backend != "unsloth":
        replace("use_gradient_checkpointing", True, "the hf backend has the ordinary variant only")
    if config.attn_implementation == "flash_attention_2":
        bf16 = bool(changes.get("use_bf16", config.use_bf16))
        if not (cuda and facts.flash_attention and bf16):
            missing = "a GPU" if not cuda else "flash-attn, which is not installed" if bf16 else "bfloat16"
            replace("attn_implementation", "sdpa", f"flash attention needs {missing}")
    return config.model_copy(update=changes), replaced


def demand_unsloth(facts: Hardware) -> None:
    """Raise ConfigError unless unsloth can run here."""
    _demand("unsloth", facts, there=facts.unsloth, hint="`pip install -e '.[unsloth]'`")


def _demand(backend: str, facts: Hardware, *, there: bool, hint: str) -> None:
    """Raise ConfigError without a GPU, or unless the package is `there`; `hint`: how to install it."""
    problem = None
    if not facts.cuda:
        problem = "it needs a GPU and PyTorch sees none here"
    elif not there:
        problem = f"it is not installed; {hint}"
    if problem:
        raise ConfigError(f"backend: found {backend!r}, but {problem}; or set backend to auto or hf")


def _yaml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
