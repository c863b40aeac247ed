"""Sharing an image gives the loss and the gradients of a row for each question: every family, in fp32."""

from __future__ import annotations

import copy
import functools
import sys
from collections.abc import Sequence
from dataclasses import replace
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText, ProcessorMixin

from tests.families import BUILDERS
from tests.families.data import noise, randomise_adapter, samples, settings
from vizsage.config import Config
from vizsage.data.collate import IGNORED, TrainCollator
from vizsage.data.sample import Sample
from vizsage.models import patches
from vizsage.models.adapters.lora import add_adapter
from vizsage.models.loading.hf import load_base, quantisation
from vizsage.models.shared_image import attention
from vizsage.models.shared_image.sharing import Sharing, compile_layers, share_images
from vizsage.training.loss import count_targets, on_device, summed_loss

FAMILIES = sorted(BUILDERS)
WORDS = "what which colour woman couch baby light painting left right two green see blue".split()
LORA_LOSS, LORA_GRADIENT = 1e-5, 1e-4


@functools.cache
def model_of(family: str, vision: bool, attn: str = "auto") -> tuple[Any, Any, Config]:
    """A model whose adapter is no longer the zero that it begins as, and its processor."""
    config = settings(family, finetune_vision_layers=vision, use_gradient_checkpointing=False, attn_implementation=attn)
    loaded = load_base(config)
    model = add_adapter(loaded, config)
    randomise_adapter(model)
    return model.train(), loaded.processor, config


def sharing_of(model: Any, processor: Any, config: Config) -> Sharing:
    sharing = share_images(model.get_base_model(), processor, config)
    assert sharing is not None
    return sharing


def group(size: int, seed: int, *, descriptions: bool) -> list[Sample]:
    """`size` questions of random length on one image, some with its description."""
    rng = Random(seed)
    shape = rng.choice([(40, 30), (30, 90), (64, 64), (90, 20)])
    image = noise(f"{seed}.png", *shape)
    found = []
    for number in range(size):
        question = " ".join(rng.choice(WORDS) for _ in range(rng.randint(1, 12)))
        answer = " ".join(rng.choice(WORDS) for _ in range(rng.randint(1, 4)))
        description = "The painting shows a woman sitting on a couch." if descriptions and number % 2 else None
        found.append(Sample(f"{seed}-{number}", (image,), question, answer, description is not None, description))
    return found


def gradients(model: Any) -> dict[str, torch.Tensor]:
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad and p.grad is not None}
    model.zero_grad()
    return found


