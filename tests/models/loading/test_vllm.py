"""vLLM answers as transformers does, is asked for what it has, and refuses in one line what it cannot serve.

vLLM itself needs a GPU: a class with its interface replaces it, with a small model of transformers behind it.
"""

from __future__ import annotations

import inspect
import itertools
import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.families import BUILDERS
from tests.families.data import DAMAGES, damage_adapter, image, randomise_adapter, samples, settings
from tests.models.loading.vllm_stand_in import INTERFACE, StandIn, VLLMClientError, signature
from vizsage.config import Config
from vizsage.data.images import EmbeddedImage
from vizsage.data.sample import Sample
from vizsage.errors import CheckpointError, ConfigError, RepeatingError
from vizsage.evaluation.answerer import load_answerer
from vizsage.evaluation.evaluate import evaluate
from vizsage.evaluation.predict import predict
from vizsage.models.adapters.lora import add_adapter, load_adapter, save_adapter
from vizsage.models.generation import Generator
from vizsage.models.loaded import Answer
from vizsage.models.loading import hardware, vllm
from vizsage.models.loading.backends import load_base as load_any
from vizsage.models.loading.hardware import Hardware
from vizsage.models.loading.hf import load_base
from vizsage.training.train import train

SERVED = sorted(set(BUILDERS) - {"mllama"})
GPU = Hardware(cuda=True, bf16=True, vllm=True)
REAL = find_spec("vllm") is not None


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    stand_in = StandIn()
    stand_in.install(monkeypatch)
    monkeypatch.setattr(hardware, "detect_hardware", lambda: GPU)
    for name in vllm._SWITCHES:
        monkeypatch.setenv(name, "as it was")  # so that what is set in its place ends with the test
        monkeypatch.delenv(name)
    return stand_in


def served(family: str, **changed: Any) -> Config:
    return settings(family, **{"backend": "vllm", "device": "auto", "use_bf16": True, **changed})


def say(config: Config, adapter: Path | None, asked: list[Sample]) -> dict[str, Answer]:
    model = load_answerer(config, adapter).model
    return {answer.sample_id: answer for answers in model.answer(model.batches(asked)) for answer in answers}


def by_transformers(config: Config, adapter: Path | None, asked: list[Sample]) -> dict[str, Answer]:
    loaded = load_base(config)
    model = loaded.model if adapter is None else load_adapter(loaded, config, adapter)
    generator = Generator(model, loaded.processor, config)
    return {answer.sample_id: answer for answers in generator.answer(generator.batches(asked)) for answer in answers}


@pytest.fixture(scope="session")
def adapter_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """An adapter on the family's model that has an effect, trained with the given settings."""

    @cache
    def make(family: str, **changed: Any) -> Path:
        config = settings(family, **changed)
        loaded = load_base(config)
        model = add_adapter(loaded, config)
        randomise_adapter(model, 0.3)
        folder = tmp_path_factory.mktemp("adapters") / "fine"
        save_adapter(model, loaded.processor, config, folder, loaded.base_identity)
        return folder

    return make


