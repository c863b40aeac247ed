"""Where adapters go, how they train, and what of them reaches the disk."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from transformers import AutoModelForImageTextToText

from tests.families import BUILDERS, model_folder
from tests.families.data import DAMAGES, damage_adapter, randomise_adapter, samples, settings
from tests.families.qwen import build_3_moe
from vizsage.config import Config
from vizsage.data.collate import TrainCollator
from vizsage.errors import CheckpointError, ConfigError
from vizsage.evaluation.answerer import find_adapter
from vizsage.models.adapters import lora
from vizsage.models.adapters.lora import add_adapter, load_adapter, save_adapter
from vizsage.models.loaded import LoadedModel
from vizsage.models.loading.hf import load_base

FAMILIES = sorted(BUILDERS)
ROOT = Path(__file__).parents[3]
# Linear layers and norms by part, counted by hand from the sizes in tests/families.
COUNTS = {
    # Two decoder layers with self-attention, one with cross-attention (and a q and a k norm); 3 vision layers.
    "mllama": {"language": (3 * 4, 3 * 3, 2 * 2 + 4 + 1), "vision": (3 * 4, 3 * 2 + 1, 3 * 2 + 2)},
    "qwen2_vl": {"language": (8, 6, 5), "vision": (2 * 2, 2 * 2 + 2, 2 * 2 + 1)},
    "qwen2_5_vl": {"language": (8, 6, 5), "vision": (2 * 2, 2 * 3 + 2, 2 * 2 + 1)},
    "qwen3_vl": {"language": (8, 6, 5 + 4), "vision": (2 * 2, 2 * 2 + 2 + 2, 2 * 2 + 1 + 1)},
    # 2 of 3 CLIP layers: the last one is not read.
    "llava": {"language": (8, 6, 5), "vision": (2 * 4, 2 * 2 + 2, 2 * 2 + 1)},
    "idefics3": {"language": (8, 6, 5), "vision": (2 * 4, 2 * 2 + 1, 2 * 2 + 1)},
    "smolvlm": {"language": (8, 6, 5), "vision": (2 * 4, 2 * 2 + 1, 2 * 2 + 1)},
    "gemma3": {"language": (8, 6, 2 * 4 + 4 + 1), "vision": (2 * 4, 2 * 2, 2 * 2 + 1 + 1)},
}


def flag_combinations() -> Iterator[dict[str, bool]]:
    for vision, language, attention, mlp, norms in itertools.product((True, False), repeat=5):
        if (vision or language) and (attention or mlp):
            yield {
                "finetune_vision_layers": vision,
                "finetune_language_layers": language,
                "finetune_attention_modules": attention,
                "finetune_mlp_modules": mlp,
                "finetune_norm_layers": norms,
            }


def adapted(model: Any) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, LoraLayer)]


def trainable(model: Any) -> list[str]:
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def collated(loaded: LoadedModel, config: Config, count: int = 4) -> dict[str, Any]:
    batch = TrainCollator(loaded.processor, config)(samples()[:count])
    return {name: value for name, value in batch.items() if isinstance(value, torch.Tensor)}


def adapter_state(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("family", FAMILIES)
def test_exactly_the_chosen_modules_get_adapters(family: str) -> None:
    for flags in flag_combinations():
        config = settings(family, **flags)
        loaded = load_base(config)
        model = add_adapter(loaded, config)
        parts = [part for part in ("vision", "language") if flags[f"finetune_{part}_layers"]]
        linear = sum(
            COUNTS[family][part][kind]
            for part in parts
            for kind, chosen in enumerate((flags["finetune_attention_modules"], flags["finetune_mlp_modules"]))
            if chosen
        )
        norms = sum(COUNTS[family][part][2] for part in parts) if flags["finetune_norm_layers"] else 0
        assert len(adapted(model)) == linear, flags
        whole = {name.partition(".modules_to_save.")[0] for name in trainable(model) if "modules_to_save" in name}
        assert len(whole) == norms, flags
        lora_weights = [name for name in trainable(model) if ".lora_A." in name or ".lora_B." in name]
        assert len(lora_weights) == 2 * linear
        assert {name for name in trainable(model) if "modules_to_save" not in name} == set(lora_weights)
        for name in adapted(model) + trainable(model):
            assert not any(word in name for word in ("lm_head", "embed", "conv", "patch")), name


@pytest.mark.parametrize("norms", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_adapter_gets_a_gradient(family: str, norms: bool) -> None:
    # DistributedDataParallel refuses parameters that take no part in the loss.
    config = settings(family, finetune_vision_layers=True, finetune_norm_layers=norms)
    loaded = load_base(config)
    model = add_adapter(loaded, config).train()
    model(**collated(loaded, config)).loss.backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_frozen_vision_keeps_no_activations(family: str, checkpointing: bool) -> None:
    config = settings(family, use_gradient_checkpointing=checkpointing)
    loaded = load_base(config)
    model = add_adapter(loaded, config).train()
    model.enable_input_require_grads()  # what SFTTrainer does
    base = model.get_base_model()
    decoder = base.get_decoder()
    outputs: list[torch.Tensor] = []

    def keep(_: Any, __: Any, output: Any) -> None:
        values = output if isinstance(output, tuple) else getattr(output, "to_tuple", lambda: (output,))()
        outputs.extend(v for v in values if isinstance(v, torch.Tensor) and v.is_floating_point())

    siblings = [child for child in base.model.children() if child is not decoder]
    for child in siblings:
        child.register_forward_hook(keep)
    model(**collated(loaded, config)).loss.backward()
    assert len(siblings) in (1, 2)
    assert outputs
    assert all(output.grad_fn is None for output in outputs)
    assert all(parameter.grad is None for child in siblings for parameter in child.parameters())
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("vision", [False, True])
def test_gradient_checkpointing_changes_no_gradient(family: str, vision: bool) -> None:
    gradients = []
    for checkpointing in (False, True):
        config = settings(family, use_gradient_checkpointing=checkpointing, finetune_vision_layers=vision)
        loaded = load_base(config)
        model = add_adapter(loaded, config).train()
        assert model.get_base_model().is_gradient_checkpointing is checkpointing
        assert not model.get_input_embeddings()._forward_hooks  # nothing makes the frozen embeddings need a gradient
        randomise_adapter(model)
        model(**collated(loaded, config), use_cache=False).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-6, rtol=1e-4)
    assert all(float(gradient.abs().sum()) > 0 for gradient in gradients[0].values())


def test_experts_without_adapters_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    base = str(build_3_moe(tmp_path / "base"))
    config = settings("qwen3_vl", model_name=base)
    loaded = load_base(config)
    model = add_adapter(loaded, config)
    assert len(adapted(model)) == 2 * 4  # attention of two layers
    [said] = [record.getMessage() for record in caplog.records if "experts" in record.getMessage()]
    assert "finetune_mlp_modules: the experts of this model get no adapters" in said
    assert "2 layers such as layers.0.mlp.experts keep" in said
    model.train()(**collated(loaded, config)).loss.backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    randomise_adapter(model)
    save_adapter(model, loaded.processor, config, tmp_path / "adapter", loaded.base_identity)
    again = load_adapter(load_base(config), config, tmp_path / "adapter")
    restored = dict(again.named_parameters())
    assert all(torch.equal(restored[name], weight) for name, weight in adapter_state(model).items())

    caplog.clear()
    add_adapter(load_base(config), settings("qwen3_vl", model_name=base, finetune_mlp_modules=False))
    assert not [record for record in caplog.records if "experts" in record.getMessage()]
    with pytest.raises(ConfigError, match="experts of its MLPs are not linear layers"):
        add_adapter(load_base(config), settings("qwen3_vl", model_name=base, finetune_attention_modules=False))


def test_first_weights_depend_on_the_seed_alone() -> None:
    def first(seed: int, global_seed: int) -> dict[str, torch.Tensor]:
        config = settings("mllama", seed=seed)
        loaded = load_base(config)
        torch.manual_seed(global_seed)
        before = torch.random.get_rng_state()
        model = add_adapter(loaded, config)
        assert torch.equal(torch.random.get_rng_state(), before)
        return adapter_state(model)

    reference = first(1, 0)
    again, other = first(1, 99), first(2, 0)
    assert all(torch.equal(reference[name], again[name]) for name in reference)
    assert any(not torch.equal(reference[name], other[name]) for name in reference)


def test_settings_reach_peft() -> None:
    config = settings(
        "mllama", lora_r=4, lora_alpha=7.5, lora_dropout=0.25, use_rslora=True, use_dora=True, bias="lora_only"
    )
    model = add_adapter(load_base(config), config)
    saved = model.peft_config["default"]
    assert (saved.r, saved.lora_alpha, saved.lora_dropout) == (4, 7.5, 0.25)
    assert saved.use_rslora
    assert any("lora_magnitude_vector" in name for name in trainable(model))
    layer = model.get_submodule(adapted(model)[0])
    assert layer.scaling["default"] == pytest.approx(7.5 / 2)


def test_all_biases_are_those_of_the_chosen_parts() -> None:
    config = settings("llava", bias="all")
    biases = [n for n in trainable(add_adapter(load_base(config), config)) if n.endswith("bias")]
    assert biases == []  # Llama has none, and those of CLIP and the projector are not chosen
    config = settings("qwen2_vl", bias="all", finetune_vision_layers=True, finetune_language_layers=False)
    biases = [n for n in trainable(add_adapter(load_base(config), config)) if n.endswith("bias")]
    assert biases
    assert all(".visual." in name for name in biases)


@pytest.mark.parametrize("loftq", [{"loftq_bits": 4, "loftq_iter": 1}, {"loftq_bits": 4}, {"loftq_iter": 2}, {}])
def test_loftq_without_a_gpu_is_a_configuration_error(loftq: dict[str, int]) -> None:
    config = settings("mllama", loftq_config=loftq)
    with pytest.raises(ConfigError, match="loftq_config: LoftQ needs a GPU, bitsandbytes and scipy") as caught:
        add_adapter(load_base(config), config)
    one_line(caught)


@pytest.mark.parametrize("family", FAMILIES)
def test_saved_adapter_is_an_ordinary_one(family: str, tmp_path: Path) -> None:
    config = settings(family, finetune_vision_layers=True, finetune_norm_layers=True)
    loaded = load_base(config)
    model = add_adapter(loaded, config).eval()
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, mean=0.1, std=0.1)
    folder = tmp_path / "run" / "adapter"
    save_adapter(model, loaded.processor, config, folder, loaded.base_identity)
    inputs = collated(loaded, config)
    with torch.no_grad():
        expected = model(**inputs).logits
        again = load_base(config)
        ours = load_adapter(again, config, folder)
        assert torch.equal(ours(**inputs).logits, expected)
        assert not ours.training
        assert trainable(ours) == []
        base = AutoModelForImageTextToText.from_pretrained(model_folder(family))
        plain = PeftModel.from_pretrained(base, str(folder)).eval()
        # To rounding: Mllama as transformers loads it reads its images through a dense mask.
        assert torch.allclose(plain(**inputs).logits, expected, atol=1e-6)
    assert sorted(path.name for path in folder.parent.iterdir()) == ["adapter"]
    assert {"adapter_config.json", "adapter_model.safetensors", "fingerprint.json", "tokenizer.json"} <= {
        path.name for path in folder.iterdir()
    }


def test_loaded_adapter_goes_on_training(tmp_path: Path) -> None:
    config = settings("mllama", use_gradient_checkpointing=True)
    loaded = load_base(config)
    model = add_adapter(loaded, config)
    save_adapter(model, loaded.processor, config, tmp_path / "a", loaded.base_identity)
    again = load_base(config)
    trained = load_adapter(again, config, tmp_path / "a", trainable=True).train()
    assert trainable(trained) == trainable(model)
    assert trained.get_base_model().is_gradient_checkpointing
    trained(**collated(again, config)).loss.backward()
    assert all(p.grad is not None for p in trained.parameters() if p.requires_grad)


def test_adapter_files_are_the_same_in_every_process(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from vizsage.config import load_config;"
        "from vizsage.models.loading.hf import load_base;"
        "from vizsage.models.adapters.lora import add_adapter, save_adapter;"
        "config = load_config(Path(sys.argv[1])); loaded = load_base(config);"
        "save_adapter(add_adapter(loaded, config), loaded.processor, config, Path(sys.argv[2]), loaded.base_identity)"
    )
    config = settings("mllama", finetune_vision_layers=True, finetune_norm_layers=True)
    (tmp_path / "run.json").write_text(config.model_dump_json())  # JSON is YAML
    contents = []
    for seed in ("1", "2"):
        out = tmp_path / f"adapter-{seed}"
        command = [sys.executable, "-c", script, str(tmp_path / "run.json"), str(out)]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": seed}, cwd=ROOT)
        contents.append({path.name: path.read_bytes() for path in out.iterdir()})
    assert contents[0].keys() == contents[1].keys()
    assert [name for name in contents[0] if contents[0][name] != contents[1][name]] == []


def saved_adapter(tmp_path: Path, family: str = "mllama", **changed: Any) -> tuple[LoadedModel, Config, Path, Any]:
    config = settings(family, **changed)
    loaded = load_base(config)
    model = add_adapter(loaded, config)
    folder = tmp_path / "adapter"
    save_adapter(model, loaded.processor, config, folder, loaded.base_identity)
    return loaded, config, folder, model


def test_failed_save_leaves_the_earlier_adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, config, folder, model = saved_adapter(tmp_path)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full_disk(_: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(lora, "settle_tree", full_disk)
    with torch.no_grad():
        next(p for p in model.parameters() if p.requires_grad).add_(1)
    with pytest.raises(OSError, match="No space"):
        save_adapter(model, loaded.processor, config, folder, loaded.base_identity)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    with pytest.raises(OSError, match="No space"):
        save_adapter(model, loaded.processor, config, tmp_path / "new", loaded.base_identity)
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]
    monkeypatch.undo()
    save_adapter(model, loaded.processor, config, folder, loaded.base_identity)
    assert (folder / "adapter_model.safetensors").read_bytes() != before["adapter_model.safetensors"]
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def one_line(caught: pytest.ExceptionInfo[BaseException]) -> str:
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_missing_adapter_is_named(tmp_path: Path) -> None:
    config = settings("mllama")
    loaded = load_base(config)
    with pytest.raises(CheckpointError, match=f"{tmp_path}/none: no such adapter"):
        load_adapter(loaded, config, tmp_path / "none")
    with pytest.raises(CheckpointError, match=r"found no adapter_config.json"):
        load_adapter(loaded, config, tmp_path)


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json", ""])
def test_an_adapter_that_must_not_be_read_is_said_to_be_so(
    tmp_path: Path, forbidden: Callable[[Path], None], name: str
) -> None:
    """Not "No such file", which is the message of safetensors."""
    loaded, config, folder, _ = saved_adapter(tmp_path)
    config = config.model_copy(update={"save_path": tmp_path, "name_trained_model": "adapter"})
    forbidden(folder / name)
    for load in (lambda: load_adapter(loaded, config, folder), lambda: find_adapter(config)):
        with pytest.raises(CheckpointError, match=r"/adapter.*: Permission denied; its owner"):
            load()


def test_adapter_of_another_base_is_refused_with_both_names(tmp_path: Path) -> None:
    _, _, folder, _ = saved_adapter(tmp_path)
    other = settings("llava")
    with pytest.raises(CheckpointError) as caught:
        load_adapter(load_base(other), other, folder)
    assert str(model_folder("mllama")) in one_line(caught)
    assert str(model_folder("llava")) in one_line(caught)


def test_adapter_of_another_prompt_is_refused_with_both_values(tmp_path: Path) -> None:
    loaded, _, folder, _ = saved_adapter(tmp_path)
    other = settings("mllama", instruction="Say it in French.", resize_px=4096)
    with pytest.raises(CheckpointError) as caught:
        load_adapter(loaded, other, folder)
    text = one_line(caught)
    assert "instruction is 'Say it in French.', the adapter was trained with 'Answer the question" in text
    assert "pixel_limits" in text
    assert "base_identity" not in text


@pytest.mark.parametrize("damage", ["fingerprint gone", "fingerprint broken", "weights cut", "other weights"])
def test_damaged_adapter_is_refused(tmp_path: Path, damage: str) -> None:
    _, config, folder, _ = saved_adapter(tmp_path)
    if damage == "fingerprint gone":
        (folder / "fingerprint.json").unlink()
    elif damage == "fingerprint broken":
        (folder / "fingerprint.json").write_text("{")
    elif damage == "weights cut":
        weights = folder / "adapter_model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-100])
    else:
        saved = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps({**saved, "r": 3}))
    with pytest.raises(CheckpointError) as caught:
        load_adapter(load_base(config), config, folder)
    assert str(folder) in one_line(caught)


@pytest.mark.parametrize("damage", DAMAGES)
def test_incomplete_or_not_finite_weights_are_refused(
    tmp_path: Path, damage: str, recwarn: pytest.WarningsRecorder
) -> None:
    _, config, folder, _ = saved_adapter(tmp_path)
    said = damage_adapter(folder, damage)
    with pytest.raises(CheckpointError) as caught:
        load_adapter(load_base(config), config, folder)
    assert said in one_line(caught)
    assert str(folder) in one_line(caught)
    assert [w for w in recwarn if "missing adapter keys" in str(w.message)] == []


def test_every_kind_of_adapter_is_whole(tmp_path: Path) -> None:
    kinds: list[dict[str, Any]] = [{"bias": "all"}, {"use_dora": True}, {"finetune_norm_layers": True}]
    for number, changed in enumerate(kinds):
        _, config, folder, _ = saved_adapter(tmp_path / str(number), finetune_vision_layers=True, **changed)
        assert adapted(load_adapter(load_base(config), config, folder))