def run(
    model: Any, batches: Sequence[dict[str, Any]], sharing: Sharing | None
) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of the mean over the answer tokens of all `batches`."""
    tokens, total = sum(count_targets(batch) for batch in batches), 0.0
    for batch in batches:
        loss, _ = summed_loss(model, on_device(batch, sharing, model.device), sharing)
        (loss / tokens).backward()
        total += loss.item() / tokens
    return total, gradients(model)


def assert_same(family: str, asked: Sequence[Sample], *, vision: bool = False, attn: str = "auto") -> None:
    model, processor, config = model_of(family, vision, attn)
    plain, expected = run(model, [TrainCollator(processor, config)(asked)], None)
    sharing = sharing_of(model, processor, config)
    shared, found = run(model, [TrainCollator(processor, config, share_images=True)(asked)], sharing)
    assert shared == pytest.approx(plain, abs=LORA_LOSS)
    assert expected.keys() == found.keys()
    for name in expected:
        distance = (found[name] - expected[name]).norm() / expected[name].norm().clamp(min=1e-12)
        assert distance < LORA_GRADIENT, f"{name}: {distance:.2e}"


@pytest.mark.parametrize("vision", [False, True], ids=["language", "vision"])
@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_gradients_are_those_of_plain_rows(family: str, vision: bool) -> None:
    """9 questions on 4 images of different shapes, some with descriptions."""
    assert_same(family, samples(), vision=vision)


@pytest.mark.parametrize("size", range(1, 12))
@pytest.mark.parametrize("family", FAMILIES)
def test_groups_of_each_size(family: str, size: int) -> None:
    assert_same(family, group(size, seed=size, descriptions=size % 2 == 0))


@pytest.mark.parametrize("vision", [False, True], ids=["language", "vision"])
@pytest.mark.parametrize("family", FAMILIES)
def test_mixed_groups_with_and_without_descriptions(family: str, vision: bool) -> None:
    asked = [s for seed, size in ((20, 11), (21, 1), (22, 4)) for s in group(size, seed, descriptions=seed != 21)]
    assert_same(family, asked, vision=vision)


@pytest.mark.parametrize("family", FAMILIES)
def test_eager_attention(family: str) -> None:
    """It adds its mask to the scores, where true and false would hide nothing."""
    assert_same(family, samples(), attn="eager")


@pytest.mark.parametrize("family", ["mllama", "qwen2_5_vl"])
def test_a_base_in_4_bits(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """bitsandbytes computes on a CPU, too."""
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    in_4_bits = {"quantization_config": quantisation(torch.float32), "device_map": {"": "cpu"}}
    load = functools.partial(AutoModelForImageTextToText.from_pretrained, **in_4_bits)
    monkeypatch.setattr(AutoModelForImageTextToText, "from_pretrained", load)
    model = model_of.__wrapped__(family, True)
    assert model[0].is_loaded_in_4bit
    monkeypatch.setattr(sys.modules[__name__], "model_of", lambda *_: model)
    assert_same(family, samples(), vision=True)


def test_a_image_of_more_tokens_than_the_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gemma 3's tokens of an image see each other both ways, but no further back than the window of a layer."""
    model, _, _ = model_of("gemma3", False)
    base = model.get_base_model()
    assert base.config.mm_tokens_per_image == 4
    monkeypatch.setattr(base.config.text_config, "sliding_window", 2)
    assert_same("gemma3", samples())


def logits_of(family: str, asked: Sequence[Sample]) -> dict[str, torch.Tensor]:
    """Logits at the answer tokens of each sample in a packed row, by sample_id: [tokens of its answer, vocabulary]."""
    model, processor, config = model_of(family, False)
    sharing = sharing_of(model, processor, config)
    collate = TrainCollator(processor, config, share_images=True)
    batch = sharing.with_positions(collate(asked))
    positions = batch["target_positions"]
    inputs = {k: v for k, v in batch.items() if k not in ("left_out", "target_positions", "targets")}
    with torch.no_grad():
        found = model(**sharing.model_inputs(inputs), use_cache=False, logits_to_keep=positions).logits[0]
    by_targets = {tuple(collate.encoder.answer_ids(sample)): sample.sample_id for sample in asked}
    assert len(by_targets) == len(asked), "answers differ between samples"
    split, rest = {}, batch["targets"].tolist()
    while rest:
        answer = next(a for a in by_targets if tuple(rest[: len(a)]) == a)
        split[by_targets[answer]], found, rest = found[: len(answer)], found[len(answer) :], rest[len(answer) :]
    return split


