"""What cannot act is replaced, each with one warning; what can act is left alone."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vizsage.config import Config, build_config, load_config
from vizsage.contract.run_files import MACHINE_SETTINGS
from vizsage.errors import ConfigError
from vizsage.models.loading.hardware import Hardware, detect_hardware, resolve_for_hardware

CPU = Hardware(cuda=False)
GPU = Hardware(cuda=True, bf16=True, bitsandbytes=True, flash_attention=True)
UNSLOTH = Hardware(cuda=True, bf16=True, bitsandbytes=True, unsloth=True)
PLAIN = {"load_in_4bit": False, "use_bf16": False, "use_gradient_checkpointing": True}


def resolved(facts: Hardware, **changed: Any) -> tuple[Config, list[str]]:
    return resolve_for_hardware(build_config({**PLAIN, **changed}), facts)


WRITTEN = {"load_in_4bit": True, "use_bf16": True, "use_gradient_checkpointing": "unsloth"}


def test_a_cpu_replaces_what_was_written_with_one_warning_each() -> None:
    config, warnings = resolve_for_hardware(build_config(WRITTEN), CPU)
    assert (config.device, config.load_in_4bit, config.use_bf16) == ("cpu", False, False)
    assert config.use_gradient_checkpointing is True
    assert [warning.partition(":")[0] for warning in warnings] == [
        "load_in_4bit",
        "use_bf16",
        "use_gradient_checkpointing",
    ]
    assert all("\n" not in warning for warning in warnings)


def test_only_settings_that_were_written_are_warned_of(
    write_settings: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    said = (
        "defaults replaced by what can act here: load_in_4bit: false, use_bf16: false, use_gradient_checkpointing: true"
    )
    config = load_config(write_settings(seed=3)).model_copy(update={"batch_size": 1})
    resolved, warnings = resolve_for_hardware(config, CPU)
    assert (warnings, caplog.messages) == ([], [said])
    assert resolved == resolve_for_hardware(build_config(WRITTEN | {"seed": 3, "batch_size": 1}), CPU)[0]
    caplog.clear()
    config = load_config(write_settings(use_bf16=True), ["load_in_4bit=true"])
    assert [warning.partition(":")[0] for warning in resolve_for_hardware(config, CPU)[1]] == [
        "load_in_4bit",
        "use_bf16",
    ]
    assert caplog.messages == ["defaults replaced by what can act here: use_gradient_checkpointing: true"]


def test_a_second_pass_says_nothing_more() -> None:
    config, _ = resolve_for_hardware(Config(), CPU)
    assert resolve_for_hardware(config, CPU) == (config, [])


def test_a_gpu_with_everything_changes_only_what_the_backend_lacks() -> None:
    written = {"optim": "adamw_8bit", "attn_implementation": "flash_attention_2", **WRITTEN}
    config, warnings = resolve_for_hardware(build_config(written), GPU)
    assert warnings == [
        "use_gradient_checkpointing: unsloth replaced by true: the hf backend has the ordinary variant only"
    ]
    assert (config.device, config.load_in_4bit, config.use_bf16) == ("cuda", True, True)
    assert (config.optim, config.attn_implementation) == ("adamw_8bit", "flash_attention_2")


@pytest.mark.parametrize("optim", ["adamw_8bit", "paged_adamw_8bit", "paged_adamw_32bit"])
@pytest.mark.parametrize("facts", [CPU, Hardware(cuda=True, bf16=True)])
def test_optimizers_of_bitsandbytes_need_it_and_a_gpu(optim: str, facts: Hardware) -> None:
    config, (warning,) = resolved(facts, optim=optim)
    assert config.optim == "adamw_torch"
    assert warning.startswith(f"optim: {optim} replaced by adamw_torch: this optimizer needs ")


@pytest.mark.parametrize("optim", ["adamw_torch", "adamw_torch_fused", "adafactor", "sgd"])
def test_other_optimizers_stay(optim: str) -> None:
    config, warnings = resolved(CPU, optim=optim)
    assert (config.optim, warnings) == (optim, [])


def test_4_bits_without_bitsandbytes() -> None:
    config, (warning,) = resolved(Hardware(cuda=True, bf16=True), load_in_4bit=True)
    assert not config.load_in_4bit
    assert "bitsandbytes, which is not installed" in warning


def test_a_gpu_without_bfloat16_computes_in_float32() -> None:
    config, (warning,) = resolved(Hardware(cuda=True, bitsandbytes=True), use_bf16=True)
    assert not config.use_bf16
    assert "on this GPU" in warning


@pytest.mark.parametrize(
    ("facts", "use_bf16", "missing"),
    [
        (CPU, False, "a GPU"),
        (Hardware(cuda=True, bf16=True), True, "flash-attn, which is not installed"),
        (Hardware(cuda=True, bf16=True, flash_attention=True), False, "bfloat16"),
    ],
)
def test_flash_attention_falls_back_to_sdpa(facts: Hardware, use_bf16: bool, missing: str) -> None:
    config, (warning,) = resolved(facts, attn_implementation="flash_attention_2", use_bf16=use_bf16)
    assert config.attn_implementation == "sdpa"
    assert missing in warning


def test_cpu_is_taken_although_there_is_a_gpu() -> None:
    config, warnings = resolved(GPU, device="cpu", load_in_4bit=True)
    assert (config.device, config.load_in_4bit) == ("cpu", False)
    assert len(warnings) == 1


def test_a_demanded_gpu_that_is_not_there_is_an_error() -> None:
    with pytest.raises(ConfigError, match="device: found 'cuda', but PyTorch sees no GPU here") as caught:
        resolved(CPU, device="cuda")
    assert caught.value.exit_code == 2


def test_auto_takes_hf() -> None:
    assert resolved(CPU)[0].backend == "hf"
    assert resolved(UNSLOTH)[0].backend == "hf"


def test_unsloth_has_its_own_checkpointing() -> None:
    config, warnings = resolve_for_hardware(Config(backend="unsloth"), UNSLOTH)
    assert (config.backend, config.use_gradient_checkpointing, warnings) == ("unsloth", "unsloth", [])


@pytest.mark.parametrize(
    ("facts", "problem"),
    [
        (Hardware(cuda=False, unsloth=True), "it needs a GPU and PyTorch sees none here"),
        (GPU, "it is not installed; `pip install -e '.[unsloth]'`"),
    ],
)
def test_unsloth_is_demanded_where_it_cannot_run(facts: Hardware, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolved(facts, backend="unsloth")
    assert str(caught.value) == f"backend: found 'unsloth', but {problem}; or set backend to auto or hf"
    assert caught.value.exit_code == 2


def test_vllm_holds_the_base_whole_and_has_attention_of_its_own() -> None:
    facts = Hardware(cuda=True, bf16=True, bitsandbytes=True, flash_attention=True, vllm=True)
    config, warnings = resolve_for_hardware(
        Config(backend="vllm", attn_implementation="flash_attention_2", load_in_4bit=True), facts
    )
    assert (config.backend, config.device, config.load_in_4bit, config.use_bf16) == ("vllm", "cuda", False, True)
    assert config.attn_implementation == "auto"
    assert [warning.partition(":")[0] for warning in warnings] == ["load_in_4bit", "attn_implementation"]
    assert resolve_for_hardware(config, facts) == (config, [])


def test_other_settings_are_untouched() -> None:
    before = Config(lora_r=3, seed=5)
    after, _ = resolve_for_hardware(before, CPU)
    changed = {name for name in Config.model_fields if getattr(before, name) != getattr(after, name)}
    assert changed == {"device", "backend", "load_in_4bit", "use_bf16", "use_gradient_checkpointing"}


def test_the_settings_that_a_machine_may_replace_are_known_to_the_table_of_runs() -> None:
    optimizer, attention = {"optim": "adamw_8bit"}, {"attn_implementation": "flash_attention_2"}
    replaced = set()
    for given in (Config(), Config(**optimizer), Config(**attention), Config(backend="vllm", **attention)):
        for facts in (CPU, GPU, UNSLOTH, Hardware(cuda=True, vllm=True)):
            if given.backend != "vllm" or facts.vllm:
                after, _ = resolve_for_hardware(given, facts)
                replaced |= {name for name in Config.model_fields if getattr(given, name) != getattr(after, name)}
    assert replaced == MACHINE_SETTINGS


def test_looks_at_this_machine() -> None:
    import torch

    assert detect_hardware().cuda == torch.cuda.is_available()
