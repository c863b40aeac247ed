"""Small tokenizers of the real kinds: byte-level BPE, and the SentencePiece-like ones of Llama 2 and Gemma."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GemmaTokenizer, LlamaTokenizer, PreTrainedTokenizerFast

TEXT = [
    "Answer the question about the picture in a few words.",
    "Question: what colour is the square? red green blue yellow two three left right",
    "Description: the painting shows a woman sitting on a couch holding a baby",
    "USER: ASSISTANT: User: Assistant: user assistant model system\n\n Here is the original image and some crops",
] * 20
# How Llama 3 and Qwen cut a text into words; above all, "\n\n" stays one token whatever follows.
LETTERS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
WORDS = LETTERS + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def byte_level(special: list[str], **named: Any) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer; `special` are its special tokens, `named` gives bos_token, eos_token, ..."""
    tokenizer = Tokenizer(models.BPE())
    words = pre_tokenizers.Split(Regex(WORDS), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, extra_special_tokens=special, clean_up_tokenization_spaces=False, **named
    )


def llama2() -> LlamaTokenizer:
    """LLaVA-1.5's kind: BPE over words that begin with a space sign, byte fallback, <s> added by the tokenizer."""
    vocab, merges = _pieces(["<unk>", "<s>", "</s>"])
    return LlamaTokenizer(
        vocab=vocab,
        merges=merges,
        extra_special_tokens=["<image>", "<pad>"],
        pad_token="<pad>",
        legacy=False,
        add_bos_token=True,
    )


def gemma() -> GemmaTokenizer:
    """Gemma 3's kind: no prefix space, runs of newlines as tokens, <bos> added by the tokenizer."""
    vocab, merges = _pieces(["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"])
    names = {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
    tokenizer = GemmaTokenizer(
        vocab=vocab,
        merges=merges,
        add_bos_token=True,
        extra_special_tokens={**names, "start": "<start_of_turn>", "end": "<end_of_turn>"},
    )
    tokenizer.add_tokens([AddedToken("\n\n", normalized=False), AddedToken("\n\n\n", normalized=False)])
    return tokenizer


def _pieces(special: list[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    first = special + [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=620, special_tokens=first, show_progress=False)
    tokenizer.train_from_iterator(TEXT, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [tuple(pair) for pair in model["merges"]]


def save(model: Any, processor: Any, folder: Path) -> Path:
    """Write both; returns the folder."""
    # A random head of the usual scale gives every token nearly the same chance, and no adapter has it to train.
    torch.nn.init.normal_(model.get_output_embeddings().weight, std=0.3)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