# --- the same answers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", SERVED)
def test_answers_are_those_of_transformers(
    family: str, stand_in: StandIn, adapter_of: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = adapter_of(family)
    found = {}
    for folder in (None, adapter):
        found[folder] = say(served(family), folder, samples())
        assert found[folder] == by_transformers(settings(family), folder, samples())
        assert len(found[folder]) == len(samples())
    if family != "gemma3":  # the small one repeats itself, with and without
        assert found[None] != found[adapter]
        assert len({tuple(answer.token_ids) for answer in found[adapter].values()}) > 5
    assert capsys.readouterr().out == ""  # what scripts read; vLLM's own words go to stderr


@pytest.mark.parametrize("family", ["smolvlm", "qwen2_5_vl"])
def test_descriptions_are_shortened_alike(family: str, stand_in: StandIn) -> None:
    asked = [replace(sample, description="a woman on a couch " * 40) for sample in samples()]
    window = {"max_seq_length": 256, "max_new_tokens": 6}
    answers = say(served(family, **window), None, asked)
    assert answers == by_transformers(settings(family, **window), None, asked)
    assert {answer.finish_reason for answer in answers.values()} <= {"stop", "length"}
    model = load_answerer(served(family, **window), None).model
    [call] = stand_in.calls
    whole = [len(model.prompt_ids(sample)) for sample in asked]
    assert len(call) == len(asked)  # shortened, not left out
    assert max(len(prompt["prompt_token_ids"]) for prompt in call) < min(whole)


@pytest.mark.parametrize("with_file", [True, False])
def test_answers_end_alike_where_the_base_model_says(stand_in: StandIn, tmp_path: Path, with_file: bool) -> None:
    """Ids that the small model does generate: in generation_config.json, or without one in config.json."""
    said = by_transformers(settings("qwen2_5_vl"), None, samples())
    common = Counter(token for answer in said.values() for token in set(answer.token_ids[1:])).most_common(2)
    base = tmp_path / "base"
    shutil.copytree(settings("qwen2_5_vl").model_name, base)
    for name in ("config.json", "generation_config.json"):
        content = json.loads((base / name).read_text())
        parts = [content] if name == "generation_config.json" else [content, content["text_config"]]
        for part in parts:
            part["eos_token_id"] = [token for token, _ in common]
        (base / name).write_text(json.dumps(content))
    if not with_file:
        (base / "generation_config.json").unlink()
    answers = say(served("qwen2_5_vl", model_name=str(base)), None, samples())
    assert answers == by_transformers(settings("qwen2_5_vl", model_name=str(base)), None, samples())
    assert "stop" in {answer.finish_reason for answer in answers.values()}


def test_every_end_is_an_end_and_no_other_is(stand_in: StandIn) -> None:
    """Gemma 3 names two ends besides; vLLM's own are switched off."""
    model = load_answerer(served("gemma3"), None).model
    assert isinstance(model, vllm.VllmGenerator)
    loaded = load_base(settings("gemma3"))
    assert model.end_ids == Generator(loaded.model, loaded.processor, settings("gemma3")).end_ids
    assert len(model.end_ids) == 2
    list(model.answer([samples()[:1]]))
    [asked] = stand_in.settings
    assert asked == {
        "temperature": 0.0,
        "max_tokens": 16,
        "stop_token_ids": model.end_ids,
        "ignore_eos": True,
        "detokenize": False,
    }


def test_questions_on_one_image_stay_together_in_batches_of_the_given_size(stand_in: StandIn) -> None:
    model = load_answerer(served("llava", eval_batch_size=4), None).model
    batches = model.batches(samples())
    assert sorted(sample.sample_id for batch in batches for sample in batch) == [f"test-{i}" for i in range(9)]
    assert max(map(len, batches)) <= 4
    names = [sample.images[0].name for batch in batches for sample in batch]
    assert sum(a != b for a, b in itertools.pairwise(names)) == len(set(names)) - 1


# --- evaluation and prediction ---------------------------------------------------------------------------------------


def test_evaluation_and_prediction_from_a_file_of_settings(
    stand_in: StandIn, adapter_of: Callable[..., Path], write_data: Callable[..., Path], tmp_path: Path
) -> None:
    data, adapter = write_data(), adapter_of("qwen2_5_vl")
    run = {"base_path": data, "output_dir": tmp_path / "out"}
    results = evaluate(served("qwen2_5_vl", **run), adapter=adapter)
    lines = tmp_path / "out/evaluation_results/test/predictions.jsonl"
    by_vllm = [json.loads(line) for line in lines.read_text().splitlines()]
    asked = len(stand_in.calls)
    evaluate(served("qwen2_5_vl", **run), adapter=adapter)
    assert len(stand_in.calls) == asked  # all was answered
    others = evaluate(settings("qwen2_5_vl", **run), adapter=adapter)
    by_hf = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [{**row, "key": ""} for row in by_vllm] == [{**row, "key": ""} for row in by_hf]
    assert {row["key"] for row in by_vllm}.isdisjoint(row["key"] for row in by_hf)
    assert results["backend"] == "vllm"
    assert "backend" not in others
    assert results["fingerprint"] == others["fingerprint"]
    assert results["precision"] == {"dtype": "bfloat16", "load_in_4bit": False}
    answer = predict(served("qwen2_5_vl", **run), data / "Images/test-0.png", by_hf[0]["question"], adapter=adapter)
    assert answer.token_ids == by_hf[0]["token_ids"]


# --- what vLLM is made with ------------------------------------------------------------------------------------------


def test_the_engine_gets_what_decides_an_answer(stand_in: StandIn, adapter_of: Callable[..., Path]) -> None:
    load_answerer(served("llava", seed=5, eval_batch_size=32), adapter_of("llava", lora_r=20))
    [arguments] = stand_in.started
    assert arguments == {
        "model": settings("llava").model_name,
        "revision": None,
        "tokenizer_revision": None,
        "trust_remote_code": False,
        "dtype": "bfloat16",
        "seed": 5,
        "max_model_len": 512 + 16,
        "max_num_seqs": 32,
        "limit_mm_per_prompt": {"image": 1, "video": 0},
        "enable_prefix_caching": True,
        "generation_config": "vllm",
        "enable_lora": True,
        "max_loras": 1,
        "max_lora_rank": 32,  # the next rank that vLLM has kernels for
    }
    assert {name: os.environ[name] for name in vllm._SWITCHES} == vllm._SWITCHES


def test_without_an_adapter_lora_is_off_and_full_precision_can_be_asked_for() -> None:
    arguments = vllm.engine_arguments(served("llava", use_bf16=False), "org/name", {"revision": "abc"}, None)
    assert (arguments["model"], arguments["revision"], arguments["tokenizer_revision"]) == ("org/name", "abc", "abc")
    assert arguments["dtype"] == "float32"
    assert not {"enable_lora", "max_lora_rank"} & set(arguments)


def test_a_base_in_the_cache_is_taken_from_there_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, revision, local_files_only: f"/{revision}")
    options = {"revision": "abc", "local_files_only": True}
    arguments = vllm.engine_arguments(served("llava"), "org/name", options, None)
    assert (arguments["model"], arguments["revision"]) == ("/abc", None)


