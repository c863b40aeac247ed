"""The Python code of a model card: one answer of the adapter with plain transformers and peft."""

from __future__ import annotations

from typing import Any

from vizsage.config import Config
from vizsage.data.processing import Processing
from vizsage.data.prompts import AnswerLayout, plain_text
from vizsage.models.generation import end_ids
from vizsage.models.loaded import TINY_MODEL, hub_name

_SNIPPET = """\
import torch
from peft import PeftModel
from PIL import Image, ImageOps
from transformers import AutoModelForImageTextToText, AutoProcessor, {imports}

ADAPTER = "."  # the folder of this file, or its name on the Hugging Face hub
BASE = {base}
IMAGE = "image.jpg"
QUESTION = "what is in the image"

processor = AutoProcessor.from_pretrained(ADAPTER{remote})
base = AutoModelForImageTextToText.from_pretrained(BASE, {options})
# These settings alone, so that those of the base model do not change the answer.
base.generation_config = GenerationConfig(
    {generation}
)
model = PeftModel.from_pretrained(base, ADAPTER).eval()

image = ImageOps.exif_transpose(Image.open(IMAGE)).convert("RGB")
{resize}turn = [
    {{
        "role": "user",
        "content": [
{content}
        ],
    }}
]
prompt = processor.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
inputs = processor(text=[prompt], images=[[image]], add_special_tokens={add_special_tokens}, return_tensors="pt")
inputs = inputs.to(model.device, {dtype})
with torch.no_grad():
    tokens = model.generate(**inputs)[0, inputs["input_ids"].shape[1] :]
print(processor.tokenizer.decode(tokens, skip_special_tokens=True).strip())
"""
_RESIZE = """\
scale = ({resize_px} / (image.width * image.height)) ** 0.5
if scale < 1:
    size = max(1, int(image.width * scale)), max(1, int(image.height * scale))
    image = image.resize(size, Image.Resampling.LANCZOS)
"""
_FOUR_BITS = (
    'BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, '
    "bnb_4bit_compute_dtype={dtype})"
)


def usage_snippet(config: Config, processor: Any, generation_config: Any, base_identity: str) -> str:
    """Code that answers a question as `vizsage predict` does, up to rounding, without importing vizsage.

    Args:
        config: the settings of the run, resolved for its hardware.
        processor: of the base model.
        generation_config: of the base model, for the tokens that end an answer.
        base_identity: of the base model; one from the hub is pinned to its commit.
    """
    layout = AnswerLayout(processor, config)
    dtype = "torch.bfloat16" if config.use_bf16 else "torch.float32"
    options = {"dtype": dtype, "device_map": '"auto"'}
    kind, _, commit = base_identity.partition(":")
    if kind == "commit":
        options = {"revision": repr(commit), **options}
    if config.load_in_4bit:
        options["quantization_config"] = _FOUR_BITS.format(dtype=dtype)
    if config.trust_remote_code:
        options["trust_remote_code"] = "True"
    content = ['{"type": "image"}', '{"type": "text", "text": f"Question: {QUESTION}"}']
    if config.instruction.strip():
        instruction = plain_text(config.instruction, layout.reserved)
        content.insert(0, f'{{"type": "text", "text": {instruction!r}}}')
    generation = {
        "max_new_tokens": config.max_new_tokens,
        "num_beams": config.num_beams,
        "eos_token_id": end_ids(generation_config, layout.end_of_turn_id),
        "pad_token_id": processor.tokenizer.pad_token_id,
        "do_sample": config.do_sample,
    }
    if config.do_sample:
        generation |= {"temperature": config.temperature, "top_p": config.top_p, "top_k": config.top_k}
    return _SNIPPET.format(
        imports="BitsAndBytesConfig, GenerationConfig" if config.load_in_4bit else "GenerationConfig",
        base=_base(config),
        remote=", trust_remote_code=True" if config.trust_remote_code else "",
        options=", ".join(f"{name}={value}" for name, value in options.items()),
        generation=", ".join(f"{name}={value!r}" for name, value in generation.items()),
        resize=_RESIZE.format(resize_px=config.resize_px) if config.resize_px else "",
        content="\n".join(f"            {part}," for part in content),
        add_special_tokens=Processing(processor, config).add_special_tokens,
        dtype=dtype,
    )


def _base(config: Config) -> str:
    if name := hub_name(config):
        return repr(name)
    if config.model_name == TINY_MODEL:
        return '"vizsage/demo/tiny/weights"  # this folder of the package vizsage'
    return '"path/to/the/base"  # its folder on your machine; see above'
