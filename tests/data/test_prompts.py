"""The prompt, the answer's layout and the fingerprint."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.families import BUILDERS, END_OF_TURN, IMAGE_FIRST
from tests.families.data import image, settings
from vizsage import interruption
from vizsage.data import prompts
from vizsage.data.prompts import (
    AnswerLayout,
    answer_suffix,
    compare_fingerprints,
    fingerprint,
    messages,
    plain_text,
    render_prompt,
    reserved_tokens,
)
from vizsage.data.sample import Sample
from vizsage.errors import CheckpointError, ConfigError
from vizsage.models.loading.hf import load_processor

FAMILIES = sorted(BUILDERS)
SAMPLE = Sample("a", (image("red"),), " What is it? ", "red")


def texts(turns: list[dict[str, Any]]) -> list[str]:
    return [part.get("text", part["type"]) for part in turns[0]["content"]]


def test_order_is_instruction_image_description_question() -> None:
    assert texts(messages(SAMPLE, "Answer.", "A square.")) == [
        "Answer.",
        "image",
        "Description: A square.\n\nQuestion: What is it?",
    ]


@pytest.mark.parametrize("description", [None, "", " \n"])
def test_what_is_missing_leaves_no_trace(description: str | None) -> None:
    assert texts(messages(SAMPLE, " ", description)) == ["image", "Question: What is it?"]


@pytest.mark.parametrize("family", FAMILIES)
def test_rendered_prompt_keeps_the_order(family: str) -> None:
    config = settings(family, instruction="Answer.")
    processor = load_processor(config)
    prompt = render_prompt(processor, SAMPLE, config, "A square.")
    image = processor.image_token if family != "gemma3" else "<start_of_image>"
    order = ["Answer.", image, "Description: A square.", "Question: What is it?"]
    if family in IMAGE_FIRST:
        order = [image, "Answer.", *order[2:]]
    places = [prompt.index(part) for part in order]
    assert places == sorted(places)
    assert prompt.count(image) == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_suffix_is_answer_and_end_of_turn(family: str) -> None:
    config = settings(family)
    processor = load_processor(config)
    assert answer_suffix(processor, " red ", config).lstrip(" ") == f"red{END_OF_TURN[family]}"
    layout = AnswerLayout(processor, config)
    assert processor.tokenizer.convert_ids_to_tokens(layout.end_of_turn_id) == END_OF_TURN[family]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a <image> b", "a < image> b"),
        ("<im<image>age>", "<im< image>age>"),
        ("<<s>s>", "<< s>s>"),
        ("plain < text >", "plain < text >"),
    ],
)
def test_reserved_tokens_are_broken_up(text: str, expected: str) -> None:
    plain = plain_text(text, ["<image>", "<s>", "</s>"])
    assert plain == expected
    assert not any(token in plain for token in ("<image>", "<s>", "</s>"))


def test_reserved_tokens_are_those_of_tokenizer_and_processor() -> None:
    reserved = reserved_tokens(load_processor(settings("idefics3")))
    assert {"<image>", "<end_of_utterance>", "<fake_token_around_image>", "<global-img>", "<|im_start|>"} <= set(
        reserved
    )
    assert "<start_of_image>" in reserved_tokens(load_processor(settings("gemma3")))


def test_processor_without_template_is_refused() -> None:
    config = settings("mllama")
    processor = load_processor(config)
    processor.chat_template = None
    processor.tokenizer.chat_template = None
    with pytest.raises(ConfigError, match="no chat template"):
        render_prompt(processor, SAMPLE, config, None)


@pytest.mark.parametrize(
    "template",
    [
        # What models that think aloud do: the prompt opens a thought that the answered turn does not have.
        "{% for m in messages %}<|image|>{{ m['role'] }}{% if m['role'] == 'assistant' %}{{ m['content'][0]['text'] }}"
        "{% endif %}{% endfor %}{% if add_generation_prompt %}assistant<think>{% endif %}",
        # An answer that is not there at all.
        "<|image|>{% for m in messages %}{{ m['role'] }}{% endfor %}{% if add_generation_prompt %}assistant{% endif %}",
    ],
)
def test_template_that_hides_the_answer_is_refused(template: str) -> None:
    config = settings("mllama")
    processor = load_processor(config)
    processor.chat_template = template
    with pytest.raises(ConfigError, match="prompt and answer cannot be distinguished") as caught:
        AnswerLayout(processor, config)
    assert "\n" not in str(caught.value)


def test_template_that_raises_is_refused_in_one_line() -> None:
    config = settings("mllama")
    processor = load_processor(config)
    processor.chat_template = "{{ raise_exception('no\nimages') }}"
    with pytest.raises(ConfigError, match=r"cannot render .*\(no images\)"):
        render_prompt(processor, SAMPLE, config, None)


def test_template_without_end_of_turn_ends_with_the_end_of_text() -> None:
    config = settings("mllama")
    processor = load_processor(config)
    processor.chat_template = (
        "<|image|>{% for m in messages %}{{ m['role'] }}: {{ m['content'][-1]['text'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    assert answer_suffix(processor, "red", config) == " red<|eot_id|>"
    processor.tokenizer.eos_token = None
    with pytest.raises(ConfigError, match="end"):
        AnswerLayout(processor, config)


@pytest.mark.parametrize("family", FAMILIES)
def test_fingerprint_is_the_same_each_time(family: str) -> None:
    config = settings(family)
    first = fingerprint(load_processor(config), config, "content:1")
    assert first == fingerprint(load_processor(config), config, "content:1")
    assert all(isinstance(value, str) for value in first.values())
    size = json.loads(first["pixel_limits"])["size"]
    assert size == dict(load_processor(config).image_processor.size)
    assert set(size) <= {"height", "width", "longest_edge", "shortest_edge"}


def test_two_names_of_one_pixel_limit_are_one() -> None:
    """unsloth gives the processors of Qwen min_pixels and max_pixels beside size; an adapter is at home with both."""
    config = settings("qwen2_5_vl")
    processor = load_processor(config)
    saved = fingerprint(processor, config, "content:1")
    size = processor.image_processor.size
    processor.image_processor.min_pixels = size["shortest_edge"]
    processor.image_processor.max_pixels = size["longest_edge"]
    assert fingerprint(processor, config, "content:1") == saved
    processor.image_processor.max_pixels += 1
    assert compare_fingerprints(saved, fingerprint(processor, config, "content:1")) == ["pixel_limits"]


def test_fingerprint_tells_what_changed() -> None:
    config = settings("mllama")
    processor = load_processor(config)
    saved = fingerprint(processor, config, "content:1")
    other = config.model_copy(update={"instruction": "Say it.", "resize_px": 4096})
    assert compare_fingerprints(saved, fingerprint(processor, other, "content:2")) == [
        "instruction",
        "pixel_limits",
        "base_identity",
    ]
    processor.chat_template += " "
    processor.image_processor.max_image_tiles = 2
    assert compare_fingerprints(saved, fingerprint(processor, config, "content:1")) == ["chat_template", "pixel_limits"]
    # The same base in another folder is the same base.
    moved = {**saved, "base_model": "/elsewhere"}
    assert compare_fingerprints(saved, moved) == []
    assert compare_fingerprints({}, saved)[0] == "prompt_layout"


@pytest.mark.parametrize(
    ("template", "error", "named"),
    [
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", CheckpointError, "it loops"),
        ("{% for i in range(10**9) %}{% endfor %}", ConfigError, "Range too big"),
        ("{{ 1 / 0 }}", ConfigError, "division"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", ConfigError, "recursion"),
    ],
)
def test_a_template_that_cannot_end_is_named(
    monkeypatch: pytest.MonkeyPatch, template: str, error: type[Exception], named: str
) -> None:
    monkeypatch.setattr(prompts, "_RENDER_S", 0.1)
    monkeypatch.setattr(interruption, "_TICK_S", 0.1)
    config = settings("mllama")
    processor = load_processor(config)
    processor.chat_template = template
    with pytest.raises(error, match=f"model_name .*: its chat template .*{named}") as caught:
        render_prompt(processor, SAMPLE, config, None)
    assert "\n" not in str(caught.value)