def test_the_ranks_are_those_of_the_release_that_the_interface_is_of() -> None:
    assert list(vllm._RANKS) == INTERFACE["max_lora_rank"]


def test_the_stand_in_refuses_what_the_interface_does_not_have() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'swap_space'"):
        signature("LLM").bind("model", swap_space=4)


@pytest.mark.skipif(not REAL, reason="needs vLLM")
def test_the_interface_is_that_of_the_installed_release() -> None:
    from vllm import LLM, EngineArgs, SamplingParams
    from vllm.lora.request import LoRARequest

    taken = vllm.engine_arguments(served("llava"), "org/name", {}, 16)
    assert set(taken) <= {*inspect.signature(LLM.__init__).parameters, *inspect.signature(EngineArgs).parameters}
    assert {"use_tqdm", "lora_request"} <= set(inspect.signature(LLM.generate).parameters)
    settings = {"temperature", "max_tokens", "stop_token_ids", "ignore_eos", "detokenize"}
    assert settings <= set(inspect.signature(SamplingParams).parameters)
    assert list(inspect.signature(LoRARequest).parameters)[:3] == ["lora_name", "lora_int_id", "lora_path"]


# --- what fails ------------------------------------------------------------------------------------------------------


def test_failed_samples_are_null_beside_good_ones(stand_in: StandIn) -> None:
    good = samples()[0]
    bad = replace(good, sample_id="bad", images=(EmbeddedImage("broken.png", b"nothing"),))
    long = replace(good, sample_id="long", question="why " * 900)
    unwanted = [replace(good, sample_id=f"unwanted-{i}", images=(image("red", 50 + i),)) for i in range(2)]

    def refuse(prompt: dict[str, Any]) -> None:
        if prompt["multi_modal_data"]["image"].width >= 50:
            raise VLLMClientError("not this\none")

    stand_in.at_prompt = refuse
    asked = [bad, *unwanted, long, good, *samples()[1:3]]
    model = load_answerer(served("qwen2_5_vl"), None).model
    [found] = model.answer([asked])
    assert [answer.sample_id for answer in found] == [sample.sample_id for sample in asked]
    errors = {answer.sample_id: answer.error for answer in found if answer.text is None}
    assert set(errors) == {"bad", "long", "unwanted-0", "unwanted-1"}
    assert "broken.png" in str(errors["bad"])
    assert "max_seq_length is 512" in str(errors["long"])
    assert errors["unwanted-0"] == errors["unwanted-1"] == "vLLM refuses it: not this one"
    assert {answer.finish_reason for answer in found if answer.text is None} == {"failed"}
    stand_in.at_prompt = lambda prompt: None
    assert found[4:] == next(model.answer([asked[4:]]))


