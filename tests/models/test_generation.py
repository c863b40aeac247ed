"""Answers: what is asked of the model, what is cut out of its output, and what is not changed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.families import BUILDERS, END_OF_TURN
from tests.families.data import image, samples, settings
from vizsage.config import Config
from vizsage.data.collate import PromptCollator
from vizsage.data.images import EmbeddedImage
from vizsage.data.sample import Sample
from vizsage.models.adapters.lora import add_adapter
from vizsage.models.generation import Answer, Generator, generate_answers, generation_settings
from vizsage.models.loaded import LoadedModel
from vizsage.models.loading import hf
from vizsage.models.loading.hf import load_base
from vizsage.models.shared_image.decoding import BranchDecoder

FAMILIES = sorted(BUILDERS)


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return load_base(settings("mllama"))


def ask(
    model: Any, processor: Any, rows: list[Sample], config: Config, batch_size: int, *, greedy: bool = False
) -> list[Answer]:
    """The answers to `rows`, at most `batch_size` at once."""
    config = config.model_copy(update={"eval_batch_size": batch_size})
    return list(generate_answers(model, processor, rows, config, greedy=greedy))


def say(model: Any, monkeypatch: pytest.MonkeyPatch, text: str, processor: Any) -> None:
    """Make the model generate `text` whatever it is asked and whichever way it answers."""
    ids = processor.tokenizer(text, add_special_tokens=False)["input_ids"]

    def generate(input_ids: torch.Tensor, **_: Any) -> torch.Tensor:
        said = torch.tensor([ids]).expand(len(input_ids), -1)
        return torch.cat([input_ids, said], dim=1)

    def decode(_self: Any, _trees: Any, last: list[list[int]], *_: Any) -> list[list[list[int]]]:
        return [[ids for _ in nodes] for nodes in last]

    monkeypatch.setattr(model, "generate", generate)
    monkeypatch.setattr(BranchDecoder, "generate", decode)


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_text_ends_at_the_end_of_turn(family: str, share: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    config = settings(family, share_images=share)
    loaded = load_base(config)
    say(loaded.model, monkeypatch, f" a woman, assistant {END_OF_TURN[family]} more", loaded.processor)
    answers = ask(loaded.model, loaded.processor, samples(), config, 4)
    assert {answer.text for answer in answers} == {"a woman, assistant"}
    assert {answer.finish_reason for answer in answers} == {"stop"}
    assert {answer.error for answer in answers} == {None}
    assert sorted(answer.sample_id for answer in answers) == sorted(sample.sample_id for sample in samples())
    decoded = loaded.processor.tokenizer.decode(answers[0].token_ids)
    assert decoded.strip() == "a woman, assistant"


def test_cut_answer_says_so(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    say(loaded.model, monkeypatch, "a woman", loaded.processor)
    answers = ask(loaded.model, loaded.processor, samples()[:2], settings("mllama"), 2)
    assert [(a.text, a.finish_reason) for a in answers] == [("a woman", "length")] * 2


def test_empty_answer_is_an_answer(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    say(loaded.model, monkeypatch, "<|eot_id|>", loaded.processor)
    (answer,) = ask(loaded.model, loaded.processor, samples()[:1], settings("mllama"), 2)
    assert (answer.text, answer.token_ids, answer.finish_reason) == ("", [], "stop")


def test_stops_at_the_ends_the_base_model_names_too(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    say(loaded.model, monkeypatch, "red<|eom_id|>blue", loaded.processor)
    eom = loaded.processor.tokenizer.convert_tokens_to_ids("<|eom_id|>")
    monkeypatch.setattr(loaded.model.generation_config, "eos_token_id", [eom])
    (answer,) = ask(loaded.model, loaded.processor, samples()[:1], settings("mllama"), 2)
    assert (answer.text, answer.finish_reason) == ("red", "stop")


def test_length_is_bounded(loaded: LoadedModel) -> None:
    config = settings("mllama", max_new_tokens=3)
    answers = ask(loaded.model, loaded.processor, samples(), config, 8)
    assert max(len(answer.token_ids) for answer in answers) == 3


def test_failed_samples_are_null_beside_good_ones(loaded: LoadedModel) -> None:
    config = settings("mllama", max_seq_length=128, max_new_tokens=2)
    good = samples()[0]
    bad = replace(good, sample_id="bad", images=(EmbeddedImage("broken.png", b"nothing"),))
    long = replace(good, sample_id="long", question="why " * 300)
    found = {answer.sample_id: answer for answer in ask(loaded.model, loaded.processor, [bad, long, good], config, 3)}
    assert found["test-0"].text is not None
    for sample_id, reason in (("bad", "'broken.png'"), ("long", "max_seq_length is 128")):
        assert (found[sample_id].text, found[sample_id].finish_reason) == (None, "failed")
        assert reason in str(found[sample_id].error)
        assert found[sample_id].token_ids == []
    (only,) = ask(loaded.model, loaded.processor, [bad], config, 3)
    assert only.text is None
    (alone,) = ask(loaded.model, loaded.processor, [good], config, 1)
    assert alone == found["test-0"]


@pytest.mark.parametrize("share", [True, False])
def test_too_many_at_once_are_answered_in_halves(
    loaded: LoadedModel, share: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = settings("mllama", share_images=share, max_new_tokens=3)
    expected = {answer.sample_id: answer for answer in ask(loaded.model, loaded.processor, samples(), config, 2)}
    tried: list[int] = []
    for name in ("_shared_ids", "_plain_ids"):
        original = getattr(Generator, name)

        def bounded(self: Generator, inputs: dict[str, Any], original: Any = original) -> Any:
            asked = sum(map(len, inputs["asked"])) if self.decoder else len(inputs["input_ids"])
            tried.append(asked)
            if asked > 2:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return original(self, inputs)

        monkeypatch.setattr(Generator, name, bounded)
    found = ask(loaded.model, loaded.processor, samples(), config, 4)
    assert {answer.sample_id: answer for answer in found} == expected
    assert len(found) == len(expected)
    assert sum(n > 2 for n in tried) == 1  # later batches are cut before they are tried
    assert "at most 2 at once (eval_batch_size)" in caplog.text


def test_running_out_of_memory_with_one_question_is_not_an_answer(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def generate(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(BranchDecoder, "generate", generate)
    own = loaded.model.generation_config
    with pytest.raises(torch.OutOfMemoryError):
        ask(loaded.model, loaded.processor, samples(), settings("mllama"), 8)
    assert loaded.model.generation_config is own


def test_everything_is_left_as_it_was() -> None:
    config = settings("mllama", do_sample=True, use_gradient_checkpointing=True, lora_dropout=0.5, max_new_tokens=3)
    loaded = load_base(config)
    model = add_adapter(loaded, config).train()
    model.get_base_model().model.vision_model.eval()  # a mode that differs by module
    modes = {name: module.training for name, module in model.named_modules()}
    own = loaded.model.generation_config
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    count = 0
    for _ in ask(model, loaded.processor, samples(), config, 2):
        count += 1
        # Also between two answers: the caller may compute.
        assert torch.is_grad_enabled()
        assert model.training
        assert torch.equal(torch.random.get_rng_state(), before)
    assert count == len(samples())
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert loaded.model.generation_config is own
    assert loaded.model.is_gradient_checkpointing


def test_cache_is_used_although_training_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    config = settings("mllama", use_gradient_checkpointing=True, max_new_tokens=6)
    loaded = load_base(config)
    model = add_adapter(loaded, config).train()
    lengths: list[int] = []
    original = loaded.model.forward

    def forward(*args: Any, **inputs: Any) -> Any:
        lengths.append(inputs["input_ids"].shape[1])
        assert not any(module.training for module in model.modules())  # no dropout, no checkpointing
        assert not torch.is_grad_enabled()
        return original(*args, **inputs)

    monkeypatch.setattr(loaded.model, "forward", forward)
    ask(model, loaded.processor, samples()[:1], config, 1)
    assert lengths[0] > 1
    assert lengths[1:] == [4] * 5  # of one question: columns are rounded up


def seen_settings(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch, greedy: bool, **changed: Any) -> Any:
    """What generate() works with, once it has put in the habits of the model."""
    seen: list[Any] = []
    prepare = loaded.model._prepare_generation_config

    def spy(generation_config: Any, **inputs: Any) -> Any:
        result = prepare(generation_config, **inputs)
        seen.append(result[0])
        return result

    monkeypatch.setattr(loaded.model, "_prepare_generation_config", spy)
    config = settings("mllama", max_new_tokens=2, share_images=False, **changed)
    ask(loaded.model, loaded.processor, samples()[:2], config, 2, greedy=greedy)
    return seen[0]


SAMPLING = {"do_sample": True, "temperature": 0.3, "top_p": 0.5, "top_k": 7, "num_beams": 2}


def test_settings_are_honoured(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    used = seen_settings(loaded, monkeypatch, False, **SAMPLING)
    assert (used.do_sample, used.temperature, used.top_p, used.top_k, used.num_beams) == (True, 0.3, 0.5, 7, 2)


def test_greedy_overrides_them(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    used = seen_settings(loaded, monkeypatch, True, **SAMPLING)
    assert (used.do_sample, used.num_beams) == (False, 1)


def test_habits_of_the_base_model_do_not_slip_in(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    own = loaded.model.generation_config
    for name, value in (("repetition_penalty", 1.3), ("temperature", 0.6), ("top_p", 0.9), ("do_sample", True)):
        monkeypatch.setattr(own, name, value)
    with caplog.at_level("WARNING"):
        used = seen_settings(loaded, monkeypatch, False)
    assert used.repetition_penalty in (None, 1.0)
    assert not used.do_sample
    assert not [record for record in caplog.records if "generation" in record.getMessage().lower()]


def test_sampling_repeats_with_its_seed(loaded: LoadedModel) -> None:
    def texts(**changed: Any) -> list[str | None]:
        config = settings("mllama", do_sample=True, max_new_tokens=6, **changed)
        answers = ask(loaded.model, loaded.processor, samples(), config, 4)
        return [answer.text for answer in answers]

    torch.manual_seed(1)
    first = texts(seed=1)
    torch.manual_seed(2)
    assert texts(seed=1) == first
    assert texts(seed=2) != first


@pytest.mark.parametrize("changed", [{"num_beams": 3}, {"do_sample": True, "top_k": 0}])
def test_beams_and_open_sampling_run(loaded: LoadedModel, changed: dict[str, Any]) -> None:
    config = settings("mllama", max_new_tokens=3, **changed)
    answers = ask(loaded.model, loaded.processor, samples(), config, 4)
    assert len(answers) == len(samples())
    assert all(answer.text is not None for answer in answers)


@pytest.mark.parametrize("family", FAMILIES)
def test_images_reach_the_answer(family: str) -> None:
    config = settings(family)
    loaded = load_base(config)
    rows = [replace(samples()[0], sample_id=colour, images=(image(colour),)) for colour in ("red", "blue", "red")]
    inputs = PromptCollator(loaded.processor, config)(rows)
    inputs.pop("failed")
    with torch.no_grad():
        red, blue, again = loaded.model(**inputs).logits[:, -1]
    torch.testing.assert_close(red, again)
    assert float((red - blue).abs().max()) > 1e-3


def test_layers_in_full_precision_answer_beside_bfloat16_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hf, "resolve_for_hardware", lambda config: (config, []))  # a CPU would take float32
    config = settings("mllama", use_bf16=True, finetune_norm_layers=True, max_new_tokens=4)
    loaded = load_base(config)
    model = add_adapter(loaded, config)
    assert loaded.dtype == torch.bfloat16
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16, torch.float32}
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    answers = ask(model, loaded.processor, samples(), config, 4)
    assert all(answer.text is not None for answer in answers)


def test_settings_object_holds_no_sampling_when_greedy() -> None:
    chosen = generation_settings(settings("mllama", **SAMPLING), [3, 5], 0, greedy=True)
    assert chosen.eos_token_id == [3, 5]
    assert chosen.use_cache
    assert chosen.temperature is None
