"""Which backend loads a model. Training and evaluation do not know the backends."""

from __future__ import annotations

from vizsage.config import Config
from vizsage.distributed.group import own_group
from vizsage.errors import ConfigError
from vizsage.models.loaded import LoadedModel
from vizsage.models.loading.hardware import choose_backend


def prepare(config: Config) -> None:
    """Import unsloth if the settings choose it, because it patches transformers, peft and trl when it is imported.

    Call it when the settings are known, before training or evaluation is imported.

    Raises:
        ConfigError: the settings choose unsloth, and it cannot run here.
    """
    if choose_backend(config) == "unsloth":
        from vizsage.models.loading.unsloth import import_unsloth

        import_unsloth(config)


def load_base(config: Config) -> LoadedModel:
    """Load the base model, frozen and in eval mode, and its processor, with the backend of `config`.

    Raises:
        ConfigError: there is no such model, it is not a vision-language model, or the backend cannot run here.
        CheckpointError: its files are damaged.
    """
    refuse_vllm(config)
    if choose_backend(config) == "unsloth":
        from vizsage.models.loading import unsloth

        return unsloth.load_base(config)
    from vizsage.models.loading import hf

    return hf.load_base(config)


def refuse_vllm(config: Config) -> None:
    """Raise ConfigError for a backend that only answers."""
    if choose_backend(config) == "vllm":
        raise ConfigError(
            "backend: found 'vllm', but vLLM evaluates only; train with hf or unsloth and evaluate with backend=vllm"
        )


def load_early(config: Config) -> LoadedModel | None:
    """Load the base model, if it must be loaded before the process group exists; otherwise None.

    With a process group, unsloth writes its generated code in one process and makes the others wait for each file.
    Without one, each process writes its own.
    """
    several = own_group().size > 1
    return load_base(config) if several and choose_backend(config) == "unsloth" else None
