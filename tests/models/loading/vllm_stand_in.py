"""A stand-in for the package vllm, which needs a GPU: its interface, with a small model of transformers behind it.

It takes what vLLM takes and nothing else (vllm_interface.json has the names, read from the release named there),
and turns a prompt into a model's inputs as vLLM does: from token ids, the placeholder of the image replaced by the
tokens that the model's processor writes for it. So prompts, images, ends and adapters show in the answers.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from inspect import Parameter, Signature
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

INTERFACE: dict[str, Any] = json.loads((Path(__file__).parent / "vllm_interface.json").read_text())


def signature(name: str) -> Signature:
    """That of a class or a method of vLLM."""
    named = INTERFACE[name]
    if isinstance(named, list):
        named = {"positional": named, "keyword_only": []}
    keyword_only = list(named["keyword_only"])
    if named.get("more"):  # LLM takes what EngineArgs has besides
        keyword_only += [key for key in INTERFACE["EngineArgs"] if key not in (*named["positional"], *keyword_only)]
    parameters = [Parameter(key, Parameter.POSITIONAL_OR_KEYWORD, default=None) for key in named["positional"]]
    return Signature([*parameters, *(Parameter(key, Parameter.KEYWORD_ONLY, default=None) for key in keyword_only)])


class VLLMClientError(Exception):
    """As in vllm.exceptions: not a ValueError."""


class SamplingParams:
    """Greedy only."""

    def __init__(self, **settings: Any) -> None:
        signature("SamplingParams").bind(**settings)  # a msgspec.Struct takes keywords in any case
        self.__dict__ |= settings
        assert self.temperature == 0.0


class LoRARequest:
    def __init__(self, *values: Any, **named: Any) -> None:
        self.__dict__ |= signature("LoRARequest").bind(*values, **named).arguments


@dataclass
class StandIn:
    """What vLLM was asked for, and what goes wrong in it."""

    started: list[dict[str, Any]] = field(default_factory=list)
    calls: list[list[dict[str, Any]]] = field(default_factory=list)
    settings: list[dict[str, Any]] = field(default_factory=list)
    at_start: Callable[[], None] = lambda: None
    at_adapter: Callable[[], None] = lambda: None
    at_prompt: Callable[[dict[str, Any]], None] = lambda prompt: None
    at_step: Callable[[], None] = lambda: None
    finish: Callable[[str], str] = lambda reason: reason

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Put the package vllm into sys.modules."""
        stand_in = self

        class LLM(Engine):
            def __init__(self, *values: Any, **named: Any) -> None:
                super().__init__(stand_in, signature("LLM").bind(*values, **named).arguments)

        modules = {
            "vllm": {"LLM": LLM, "SamplingParams": SamplingParams},
            "vllm.exceptions": {"VLLMClientError": VLLMClientError},
            "vllm.lora": {},
            "vllm.lora.request": {"LoRARequest": LoRARequest},
        }
        for name, content in modules.items():
            module = ModuleType(name)
            module.__dict__.update(content)
            monkeypatch.setitem(sys.modules, name, module)


class Engine:
    """vllm.LLM: `generate`, and `llm_engine` with `add_lora`."""

    def __init__(self, stand_in: StandIn, arguments: dict[str, Any]) -> None:
        from transformers import AutoModelForImageTextToText, AutoProcessor

        stand_in.started.append(arguments)
        stand_in.at_start()
        print("INFO vLLM says what it does")
        self.stand_in, self.arguments, self.llm_engine, self.adapters = stand_in, arguments, self, {}
        self.processor = AutoProcessor.from_pretrained(arguments["model"])
        # In full precision whatever is asked for, so that answers can be compared with those of transformers.
        self.model = AutoModelForImageTextToText.from_pretrained(arguments["model"], dtype=torch.float32).eval()

    def add_lora(self, *values: Any, **named: Any) -> bool:
        from peft import PeftModel

        [request] = signature("LLMEngine.add_lora").bind(*values, **named).arguments.values()
        self.stand_in.at_adapter()
        assert self.arguments["enable_lora"]
        assert self.arguments["dtype"] == "bfloat16"  # its kernels for LoRA know 16 bits only
        rank = json.loads((Path(request.lora_path) / "adapter_config.json").read_text())["r"]
        assert rank <= self.arguments["max_lora_rank"] in INTERFACE["max_lora_rank"]
        base = copy.deepcopy(self.model)  # PEFT puts its layers into the model that it is given
        self.adapters[request.lora_int_id] = PeftModel.from_pretrained(base, request.lora_path).eval()
        return True

    def generate(self, *values: Any, **named: Any) -> list[Any]:
        bound = signature("LLM.generate").bind(*values, **named).arguments
        prompts, settings, lora = bound["prompts"], bound["sampling_params"], bound.get("lora_request")
        assert bound["use_tqdm"] is False
        assert len(prompts) <= self.arguments["max_num_seqs"]
        model = self.adapters[lora.lora_int_id].get_base_model() if lora else self.model
        self.stand_in.calls.append(prompts)
        self.stand_in.settings.append(vars(settings))
        inputs = [self._inputs(prompt) for prompt in prompts]  # all are looked at before one is begun
        self.stand_in.at_step()
        return [self._output(model, each, settings) for each in inputs]

    def _inputs(self, prompt: dict[str, Any]) -> dict[str, torch.Tensor]:
        signature("TokensPrompt").bind(**prompt)
        self.stand_in.at_prompt(prompt)
        assert set(self.arguments["limit_mm_per_prompt"]) >= set(prompt["multi_modal_data"]) == {"image"}
        inputs = expanded(self.processor, prompt["prompt_token_ids"], prompt["multi_modal_data"]["image"])
        if inputs["input_ids"].shape[1] >= self.arguments["max_model_len"]:
            raise VLLMClientError("The decoder prompt is longer than the maximum model length")
        return inputs

    def _output(self, model: Any, inputs: dict[str, torch.Tensor], settings: SamplingParams) -> Any:
        from transformers import GenerationConfig

        assert settings.ignore_eos
        model.generation_config = GenerationConfig(
            max_new_tokens=settings.max_tokens, eos_token_id=settings.stop_token_ids, pad_token_id=0, do_sample=False
        )
        with torch.no_grad():
            ids = model.generate(**inputs)[0, inputs["input_ids"].shape[1] :].tolist()
        reason = self.stand_in.finish("stop" if ids[-1] in settings.stop_token_ids else "length")
        assert reason in INTERFACE["finish_reasons"]
        return SimpleNamespace(outputs=[SimpleNamespace(token_ids=tuple(ids), finish_reason=reason, text="")])


def expanded(processor: Any, ids: list[int], image: Any) -> dict[str, torch.Tensor]:
    """The model's inputs: `ids` with the one placeholder replaced by what the processor makes of it alone."""
    token = getattr(processor, "boi_token", None) or processor.image_token
    alone = processor(text=[token], images=[[image]], add_special_tokens=False, return_tensors="pt")
    at = [i for i, token_id in enumerate(ids) if token_id == processor.tokenizer.convert_tokens_to_ids(token)]
    assert len(at) == 1, f"{len(at)} placeholders"
    inputs = {}
    for name, value in alone.items():
        if name in ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids"):
            around = torch.ones(1, len(ids), dtype=torch.long) * (name == "attention_mask")
            if name == "input_ids":
                around = torch.tensor([ids])
            value = torch.cat([around[:, : at[0]], value, around[:, at[0] + 1 :]], dim=1)
        inputs[name] = value
    return inputs
