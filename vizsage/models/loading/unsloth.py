"""Loading a base model with unsloth: compiled layers, LoRA and checkpointing of its own. Needs a GPU.

It is the same model as that of `vizsage.models.loading.hf`: the same files, the same processor (its own copy is
not used), the same quantisation and, by `vizsage.models.adapters.lora`, the same adapters under the same names.

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
from torch.utils.checkpoint import checkpoint  # PyTorch's own: unsloth puts another one in its place when it loads

from vizsage.config import Config
from vizsage.distributed.group import own_group
from vizsage.errors import CheckpointError, ConfigError, is_out_of_memory, one_line
from vizsage.models.loaded import LoadedModel, content_identity
from vizsage.models.loading.hardware import demand_unsloth, detect_hardware, resolve_for_hardware
from vizsage.models.recomputation import recompute_by

log = logging.getLogger(__name__)

_PATCHED = ("transformers", "peft", "trl")
_SWITCHES = {
    # The losses and the answers of this project are made of logits. Unsloth gives none in training unless told so
    # before it compiles a model's forward; it no longer resets this between training and inference, and nothing here
    # calls its for_training and for_inference, which did.
    "UNSLOTH_RETURN_LOGITS": "1",
    # generate() of transformers: unsloth's own switches the whole model over for each call and compiles its decoding,
    # and both backends shall give the same answers.
    "UNSLOTH_DISABLE_FAST_GENERATION": "1",
    # It would report the names of all environment variables.
    "UNSLOTH_DISABLE_STATISTICS": "1",
}
# What an import or a load can fail with besides being out of memory; unsloth raises all of these itself.
_FAILURES = (ImportError, OSError, RuntimeError, AttributeError, ValueError, KeyError, TypeError, AssertionError)


def import_unsloth(config: Config) -> None:
    """Import unsloth, on the GPU of this process.

    Raises ConfigError where it cannot run, or when a library that it patches is imported already.
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
    torch.cuda.set_device(local_rank)  # what unsloth allocates when it is imported belongs there too
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
    """The base model as unsloth loads it, in eval mode and frozen, on the GPU of this process; its processor from hf.

    Raises ConfigError and CheckpointError like `hf.load_base`, and ConfigError where unsloth cannot run.
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
        options["quantization_config"] = hf.quantisation(dtype)  # unsloth's own leaves some vision layers as they are
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
                use_exact_model_name=True,  # not another repository that unsloth keeps under a similar name
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

    unsloth's asks for a gradient of what goes into a layer, and keeps that on the CPU. The language model's embeddings
    are made to have one; a trained vision part may have none, and would silently not be trained, so that
    one is checkpointed by PyTorch.
    """
    from unsloth import FastVisionModel

    trained = {name: parameter.dtype for name, parameter in model.named_parameters() if parameter.requires_grad}
    with redirect_stdout(sys.stderr):
        FastVisionModel.post_patch_model(model, use_gradient_checkpointing=config.use_gradient_checkpointing)
    for name, parameter in model.named_parameters():  # it freezes and casts all that is not LoRA, trained norms too
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
    """What transformers reports of the weights that it loads meanwhile; unsloth does not pass it on."""
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
    """Where unsloth writes the code that it generates: by default the current folder, which may be anybody's.

    A folder for each process, because they write the same files at the same time.
    """
    if given := os.environ.get("UNSLOTH_COMPILE_LOCATION"):
        return Path(given) / f"process-{local_rank}"
    folder = Path(tempfile.mkdtemp(prefix="vizsage-unsloth-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
