"""init_adapter: a new run begins from the weights of an adapter, also of one that another tool has trained with PEFT.

Rank, scale, kind and layers of the adapter must be those of the settings: a mismatch is refused with the settings to
write. All of it but the layers is compared before a model is loaded.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vizsage.config import Config
from vizsage.contract import ADAPTER_WEIGHTS, RUN
from vizsage.contract.run_files import read_run
from vizsage.data.prompts import compare_fingerprints, fingerprint
from vizsage.errors import CheckpointError, ConfigError, in_yaml, one_line
from vizsage.files import read_json, sha256_file, unreadable
from vizsage.models.adapters.adapter_config import LOADING_ERRORS, check_adapter_config
from vizsage.models.adapters.adapter_weights import adapter_shapes, check_weights
from vizsage.models.loaded import ADAPTER_CONFIG, FINGERPRINT_FILE, LoadedModel, base_path_of, content_identity

log = logging.getLogger(__name__)

# The settings that an adapter was made with: their names in adapter_config.json, and what PEFT takes without them.
_SETTINGS = {
    "lora_r": ("r", 8),
    "lora_alpha": ("lora_alpha", 8),
    "bias": ("bias", "none"),
    "use_rslora": ("use_rslora", False),
    "use_dora": ("use_dora", False),
}
# What PEFT can do besides, and training here does not: it would change what the weights mean.
_OTHERS = (
    "rank_pattern alpha_pattern lora_bias fan_in_fan_out use_qalora target_parameters trainable_token_indices "
    "layer_replication alora_invocation_tokens arrow_config use_bdlora kasa_config velora_config monteclora_config"
).split()
# Initialisations that leave the base model as it is. Others, such as loftq and pissa, need a changed base.
_HARMLESS = (None, True, False, "gaussian", "orthogonal", "eva")
_PEFT_PREFIX = "base_model.model."


@dataclass(frozen=True)
class InitAdapter:
    """An adapter to begin from: its folder, and the content of its adapter_config.json."""

    folder: Path
    saved: dict[str, Any]


def init_folder(init: Path) -> Path:
    """The folder of the adapter that the setting `init` names: itself, or that of the run whose output_dir it is.

    Raises:
        CheckpointError: there is no adapter.
    """
    folder = init
    if problem := unreadable(init / name for name in (ADAPTER_CONFIG, RUN)):
        raise CheckpointError(f"init_adapter: {problem}")
    if not (init / ADAPTER_CONFIG).is_file() and (init / RUN).is_file():
        try:
            settings = read_run(init).settings or {}
        except (OSError, ValueError) as error:
            raise CheckpointError(f"init_adapter: {init / RUN}: not a record of a run ({one_line(error)})") from None
        folder = Path(settings.get("save_path") or init) / settings.get("name_trained_model", "")
        if not (folder / ADAPTER_CONFIG).is_file():
            raise CheckpointError(
                f"init_adapter: {init} is a run that has not saved its adapter in {folder}; let it end, or name one "
                "of its checkpoints"
            )
    if problem := unreadable(folder / name for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS)):
        raise CheckpointError(f"init_adapter: {problem}")
    missing = [name for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS) if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(
            f"init_adapter: {folder} is no adapter: found no {missing[0]}; name the folder of an adapter, or the "
            "output_dir of a run that has ended"
        )
    return folder


def init_sha256(config: Config, known: str | None) -> str | None:
    """The SHA-256 sum of the weights in init_adapter; None without that setting.

    Args:
        config: the settings.
        known: the sum that the run in output_dir began from. It is taken where init_adapter is not there any more.

    Raises:
        CheckpointError: there is no adapter.
    """
    if config.init_adapter is None:
        return None
    try:
        return sha256_file(init_folder(config.init_adapter) / ADAPTER_WEIGHTS)
    except CheckpointError:
        if known is None or config.init_adapter.exists():
            raise
        return known


def check_init_adapter(config: Config) -> InitAdapter | None:
    """The adapter to begin from, compared with the settings as far as that needs no model; None without that setting.

    Raises:
        ConfigError: it does not fit the settings, or is for another base model.
        CheckpointError: there is no adapter, or its files are damaged.
    """
    if config.init_adapter is None:
        return None
    folder = init_folder(config.init_adapter)
    check_adapter_config(folder)
    saved: dict[str, Any] = read_json(folder / ADAPTER_CONFIG)
    found = {name: saved.get(key, default) for name, (key, default) in _SETTINGS.items()}
    _require_settings(folder, {name: value for name, value in found.items() if value != getattr(config, name)}, config)
    if others := [name for name in _OTHERS if saved.get(name)]:
        raise ConfigError(f"init_adapter: {folder} has {', '.join(others)}, which training does not offer")
    if (made := saved.get("init_lora_weights")) not in _HARMLESS:
        raise ConfigError(
            f"init_adapter: {folder} was initialised with {in_yaml(made)}, which changes the base model as well; "
            "convert it with PEFT to an adapter for the unchanged base, or begin from another one"
        )
    base = Path(base_path_of(config))
    if base.is_dir():
        _require_base(folder, content_identity(base), config)
    return InitAdapter(folder, saved)


def begin_from(model: Any, loaded: LoadedModel, config: Config, init: InitAdapter) -> None:
    """Load the weights of `init` into the new adapter of `model`.

    Raises:
        ConfigError: it adapts other layers than the settings, or is for another base model.
        CheckpointError: its weights cannot be loaded, or are not finite.
    """
    from safetensors import SafetensorError, safe_open

    folder = init.folder
    prompt = _require_base(folder, loaded.base_identity, config)
    if prompt is None:
        log.warning(
            "init_adapter: %s has no %s: whether it was trained on this base model is not known, but its tensors fit",
            folder,
            FINGERPRINT_FILE,
        )
    elif different := compare_fingerprints(prompt, fingerprint(loaded.processor, config, loaded.base_identity)):
        log.warning("init_adapter: %s was trained with another %s; training continues", folder, ", ".join(different))
    expected = adapter_shapes(model)
    try:
        with safe_open(str(folder / ADAPTER_WEIGHTS), framework="pt") as weights:
            names = set(weights.keys())
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder / ADAPTER_WEIGHTS}: cannot be loaded: {one_line(error)}") from error
    if names != expected.keys():
        _refuse_layers(model, config, folder, names, set(expected))
    check_weights(folder, expected)
    try:
        model.load_adapter(str(folder), model.active_adapter, is_trainable=True)
    except (*LOADING_ERRORS, SafetensorError) as error:
        raise CheckpointError(f"{folder}: the adapter cannot be loaded: {one_line(error)}") from error
    log.info("beginning from the weights of %s", folder)


def _require_base(folder: Path, identity: str, config: Config) -> dict[str, Any] | None:
    """The content of fingerprint.json, None without one. Raises ConfigError where it names another base model."""
    path = folder / FINGERPRINT_FILE
    try:
        saved = read_json(path)
        if not isinstance(saved, dict):
            raise ValueError("expected an object")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read: {one_line(error)}") from None
    if saved.get("base_identity") != identity:
        raise ConfigError(
            f"init_adapter: {folder} was trained on {saved.get('base_model')} ({saved.get('base_identity')}), but "
            f"model_name is {config.model_name} ({identity}); use the base that it was trained on"
        )
    return saved


def _require_settings(folder: Path, found: dict[str, Any], config: Config) -> None:
    """Raise ConfigError where the adapter has other settings than these: `found`, by name."""
    if found:
        has = ", ".join(f"{name} {_yaml(value)}, here {_yaml(getattr(config, name))}" for name, value in found.items())
        write = ", ".join(f"{name}: {_yaml(value)}" for name, value in found.items())
        raise ConfigError(f"init_adapter: {folder} does not fit these settings ({has}); write {write}")


def _refuse_layers(model: Any, config: Config, folder: Path, names: set[str], expected: set[str]) -> None:
    """Raise ConfigError for an adapter with other tensors than the settings make; name the settings that differ."""
    from vizsage.models.adapters.placement import language_part
    from vizsage.models.families.registry import family_of

    base = model.get_base_model()
    language, is_attention = language_part(base), family_of(base.config).is_attention
    lora = {name.removeprefix(_PEFT_PREFIX).partition(".lora_")[0] for name in names if ".lora_" in name}
    others = {name for name in names if ".lora_" not in name and not name.endswith(".bias")}
    found = {
        "finetune_language_layers": any(name.startswith(f"{language}.") for name in lora),
        "finetune_vision_layers": any(not name.startswith(f"{language}.") for name in lora),
        "finetune_attention_modules": any(map(is_attention, lora)),
        "finetune_mlp_modules": any(not is_attention(name) for name in lora),
        "finetune_norm_layers": bool(others),
    }
    there = {name for name, _ in base.named_modules()}
    if lora <= there:
        _require_settings(folder, {key: on for key, on in found.items() if on != getattr(config, key)}, config)
    more, fewer = sorted(names - expected), sorted(expected - names)
    raise ConfigError(
        f"init_adapter: {folder} does not have the layers that the finetune_* settings choose: {len(more)} of its "
        f"tensors belong to none of them and {len(fewer)} are missing, the first is {(more or fewer)[0]}"
    )


def _yaml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)
