"""Answers by vLLM, with the same prompts, images, ends and adapters as with the other backends. Needs a GPU.

Written for the interface of vLLM 0.33. A prompt is given as token ids with one placeholder for the image, which vLLM
replaces by the tokens of the image; given as text, a prompt would get a second beginning-of-sequence token where the
chat template wrote one. The answer is decoded here, from ids.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from vizsage.config import Config
from vizsage.data.batching import answer_batches
from vizsage.data.encoding import FittedPrompts, PromptEncoder
from vizsage.data.sample import Sample
from vizsage.distributed.group import own_group
from vizsage.errors import CheckpointError, ConfigError, is_out_of_memory, one_line
from vizsage.models.adapters.adapter_weights import adapter_shapes, check_weights
from vizsage.models.adapters.lora import check_adapter
from vizsage.models.adapters.placement import language_part
from vizsage.models.families.registry import family_of
from vizsage.models.generation import as_answer, end_ids, made_ahead
from vizsage.models.loaded import ADAPTER_CONFIG, Answer, content_identity
from vizsage.models.loading.hf import load_processor_from, locate

log = logging.getLogger(__name__)

_SWITCHES = {
    # Run the engine in this process: its errors are then raised here with their type, running out of memory above
    # all, and requests are scheduled in the order in which they come.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",  # stdout is for answers and tables
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",  # it would send the names of the model and the hardware
}
# Ranks for which vLLM has kernels (vllm.config.lora.MaxLoRARanks); an adapter gets the next larger one.
_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
# What starting an engine raises besides running out of memory.
_FAILURES = (ImportError, OSError, RuntimeError, AttributeError, ValueError, KeyError, TypeError, AssertionError)
_TOO_SMALL = re.compile(r"No available memory for the cache|Free memory on device|available KV cache memory")


class VllmGenerator:
    """A base model and its adapter in a vLLM engine, which answers samples greedily; see Answering."""

    def __init__(self, engine: Any, encoder: PromptEncoder, config: Config, *, end_ids: list[int], lora: Any) -> None:
        """`engine` is a vllm.LLM, `lora` a LoRARequest or None."""
        from vllm import SamplingParams
        from vllm.exceptions import VLLMClientError

        self.engine, self.encoder, self.config, self.end_ids, self.lora = engine, encoder, config, end_ids, lora
        self.tokenizer = encoder.processor.tokenizer
        self.settings = SamplingParams(
            temperature=0.0,
            max_tokens=config.max_new_tokens,
            stop_token_ids=end_ids,
            ignore_eos=True,  # vLLM's end; those in stop_token_ids are all
            detokenize=False,
        )
        self._refusals = (ValueError, TypeError, VLLMClientError)

    def prompt_ids(self, sample: Sample) -> list[int]:
        """The token ids of a sample's prompt with its whole description; the image is one placeholder."""
        return self.encoder.prompt_ids(sample)

    def batches(self, samples: Sequence[Sample]) -> list[list[Sample]]:
        """All of `samples`, at most config.eval_batch_size per batch, questions on one image next to each other.

        vLLM schedules by tokens itself, and computes a common beginning of prompts once, with its prefix cache.
        """
        questions = self.config.eval_batch_size
        return answer_batches(
            samples, self.encoder.prompt_ids, lambda _: 0, questions=questions, tokens=sys.maxsize, shared=True
        )

    def answer(self, batches: Sequence[Sequence[Sample]]) -> Iterator[list[Answer]]:
        """The answers to each of `batches`, in its order. Raises torch.OutOfMemoryError and DataError."""
        for batch, prompts in made_ahead(batches, self._fitted):
            yield self._answers(batch, prompts)

    def _fitted(self, batch: Sequence[Sample]) -> FittedPrompts:
        return self.encoder.fitted(batch, [1] * len(batch), skip_bad=True)

    def _answers(self, batch: Sequence[Sample], prompts: FittedPrompts) -> list[Answer]:
        asked = [i for i in range(len(batch)) if i not in prompts.rejected]
        requests = []
        for i in asked:
            (image,) = prompts.images[i]  # the engine is made for one image per prompt
            requests.append({"prompt_token_ids": prompts.ids[i], "multi_modal_data": {"image": image}})
        found: dict[int, Any] = {**prompts.rejected, **dict(zip(asked, self._outputs(requests), strict=True))}
        return [self._as_answer(sample, found[i]) for i, sample in enumerate(batch)]

    def _outputs(self, requests: list[dict[str, Any]]) -> list[Any]:
        """A RequestOutput for each of `requests`, or the reason why vLLM refuses it; the others are answered."""
        if not requests:
            return []
        try:
            outputs = self.engine.generate(requests, self.settings, use_tqdm=False, lora_request=self.lora)
        except self._refusals as error:  # before any is computed: vLLM drops those that it had accepted
            if len(requests) == 1:
                return [f"vLLM refuses it: {one_line(error)}"]
            middle = len(requests) // 2
            return self._outputs(requests[:middle]) + self._outputs(requests[middle:])
        if len(outputs) != len(requests):
            raise RuntimeError(f"vLLM gave {len(outputs)} answers to {len(requests)} questions")
        return list(outputs)

    def _as_answer(self, sample: Sample, output: Any) -> Answer:
        if isinstance(output, str):
            return Answer(sample.sample_id, None, [], "failed", output)
        [said] = output.outputs
        if said.finish_reason not in ("stop", "length"):
            return Answer(sample.sample_id, None, [], "failed", f"vLLM stopped it: {said.finish_reason}")
        answer = as_answer(sample, list(said.token_ids), self.end_ids, self.tokenizer)
        return replace(answer, finish_reason=said.finish_reason)


