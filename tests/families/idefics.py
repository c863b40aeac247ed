"""Idefics3 and SmolVLM: images split into tiles, patches merged by pixel shuffle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessor,
    Idefics3Processor,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMImageProcessor,
    SmolVLMProcessor,
    SmolVLMVideoProcessor,
)

from tests.families import tokens

SPECIAL = [
    "<|begin_of_text|>", "<|end_of_text|>", "<|im_start|>", "<|im_end|>", "<|pad|>", "<fake_token_around_image>",
    "<image>", "<end_of_utterance>", "<global-img>",
    *(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)),
]  # fmt: skip
END_OF_TURN = "<end_of_utterance>"
TEMPLATE = (
    "BOS{% for message in messages %}{{ message['role'] | capitalize }}"
    "{% if message['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}"
    "{% elif part['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
VISION = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28,
    "patch_size": 7,
}  # fmt: skip
SIZES = {"size": {"longest_edge": 56}, "max_image_size": {"longest_edge": 28}}
TOKENS_A_TILE = 4  # (28 / 7) squared, merged by scale_factor squared


def build_idefics3(folder: Path) -> Path:
    """Tiles of 28 x 28 from images scaled to 56 pixels, 2 vision and 2 decoder layers."""
    tokenizer, settings = _shared("<|begin_of_text|>", "<|end_of_text|>")
    processor = Idefics3Processor(
        Idefics3ImageProcessor(**SIZES),
        tokenizer,
        image_seq_len=TOKENS_A_TILE,
        chat_template=TEMPLATE.replace("BOS", "<|begin_of_text|>"),
    )
    return _finish(Idefics3ForConditionalGeneration, Idefics3Config(**settings), processor, folder)


def build_smolvlm(folder: Path) -> Path:
    """The same with SmolVLM's classes and <|im_start|> as its first token."""
    tokenizer, settings = _shared("<|im_start|>", "<end_of_utterance>")
    processor = SmolVLMProcessor(
        SmolVLMImageProcessor(**SIZES),
        tokenizer,
        SmolVLMVideoProcessor(**SIZES, video_sampling={"fps": 1, "max_frames": 4, "video_size": {"longest_edge": 56}}),
        image_seq_len=TOKENS_A_TILE,
        chat_template=TEMPLATE.replace("BOS", "<|im_start|>"),
    )
    return _finish(SmolVLMForConditionalGeneration, SmolVLMConfig(**settings), processor, folder)


def _shared(bos: str, eos: str) -> tuple[Any, dict[str, Any]]:
    tokenizer = tokens.byte_level(SPECIAL, bos_token=bos, eos_token=eos, pad_token="<|pad|>")
    return tokenizer, {
        "vision_config": VISION,
        "text_config": {
            "model_type": "llama", "vocab_size": len(tokenizer), "hidden_size": 48, "intermediate_size": 64,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
            "max_position_embeddings": 2048, "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id,
        },
        "image_token_id": tokenizer.convert_tokens_to_ids("<image>"),
        "pad_token_id": tokenizer.pad_token_id,
        "scale_factor": 2,
    }  # fmt: skip


def _finish(kind: Any, config: Any, processor: Any, folder: Path) -> Path:
    torch.manual_seed(0)
    return tokens.save(kind(config), processor, folder)
