"""Llama 3.2 Vision: cross-attention to tiles."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import MllamaConfig, MllamaForConditionalGeneration, MllamaProcessor
from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil

from tests.families import tokens

SPECIAL = """<|begin_of_text|> <|end_of_text|> <|start_header_id|> <|end_header_id|> <|eot_id|> <|eom_id|>
    <|python_tag|> <|finetune_right_pad_id|> <|image|>""".split()
END_OF_TURN = "<|eot_id|>"
NEEDS_TORCHVISION = False
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|image|>{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)


def build(folder: Path) -> Path:
    """3 decoder layers, the second a cross-attention one; 2 + 1 vision layers; up to 4 tiles of 28 x 28."""
    torch.manual_seed(0)
    tokenizer = tokens.byte_level(
        SPECIAL, bos_token=SPECIAL[0], eos_token=END_OF_TURN, pad_token="<|finetune_right_pad_id|>"
    )
    images = MllamaImageProcessorPil(size={"height": 28, "width": 28}, max_image_tiles=4)
    processor = MllamaProcessor(images, tokenizer, chat_template=TEMPLATE)
    image_id = tokenizer.convert_tokens_to_ids("<|image|>")
    config = MllamaConfig(
        vision_config={
            "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_global_layers": 1,
            "attention_heads": 2, "image_size": 28, "patch_size": 7, "max_num_tiles": 4,
            "intermediate_layers_indices": [1], "vision_output_dim": 64,
            "supported_aspect_ratios": [[1, 1], [1, 2], [1, 3], [1, 4], [2, 1], [2, 2], [3, 1], [4, 1]],
        },
        text_config={
            "vocab_size": len(tokenizer), "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 3,
            "num_attention_heads": 4, "num_key_value_heads": 2, "cross_attention_layers": [1],
            "max_position_embeddings": 2048, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
            "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        image_token_index=image_id,
    )  # fmt: skip
    model = MllamaForConditionalGeneration(config)
    # The gates of the real model are trained away from zero; at zero an image would have no influence.
    for name, parameter in model.named_parameters():
        if name.endswith(("cross_attn_attn_gate", "cross_attn_mlp_gate")):
            torch.nn.init.constant_(parameter, 0.7)
    return tokens.save(model, processor, folder)
