"""LoRA adapters: made, prepared for training, saved and loaded.

LoRA: arXiv:2106.09685. rsLoRA: arXiv:2312.03732. DoRA: arXiv:2402.09353. LoftQ: arXiv:2310.08659.
"""

from __future__ import annotations

import logging
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch

from vizsage.config import Config
from vizsage.contract import ADAPTER_WEIGHTS
from vizsage.data.prompts import compare_fingerprints, fingerprint
from vizsage.errors import CheckpointError, ConfigError, in_yaml, is_out_of_memory, one_line
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
from vizsage.models.adapters.placement import exact_pattern, restrict_biases, select_modules
from vizsage.models.loaded import (
    ADAPTER_CONFIG,
    FINGERPRINT_FILE,
    LoadedModel,
    cuda_devices,
    foreign_folder,
    hub_name,
)
from vizsage.models.patches import patch_adapter

log = logging.getLogger(__name__)
_LOFTQ = {"loftq_bits": 4, "loftq_iter": 1}  # PEFT's own defaults, which it does not apply to a given loftq_config


def add_adapter(loaded: LoadedModel, config: Config) -> Any:
    """Put a new LoRA adapter on `loaded.model` by the finetune_* settings; only the adapter is trainable.

    Its initial weights depend on config.seed only; the global random state is not changed.

    Raises:
        ConfigError: no layer fits the finetune_* settings, or LoftQ is not possible here.
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
            # Not a list: PEFT makes a set of it, whose order in the saved file would differ between processes.
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
    restrict_biases(model, config)
    _prepare_training(model)
    patch_adapter(model, lambda: loaded.checkpointing(model, config))
    return model


def load_adapter(loaded: LoadedModel, config: Config, folder: Path, *, trainable: bool = False) -> Any:
    """Put the adapter in `folder` on `loaded.model`, in eval mode unless `trainable`.

    Raises:
        CheckpointError: there is no adapter, it was trained on another base model or with another prompt or other pixel
            limits, or its weights are not complete.
    """
    from peft import PeftModel
    from safetensors import SafetensorError

    check_adapter(loaded.processor, loaded.base_identity, config, folder)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Found missing adapter keys")  # check_weights reports it
            model = PeftModel.from_pretrained(loaded.model, str(folder), is_trainable=trainable)
            shapes = adapter_shapes(model)
    except (*LOADING_ERRORS, SafetensorError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise CheckpointError(f"{folder}: the adapter cannot be loaded: {one_line(error)}") from error
    check_weights(folder, shapes)
    restrict_biases(model, config)
    if trainable:
        _prepare_training(model)
        patch_adapter(model, lambda: loaded.checkpointing(model, config))
    return model if trainable else model.eval()


def check_adapter(processor: Any, base_identity: str, config: Config, folder: Path) -> None:
    """Raise CheckpointError unless `folder` contains an adapter for this base model, prompt and pixel limits."""
    if problem := unreadable(folder / name for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS)):
        raise CheckpointError(problem)
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such adapter; train one first, or name its folder")
    if not (folder / ADAPTER_CONFIG).is_file():
        raise CheckpointError(f"{folder}: found no {ADAPTER_CONFIG}, so it is no adapter; name the folder of one")
    check_adapter_config(folder)
    if not (folder / ADAPTER_WEIGHTS).is_file():  # PEFT would look for other formats, then download it
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
        clauses = [
            f"{key} is {in_yaml(current[key])}, the adapter was trained with {in_yaml(saved.get(key))}"
            for key in different
        ]
        raise CheckpointError(f"{folder}: " + "; ".join(clauses) + "; use the settings of its training")


def save_adapter(model: Any, processor: Any, config: Config, folder: Path, base_identity: str) -> None:
    """Write adapter, processor and fingerprint to `folder`, replacing an earlier one in one step."""
    if problem := foreign_folder(folder):
        raise ConfigError(problem)
    folder.parent.mkdir(parents=True, exist_ok=True)
    remove_remains(folder.parent, [folder.name])
    temporary = new_folder(folder)
    try:
        save_adapter_weights(model, config, temporary)
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


def save_adapter_weights(model: Any, config: Config, folder: Path) -> None:
    """Write the weights and adapter_config.json to `folder`, without a path of this machine.

    adapter_config.json gets the hub's name of the base model, where PEFT wrote the path that it was loaded from.
    Nothing here reads it; AutoPeftModel and transformers find the base of an adapter by it. PEFT's model card is an
    empty form with that path, so it is removed.
    """
    model.save_pretrained(str(folder))
    path = folder / ADAPTER_CONFIG
    write_json(path, read_json(path) | {"base_model_name_or_path": hub_name(config)})
    (folder / "README.md").unlink(missing_ok=True)


def _prepare_training(model: Any) -> None:
    for parameter in model.parameters():
        # PEFT does this for LoRA weights only; in bfloat16 an update of 0.003 would not change the weight 1 of a norm.
        if parameter.requires_grad and parameter.is_floating_point():
            parameter.data = parameter.data.float()
