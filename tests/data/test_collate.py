"""Model inputs and labels, for every family: what is trained is what is asked, and nothing else."""

from __future__ import annotations

import functools
import pickle
import re
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from tokenizers import normalizers, pre_tokenizers

from tests.families import BUILDERS, END_OF_TURN, FIRST_TOKEN_BY_TOKENIZER, model_folder
from tests.families.data import image, samples, settings
from vizsage.data import encoding
from vizsage.data.collate import IGNORED, PromptCollator, TrainCollator
from vizsage.data.images import BadImage, EmbeddedImage
from vizsage.data.prompts import answer_suffix, render_prompt, reserved_tokens
from vizsage.data.sample import Sample
from vizsage.errors import ConfigError
from vizsage.models.loading.hf import load_base, load_processor

FAMILIES = sorted(BUILDERS)
BROKEN = EmbeddedImage("broken.png", b"\x89PNG\r\n\x1a\nno image")


def model_inputs(batch: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in batch.items() if isinstance(value, torch.Tensor)}


def trained_rows(batch: dict[str, Any]) -> list[tuple[list[int], list[int]]]:
    """(prompt ids, answer ids) of each row."""
    rows = []
    for ids, mask, labels in zip(batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True):
        answer = labels != IGNORED
        rows.append((ids[mask.bool() & ~answer].tolist(), labels[answer].tolist()))
    return rows


def prompt_rows(batch: dict[str, Any]) -> list[list[int]]:
    return [ids[mask.bool()].tolist() for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)]


@pytest.mark.parametrize("family", FAMILIES)
def test_supervises_answer_and_end_of_turn_after_the_prompt_of_generation(family: str) -> None:
    config = settings(family)
    processor = load_processor(config)
    asked = samples()
    batch = TrainCollator(processor, config)(asked)
    rows = trained_rows(batch)
    for sample, (_, answer) in zip(asked, rows, strict=True):
        assert processor.tokenizer.decode(answer).lstrip(" ") == sample.answer + END_OF_TURN[family]
    prompts = PromptCollator(processor, config)(asked)
    assert prompts["failed"] == []
    assert prompt_rows(prompts) == [prompt for prompt, _ in rows]
    assert batch["left_out"] == []


@pytest.mark.parametrize("family", FAMILIES)
def test_pads_training_on_the_right_and_prompts_on_the_left(family: str) -> None:
    config = settings(family)
    processor = load_processor(config)
    trained = TrainCollator(processor, config)(samples())
    asked = PromptCollator(processor, config)(samples())
    ascending = trained["attention_mask"].diff(dim=1)
    assert (ascending <= 0).all()
    assert trained["attention_mask"][:, 0].all()
    assert (asked["attention_mask"].diff(dim=1) >= 0).all()
    assert asked["attention_mask"][:, -1].all()
    assert (trained["attention_mask"].sum(dim=1) < trained["input_ids"].shape[1]).any()
    padding = trained["input_ids"][trained["attention_mask"] == 0]
    assert (padding == processor.tokenizer.pad_token_id).all()
    assert (trained["labels"][trained["attention_mask"] == 0] == IGNORED).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_prompt_has_one_begin_token(family: str) -> None:
    config = settings(family)
    processor = load_processor(config)
    bos = processor.tokenizer.bos_token_id
    expected = 0 if family.startswith("qwen") else 1
    for prompt in prompt_rows(PromptCollator(processor, config)(samples())):
        assert (prompt.count(bos) if bos is not None else 0) == expected
        assert expected == 0 or prompt[0] == bos


@pytest.mark.parametrize("family", FAMILIES)
def test_inputs_are_what_the_processor_makes_of_prompt_and_answer(family: str) -> None:
    config = settings(family)
    processor = load_processor(config)
    for sample in samples():
        image = encoding.load_image(sample.images[0], max_image_px=10**6)
        text = render_prompt(processor, sample, config, sample.description)
        text += answer_suffix(processor, sample.answer, config)
        special = family in FIRST_TOKEN_BY_TOKENIZER
        whole = processor(text=[text], images=[[image]], return_tensors="pt", add_special_tokens=special)
        inputs = model_inputs(TrainCollator(processor, config)([sample]))
        del inputs["labels"]
        assert inputs.keys() == {name for name, value in whole.items() if isinstance(value, torch.Tensor)}
        for name, value in inputs.items():
            assert torch.equal(value, whole[name]), (name, sample.sample_id)


