"""Loading: a family's way from a base to answers and back, and the errors for a wrong base."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.families import BUILDERS, WITHOUT_TORCHVISION, model_folder
from tests.families.data import samples, settings
from vizsage.config import Config, build_config
from vizsage.data.collate import TrainCollator
from vizsage.errors import CheckpointError, ConfigError, VizSageError
from vizsage.models.adapters.lora import add_adapter, load_adapter, save_adapter
from vizsage.models.generation import Answer, generate_answers
from vizsage.models.loaded import base_path_of, content_identity
from vizsage.models.loading import hf
from vizsage.models.loading.hf import device_of, load_base, load_processor

FAMILIES = sorted(BUILDERS)
ROOT = Path(__file__).parents[3]


def answers(model: Any, processor: Any, config: Config, batch_size: int) -> dict[str, Answer]:
    found = generate_answers(model, processor, samples(), config.model_copy(update={"eval_batch_size": batch_size}))
    return {answer.sample_id: answer for answer in found}


@pytest.mark.parametrize("family", FAMILIES)
def test_family_trains_saves_loads_and_answers(family: str, tmp_path: Path) -> None:
    config = settings(family, lora_r=16, lora_alpha=32, max_new_tokens=24)
    loaded = load_base(config)
    model = add_adapter(loaded, config).train()
    batch = TrainCollator(loaded.processor, config)(samples())
    inputs = {name: value for name, value in batch.items() if isinstance(value, torch.Tensor)}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(60):
        loss = model(**inputs, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    model.eval()
    folder = tmp_path / "adapter"
    save_adapter(model, loaded.processor, config, folder, loaded.base_identity)
    again = load_base(config)
    restored = load_adapter(again, config, folder)
    with torch.no_grad():
        assert torch.equal(restored(**inputs).logits, model(**inputs).logits)
    whole, single = (answers(restored, again.processor, config, size) for size in (8, 1))
    assert whole == single
    assert whole == answers(model, loaded.processor, config, 8)
    assert losses[-1] < 0.2 < 5 < losses[0]
    said = {sample_id: answer.text for sample_id, answer in whole.items()}
    assert said == {sample.sample_id: sample.answer for sample in samples()}
    assert {answer.finish_reason for answer in whole.values()} == {"stop"}


@pytest.mark.parametrize("family", FAMILIES)
def test_base_is_frozen_and_in_eval_mode(family: str) -> None:
    loaded = load_base(settings(family))
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert loaded.dtype == loaded.model.dtype == torch.float32
    assert loaded.base_identity.startswith("content:")


def test_tiny_model_lies_in_the_package() -> None:
    assert Path(base_path_of(Config(model_name="vizsage-tiny"))).parts[-4:] == (
        "vizsage", "demo", "tiny", "weights",
    )  # fmt: skip
    assert base_path_of(Config(model_name="a/b")) == "a/b"


def test_identity_follows_content_and_not_place(tmp_path: Path) -> None:
    original = model_folder("mllama")
    copy = tmp_path / "copy"
    shutil.copytree(original, copy)
    assert content_identity(copy) == content_identity(original)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "torch_dtype": "float16"}))
    assert content_identity(copy) != content_identity(original)
    assert content_identity(model_folder("llava")) != content_identity(original)


def refused(config: Config, kind: type[VizSageError], *, base: bool = False) -> str:
    with pytest.raises(kind) as caught:
        load_base(config) if base else load_processor(config)
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith("model_name")
    return text


def named(name: Path | str, **changed: Any) -> Config:
    return settings("mllama", model_name=str(name), **changed)


@pytest.mark.parametrize("name", ["/nowhere/model", "./nowhere", "a/b/c"])
def test_missing_folder_is_named(name: str) -> None:
    assert "no such folder" in refused(named(name), ConfigError)


def test_folder_without_a_model_is_named(tmp_path: Path) -> None:
    assert "has no config.json" in refused(named(tmp_path), ConfigError)


def test_hub_model_without_network_is_refused_at_once() -> None:
    # conftest.py sets HF_HUB_OFFLINE
    text = refused(named("nobody/no-such-model"), ConfigError)
    assert "not in the Hugging Face cache, and the hub cannot be reached" in text
    assert "did you mean" not in text
    for name in ("vizsage-tinny", "vizsage_tiny", "VizSage-Tiny"):
        assert "did you mean vizsage-tiny?" in refused(named(name), ConfigError)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ("RepositoryNotFoundError", "neither a folder here nor a model on Hugging Face"),
        ("GatedRepoError", "its licence must be accepted"),
        ("ConnectError", "the hub cannot be reached"),
        ("TimeoutError", "the hub cannot be reached"),
    ],
)
def test_answers_of_the_hub(monkeypatch: pytest.MonkeyPatch, error: str, expected: str) -> None:
    import httpx
    from huggingface_hub import HfApi, errors

    def model_info(*_: Any, **__: Any) -> Any:
        if error == "TimeoutError":
            raise TimeoutError("timed out")
        if error == "ConnectError":
            raise httpx.ConnectError("no route")
        response = httpx.Response(404, request=httpx.Request("GET", "https://huggingface.co"))
        raise getattr(errors, error)("no", response=response)

    monkeypatch.setattr(HfApi, "model_info", model_info)
    assert expected in refused(named("nobody/no-such-model"), ConfigError)


def test_unknown_revision_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import httpx
    from huggingface_hub import HfApi, errors

    def model_info(*_: Any, **__: Any) -> Any:
        response = httpx.Response(404, request=httpx.Request("GET", "https://huggingface.co"))
        raise errors.RevisionNotFoundError("no", response=response)

    monkeypatch.setattr(HfApi, "model_info", model_info)
    with pytest.raises(ConfigError, match="revision v9: a/b has no such branch, tag or commit"):
        load_processor(named("a/b", revision="v9"))


def test_cached_model_serves_without_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants
    import huggingface_hub.file_download
    import transformers.utils.hub

    commit = "1" * 40
    repository = tmp_path / "models--org--small"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    shutil.copytree(model_folder("mllama"), repository / "snapshots" / commit)
    for module in (huggingface_hub.constants, huggingface_hub.file_download):
        monkeypatch.setattr(module, "HF_HUB_CACHE", str(tmp_path), raising=False)
    monkeypatch.setattr(transformers.utils.hub.constants, "HF_HUB_CACHE", str(tmp_path))
    loaded = load_base(named("org/small"))
    assert loaded.base_identity == f"commit:{commit}"
    # Told to look nowhere else: otherwise each file would be asked for again and again, half a minute each.
    assert hf.locate(named("org/small"))[2] == {
        "local_files_only": True,
        "revision": commit,
        "trust_remote_code": False,
    }


def test_text_model_is_no_vision_language_model(tmp_path: Path) -> None:
    from transformers import LlamaConfig

    LlamaConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=16).save_pretrained(tmp_path)
    assert "found a llama model, which is not a vision-language model" in refused(named(tmp_path), ConfigError)


def copied(tmp_path: Path) -> Path:
    shutil.copytree(model_folder("mllama"), tmp_path / "model")
    return tmp_path / "model"


def test_unknown_architecture_is_refused(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    (folder / "config.json").write_text(json.dumps({"model_type": "brand_new", "architectures": ["BrandNew"]}))
    assert "config.json cannot be used" in refused(named(folder), ConfigError)


def test_missing_processor_files_are_refused(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    for path in folder.iterdir():
        if path.name.startswith(("processor", "preprocessor", "tokenizer", "special", "chat")):
            path.unlink()
    assert "processor" in refused(named(folder), CheckpointError)


def test_missing_weights_are_refused(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    (folder / "model.safetensors").unlink()
    assert "weights cannot be loaded" in refused(named(folder), CheckpointError, base=True)


def test_cut_weights_are_refused(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    assert "weights cannot be loaded" in refused(named(folder), CheckpointError, base=True)


def test_incomplete_weights_are_not_filled_with_random_ones(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = copied(tmp_path)
    tensors = load_file(folder / "model.safetensors")
    gone = next(name for name in tensors if "q_proj" in name)
    del tensors[gone]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    text = refused(named(folder), CheckpointError, base=True)
    assert "1 weights are missing or of the wrong shape" in text
    assert "q_proj" in text


def test_each_process_takes_its_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config(device="cuda")
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert device_of(config) == "cuda:3"
    monkeypatch.delenv("LOCAL_RANK")
    assert device_of(config) == "cuda:0"
    assert device_of(Config(device="cpu")) == "cpu"


def test_options_reach_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoModelForImageTextToText

    seen: dict[str, Any] = {}
    original = AutoModelForImageTextToText.from_pretrained

    def spy(*args: Any, **options: Any) -> Any:
        seen.update(options)
        return original(*args, **options)

    monkeypatch.setattr(AutoModelForImageTextToText, "from_pretrained", spy)
    loaded = load_base(settings("mllama", attn_implementation="eager", trust_remote_code=True))
    assert seen["trust_remote_code"] is True
    assert loaded.model.config._attn_implementation == "eager"


def test_4_bit_on_a_gpu_is_nf4_with_double_quantisation(monkeypatch: pytest.MonkeyPatch) -> None:
    transformers = pytest.importorskip("transformers")
    seen: dict[str, Any] = {}

    class Stop(Exception):
        pass

    def quantisation(**options: Any) -> Any:
        seen.update(options)
        raise Stop

    monkeypatch.setattr(hf, "resolve_for_hardware", lambda config: (config, []))
    monkeypatch.setattr(transformers, "BitsAndBytesConfig", quantisation)
    with pytest.raises(Stop):
        load_base(settings("mllama", device="cuda", load_in_4bit=True, use_bf16=True))
    assert seen == {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_compute_dtype": torch.bfloat16,
    }


def test_without_torchvision_families_run_or_say_what_to_install() -> None:
    folders = {family: str(model_folder(family)) for family in FAMILIES}
    script = """
