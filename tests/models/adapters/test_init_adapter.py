"""An adapter to begin from: what is taken of it, and what is refused with the settings to write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from tests.families.data import damage_adapter, randomise_adapter, settings
from tests.models.adapters.test_lora import adapter_state
from vizsage.config import Config, build_config
from vizsage.errors import CheckpointError, ConfigError
from vizsage.models.adapters.init_adapter import begin_from, check_init_adapter, init_folder
from vizsage.models.adapters.lora import add_adapter, save_adapter
from vizsage.models.loading.hf import load_base


def saved(folder: Path, family: str = "qwen2_vl", **changed: Any) -> tuple[Path, dict[str, torch.Tensor]]:
    """An adapter that vizsage has saved, and its weights."""
    config = settings(family, **changed)
    loaded = load_base(config)
    model = add_adapter(loaded, config)
    randomise_adapter(model)
    save_adapter(model, loaded.processor, config, folder, loaded.base_identity)
    return folder, adapter_state(model)


def begun(init: Path, family: str = "qwen2_vl", **changed: Any) -> dict[str, torch.Tensor]:
    """The weights of a new adapter that began from `init`."""
    config = settings(family, init_adapter=str(init), **changed)
    found = check_init_adapter(config)
    assert found is not None
    loaded = load_base(config)
    model = add_adapter(loaded, config)
    begin_from(model, loaded, config, found)
    return adapter_state(model)


@pytest.mark.parametrize(
    "kind",
    [
        {},
        {"use_dora": True, "bias": "lora_only"},
        {"bias": "all", "finetune_norm_layers": True, "finetune_vision_layers": True, "use_rslora": True},
    ],
)
def test_all_that_is_trained_is_taken(tmp_path: Path, kind: dict[str, Any]) -> None:
    """Dropout, seed and prompt are those of the new run."""
    folder, weights = saved(tmp_path / "adapter", **kind)
    found = begun(folder, **kind, seed=1, lora_dropout=0.5, instruction="Something else.")
    assert found.keys() == weights.keys()
    assert all(found[name].dtype == torch.float32 and found[name].equal(weights[name]) for name in weights)


def test_an_adapter_of_another_tool_is_taken_if_it_fits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = get_peft_model(
        load_base(settings("qwen2_vl")).model,
        LoraConfig(r=4, lora_alpha=8, target_modules=r".*language_model.*\.(q|k|v|o)_proj", task_type="CAUSAL_LM"),
    )
    randomise_adapter(model)
    model.to(torch.bfloat16).save_pretrained(str(tmp_path / "theirs"))
    weights = adapter_state(model)
    fits = {"lora_r": 4, "lora_alpha": 8, "finetune_mlp_modules": False}
    found = begun(tmp_path / "theirs", **fits)
    assert found.keys() == weights.keys()
    assert all(found[name].dtype == torch.float32 and found[name].equal(weights[name].float()) for name in weights)
    assert "has no fingerprint.json" in caplog.text
    with pytest.raises(
        ConfigError, match=r"\(finetune_mlp_modules false, here true\); write finetune_mlp_modules: false"
    ):
        begun(tmp_path / "theirs", **fits | {"finetune_mlp_modules": True})


def test_a_mismatch_names_the_settings_to_write_before_a_model_is_loaded(tmp_path: Path) -> None:
    folder, _ = saved(tmp_path / "adapter", lora_r=4, use_dora=True)

    def refused(error: type[Exception] = ConfigError, **changed: Any) -> str:
        with pytest.raises(error) as told:
            check_init_adapter(settings(**{"family": "qwen2_vl", "init_adapter": str(folder), **changed}))
        assert "\n" not in str(told.value)
        return str(told.value)

    said = refused(lora_r=16)
    assert "(lora_r 4, here 16, use_dora true, here false); write lora_r: 4, use_dora: true" in said
    fits = {"lora_r": 4, "use_dora": True}
    assert "was trained on" in refused(**fits, family="llava")
    assert "is no adapter" in refused(CheckpointError, init_adapter=str(tmp_path / "none"))
    path = folder / "adapter_config.json"
    whole = json.loads(path.read_text())
    path.write_text(json.dumps(whole | {"rank_pattern": {"q_proj": 2}}))
    assert "has rank_pattern, which training does not offer" in refused(**fits)
    path.write_text(json.dumps(whole | {"init_lora_weights": "pissa"}))
    assert "initialised with 'pissa', which changes the base model" in refused(**fits)
    path.write_text("{}")
    assert "not the configuration of an adapter" in refused(CheckpointError, **fits)
    with pytest.raises(ConfigError, match="is in output_dir"):
        build_config({"output_dir": str(tmp_path), "init_adapter": str(folder)})
    build_config({"output_dir": str(tmp_path), "init_adapter": str(tmp_path / "previous-1" / "adapter")})


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    folder, _ = saved(tmp_path / "adapter")
    damage_adapter(folder, "nan")
    with pytest.raises(CheckpointError, match="not finite"):
        begun(folder)


def test_a_run_stands_for_its_adapter(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.json").write_text(json.dumps({"settings": {"name_trained_model": "mine", "save_path": None}}))
    with pytest.raises(CheckpointError, match=r"has not saved its adapter in .*mine; let it end, or name one of"):
        init_folder(run)
    folder, _ = saved(run / "mine")
    assert init_folder(run) == init_folder(folder) == folder
    with pytest.raises(CheckpointError, match=r"no adapter: found no adapter_config\.json"):
        init_folder(tmp_path)
    assert check_init_adapter(Config()) is None