def test_prompt_keeps_its_tokens_where_the_answer_would_change_them() -> None:
    config = settings("mllama")
    processor = load_processor(config)
    # GPT-2's words: of two newlines before a letter, each is a token; at the end of a prompt they are one.
    processor.tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    merged = processor.tokenizer("<|end_header_id|>\n\n", add_special_tokens=False)["input_ids"]
    apart = processor.tokenizer("<|end_header_id|>\n\nred", add_special_tokens=False)["input_ids"]
    assert apart[: len(merged)] != merged
    batch = TrainCollator(processor, config)(samples())
    rows = trained_rows(batch)
    assert [prompt for prompt, _ in rows] == prompt_rows(PromptCollator(processor, config)(samples()))
    for sample, (_, answer) in zip(samples(), rows, strict=True):
        assert processor.tokenizer.decode(answer) == f"{sample.answer}<|eot_id|>"


def test_answer_has_the_tokens_it_has_within_a_text() -> None:
    config = settings("llava")
    processor = load_processor(config)
    # The published Llama 2 tokenizers put a space before every text, so " red" alone would begin with two.
    backend = processor.tokenizer.backend_tokenizer
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.pre_tokenizer = None
    alone = processor.tokenizer.tokenize(" red</s>")
    ((_, answer),) = trained_rows(TrainCollator(processor, config)([samples()[0]]))
    within = processor.tokenizer.convert_ids_to_tokens(answer)
    assert "".join(alone) == "▁▁red</s>"
    assert "".join(within) == "▁red</s>"


