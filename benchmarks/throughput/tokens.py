"""A simplified tokenizer of the kind that Llama 3 and Qwen have.

Every word is one token, so that the length of a row can be chosen. Ids are below those of the real tokenizers; the
sizes of embeddings and head are still the model's own.
"""

from __future__ import annotations

from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from benchmarks.throughput.words import WORDS

TEMPLATE_TEXT = [
    "Answer the question about the picture in a few words.",
    "Question: Description: user assistant system You are a helpful assistant.\n\n",
]
# How both cut a text into words; above all, a line break stays one token whatever follows.
_LETTERS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
_PIECES = _LETTERS + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def make_tokenizer(special: list[str], **named: str) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer; `special` are its special tokens, `named` gives bos_token, eos_token, pad_token."""
    tokenizer = Tokenizer(models.BPE())
    pieces = pre_tokenizers.Split(Regex(_PIECES), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pieces, pre_tokenizers.ByteLevel(False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=2000, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([" ".join(["", *WORDS])] * 20 + WORDS * 20 + TEMPLATE_TEXT * 20, trainer)
    options: dict[str, Any] = {**named, "extra_special_tokens": special, "clean_up_tokenization_spaces": False}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **options)
