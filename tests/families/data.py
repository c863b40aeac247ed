"""Settings, samples and adapters for the small models."""

from __future__ import annotations

import io
from pathlib import Path
from random import Random
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.families import model_folder
from vizsage.config import Config, build_config
from vizsage.data.images import EmbeddedImage
from vizsage.data.sample import Sample


def settings(family: str, **changed: Any) -> Config:
    """Settings of a CPU run on the family's model."""
    return build_config(
        {
            "model_name": str(model_folder(family)),
            "device": "cpu",
            "load_in_4bit": False,
            "use_bf16": False,
            "use_gradient_checkpointing": False,
            "lora_r": 8,
            "max_new_tokens": 16,
            "max_seq_length": 512,
            **changed,
        }
    )


def image(colour: str, width: int = 40, height: int = 30) -> EmbeddedImage:
    """A plain image; its name contains colour and size."""
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(buffer, "PNG")
    return EmbeddedImage(f"{colour}-{width}x{height}.png", buffer.getvalue())


def noise(name: str, width: int, height: int) -> EmbeddedImage:
    """An image no two patches of which are alike; in a plain one attention between patches has nothing to learn."""
    buffer = io.BytesIO()
    Image.frombytes("RGB", (width, height), Random(name).randbytes(3 * width * height)).save(buffer, "PNG")
    return EmbeddedImage(name, buffer.getvalue())


def samples() -> list[Sample]:
    """9 samples on 4 images of different shapes; lengths, descriptions and answers differ."""
    red, blue, green, grey = image("red"), image("blue", 30, 90), image("green", 64, 64), image("grey", 90, 20)
    woman = "The painting shows a woman sitting on a couch, holding a baby."
    rows = [
        (red, "What colour is the picture?", "red", None),
        (red, "How many colours are there?", "only one", None),
        (red, "Who sits on the couch?", "a woman", woman),
        (blue, "What colour is it?", "deep blue", None),
        (blue, "What does the woman hold?", "a baby (on her lap)", woman + " It is late, and the light is low."),
        (green, "Is this green?", "yes", None),
        (green, "Which colour would you say that this plain square picture has?", "it's green", None),
        (grey, "Is it wide?", "yes, 4.5 times", None),
        (grey, "Wo?", "Überall – größer", woman),
    ]
    return [
        Sample(f"test-{i}", (ref,), question, answer, description is not None, description)
        for i, (ref, question, answer, description) in enumerate(rows)
    ]


def randomise_adapter(model: Any, std: float = 0.05, seed: int = 0) -> None:
    """Give the adapter of `model` an effect: lora_B is zero at first, and with it the gradient of lora_A."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(std * torch.randn(parameter.shape, generator=generator))


def damage_adapter(folder: Path, damage: str) -> str:
    """Damage the weights of the adapter in `folder`; returns what the message must contain."""
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    names = sorted(tensors)
    whole, first = len(names), names[0]
    if damage == "file gone":
        path.unlink()
        return "found no adapter_model.safetensors"
    if damage == "four left":
        tensors = {name: tensors[name] for name in names[-4:]}
        said = f"{whole - 4} of the adapter's tensors are missing (expected {whole} tensors, found 4), the first is "
        said += first
    elif damage == "none left":
        tensors = {}
        said = f"{whole} of the adapter's tensors are missing (expected {whole} tensors, found 0)"
    elif damage == "one more":
        tensors["base_model.model.elsewhere.lora_A.weight"] = torch.zeros(2, 2)
        said = "1 of the adapter's tensors belong to no layer of this model"
    elif damage == "too large":
        tensors[first] = torch.full_like(tensors[first], 3e38)
        said = f"1 of the adapter's tensors are not finite, or too large to compute with (expected {whole}"
    else:
        tensors[first][0, 0] = float(damage)
        said = f"the first is {first}"
    save_file(tensors, path)
    return said


DAMAGES = ("file gone", "four left", "none left", "one more", "too large", "nan", "-inf")