@pytest.mark.parametrize("family", FAMILIES)
def test_the_text_of_one_question_or_answer_changes_no_logit_of_another(family: str) -> None:
    """Of three questions on one image and one on another, one is asked otherwise and another answered otherwise."""
    first, second, third = group(3, 30, descriptions=True)
    [other] = group(1, 31, descriptions=False)
    asked = [
        replace(sample, answer=answer)
        for sample, answer in zip(
            (first, second, third, other), ("red", "a blue baby", "two", "on the left"), strict=True
        )
    ]
    before = logits_of(family, asked)
    changed = list(asked)
    changed[0] = replace(asked[0], question="Is this quite another question, and a longer one?")
    changed[1] = replace(asked[1], answer="green couch")
    after = logits_of(family, changed)
    assert not torch.allclose(before[first.sample_id], after[first.sample_id], atol=1e-3)
    assert before[second.sample_id].shape != after[second.sample_id].shape or not torch.allclose(
        before[second.sample_id], after[second.sample_id], atol=1e-3
    )
    for sample in (third, other):
        assert torch.allclose(before[sample.sample_id], after[sample.sample_id], atol=2e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_order_of_questions_in_a_group_does_not_matter(family: str) -> None:
    """Not even to rounding: the tree is the same."""
    _, processor, config = model_of(family, False)
    collate = TrainCollator(processor, config, share_images=True)
    asked = group(6, 40, descriptions=True)
    one, other = collate(asked), collate(asked[::-1])
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one if name != "left_out")