@pytest.mark.parametrize("reason", ["abort", "error", "repetition"])
def test_an_answer_that_vllm_broke_off_is_none(stand_in: StandIn, reason: str) -> None:
    stand_in.finish = lambda _: reason
    [answer] = say(served("llava"), None, samples()[:1]).values()
    assert (answer.text, answer.finish_reason, answer.error) == (None, "failed", f"vLLM stopped it: {reason}")


def fail(error: Exception) -> Callable[[], None]:
    def failing() -> None:
        raise error

    return failing


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("CUDA out of memory occurred when warming up sampler with 64 dummy requests."),
        ValueError("No available memory for the cache blocks. Try increasing `gpu_memory_utilization`"),
        ValueError("Free memory on device cuda:0 (3/80 GiB) on startup is less than desired GPU memory utilization"),
        ValueError("4 GiB KV cache is needed, which is larger than the available KV cache memory (1 GiB)"),
    ],
)
def test_memory_that_does_not_suffice_repeats(stand_in: StandIn, error: Exception) -> None:
    stand_in.at_start = fail(error)
    with pytest.raises(RepeatingError, match="GPU memory exceeded during loading the base model") as caught:
        load_answerer(served("llava"), None)
    assert "load_in_4bit: true" not in str(caught.value)  # vLLM would not do it
    assert caught.value.exit_code == 4


def test_memory_that_does_not_suffice_later_is_no_answer(stand_in: StandIn, tmp_path: Path) -> None:
    stand_in.at_step = fail(torch.OutOfMemoryError("CUDA out of memory"))
    model = load_answerer(served("llava"), None).model
    with pytest.raises(torch.OutOfMemoryError):
        list(model.answer([samples()[:2]]))
    assert len(stand_in.calls) == 1


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"bias": "lora_only"}, "trained biases"),
        ({"finetune_norm_layers": True}, "layers trained in full (finetune_norm_layers)"),
        ({"finetune_vision_layers": True}, "adapted vision layers"),
        ({"lora_r": 513}, "rank 513 (at most 512)"),
    ],
)
def test_adapters_that_vllm_would_not_serve_whole(
    stand_in: StandIn, adapter_of: Callable[..., Path], changed: dict[str, Any], what: str
) -> None:
    adapter = adapter_of("qwen2_5_vl", **changed)
    with pytest.raises(ConfigError) as caught:
        load_answerer(served("qwen2_5_vl"), adapter)
    assert str(caught.value) == f"{adapter}: it has {what}, which vLLM does not serve; set backend: hf"
    assert stand_in.started == []


@pytest.mark.parametrize("family", SERVED)
def test_adapted_vision_layers_are_found_in_every_family(
    family: str, stand_in: StandIn, adapter_of: Callable[..., Path]
) -> None:
    adapter = adapter_of(family, finetune_vision_layers=True, finetune_language_layers=False)
    with pytest.raises(ConfigError, match="adapted vision layers"):
        load_answerer(served(family), adapter)


def test_adapters_in_full_precision_are_refused(stand_in: StandIn, adapter_of: Callable[..., Path]) -> None:
    with pytest.raises(ConfigError, match="use_bf16: found false, but vLLM applies adapters in 16 bits only"):
        load_answerer(served("llava", use_bf16=False), adapter_of("llava"))
    assert load_answerer(served("llava", use_bf16=False), None).made_by["precision"]["dtype"] == "float32"


@pytest.mark.parametrize("damage", DAMAGES)
def test_incomplete_or_not_finite_weights_are_refused(
    stand_in: StandIn, adapter_of: Callable[..., Path], tmp_path: Path, damage: str
) -> None:
    folder = shutil.copytree(adapter_of("qwen2_5_vl"), tmp_path / "copy")
    said = damage_adapter(folder, damage)
    with pytest.raises(CheckpointError) as caught:
        load_answerer(served("qwen2_5_vl"), folder)
    assert said in str(caught.value)
    assert stand_in.started == []  # before weights of the base are read


def test_loftq_is_refused(stand_in: StandIn, adapter_of: Callable[..., Path], tmp_path: Path) -> None:
    adapter = copy_of(adapter_of("llava"), tmp_path, init_lora_weights="loftq")
    with pytest.raises(ConfigError, match="it has LoftQ, which changes the base model, which vLLM does not serve"):
        load_answerer(served("llava"), adapter)