import sys
sys.modules["torchvision"] = None  # as if it were not installed
import json
from tests.families.data import samples
from vizsage.models.generation import generate_answers
from vizsage.models.loading.hf import load_base
from vizsage.config import build_config
from vizsage.errors import ConfigError
found = {}
for family, folder in json.loads(sys.argv[1]).items():
    config = build_config({"model_name": folder, "device": "cpu", "load_in_4bit": False, "use_bf16": False,
                           "use_gradient_checkpointing": False, "max_new_tokens": 2, "max_seq_length": 512,
                           "eval_batch_size": 3})
    try:
        loaded = load_base(config)
        found[family] = len(list(generate_answers(loaded.model, loaded.processor, samples(), config)))
    except ConfigError as error:
        found[family] = str(error)
print(json.dumps(found))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps(folders)],
        check=True,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    found = json.loads(done.stdout.splitlines()[-1])
    for family in FAMILIES:
        needed = (
            f"model_name {folders[family]}: its processor needs torchvision, which is not installed; "
            "`pip install torchvision`"
        )
        if family in WITHOUT_TORCHVISION:
            assert found[family] == len(samples())
        elif family == "idefics3":  # needs it in some releases of transformers
            assert found[family] in (len(samples()), needed)
        else:
            assert found[family] == needed


def test_config_of_a_run_is_resolved_and_said(caplog: pytest.LogCaptureFixture) -> None:
    config = build_config({"model_name": str(model_folder("mllama")), "device": "cpu", "load_in_4bit": True})
    with caplog.at_level("WARNING", logger="vizsage.models.loading.hf"):
        loaded = load_base(config)
    assert loaded.dtype == torch.float32
    assert any("load_in_4bit: true replaced by false" in message for message in caplog.messages)
