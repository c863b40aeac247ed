"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL: images of any size, multimodal rotary positions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMoeConfig,
    Qwen3VLMoeForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from tests.families import tokens

SPECIAL = """<|endoftext|> <|im_start|> <|im_end|> <|vision_start|> <|vision_end|> <|vision_pad|> <|image_pad|>
    <|video_pad|>""".split()
END_OF_TURN = "<|im_end|>"
TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'text' in part %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXT = {
    "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 2048,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 2, 2]},
}  # fmt: skip


def build_2(folder: Path) -> Path:
    """Qwen2-VL: 2 vision layers, patches of 14 x 14 merged by 4."""
    vision = {"depth": 2, "embed_dim": 32, "num_heads": 2, "hidden_size": TEXT["hidden_size"]}
    tokenizer, shared = _shared(vision, TEXT)
    processor = Qwen2VLProcessor(_images(14), tokenizer, Qwen2VLVideoProcessor(), chat_template=TEMPLATE)
    return _finish(Qwen2VLForConditionalGeneration, Qwen2VLConfig(**shared), processor, folder)


def build_2_5(folder: Path) -> Path:
    """Qwen2.5-VL: as before, with window attention in one of two vision layers and a gated MLP there."""
    vision = {
        "depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "window_size": 56,
        "out_hidden_size": TEXT["hidden_size"], "fullatt_block_indexes": [1],
    }  # fmt: skip
    tokenizer, shared = _shared(vision, TEXT)
    processor = Qwen2_5_VLProcessor(_images(14), tokenizer, Qwen2VLVideoProcessor(), chat_template=TEMPLATE)
    return _finish(Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLConfig(**shared), processor, folder)


def build_3(folder: Path) -> Path:
    """Qwen3-VL: patches of 16 x 16, one of 2 vision layers also feeds a decoder layer (deepstack)."""
    vision = {
        "depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "patch_size": 16,
        "out_hidden_size": TEXT["hidden_size"], "num_position_embeddings": 64, "deepstack_visual_indexes": [0],
    }  # fmt: skip
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 2, 2], "mrope_interleaved": True}
    tokenizer, shared = _shared(vision, {**TEXT, "head_dim": 12, "rope_parameters": rope})
    processor = Qwen3VLProcessor(_images(16), tokenizer, Qwen3VLVideoProcessor(), chat_template=TEMPLATE)
    return _finish(Qwen3VLForConditionalGeneration, Qwen3VLConfig(**shared), processor, folder)


def build_3_moe(folder: Path) -> Path:
    """Qwen3-VL with a mixture of experts: 4 experts of which 2 answer, their weights in one parameter for all."""
    vision = {
        "depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "patch_size": 16,
        "out_hidden_size": TEXT["hidden_size"], "num_position_embeddings": 64, "deepstack_visual_indexes": [0],
    }  # fmt: skip
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 2, 2], "mrope_interleaved": True}
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
    tokenizer, shared = _shared(vision, {**TEXT, **experts, "head_dim": 12, "rope_parameters": rope})
    processor = Qwen3VLProcessor(_images(16), tokenizer, Qwen3VLVideoProcessor(), chat_template=TEMPLATE)
    return _finish(Qwen3VLMoeForConditionalGeneration, Qwen3VLMoeConfig(**shared), processor, folder)


def _images(patch: int) -> Qwen2VLImageProcessor:
    return Qwen2VLImageProcessor(
        patch_size=patch, size={"shortest_edge": 4 * patch * patch, "longest_edge": 32 * patch * patch}
    )


def _shared(vision: dict[str, Any], text: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    tokenizer = tokens.byte_level(SPECIAL, eos_token=END_OF_TURN, pad_token="<|endoftext|>")
    ids = tokenizer.convert_tokens_to_ids
    special = {
        "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None
    }  # fmt: skip
    return tokenizer, {
        "vision_config": vision,
        "text_config": {**text, **special, "vocab_size": len(tokenizer)},
        "image_token_id": ids("<|image_pad|>"),
        "video_token_id": ids("<|video_pad|>"),
        "vision_start_token_id": ids("<|vision_start|>"),
        "vision_end_token_id": ids("<|vision_end|>"),
    }


def _finish(kind: Any, config: Any, processor: Any, folder: Path) -> Path:
    torch.manual_seed(0)
    return tokens.save(kind(config), processor, folder)