@pytest.mark.parametrize("family", FAMILIES)
def test_loss_of_a_batch_is_the_token_mean_of_its_samples(family: str) -> None:
    config = settings(family)
    loaded = load_base(config)
    collator = TrainCollator(loaded.processor, config)
    with torch.no_grad():
        whole = loaded.model(**model_inputs(collator(samples()))).loss
        total, tokens = 0.0, 0
        for sample in samples():
            single = model_inputs(collator([sample]))
            count = int((single["labels"] != IGNORED).sum())
            total += float(loaded.model(**single).loss) * count
            tokens += count
    assert float(whole) == pytest.approx(total / tokens, abs=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_special_tokens_in_texts_are_only_text(family: str) -> None:
    config = settings(family)
    processor = load_processor(config)
    text = " and ".join(reserved_tokens(processor)) + " and <image> <|image|> <|eot_id|> </s>"
    plain = Sample("a", (image("red"),), "what is it", "red", True, "a painting")
    hostile = replace(plain, question=text, answer=text, description=text)
    hostile_config = config.model_copy(update={"instruction": f"Answer. {text}"})
    special = set(processor.tokenizer.all_special_ids) | set(
        processor.tokenizer.convert_tokens_to_ids(reserved_tokens(processor))
    )

    def special_ids(ids: list[int]) -> list[int]:
        return [i for i in ids if i in special]

    ((prompt, answer),) = trained_rows(TrainCollator(processor, config)([plain]))
    wide = hostile_config.model_copy(update={"max_seq_length": 8192})
    ((hostile_prompt, hostile_answer),) = trained_rows(TrainCollator(processor, wide)([hostile]))
    assert special_ids(hostile_prompt) == special_ids(prompt)
    assert special_ids(hostile_answer) == special_ids(answer)
    assert len(hostile_prompt) > len(prompt) + 20


@pytest.mark.parametrize("family", FAMILIES)
def test_description_gives_way_by_whole_words_and_images_stay(family: str) -> None:
    config = settings(family, max_seq_length=160, max_new_tokens=16)
    processor = load_processor(config)
    words = [f"word{i}" for i in range(200)]
    sample = Sample("a", (image("red"),), "what is it", "red", True, "  \n".join(words))
    collator = TrainCollator(processor, config)
    batch = collator([sample])
    ((prompt, _),) = trained_rows(batch)
    assert batch["left_out"] == []
    assert len(prompt) <= 160 - 16
    text = processor.tokenizer.decode(prompt)
    kept = [word for word in words if f"{word} " in text or f"{word}\n" in text]
    assert kept == words[: len(kept)]
    assert len(kept) > 2
    assert len(re.findall(r"word\d", text)) == len(kept)  # the last one is whole
    # One more word would not fit.
    longer = replace(sample, description="  \n".join(words[: len(kept) + 1]))
    roomy = settings(family, max_seq_length=2048)
    ((longer_prompt, _),) = trained_rows(TrainCollator(processor, roomy)([longer]))
    assert len(longer_prompt) > 160 - 16
    assert trained_rows(collator([longer]))[0][0] == prompt
    image_id = image_token_id(processor)
    assert prompt.count(image_id) == longer_prompt.count(image_id) > 0
    # Generation sees the same prompt, alone or in company.
    company = PromptCollator(processor, config)([samples()[0], sample])
    assert prompt_rows(company)[1] == prompt


def image_token_id(processor: Any) -> int:
    return int(getattr(processor, "image_token_ids", [processor.image_token_id])[0])


def test_description_goes_entirely_before_the_sample_does() -> None:
    config = settings("mllama")
    processor = load_processor(config)
    sample = Sample("a", (image("red"),), "what is it", "red", True, "Donaudampfschifffahrtsgesellschaft " * 3)
    bare = len(trained_rows(TrainCollator(processor, config)([replace(sample, description=None)]))[0][0])
    tight = settings("mllama", max_seq_length=bare + 5, max_new_tokens=4)
    batch = TrainCollator(processor, tight)([sample])
    assert batch["left_out"] == []
    assert "Description" not in processor.tokenizer.decode(batch["input_ids"][0])


def test_sample_that_fits_only_without_room_to_spare_is_trained() -> None:
    config = settings("mllama")
    processor = load_processor(config)
    sample = samples()[0]
    ((prompt, answer),) = trained_rows(TrainCollator(processor, config)([sample]))
    exact = len(prompt) + len(answer)
    assert TrainCollator(processor, settings("mllama", max_seq_length=exact))([sample])["left_out"] == []
    left_out = TrainCollator(processor, settings("mllama", max_seq_length=exact - 1))([sample])["left_out"]
    assert left_out == [("test-0", f"{exact} tokens without a description, max_seq_length is {exact - 1}")]


@pytest.mark.parametrize("family", FAMILIES)
def test_left_out_samples_weigh_nothing(family: str) -> None:
    config = settings(family, on_bad_image="skip", max_seq_length=200)
    loaded = load_base(config)
    collator = TrainCollator(loaded.processor, config)
    good = samples()[3]
    long = replace(samples()[0], sample_id="long", question="why " * 400)
    bad = replace(samples()[1], sample_id="bad", images=(BROKEN,))
    batch = collator([long, good, bad])
    assert [sample_id for sample_id, _ in batch["left_out"]] == ["long", "bad"]
    assert "max_seq_length is 200" in batch["left_out"][0][1]
    assert "'broken.png'" in batch["left_out"][1][1]
    assert batch["input_ids"].shape[1] <= 200
    assert (batch["labels"][[0, 2]] == IGNORED).all()
    with torch.no_grad():
        together = loaded.model(**model_inputs(batch)).loss
        alone = loaded.model(**model_inputs(collator([good]))).loss
    assert float(together) == pytest.approx(float(alone), abs=1e-5)
    assert model_inputs(collator([long, bad]))["labels"].eq(IGNORED).all()


def test_bad_image_stops_training_by_default_and_fails_a_prompt() -> None:
    config = settings("mllama")
    processor = load_processor(config)
    bad = replace(samples()[0], images=(BROKEN,))
    with pytest.raises(BadImage, match=r"'broken.png'"):
        TrainCollator(processor, config)([samples()[1], bad])
    ((index, reason),) = PromptCollator(processor, config)([samples()[1], bad])["failed"]
    assert index == 1
    assert "'broken.png'" in reason


def test_image_that_the_processor_refuses_is_a_bad_image() -> None:
    config = settings("qwen2_vl")
    processor = load_processor(config)
    strip = replace(samples()[0], images=(image("red", 3000, 2),))
    with pytest.raises(BadImage, match=r"'red-3000x2.png' is refused by the model's processor: .*aspect ratio"):
        TrainCollator(processor, config)([samples()[1], strip])
    batch = TrainCollator(processor, settings("qwen2_vl", on_bad_image="skip"))([samples()[1], strip])
    assert [sample_id for sample_id, _ in batch["left_out"]] == ["test-0"]


@pytest.mark.parametrize("family", FAMILIES)
def test_smallest_images_work(family: str) -> None:
    config = settings(family)
    collator = TrainCollator(load_processor(config), config)
    assert collator([replace(samples()[0], images=(image("red", 1, 1),))])["left_out"] == []


def test_each_image_of_a_batch_is_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    config = settings("mllama")
    decoded = []
    original = encoding.load_image

    def counting(ref: Any, **limits: Any) -> Any:
        decoded.append(ref.name)
        return original(ref, **limits)

    monkeypatch.setattr(encoding, "load_image", counting)
    TrainCollator(load_processor(config), config)(samples())
    assert decoded == ["red-40x30.png", "blue-30x90.png", "green-64x64.png", "grey-90x20.png"]


@pytest.mark.parametrize("share_images", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_is_a_function_of_its_samples_also_in_a_worker(family: str, share_images: bool) -> None:
    config = settings(family)
    collator = TrainCollator(load_processor(config), config, share_images=share_images)
    copy = pickle.loads(pickle.dumps(collator))
    first, second = collator(samples()), copy(samples())
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in model_inputs(first))


def test_window_that_cannot_hold_the_image_is_a_configuration_error() -> None:
    processor = load_processor(settings("llava"))
    with pytest.raises(ConfigError, match="max_seq_length 20: image and instruction alone take") as error:
        TrainCollator(processor, settings("llava", max_seq_length=20))
    alone, total, answer, question = map(int, re.findall(r"(?:take|to|and|for an answer and) (\d+)", str(error.value)))
    assert alone + answer + question == total


def test_folder_is_built_once() -> None:
    assert model_folder("mllama") == model_folder("mllama")


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_pixels_are_those_of_the_processor_once_a_image_in_the_dtype_asked_for(family: str) -> None:
    config = settings(family)
    processor = load_processor(config)
    asked = samples()
    collate = functools.partial(TrainCollator, processor, config, share_images=True)
    exact, rounded = collate()(asked), collate(pixels=torch.bfloat16)(asked)
    first_of_each = [
        next(s for s in asked if s.images[0].name == name) for name in dict.fromkeys(s.images[0].name for s in asked)
    ]
    expected = TrainCollator(processor, config)(first_of_each)
    of_images = [name for name in expected if "pixel" in name or "aspect" in name or "grid" in name]
    assert "pixel_values" in of_images
    for name in of_images:
        assert torch.equal(exact[name], expected[name])
        assert torch.equal(
            rounded[name], expected[name].bfloat16() if expected[name].is_floating_point() else expected[name]
        )


@pytest.mark.parametrize("share_images", [False, True])
def test_two_images_of_one_name_stay_two(share_images: bool) -> None:
    """Embedded images often keep the base name of their file alone: a/0.png and b/0.png are both 0.png."""
    config = settings("llava")
    red, blue = (replace(image(colour), name="0.png") for colour in ("red", "blue"))
    asked = [replace(sample, images=(ref,)) for sample, ref in zip(samples()[:4], (red, blue, red, blue), strict=True)]
    found = TrainCollator(load_processor(config), config, share_images=share_images)(asked)["pixel_values"]
    assert len(found) == (2 if share_images else 4)
    assert not torch.equal(found[0], found[1])


def test_bytes_that_tell_images_apart_are_read_once_for_a_batch() -> None:
    """As in Parquet, where each row has a separate reference: one reading to compare, one to decode the image."""
    config = settings("llava")
    read: list[int] = []

    @dataclass(frozen=True)
    class Row:
        number: int
        name: str = "0.png"
        named: bool = True

        def read(self) -> bytes:
            read.append(self.number)
            return image("red").data

    asked = [replace(sample, images=(Row(number),)) for number, sample in enumerate(samples()[:3])]
    batch = TrainCollator(load_processor(config), config, share_images=True)(asked)
    assert len(batch["pixel_values"]) == 1
    assert sorted(read) == [0, 0, 1, 2]
