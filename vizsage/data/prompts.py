"""The ONE place a prompt is built, for training, evaluation and prediction alike.

A prompt is the user's turn (instruction, image, description if any, question) in the chat template of the model; the
answer is the text that the template writes after it, up to and including the token that ends the assistant's turn.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from vizsage.config import Config
from vizsage.data.images import EmbeddedImage
from vizsage.data.model_inputs import inputs_of
from vizsage.data.sample import LETTERS, Sample
from vizsage.errors import CheckpointError, ConfigError, one_line
from vizsage.interruption import time_limit

# Increased whenever `messages` changes what it writes: adapters trained on another layout are then refused.
PROMPT_LAYOUT = "1"
_SENTINEL = "vizsage answer"
_RENDER_S = 30.0  # a prompt takes a fraction of a millisecond
# What a template may raise besides jinja2's own errors: those of Python's operators.
_TEMPLATE_ERRORS = (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError, MemoryError)


def messages(
    sample: Sample, instruction: str, description: str | None, *, reserved: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """The user's turn: instruction, images, description if any, question, one line per choice ("A. text") if any.

    `reserved` are the special tokens of the model: none of these texts contains one afterwards.
    """
    lines = [f"Question: {plain_text(sample.question, reserved)}"]
    lines += (f"{letter}. {plain_text(choice, reserved)}" for letter, choice in zip(LETTERS, sample.choices))  # noqa: B905
    paragraphs = ["\n".join(lines)]
    if description and description.strip():
        paragraphs.insert(0, f"Description: {plain_text(description, reserved)}")
    images: list[dict[str, Any]] = [{"type": "image"} for _ in sample.images]
    content = [*images, {"type": "text", "text": "\n\n".join(paragraphs)}]
    if instruction.strip():
        content.insert(0, {"type": "text", "text": plain_text(instruction, reserved)})
    return [{"role": "user", "content": content}]


def plain_text(text: str, reserved: Sequence[str]) -> str:
    """`text` without outer whitespace, each reserved token in it broken up by a space after its first character.

    A question that contains "<image>" or "<|eot_id|>" would otherwise claim a second image or end its own turn.
    """
    text = text.strip()
    for token in sorted(reserved, key=len, reverse=True):
        while token in text:  # repeated: breaking one up can leave an overlapping one whole
            text = text.replace(token, f"{token[0]} {token[1:]}" if len(token) > 1 else "")
    return text


def reserved_tokens(processor: Any) -> list[str]:
    """Texts that the tokenizer or the processor takes for special tokens, sorted."""
    found = {str(token) for token in processor.tokenizer.all_special_tokens}
    found |= {t.content for t in processor.tokenizer.added_tokens_decoder.values() if t.special}
    for name in inputs_of(processor).image_tokens:
        found.add(str(getattr(processor, name, None) or ""))
    return sorted(token for token in found if token.strip())


def render_prompt(
    processor: Any,
    sample: Sample,
    config: Config,
    description: str | None,
    *,
    reserved: Sequence[str] | None = None,
) -> str:
    """The prompt of `sample` as text, the image a placeholder, up to where the answer begins.

    Args:
        processor: of the model.
        sample: the sample; its answer is not read.
        config: the settings.
        description: the description to show, or None.
        reserved: the `reserved_tokens` of `processor`, if the caller has them already.

    Returns:
        The text that the processor takes.

    Raises:
        ConfigError: the processor has no chat template, or the template refuses such a turn.
    """
    if reserved is None:
        reserved = reserved_tokens(processor)
    turn = messages(sample, config.instruction, description, reserved=reserved)
    return _render(processor, turn, config, add_generation_prompt=True)


def image_precedes_question(processor: Any, config: Config) -> bool:
    """Whether the prompts of all questions are equal up to and including the image."""
    one, other = (
        _render(
            processor,
            messages(Sample("", (EmbeddedImage("", b""),), question, ""), config.instruction, None),
            config,
            add_generation_prompt=True,
        )
        for question in ("a", "b")
    )
    token = getattr(processor, "boi_token", None) or getattr(processor, "image_token", None)
    return bool(token) and str(token) in os.path.commonprefix([one, other])  # noqa: RUF071 -- of texts, not of paths


class AnswerLayout:
    """What the chat template writes around an answer: the text `before` it, often none, and the `end_of_turn` token."""

    def __init__(self, processor: Any, config: Config) -> None:
        """Find both by rendering a turn with a known answer.

        Raises ConfigError when the rendered answer does not begin with the rendered prompt.
        """
        turn: list[dict[str, Any]] = [
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Question: what?"}]}
        ]
        answer = {"role": "assistant", "content": [{"type": "text", "text": _SENTINEL}]}
        prompt = _render(processor, turn, config, add_generation_prompt=True)
        whole = _render(processor, [*turn, answer], config, add_generation_prompt=False)
        before, found, after = whole[len(prompt) :].partition(_SENTINEL)
        if not whole.startswith(prompt) or not found or before.strip():
            raise ConfigError(
                f"model_name {config.model_name}: its chat template writes an answered turn that does not begin with "
                "the prompt of the same turn, so prompt and answer cannot be distinguished; choose an instruct model "
                "whose template appends the answer to the prompt"
            )
        self.before = before
        self.reserved = reserved_tokens(processor)
        end = _first_special(after, self.reserved) or processor.tokenizer.eos_token
        if end is None:
            raise ConfigError(
                f"model_name {config.model_name}: neither template nor tokenizer has a token that ends a turn"
            )
        self.end_of_turn = str(end)
        self.end_of_turn_id = int(processor.tokenizer.convert_tokens_to_ids(self.end_of_turn))

    def suffix(self, answer: str) -> str:
        """The text after the prompt: the answer and the token that ends the turn."""
        return f"{self.before}{plain_text(answer, self.reserved)}{self.end_of_turn}"


def answer_suffix(processor: Any, answer: str, config: Config) -> str:
    """The answer as the template writes it, with the token that ends the turn."""
    return AnswerLayout(processor, config).suffix(answer)


def fingerprint(processor: Any, config: Config, base_identity: str) -> dict[str, str]:
    """All that an adapter depends on, as text to be compared: prompt layout, template, pixel limits, base model."""
    images = processor.image_processor
    limits = inputs_of(processor).pixel_limits
    pixels = {name: _plain(getattr(images, name)) for name in limits if getattr(images, name, None) is not None}
    # One limit may have two names. Which of them a processor has depends on the library that loads it.
    for name, edge in (("min_pixels", "shortest_edge"), ("max_pixels", "longest_edge")):
        if name in pixels and isinstance(pixels.get("size"), dict) and pixels["size"].get(edge) == pixels[name]:
            del pixels[name]
    pixels["resize_px"] = config.resize_px
    template = processor.chat_template or processor.tokenizer.chat_template or ""
    return {
        "prompt_layout": PROMPT_LAYOUT,
        "instruction": config.instruction,
        "chat_template": hashlib.sha256(_template_text(template).encode("utf-8")).hexdigest(),
        "pixel_limits": json.dumps(pixels, sort_keys=True),
        "base_model": config.model_name,
        "base_identity": base_identity,
    }


def compare_fingerprints(saved: Mapping[str, str], current: Mapping[str, str]) -> list[str]:
    """The keys that differ, base_model excepted: the same base may be in another folder; base_identity decides."""
    return [key for key in current if saved.get(key) != current[key] and key != "base_model"]


def _render(processor: Any, turns: list[dict[str, Any]], config: Config, *, add_generation_prompt: bool) -> str:
    # Only jinja2 knows the errors of templates, and transformers imports it when it renders one.
    import jinja2

    if not (getattr(processor, "chat_template", None) or getattr(processor.tokenizer, "chat_template", None)):
        raise ConfigError(
            f"model_name {config.model_name}: its processor has no chat template; use the instruct variant of the model"
        )

    def overdue() -> CheckpointError:
        return CheckpointError(
            f"model_name {config.model_name}: its chat template made no prompt in {_RENDER_S:.0f} s of computing: "
            "it loops; fetch the model again, or use another one"
        )

    try:
        with time_limit(_RENDER_S, overdue):
            text = processor.apply_chat_template(
                turns,
                chat_template=processor.chat_template or processor.tokenizer.chat_template,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                processor_kwargs={"padding": False},  # without any, some processors warn about their own at each prompt
            )
    except (jinja2.TemplateError, *_TEMPLATE_ERRORS) as error:
        raise ConfigError(
            f"model_name {config.model_name}: its chat template cannot render a turn of text, image and question "
            f"({one_line(error)}); use a vision-language instruct model"
        ) from error
    return str(text)


def _first_special(text: str, reserved: Sequence[str]) -> str | None:
    found = [(text.index(token), -len(token), token) for token in reserved if token in text]
    return min(found)[2] if found else None


def _template_text(template: Any) -> str:
    return template if isinstance(template, str) else json.dumps(template, sort_keys=True)


def _plain(value: Any) -> Any:
    """`value` as JSON. transformers' own class of sizes is iterated in pairs and has all possible keys."""
    if type(value).__name__ == "SizeDict":
        value = dict(value)
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items() if v is not None}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value if isinstance(value, (int, float, str, bool)) or value is None else str(value)