@pytest.mark.parametrize("family", FAMILIES)
def test_samples_that_are_left_out_leave_the_others_as_they_are(family: str) -> None:
    """And where none is left, there is a loss of 0 with a gradient."""
    model, processor, _ = model_of(family, False)
    config = settings(family, max_seq_length=200)
    collate = TrainCollator(processor, config, share_images=True)
    sharing = sharing_of(model, processor, config)
    asked = group(3, 50, descriptions=False)
    long = replace(asked[1], question="what " * 400)
    batch = collate([asked[0], long, asked[2]])
    assert [sample_id for sample_id, _ in batch["left_out"]] == [long.sample_id]
    expected = collate([asked[0], asked[2]])
    assert all(torch.equal(batch[name], expected[name]) for name in batch if name != "left_out")
    nothing = collate([long])
    assert [sample_id for sample_id, _ in nothing.pop("left_out")] == [long.sample_id]
    assert count_targets(nothing) == 0
    loss, _ = summed_loss(model, sharing.with_positions(nothing), sharing)
    loss.backward()
    assert loss.item() == 0
    assert all(not gradient.any() for gradient in gradients(model).values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kernels_are_tried_in_the_precision_of_the_model(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that compile in bfloat16 may be too large in float32, and the run would end in its first step."""
    tried: list[torch.dtype] = []

    def kernel(_: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *__: Any, **___: Any) -> Any:
        tried.extend(tensor.dtype for tensor in (query, key, value))
        return query * 1, None

    monkeypatch.setattr(attention, "flex_attention_forward", kernel)
    text = SimpleNamespace(num_attention_heads=4, num_key_value_heads=2, hidden_size=64)
    weights = [torch.zeros(1), torch.zeros(1, dtype=dtype)]  # an adapter's, and one of the base
    base = SimpleNamespace(
        config=SimpleNamespace(get_text_config=lambda: text), device=torch.device("cpu"), parameters=lambda: weights
    )
    assert attention._compiles(base)
    assert tried == [dtype] * 3


def test_a_family_that_is_not_known_trains_the_plain_way_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    model, processor, config = model_of("llava", False)
    base = model.get_base_model()
    unknown = copy.copy(base)
    unknown.config = copy.deepcopy(base.config)
    unknown.config.model_type = "some_vlm"
    assert share_images(unknown, processor, config) is None
    assert share_images(unknown, processor, settings("llava", share_images=False)) is None
    assert caplog.text.count("models of the kind 'some_vlm' are not known") == 1


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        (
            {"_attn_implementation": "flash_attention_2"},
            "attn_implementation flash_attention_2 cannot show each question",
        ),
        ({"sliding_window": 64, "layer_types": None}, "its language model sees a window of tokens only"),
    ],
)
def test_a_language_model_that_cannot_hold_questions_apart_trains_the_plain_way(
    changed: dict[str, Any], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    model, processor, config = model_of("llava", False)
    base = copy.copy(model.get_base_model())
    base.config = copy.deepcopy(base.config)
    for name, value in changed.items():
        setattr(base.config.get_text_config(), name, value)
    assert share_images(base, processor, config) is None
    assert reason in caplog.text


def test_a_question_before_the_image_trains_the_plain_way(caplog: pytest.LogCaptureFixture) -> None:
    model, processor, config = model_of("llava", False)
    processor = copy.copy(processor)
    image = "{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    assert image in processor.chat_template
    behind = processor.chat_template.replace(image, "")
    processor.chat_template = behind.replace("{% if add_generation_prompt %}", "<image>{% if add_generation_prompt %}")
    assert share_images(model.get_base_model(), processor, config) is None
    assert "its chat template writes the question before the image" in caplog.text


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_built_where_an_answer_is_to_be_predicted(family: str, share: bool) -> None:
    """Packed, for these tokens alone; of padded rows, for the columns in which any of them has a label."""
    model, processor, config = model_of(family, False)
    sharing = sharing_of(model, processor, config) if share else None
    batch = TrainCollator(processor, config, share_images=share)(samples())
    heads: list[torch.Size] = []
    hook = model.get_output_embeddings().register_forward_hook(lambda _, __, logits: heads.append(logits.shape[:2]))
    try:
        summed_loss(model, on_device(batch, sharing, model.device), sharing)
    finally:
        hook.remove()
    if share:
        assert heads == [(1, len(batch["targets"]))]
    else:
        assert heads == [(len(batch["labels"]), int((batch["labels"] != IGNORED).any(dim=0).sum()))]


def test_a_processor_of_another_build_trains_the_plain_way(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A later transformers, or code that a model brings: the code that distinguishes images may be gone."""
    model, processor, config = model_of("llava", False)
    monkeypatch.delattr(ProcessorMixin, "_process_images")
    assert share_images(model.get_base_model(), processor, config) is None
    assert "its processor prepares images in a way that is not known" in caplog.text


@pytest.mark.parametrize(
    ("device", "wanted", "questions", "shares"),
    [
        ("cpu", "auto", 1.9, False),
        ("cpu", "auto", 2.0, True),
        ("cpu", True, 1.0, True),
        ("cpu", False, 4.8, False),
        ("cuda", "auto", 1.0, True),
    ],
)
def test_auto_shares_where_that_is_faster(
    device: str, wanted: Any, questions: float, shares: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, processor, _ = model_of("llava", False)
    base = SimpleNamespace(config=model.config, device=torch.device(device))
    monkeypatch.setattr(patches, "use_flex_attention", lambda _: device == "cuda")
    asked: list[int] = []

    def questions_per_image() -> float:
        asked.append(1)
        return questions

    found = share_images(base, processor, Config(device=device, share_images=wanted), questions_per_image)
    assert (found is not None) == shares
    assert bool(asked) == (device == "cpu" and wanted == "auto")


@pytest.mark.parametrize(
    ("device", "flex", "changed", "reason"),
    [
        ("cpu", False, {}, "that needs a GPU"),
        ("cuda", True, {"backend": "unsloth"}, "unsloth compiles them itself"),
        ("cuda", False, {}, "FlexAttention cannot be used here"),
        ("cuda", True, {"share_images": False}, "share_images is false"),
        ("cuda", True, {}, None),
    ],
)
def test_torch_compile_that_cannot_act_says_so_once(
    device: str,
    flex: bool,
    changed: dict[str, Any],
    reason: str | None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """And only where it was asked for."""
    processor = model_of("llava", False)[1]
    base = SimpleNamespace(config=model_of("llava", False)[0].config, device=torch.device(device))
    done: list[Any] = []
    monkeypatch.setattr(patches, "use_flex_attention", lambda _: flex)
    monkeypatch.setattr(patches, "compile_blocks", done.append)
    for wanted in (True, "auto", False):
        config = Config(device=device, torch_compile=wanted, **changed)
        compile_layers(share_images(base, processor, config), config, steps=500 if reason else 100)
    assert done == ([base] if reason is None else [])
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [reason in message for message in said] == ([True] if reason else [])
