"""Loading a base model with unsloth, which has its own compiled layers, LoRA and checkpointing. Needs a GPU.

The model is that of `vizsage.models.loading.hf`: the same files, processor and quantisation, and, with
`vizsage.models.adapters.lora`, the same adapters under the same names.

unsloth patches transformers, peft and trl when it is imported, so `import_unsloth` must be called before these are.
"""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint  # PyTorch's: unsloth replaces it when it loads

from vizsage.config import Config
from vizsage.distributed.group import own_group
from vizsage.errors import CheckpointError, ConfigError, is_out_of_memory, one_line
from vizsage.models.loaded import LoadedModel, content_identity
from vizsage.models.loading.hardware import demand_unsloth, detect_hardware, resolve_for_hardware
from vizsage.models.recomputation import recompute_by

log = logging.getLogger(__name__)

_PATCHED = ("transformers", "peft", "trl")
_SWITCHES = {
    # The losses and the answers here need logits. Unsloth returns none in training unless this is set before it
    # compiles the forward of a model. Its for_training and for_inference, which used to reset it, are not called here.
    "UNSLOTH_RETURN_LOGITS": "1",
    # Use generate() of transformers, because both backends must give the same answers. Unsloth's changes the mode of
    # the whole model for each call and compiles its decoding.
    "UNSLOTH_DISABLE_FAST_GENERATION": "1",
    # It would send the names of all environment variables.
    "UNSLOTH_DISABLE_STATISTICS": "1",
}
# What an import or a load raises besides running out of memory; unsloth raises all of these itself.
_FAILURES = (ImportError, OSError, RuntimeError, AttributeError, ValueError, KeyError, TypeError, AssertionError)


def import_unsloth(config: Config) -> None:
    """Import unsloth, on the GPU of this process.

    Raises:
        ConfigError: it cannot run here, or a library that it patches is imported already.
    """
    if "unsloth" in sys.modules:
        return
    demand_unsloth(detect_hardware())
    if early := [name for name in _PATCHED if name in sys.modules]:
        raise ConfigError(
            f"backend: unsloth has to be imported before {early[0]}, which is imported already; call "
            "vizsage.models.loading.backends.prepare(config) first, or use the command"
        )
    own_group()
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    torch.cuda.set_device(local_rank)  # unsloth allocates memory when it is imported
    for name, value in _SWITCHES.items():
        os.environ[name] = value
    os.environ["UNSLOTH_COMPILE_LOCATION"] = str(_code_folder(local_rank))
    try:
        with redirect_stdout(sys.stderr):
            import unsloth  # noqa: F401
    except _FAILURES as error:
        raise ConfigError(
            f"backend: unsloth cannot be imported ({one_line(error)}); `pip install -e '.[unsloth]'` installs versions "
            "that fit each other; or set backend to auto or hf"
        ) from error


def load_base(config: Config) -> LoadedModel:
    """Load the base model with unsloth, frozen and in eval mode, on the GPU of this process; its processor as hf does.

    Raises like `hf.load_base`, and ConfigError where unsloth cannot run.
    """
    import_unsloth(config)
    from unsloth import FastVisionModel

    from vizsage.models.loading import hf
    from vizsage.models.memory import allocation_failures
    from vizsage.models.patches import patch_loaded

    config, warnings = resolve_for_hardware(config)
    for warning in warnings:
        log.warning("%s", warning)
    where, identity, options = hf.locate(config)
    processor = hf.load_processor_from(config, where, options)
    dtype = torch.bfloat16 if config.use_bf16 else torch.float32
    if config.load_in_4bit:
        options["quantization_config"] = hf.quantisation(dtype)  # unsloth's does not quantise some vision layers
    if config.attn_implementation != "auto":
        options["attn_implementation"] = config.attn_implementation
    failures = allocation_failures()
    try:
        with redirect_stdout(sys.stderr), _loading_info() as info:
            model, _ = FastVisionModel.from_pretrained(
                where,
                max_seq_length=config.max_seq_length,
                dtype=dtype,
                load_in_4bit=config.load_in_4bit,
                load_in_16bit=not config.load_in_4bit,
                device_map={"": hf.device_of(config)},
                use_gradient_checkpointing=config.use_gradient_checkpointing,
                use_exact_model_name=True,  # otherwise it may load one of unsloth's repositories with a similar name
                offload_embedding=False,
                return_logits=True,
                random_state=config.seed,
                **options,
            )
    except _FAILURES as error:
        if is_out_of_memory(error) or allocation_failures() > failures:
            raise torch.OutOfMemoryError(one_line(error)) from error
        raise CheckpointError(
            f"model_name {config.model_name}: unsloth cannot load it: {one_line(error)}; fetch the model again, or "
            "set backend to hf"
        ) from error
    hf.refuse_absent_weights(config, info)
    if config.load_in_4bit and not getattr(model, "is_loaded_in_4bit", False):
        raise ConfigError("load_in_4bit: bitsandbytes does not work here, so unsloth cannot; set load_in_4bit to false")
    model.requires_grad_(False)
    model.disable_input_require_grads()
    model.eval()
    patch_loaded(model)
    return LoadedModel(model, processor, identity or content_identity(Path(where)), dtype, _switch_checkpointing)


def _switch_checkpointing(model: Any, config: Config) -> None:
    """Prepare a model that has an adapter for gradient checkpointing: unsloth's, PyTorch's, or none.

    Unsloth's checkpointing needs inputs of a layer that require a gradient, and keeps them on the CPU. The embeddings
    of the language model are made to require one. The inputs of a trained vision part may not, and it would not be
    trained, without an error; so the vision part is checkpointed by PyTorch.
    """
    from unsloth import FastVisionModel

    trained = {name: parameter.dtype for name, parameter in model.named_parameters() if parameter.requires_grad}
    with redirect_stdout(sys.stderr):
        FastVisionModel.post_patch_model(model, use_gradient_checkpointing=config.use_gradient_checkpointing)
    for name, parameter in model.named_parameters():  # it freezes and casts all but LoRA, trained norms too
        parameter.requires_grad_(name in trained)
        if name in trained:
            parameter.data = parameter.data.to(trained[name])
    base = model.get_base_model()
    offloaded = config.use_gradient_checkpointing == "unsloth"
    language = set(base.get_decoder().modules()) if offloaded else set()
    for module in base.modules():
        if module not in language:
            recompute_by(checkpoint, module)
    if not offloaded:
        base.disable_input_require_grads()


@contextmanager
def _loading_info() -> Iterator[dict[str, Any]]:
    """The loading info of transformers, which unsloth does not return: filled while a model loads in this context."""
    from transformers import PreTrainedModel

    original = PreTrainedModel.__dict__["from_pretrained"]
    reported: dict[str, Any] = {}

    @wraps(original.__func__)
    def from_pretrained(cls: Any, *args: Any, **kwargs: Any) -> Any:
        model, info = original.__func__(cls, *args, **(kwargs | {"output_loading_info": True}))
        reported.update(info)
        return model

    model_class: Any = PreTrainedModel
    model_class.from_pretrained = classmethod(from_pretrained)
    try:
        yield reported
    finally:
        model_class.from_pretrained = original


def _code_folder(local_rank: int) -> Path:
    """The folder for the code that unsloth generates, instead of the current one, which others may write to too.

    One folder per process, because all write the same files at the same time.
    """
    if given := os.environ.get("UNSLOTH_COMPILE_LOCATION"):
        return Path(given) / f"process-{local_rank}"
    folder = Path(tempfile.mkdtemp(prefix="vizsage-unsloth-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
