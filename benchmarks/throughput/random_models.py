"""Random models of two families, at real size on a GPU and small on a CPU, each with a simplified processor.

The small ones keep the proportions that matter. Mllama: going over an image takes several times as long as
training on the text of one question. Qwen2.5-VL: an image has several times as many tokens as a question.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    MllamaConfig,
    MllamaForConditionalGeneration,
    MllamaImageProcessor,
    MllamaProcessor,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
)
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

from benchmarks.throughput.tokens import make_tokenizer

RECIPE = 1  # counts up when the same name would mean another model
LLAMA_SPECIAL = """<|begin_of_text|> <|end_of_text|> <|start_header_id|> <|end_header_id|> <|eot_id|> <|eom_id|>
    <|python_tag|> <|finetune_right_pad_id|> <|image|>""".split()
LLAMA_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|image|>{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
QWEN_SPECIAL = """<|endoftext|> <|im_start|> <|im_end|> <|vision_start|> <|vision_end|> <|vision_pad|> <|image_pad|>
    <|video_pad|>""".split()
QWEN_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Width and height of the images: four tiles of Mllama, about a thousand tokens of Qwen; small ones in proportion.
IMAGES = {
    ("real", "mllama"): (1000, 800), ("real", "qwen2_5_vl"): (1000, 800),
    ("tiny", "mllama"): (200, 160), ("tiny", "qwen2_5_vl"): (448, 336),
}  # fmt: skip
ALL_RATIOS = [[1, 1], [1, 2], [1, 3], [1, 4], [2, 1], [2, 2], [3, 1], [4, 1]]


def ensure_model(folder: Path, family: str, size: str) -> Path:
    """The folder of the model below `folder`. It is made if it is missing, complete or not at all."""
    place = folder / f"{family}-{size}-{RECIPE}"
    if place.exists():
        return place
    folder.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=folder))
    try:
        model, processor = FAMILIES[family](size)
        model.save_pretrained(temporary, max_shard_size="5GB")
        processor.save_pretrained(temporary)
        temporary.replace(place)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return place


def make_mllama(size: str) -> tuple[Any, Any]:
    """Llama 3.2 Vision. Real: 11B, its own numbers, four tiles of 560 pixels per image."""
    tokenizer = make_tokenizer(
        LLAMA_SPECIAL, bos_token="<|begin_of_text|>", eos_token="<|eot_id|>", pad_token="<|finetune_right_pad_id|>"
    )
    side = 560 if size == "real" else 112
    images = MllamaImageProcessor(size={"height": side, "width": side}, max_image_tiles=4)
    processor = MllamaProcessor(images, tokenizer, chat_template=LLAMA_TEMPLATE)
    vision: dict[str, Any] = {"image_size": side, "max_num_tiles": 4, "supported_aspect_ratios": ALL_RATIOS}
    text: dict[str, Any] = {
        "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    if size == "tiny":  # the rest of the real model's numbers are the defaults
        vision |= {
            "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 6, "num_global_layers": 2,
            "attention_heads": 4, "intermediate_layers_indices": [1, 3], "vision_output_dim": 768,
        }  # fmt: skip
        text |= {
            "vocab_size": 2048, "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 5,
            "num_attention_heads": 4, "num_key_value_heads": 2, "cross_attention_layers": [3],
            "max_position_embeddings": 4096,
        }  # fmt: skip
    config = MllamaConfig(vision_config=vision, text_config=text, image_token_index=_id(tokenizer, "<|image|>"))
    model = _random(MllamaForConditionalGeneration, config)
    # Training moves the gates of the real model away from zero; at zero an image would have no influence.
    for name, parameter in model.named_parameters():
        if name.endswith(("cross_attn_attn_gate", "cross_attn_mlp_gate")):
            torch.nn.init.constant_(parameter, 0.5)
    return model, processor


def make_qwen2_5_vl(size: str) -> tuple[Any, Any]:
    """Qwen2.5-VL. Real: 7B, its own numbers, about a thousand image tokens per image."""
    tokenizer = make_tokenizer(QWEN_SPECIAL, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    images = Qwen2VLImageProcessor(size={"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 16384})
    processor = Qwen2_5_VLProcessor(images, tokenizer, Qwen2VLVideoProcessor(), chat_template=QWEN_TEMPLATE)
    text: dict[str, Any] = {
        "hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
        "intermediate_size": 18944, "max_position_embeddings": 128000, "max_window_layers": 28, "vocab_size": 152064,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0, "mrope_section": [16, 24, 24]},
    }  # fmt: skip
    vision: dict[str, Any] = {
        "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 3584,
        "fullatt_block_indexes": [7, 15, 23, 31], "window_size": 112, "patch_size": 14, "spatial_patch_size": 14,
        "tokens_per_second": 2,
    }  # fmt: skip
    if size == "tiny":
        text |= {
            "hidden_size": 128, "num_hidden_layers": 5, "num_attention_heads": 4, "num_key_value_heads": 2,
            "intermediate_size": 384, "max_position_embeddings": 4096, "max_window_layers": 5, "vocab_size": 2048,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0, "mrope_section": [4, 6, 6]},
        }  # fmt: skip
        vision |= {
            "depth": 2, "hidden_size": 64, "intermediate_size": 172, "num_heads": 2, "out_hidden_size": 128,
            "fullatt_block_indexes": [1],
        }  # fmt: skip
    text |= {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = Qwen2_5_VLConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=_id(tokenizer, "<|image_pad|>"),
        video_token_id=_id(tokenizer, "<|video_pad|>"),
        vision_start_token_id=_id(tokenizer, "<|vision_start|>"),
        vision_end_token_id=_id(tokenizer, "<|vision_end|>"),
    )
    return _random(Qwen2_5_VLForConditionalGeneration, config), processor


def _id(tokenizer: Any, token: str) -> int:
    return int(tokenizer.convert_tokens_to_ids(token))


FAMILIES: dict[str, Callable[[str], tuple[Any, Any]]] = {"mllama": make_mllama, "qwen2_5_vl": make_qwen2_5_vl}


def _random(kind: Any, config: Any) -> Any:
    """The model with its own initialisation: bfloat16 on a GPU, where it takes a second; else float32."""
    torch.manual_seed(0)
    cuda = torch.cuda.is_available()
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16 if cuda else torch.float32)
    try:
        with torch.device("cuda" if cuda else "cpu"):
            return kind(config)
    finally:
        torch.set_default_dtype(before)