def serve(config: Config, adapter: Path | None) -> tuple[VllmGenerator, str]:
    """Start an engine with the base model of `config` and the adapter in folder `adapter`.

    Args:
        config: the settings, resolved for this hardware.
        adapter: its folder, or None for the base model alone.

    Returns:
        The engine, and the identity of the base model.

    Raises:
        ConfigError: vLLM cannot serve the model or the adapter, or there are several processes.
        CheckpointError: the adapter was trained with another base, template, instruction or pixel limits.
        torch.OutOfMemoryError: the GPU has too little memory.
    """
    from transformers import AutoConfig

    if own_group().size > 1:
        raise ConfigError("backend: found 'vllm', which is for one process with one GPU; start it without torchrun")
    where, identity, options = locate(config)
    processor = load_processor_from(config, where, options)
    architecture = AutoConfig.from_pretrained(where, **options)
    family = family_of(architecture)
    if family.last_vllm is not None:
        raise ConfigError(
            f"model_name {config.model_name}: vLLM serves {family.title} ({architecture.model_type}) no longer, "
            f"{family.last_vllm} was its last release that did; set backend: hf"
        )
    identity = identity or content_identity(Path(where))
    rank = None
    if adapter is not None:
        check_adapter(processor, identity, config, adapter)
        rank = _servable_rank(adapter, architecture, config)
    encoder = PromptEncoder(processor, config)
    ends = end_ids(_generation_config(where, architecture, options), encoder.layout.end_of_turn_id)
    engine = _start(config, engine_arguments(config, where, options, rank))
    lora = None if adapter is None else _add_adapter(engine, adapter)
    return VllmGenerator(engine, encoder, config, end_ids=ends, lora=lora), identity


def engine_arguments(config: Config, where: str, options: dict[str, Any], rank: int | None) -> dict[str, Any]:
    """The arguments of vllm.LLM; `rank` is that of the adapter, None without one."""
    revision = options.get("revision")
    if options.get("local_files_only"):
        from huggingface_hub import snapshot_download

        where, revision = snapshot_download(where, revision=revision, local_files_only=True), None
    arguments: dict[str, Any] = {
        "model": where,
        "revision": revision,
        "tokenizer_revision": revision,
        "trust_remote_code": config.trust_remote_code,
        "dtype": "bfloat16" if config.use_bf16 else "float32",
        "seed": config.seed,
        "max_model_len": config.max_seq_length + config.max_new_tokens,
        "max_num_seqs": config.eval_batch_size,
        "limit_mm_per_prompt": {"image": 1, "video": 0},
        "enable_prefix_caching": True,
        "generation_config": "vllm",  # not the base model's own settings of sampling
    }
    if rank is not None:
        arguments |= {
            "enable_lora": True,
            "max_loras": 1,
            "max_lora_rank": next(known for known in _RANKS if known >= rank),
        }
    return arguments


