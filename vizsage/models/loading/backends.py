"""Which backend runs a model: chosen in one place, so that training and evaluation need not know."""

from __future__ import annotations

from vizsage.config import Config
from vizsage.distributed.group import own_group
from vizsage.errors import ConfigError
from vizsage.models.loaded import LoadedModel
from vizsage.models.loading.hardware import choose_backend


def prepare(config: Config) -> None:
    """Import what has to come before transformers, peft and trl: unsloth, which patches them.

    To be called once the settings are known and before training or evaluation is imported. Does nothing for hf.
    Raises ConfigError when unsloth is asked for and cannot run here.
    """
    if choose_backend(config) == "unsloth":
        from vizsage.models.loading.unsloth import import_unsloth

        import_unsloth(config)


def load_base(config: Config) -> LoadedModel:
    """The base model in eval mode and frozen, with its processor, loaded by the backend of `config`.

    Raises ConfigError (no such model, no vision-language model, a backend that cannot run here) or CheckpointError
    (files damaged).
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
    """The base model, where it has to be there before the processes of a run know of each other; else None.

    unsloth writes the code that it generates in one process and makes the others wait for it, over and over, as soon
    as there is a process group. Without one each process loads by itself.
    """
    several = own_group().size > 1
    return load_base(config) if several and choose_backend(config) == "unsloth" else None
