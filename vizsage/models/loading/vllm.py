"""Answers by vLLM: the same prompts, images, ends and adapters as everywhere else, with its kernels. Needs a GPU.

Written against the interface of vLLM 0.33. Prompts go in as token ids with the image's placeholder, which vLLM
replaces by as many tokens as the image takes; text would get a second beginning-of-sequence token where the chat
template wrote one. The answer is decoded here, from ids.
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
    # The engine in this process: what fails there is raised here as what it is, running out of memory above all, and
    # requests are scheduled in the order in which they come.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",  # stdout is for answers and tables
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",  # it would report the model and the hardware it runs on
}
# Ranks that vLLM has kernels for (vllm.config.lora.MaxLoRARanks); an adapter takes the next one up.
_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
# What starting an engine can fail with besides being out of memory.
_FAILURES = (ImportError, OSError, RuntimeError, AttributeError, ValueError, KeyError, TypeError, AssertionError)
_TOO_SMALL = re.compile(r"No available memory for the cache|Free memory on device|available KV cache memory")


class VllmGenerator:
    """A base model and its adapter in a vLLM engine, which answers samples greedily (see base.Answering)."""

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
            ignore_eos=True,  # vLLM's own idea of the end; those named here are all
            detokenize=False,
        )
        self._refusals = (ValueError, TypeError, VLLMClientError)

    def prompt_ids(self, sample: Sample) -> list[int]:
        """The token ids of a sample's prompt, its description uncut and the image a placeholder."""
        return self.encoder.prompt_ids(sample)

    def batches(self, samples: Sequence[Sample]) -> list[list[Sample]]:
        """All of `samples`, at most config.eval_batch_size at once, questions on one image next to each other.

        vLLM schedules by tokens itself, and takes what prompts begin with alike from its prefix cache.
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
        """A RequestOutput for each of `requests`, or why vLLM refuses it. One that is refused spares the others."""
        if not requests:
            return []
        try:
            outputs = self.engine.generate(requests, self.settings, use_tqdm=False, lora_request=self.lora)
        except self._refusals as error:  # before any was begun: vLLM takes back those that it had accepted
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
            return Answer(sample.sample_id, None, [], "failed", f"vLLM broke it off: {said.finish_reason}")
        answer = as_answer(sample, list(said.token_ids), self.end_ids, self.tokenizer)
        return replace(answer, finish_reason=said.finish_reason)


def serve(config: Config, adapter: Path | None) -> tuple[VllmGenerator, str]:
    """The base model of `config` in an engine, with the adapter in folder `adapter`, and the base's identity.

    `config` is as resolved for this hardware. Raises ConfigError (vLLM cannot serve the model or the adapter, several
    processes), CheckpointError (an adapter of another base, template, instruction or pixel limits) or
    torch.OutOfMemoryError.
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
    """What vllm.LLM is made with; `rank` is the adapter's, None without one."""
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
        "generation_config": "vllm",  # nothing of the base model's own sampling habits
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
    """The LoRARequest of an adapter, loaded now: otherwise what is wrong with it would be said of each question."""
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
    """The rank of an adapter. Raises ConfigError that names what of it vLLM would refuse or leave out.

    Raises CheckpointError where its files are not those of a whole adapter.
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
    """The name of the language model, and each tensor that the adapter needs: the architecture tells both."""
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
    """The base model's own, as transformers finds it when it loads the model."""
    from transformers import GenerationConfig

    places = {name: value for name, value in options.items() if name != "trust_remote_code"}
    try:
        return GenerationConfig.from_pretrained(where, **places)
    except OSError:
        return GenerationConfig.from_model_config(architecture)