def _start(config: Config, arguments: dict[str, Any]) -> Any:
    for name, value in _SWITCHES.items():
        os.environ.setdefault(name, value)
    try:
        with redirect_stdout(sys.stderr):
            from vllm import LLM
    except _FAILURES as error:
        raise ConfigError(
            f"backend: vllm cannot be imported ({one_line(error)}); `pip install -e '.[vllm]'` in an environment of "
            "its own installs versions that fit each other; or set backend to auto or hf"
        ) from error
    try:
        with redirect_stdout(sys.stderr):
            return LLM(**arguments)
    except _FAILURES as error:
        if is_out_of_memory(error):
            raise
        if _TOO_SMALL.search(str(error)):
            raise torch.OutOfMemoryError(one_line(error)) from error
        raise ConfigError(
            f"model_name {config.model_name}: vLLM cannot serve it: {one_line(error)}; or set backend to auto or hf"
        ) from error


def _add_adapter(engine: Any, adapter: Path) -> Any:
    """The LoRARequest of an adapter, loaded now: otherwise each question would fail with the adapter's error."""
    from vllm.lora.request import LoRARequest

    request = LoRARequest(adapter.name, 1, str(adapter.resolve()))
    try:
        engine.llm_engine.add_lora(request)
    except _FAILURES as error:
        if is_out_of_memory(error):
            raise
        raise ConfigError(f"{adapter}: vLLM cannot serve this adapter: {one_line(error)}; set backend: hf") from error
    return request


def _servable_rank(adapter: Path, architecture: Any, config: Config) -> int:
    """The rank of an adapter.

    Raises:
        ConfigError: vLLM would refuse or ignore a part of the adapter, which the message names.
        CheckpointError: its files are not complete.
    """
    try:
        settings = json.loads((adapter / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        rank = int(settings["r"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{adapter}: the adapter cannot be loaded: {one_line(error)}") from error
    found = []
    if rank > _RANKS[-1]:
        found.append(f"rank {rank} (at most {_RANKS[-1]})")
    if settings.get("use_dora"):
        found.append("DoRA")
    if settings.get("bias", "none") != "none":
        found.append("trained biases")
    if settings.get("modules_to_save"):
        found.append("layers trained in full (finetune_norm_layers)")
    if str(settings.get("init_lora_weights")).lower() == "loftq":
        found.append("LoftQ, which changes the base model")
    else:
        language, shapes = _adapter_without_weights(adapter, architecture, config)
        if any(".lora_" in name and not name.startswith(f"base_model.model.{language}.") for name in shapes):
            found.append("adapted vision layers")
        check_weights(adapter, shapes)
    if not config.use_bf16:
        raise ConfigError(
            "use_bf16: found false, but vLLM applies adapters in 16 bits only; set it to true, on a GPU that has "
            "bfloat16, or set backend: hf"
        )
    if found:
        raise ConfigError(f"{adapter}: it has {', '.join(found)}, which vLLM does not serve; set backend: hf")
    return rank


def _adapter_without_weights(
    adapter: Path, architecture: Any, config: Config
) -> tuple[str, dict[str, tuple[int, ...]]]:
    """The name of the language model, and the shape of each tensor of the adapter, both from the architecture alone."""
    from peft import LoraConfig, PeftModel
    from transformers import AutoModelForImageTextToText

    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(architecture, trust_remote_code=config.trust_remote_code)
        language = language_part(model)
        try:
            model = PeftModel(model, LoraConfig.from_pretrained(str(adapter)))
        except (ValueError, KeyError, TypeError, RuntimeError) as error:
            raise CheckpointError(f"{adapter}: the adapter cannot be loaded: {one_line(error)}") from error
    return language, adapter_shapes(model)


def _generation_config(where: str, architecture: Any, options: dict[str, Any]) -> Any:
    """The base model's own, as transformers finds it when it loads a model."""
    from transformers import GenerationConfig

    places = {name: value for name, value in options.items() if name != "trust_remote_code"}
    try:
        return GenerationConfig.from_pretrained(where, **places)
    except OSError:
        return GenerationConfig.from_model_config(architecture)
