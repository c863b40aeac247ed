"""Gemma 3: SigLIP features pooled to a fixed number of soft tokens that attend to each other both ways."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import Gemma3Config, Gemma3ForConditionalGeneration, Gemma3Processor
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

from tests.families import tokens

END_OF_TURN = "<end_of_turn>"
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{% set role = 'model' %}"
    "{% else %}{% set role = message['role'] %}{% endif %}"
    "{{ '<start_of_turn>' + role + '\n' }}{% if message['content'] is string %}{{ message['content'] | trim }}"
    "{% else %}{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ '<start_of_image>' }}"
    "{% elif part['type'] == 'text' %}{{ part['text'] | trim }}{% endif %}{% endfor %}{% endif %}"
    "{{ '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)


def build(folder: Path) -> Path:
    """2 SigLIP layers, 16 patches pooled to 4 tokens, one decoder layer with a sliding window and one without."""
    torch.manual_seed(0)
    tokenizer = tokens.gemma()
    ids = tokenizer.convert_tokens_to_ids
    processor = Gemma3Processor(
        Gemma3ImageProcessorPil(size={"height": 28, "width": 28}), tokenizer, image_seq_length=4, chat_template=TEMPLATE
    )
    config = Gemma3Config(
        vision_config={
            "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
            "image_size": 28, "patch_size": 7, "vision_use_head": False,
        },
        text_config={
            "vocab_size": len(tokenizer), "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 12, "query_pre_attn_scalar": 12,
            "max_position_embeddings": 2048, "sliding_window": 32,
            "layer_types": ["sliding_attention", "full_attention"], "eos_token_id": ids("<eos>"),
            "bos_token_id": ids("<bos>"), "pad_token_id": ids("<pad>"),
        },
        mm_tokens_per_image=4,
        boi_token_index=ids("<start_of_image>"),
        eoi_token_index=ids("<end_of_image>"),
        image_token_index=ids("<image_soft_token>"),
        # The real checkpoint names both; the tokenizer's own end of text is <eos>.
        eos_token_id=[ids("<eos>"), ids("<end_of_turn>")],
    )  # fmt: skip
    model = Gemma3ForConditionalGeneration(config)
    # It begins as zeros; an image would have no influence.
    torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight, std=0.1)
    return tokens.save(model, processor, folder)
