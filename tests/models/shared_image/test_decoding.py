"""Answers of a model that reads an image once for all its questions are those of a row for each question."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.families import BUILDERS
from tests.families.data import noise, samples, settings
from vizsage.config import Config
from vizsage.data.images import EmbeddedImage
from vizsage.data.sample import Sample
from vizsage.models.adapters.lora import add_adapter
from vizsage.models.generation import Answer, Generator
from vizsage.models.loaded import LoadedModel
from vizsage.models.loading.hf import load_base

FAMILIES = sorted(BUILDERS)


def questions() -> list[Sample]:
    """Three images more, many and few questions on them, two of them the same and one the beginning of another."""
    rows = samples()
    for name, width, height, count in (("wide.png", 120, 40, 7), ("tall.png", 40, 110, 2), ("one.png", 60, 60, 1)):
        image = noise(name, width, height)
        texts = [
            "What is",
            "What is that?",
            "What is that?",
            "Is it red or blue?",
            "Who?",
            "Where does it stand?",
            "Why",
        ]
        rows += [Sample(f"{name}-{i}", (image,), text, "a") for i, text in enumerate(texts[:count])]
    return rows


def answer(loaded: LoadedModel, config: Config, ends: list[int], **changed: Any) -> dict[str, Answer]:
    """Answers that one of `ends` ends."""
    generator = Generator(loaded.model, loaded.processor, config.model_copy(update=changed))
    assert (generator.decoder is not None) == generator.config.share_images
    if ends:
        generator.end_ids = ends
        generator.settings.eos_token_id = ends
    batches = generator.answer(generator.batches(questions()))
    return {answer.sample_id: answer for answers in batches for answer in answers}


def varied(loaded: LoadedModel, config: Config) -> LoadedModel:
    """With an adapter that makes a random model give different answers to different images and questions."""
    model = add_adapter(loaded, config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    head = loaded.model.get_output_embeddings()  # tied to the embedding, it would repeat the last token of the prompt
    head.weight = torch.nn.Parameter(torch.randn(head.weight.shape, generator=generator), requires_grad=False)
    return replace(loaded, model=model)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_sharing_gives_the_same_answers(family: str, attention: str) -> None:
    config = settings(family, attn_implementation=attention, lora_alpha=64, max_new_tokens=12, share_images=False)
    loaded = varied(load_base(config), config)
    free = answer(loaded, config, ends=[])
    assert len({tuple(found.token_ids) for found in free.values()}) > len(free) / 2  # answers differ by sample
    # Ids that are at different places of different answers: these end early, at once, or not at all.
    common = Counter(token for found in free.values() for token in set(found.token_ids)).most_common(6)
    ends = [token for token, _ in common]
    plain = answer(loaded, config, ends, eval_batch_size=1)
    lengths = {len(found.token_ids) for found in plain.values()}
    assert len(lengths) > 2
    for changed in ({}, {"eval_batch_size": 5}, {"eval_batch_tokens": 300}):
        assert answer(loaded, config, ends, share_images=True, **changed) == plain
    assert answer(loaded, config, [], share_images=True) == free


def test_finished_questions_and_images_leave_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    config = settings("mllama", max_new_tokens=40, share_images=True)
    loaded = varied(load_base(config), config)
    free = answer(loaded, config, ends=[])
    ends = [token for token, _ in Counter(t for a in free.values() for t in set(a.token_ids)).most_common(3)]
    widths: list[tuple[int, int]] = []
    forward = loaded.model.get_base_model().forward

    def watched(*args: Any, **inputs: Any) -> Any:
        widths.append(tuple(inputs["input_ids"].shape))
        return forward(*args, **inputs)

    monkeypatch.setattr(loaded.model.get_base_model(), "forward", watched)
    found = answer(loaded, config, ends)
    steps = widths[1:]
    assert len(steps) == max(len(a.token_ids) + (a.finish_reason == "stop") for a in found.values()) - 1
    assert steps == sorted(steps, reverse=True)
    assert steps[-1] < steps[0]
    assert steps[-1][0] < steps[0][0]


def test_a_image_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    config = settings("mllama", share_images=True, max_new_tokens=2)
    loaded = load_base(config)
    seen: list[int] = []
    tower = loaded.model.model.vision_model
    forward = tower.forward

    def watched(*args: Any, **inputs: Any) -> Any:
        seen.append(len(inputs["pixel_values"]))
        return forward(*args, **inputs)

    monkeypatch.setattr(tower, "forward", watched)
    answer(loaded, config, [])
    assert sum(seen) == len({sample.images[0].name for sample in questions()})


def test_failed_samples_are_left_out_of_trees() -> None:
    config = settings("qwen2_5_vl", max_seq_length=128, max_new_tokens=3, share_images=True)
    loaded = load_base(config)
    rows = samples()[:4]
    broken = EmbeddedImage("bad.png", b"nothing")
    bad = [replace(rows[0], sample_id="bad", images=(broken,)), replace(rows[1], question="why " * 300)]
    generator = Generator(loaded.model, loaded.processor, config)
    [answers] = generator.answer([[*bad, rows[0], rows[2], rows[3]]])
    assert [found.finish_reason for found in answers[:2]] == ["failed", "failed"]
    assert "max_seq_length" in str(answers[1].error)
    [alone] = generator.answer([[rows[0], rows[2], rows[3]]])
    assert answers[2:] == alone
    [none] = generator.answer([bad])
    assert [found.text for found in none] == [None, None]