def test_adapters_of_something_else_are_refused_as_by_transformers(
    stand_in: StandIn, adapter_of: Callable[..., Path]
) -> None:
    adapter = adapter_of("llava")
    for config in (served("llava", instruction="Say it in French."), served("llava", resize_px=2048)):
        with pytest.raises(CheckpointError) as mine:
            load_answerer(config, adapter)
        with pytest.raises(CheckpointError) as theirs:
            load_answerer(config.model_copy(update={"backend": "hf", "device": "cpu", "use_bf16": False}), adapter)
        assert str(mine.value) == str(theirs.value)
    with pytest.raises(CheckpointError, match="use the base that it was trained on"):
        load_answerer(served("gemma3"), adapter)
    assert stand_in.started == []


def test_damaged_adapters_are_one_line(stand_in: StandIn, adapter_of: Callable[..., Path], tmp_path: Path) -> None:
    adapter = copy_of(adapter_of("llava"), tmp_path)
    (adapter / "adapter_model.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="the adapter cannot be loaded"):
        load_answerer(served("llava"), adapter)


def test_what_vllm_finds_wrong_with_an_adapter_is_said_once(stand_in: StandIn, adapter_of: Callable[..., Path]) -> None:
    stand_in.at_adapter = fail(ValueError("expected target modules\nin {...}"))
    with pytest.raises(ConfigError, match="vLLM cannot serve this adapter: expected target modules in"):
        load_answerer(served("llava"), adapter_of("llava"))


def test_llama_3_2_vision_is_no_longer_served(stand_in: StandIn) -> None:
    config = served("mllama")
    with pytest.raises(ConfigError) as caught:
        load_answerer(config, None)
    assert str(caught.value) == (
        f"model_name {config.model_name}: vLLM serves Llama 3.2 Vision (mllama) no longer, 0.10.2 was its last release "
        "that did; set backend: hf"
    )
    with pytest.raises(ConfigError, match=r"model_name vizsage-tiny: vLLM serves Llama 3.2 Vision"):
        load_answerer(config.model_copy(update={"model_name": "vizsage-tiny"}), None)


def test_other_models_that_vllm_does_not_know_are_its_own_words_in_one_line(stand_in: StandIn) -> None:
    stand_in.at_start = fail(ValueError("Model architectures ['Llava']\nare not supported"))
    with pytest.raises(ConfigError, match=r"vLLM cannot serve it: Model architectures \['Llava'\] are not supported"):
        load_answerer(served("llava"), None)


def test_several_processes_are_refused(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="which is for one process with one GPU; start it without torchrun"):
        load_answerer(served("llava"), None)


def test_a_package_that_cannot_be_imported_is_one_line(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ConfigError, match=r"backend: vllm cannot be imported .*pip install -e '.\[vllm\]'"):
        load_answerer(served("llava"), None)


@pytest.mark.parametrize(
    ("facts", "problem"),
    [
        (Hardware(cuda=False, vllm=True), "it needs a GPU and PyTorch sees none here"),
        (Hardware(cuda=True), "it is not installed; `pip install -e '.[vllm]'` in a separate environment"),
    ],
)
def test_vllm_is_demanded_where_it_cannot_run(monkeypatch: pytest.MonkeyPatch, facts: Hardware, problem: str) -> None:
    monkeypatch.setattr(hardware, "detect_hardware", lambda: facts)
    with pytest.raises(ConfigError) as caught:
        load_answerer(served("llava"), None)
    assert str(caught.value) == f"backend: found 'vllm', but {problem}; or set backend to auto or hf"


@pytest.mark.parametrize("start", [train, load_any])
def test_training_is_refused_at_once(start: Callable[[Config], Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        start(served("llava", output_dir=tmp_path / "out"))
    assert str(caught.value) == (
        "backend: found 'vllm', but vLLM evaluates only; train with hf or unsloth and evaluate with backend=vllm"
    )
    assert not (tmp_path / "out").exists()


def copy_of(adapter: Path, folder: Path, **changed: Any) -> Path:
    """A copy of an adapter, its configuration changed."""
    copy = folder / "copy"
    copy.mkdir()
    for file in adapter.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    config = json.loads((copy / "adapter_config.json").read_text())
    (copy / "adapter_config.json").write_text(json.dumps({**config, **changed}))
    return copy
