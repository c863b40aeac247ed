"""What vizsage-tiny is made of: a small tokenizer, Mllama's own processor and a small Mllama."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GenerationConfig,
    MllamaConfig,
    MllamaForConditionalGeneration,
    MllamaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.mllama.configuration_mllama import MllamaTextConfig, MllamaVisionConfig
from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil

from vizsage.demo import paintings
from vizsage.demo.tiny import corpus

IMAGE_PX = 96
PATCH_PX = 12
VOCAB_SIZE = 1024
BOS, EOS, EOT, PAD = "<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|finetune_right_pad_id|>"
SPECIAL_TOKENS = (BOS, EOS, PAD, "<|start_header_id|>", "<|end_header_id|>", EOT, "<|python_tag|>")
IMAGE_TOKEN = "<|image|>"  # its id is VOCAB_SIZE: as in Llama 3.2 the model reads it and cannot write it
CHAT_TEMPLATE = (
    "{{- bos_token }}"
    "{%- for message in messages %}"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{%- if message['content'] is string %}{{- message['content'] }}"
    "{%- else %}{%- for part in message['content'] %}"
    "{%- if part['type'] == 'image' %}{{- '<|image|>' }}"
    "{%- elif part['type'] == 'text' %}{{- part['text'] }}{%- endif %}"
    "{%- endfor %}{%- endif %}"
    "{{- '<|eot_id|>' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"
)


def build_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with Llama 3's special tokens, trained on the corpus; each digit is one token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"[0-9]| ?[^\s\p{L}\p{N}]+| ?\p{L}+|\s+"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - len(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_tokenizer_texts(seed), trainer)
    learned = tokenizer.get_vocab_size()
    filler = [f"<|reserved_special_token_{i}|>" for i in range(VOCAB_SIZE - len(SPECIAL_TOKENS) - learned)]
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in (*filler, *SPECIAL_TOKENS, IMAGE_TOKEN)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOT,
        pad_token=PAD,
        padding_side="right",
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )


def _tokenizer_texts(seed: int) -> Iterator[str]:
    yield from (" ".join(corpus.LOOSE_WORDS) for _ in range(200))
    for number in range(6000):
        rng = Random(f"tokenizer-{seed}-{number}")
        scene = paintings.random_scene(rng)
        parts, reply = corpus.exchange(scene, rng, with_description=number % 2 == 0)
        yield "".join(part.get("text", "") for part in parts)
        yield reply


def build_processor(tokenizer: PreTrainedTokenizerFast) -> MllamaProcessor:
    """Mllama's own processor: images are fitted into one tile."""
    image_processor = MllamaImageProcessorPil(
        size={"height": IMAGE_PX, "width": IMAGE_PX},
        max_image_tiles=1,
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
    return MllamaProcessor(image_processor=image_processor, tokenizer=tokenizer, chat_template=CHAT_TEMPLATE)


def _token_id(tokenizer: PreTrainedTokenizerFast, token: str) -> int:
    number = tokenizer.convert_tokens_to_ids(token)
    assert isinstance(number, int)
    return number


def build_model(tokenizer: PreTrainedTokenizerFast) -> MllamaForConditionalGeneration:
    """The architecture of Llama 3.2 Vision with 9 text layers, three of them cross-attention, and 5 vision layers."""
    vision = MllamaVisionConfig(
        hidden_size=128,
        num_hidden_layers=4,
        num_global_layers=1,
        attention_heads=4,
        intermediate_size=512,
        vision_output_dim=128 * 3,
        intermediate_layers_indices=[1, 2],
        image_size=IMAGE_PX,
        patch_size=PATCH_PX,
        max_num_tiles=1,
        supported_aspect_ratios=[[1, 1]],
    )
    text = MllamaTextConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=160,
        intermediate_size=352,
        num_hidden_layers=9,
        cross_attention_layers=[2, 4, 6],
        num_attention_heads=5,
        num_key_value_heads=5,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        max_position_embeddings=2048,
        bos_token_id=_token_id(tokenizer, BOS),
        eos_token_id=[_token_id(tokenizer, EOS), _token_id(tokenizer, EOT)],
        pad_token_id=_token_id(tokenizer, PAD),
    )
    config = MllamaConfig(vision_config=vision, text_config=text, image_token_index=_token_id(tokenizer, IMAGE_TOKEN))
    model = MllamaForConditionalGeneration(config)
    with torch.no_grad():  # gates start closed in Mllama because its language model is trained already; here none is
        for name, parameter in model.named_parameters():
            if name.endswith(("cross_attn_attn_gate", "cross_attn_mlp_gate", "gate_attn", "gate_ffn")):
                parameter.fill_(0.5)
            elif name.endswith("gated_positional_embedding.embedding"):
                parameter.normal_(std=0.3)
    model.generation_config = GenerationConfig(
        bos_token_id=text.bos_token_id, eos_token_id=text.eos_token_id, pad_token_id=text.pad_token_id
    )
    return model


def save(model: MllamaForConditionalGeneration, processor: MllamaProcessor, folder: Path) -> None:
    """Write config, processor and 16-bit weights. The config has float32: computations are in it."""
    model = model.cpu().half()
    model.save_pretrained(folder)
    config: Any = model.config
    config.dtype = config.text_config.dtype = config.vision_config.dtype = "float32"
    config.save_pretrained(folder)
    processor.save_pretrained(folder)
    for path in folder.iterdir():
        path.chmod(0o644)  # safetensors writes files that only their owner reads
