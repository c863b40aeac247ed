"""Answers of a model to samples: batched, left-padded, only what follows the prompt decoded."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from vizsage.backends.base import cuda_devices
from vizsage.config import Config
from vizsage.data.collate import PromptCollator
from vizsage.data.sample import Sample


@dataclass(frozen=True)
class Answer:
    """What the model said to one sample; `text` is None when the sample failed, and `error` says why."""

    sample_id: str
    text: str | None
    token_ids: list[int] = field(default_factory=list)
    finish_reason: Literal["stop", "length", "failed"] = "stop"
    error: str | None = None


def generate_answers(
    model: Any, processor: Any, samples: Sequence[Sample], config: Config, *, batch_size: int, greedy: bool = False
) -> Iterator[Answer]:
    """Answer `samples`, a batch after the other, in an order of its own (image groups together, by length).

    `greedy` overrides do_sample and num_beams. Train or eval mode and the random state are as before when the
    iterator ends. Raises ConfigError for a model whose chat template cannot serve; running out of GPU memory is not
    caught.
    """
    collate = PromptCollator(processor, config)
    end_ids = _end_ids(model, collate)
    settings = generation_settings(config, end_ids, processor.tokenizer.pad_token_id, greedy=greedy)
    for batch, inputs in _collated(collate, answer_batches(samples, batch_size)):
        # Not around the loop: between two answers the caller must find its own random state, mode and gradients.
        with _answering(model, settings, zlib.crc32(batch[0].sample_id.encode(), config.seed)):
            answers = _answer_batch(model, processor, batch, inputs, settings)
        yield from answers


def answer_batches(samples: Sequence[Sample], batch_size: int) -> list[list[Sample]]:
    """Samples in batches: those of one image next to each other, groups of similar length together."""
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(sample.image.name, []).append(sample)
    for group in groups.values():
        group.sort(key=_length, reverse=True)
    # The longest first: what does not fit into memory shows at once and not after hours.
    ordered = [s for group in sorted(groups.values(), key=lambda g: _length(g[0]), reverse=True) for s in group]
    return [ordered[i : i + batch_size] for i in range(0, len(ordered), batch_size)]


def generation_settings(config: Config, end_ids: list[int], pad_token_id: int, *, greedy: bool) -> Any:
    """A GenerationConfig from the settings alone: nothing of the base model's own sampling habits."""
    from transformers import GenerationConfig

    sampling: dict[str, Any] = {"do_sample": False}
    if config.do_sample and not greedy:
        sampling = {
            "do_sample": True,
            "temperature": config.temperature,
            "top_p": config.top_p,
            "top_k": config.top_k,
        }
    return GenerationConfig(
        max_new_tokens=config.max_new_tokens,
        num_beams=1 if greedy else config.num_beams,
        eos_token_id=end_ids,
        pad_token_id=pad_token_id,
        use_cache=True,
        **sampling,
    )


def _collated(collate: PromptCollator, batches: list[list[Sample]]) -> Iterator[tuple[list[Sample], dict[str, Any]]]:
    """Each batch with its inputs; a thread decodes and tokenises the next one while the model answers this one."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        following = [thread.submit(collate, batch) for batch in batches[:1]]
        for i, batch in enumerate(batches):
            inputs = following.pop().result()
            following += [thread.submit(collate, later) for later in batches[i + 1 : i + 2]]
            yield batch, inputs


def _answer_batch(
    model: Any, processor: Any, samples: list[Sample], inputs: dict[str, Any], settings: Any
) -> list[Answer]:
    failed = dict(inputs.pop("failed"))
    if len(failed) == len(samples):
        return [Answer(s.sample_id, None, [], "failed", failed[i]) for i, s in enumerate(samples)]
    base = _base_of(model)
    device, dtype = base.device, base.dtype
    inputs = {name: value.to(device, dtype if value.is_floating_point() else None) for name, value in inputs.items()}
    width = inputs["input_ids"].shape[1]
    # Layers trained in full precision stand beside bfloat16 ones: autocast computes as training did.
    with torch.autocast(device.type, dtype, enabled=dtype is not torch.float32):
        output = base.generate(**inputs, generation_config=settings)
    answers = []
    for i, sample in enumerate(samples):
        if i in failed:
            answers.append(Answer(sample.sample_id, None, [], "failed", failed[i]))
            continue
        ids, stopped = _cut_at_end(output[i, width:].tolist(), settings.eos_token_id)
        text = processor.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        answers.append(Answer(sample.sample_id, text.strip(), ids, "stop" if stopped else "length"))
    return answers


def _cut_at_end(ids: list[int], end_ids: list[int]) -> tuple[list[int], bool]:
    """The ids before the first end-of-turn id, and whether there was one."""
    for i, token in enumerate(ids):
        if token in end_ids:
            return ids[:i], True
    return ids, False


def _end_ids(model: Any, collate: PromptCollator) -> list[int]:
    """Ids that end an answer: those the base model names and the one the prompts of training end a turn with."""
    named = _base_of(model).generation_config.eos_token_id
    ids = set(named if isinstance(named, (list, tuple)) else [] if named is None else [named])
    return sorted(ids | {collate.encoder.layout.end_of_turn_id})


def _base_of(model: Any) -> Any:
    """The model of transformers inside; adapters act in its layers, so it answers with them."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _length(sample: Sample) -> int:
    return len(sample.question) + len(sample.description or "")


@contextmanager
def _answering(model: Any, settings: Any, seed: int) -> Iterator[None]:
    """Eval mode, no gradient, `settings` alone for generation, a random state of its own; as before afterwards."""
    base = _base_of(model)
    training = [module for module in model.modules() if module.training]
    own_settings = base.generation_config
    # generate() fills what its settings leave open from those of the model: a repetition penalty would slip in.
    base.generation_config = settings
    model.eval()
    try:
        with torch.random.fork_rng(devices=cuda_devices(base)), torch.no_grad():
            torch.manual_seed(seed)
            yield
    finally:
        base.generation_config = own_settings
        for module in training:
            module.training = True
