"""The embedded model: what is in the package is Mllama, small, and has learned to look."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, MllamaForConditionalGeneration, MllamaProcessor

from vizsage.config import Config
from vizsage.demo import paintings
from vizsage.demo.tiny import architecture, corpus, material, pretraining, recipe
from vizsage.models.loaded import TINY_MODEL, base_path_of

WEIGHTS = Path(base_path_of(Config(model_name=TINY_MODEL)))


@pytest.fixture(scope="module")
def model() -> Any:
    return AutoModelForImageTextToText.from_pretrained(WEIGHTS).eval()


@pytest.fixture(scope="module")
def processor() -> Any:
    return AutoProcessor.from_pretrained(WEIGHTS)


def prompt(processor: Any, *texts: str) -> str:
    parts: list[dict[str, str]] = [{"type": "image"}, *({"type": "text", "text": text} for text in texts)]
    turn = [{"role": "user", "content": parts}]
    return str(processor.apply_chat_template(turn, add_generation_prompt=True, tokenize=False))


def test_package_holds_at_most_8_megabytes_of_weights() -> None:
    assert (WEIGHTS / "model.safetensors").stat().st_size <= 8_000_000
    assert sum(file.stat().st_size for file in WEIGHTS.iterdir()) <= 8_100_000
    assert not list(WEIGHTS.glob("*.bin"))


def test_is_the_real_architecture_with_a_few_million_parameters(model: Any, processor: Any) -> None:
    assert type(model) is MllamaForConditionalGeneration
    assert type(processor) is MllamaProcessor
    assert 2_000_000 < sum(parameter.numel() for parameter in model.parameters()) < 4_000_000
    assert model.dtype == torch.float32
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


def test_gates_to_the_image_are_open(model: Any) -> None:
    gates = {name: value for name, value in model.named_parameters() if name.endswith("cross_attn_attn_gate")}
    assert len(gates) == 3
    assert all(value.tanh().abs().item() > 0.05 for value in gates.values())


def test_special_tokens_are_those_of_llama_3(model: Any, processor: Any) -> None:
    tokenizer = processor.tokenizer
    ids = tokenizer.convert_tokens_to_ids(["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|image|>"])
    assert len(set(ids)) == 4
    assert tokenizer.bos_token_id == ids[0]
    assert set(model.generation_config.eos_token_id) == set(ids[1:3])
    assert processor.image_token_id == model.config.image_token_index == ids[3]
    assert model.lm_head.out_features == ids[3], "the model can read the image token and not write it"
    assert tokenizer.pad_token_id not in ids


@pytest.mark.parametrize("text", ["François Lefèvre, 1654", "Ærø & Århus", "日本 🎨", "  two  spaces\n\n", "ñ"])
def test_tokenizer_keeps_any_text(processor: Any, text: str) -> None:
    assert processor.tokenizer.decode(processor.tokenizer(text)["input_ids"]) == text


def test_chat_template(processor: Any) -> None:
    look, what = ({"type": "text", "text": text} for text in ("Look: ", "what?"))
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [look, {"type": "image"}, what]},
        {"role": "assistant", "content": [{"type": "text", "text": "boats"}]},
    ]
    assert processor.apply_chat_template(turns, tokenize=False) == (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nLook: <|image|>what?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nboats<|eot_id|>"
    )
    assert processor.apply_chat_template(turns[:2], tokenize=False, add_generation_prompt=True).endswith(
        "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    )


def test_recipe_builds_the_tokenizer_and_the_model_of_the_package(tmp_path: Path, model: Any, processor: Any) -> None:
    tokenizer = architecture.build_tokenizer(material.Schedule().seed)
    tokenizer.save_pretrained(tmp_path)
    built, kept = (json.loads((folder / "tokenizer.json").read_text("utf-8")) for folder in (tmp_path, WEIGHTS))
    assert built == kept
    shapes = {name: tuple(value.shape) for name, value in architecture.build_model(tokenizer).state_dict().items()}
    assert shapes == {name: tuple(value.shape) for name, value in model.state_dict().items()}
    assert architecture.build_processor(tokenizer).chat_template == processor.chat_template


def test_image_inputs_of_the_recipe_are_those_of_the_processor(processor: Any) -> None:
    image = paintings.draw(paintings.random_scene(Random(5)), Random(5), architecture.IMAGE_PX)
    seen = processor(images=[image], text=[prompt(processor, "what?")], return_tensors="pt")
    pixels = torch.tensor(list(image.tobytes()), dtype=torch.uint8).view(1, *image.size, 3).permute(0, 3, 1, 2)
    trained = pretraining.vision_inputs(pixels)
    for name, value in trained.items():
        torch.testing.assert_close(seen[name], value.to(seen[name].dtype), atol=1e-5, rtol=0)


def test_writes_about_a_image_it_has_never_seen(model: Any, processor: Any) -> None:
    """The loss on captions of unseen images is far lower with the image than with a blank one."""
    names = ("seen", "blank")
    losses: dict[str, list[float]] = {name: [] for name in names}
    for number in range(8):
        rng = Random(f"test-tiny-{number}")
        scene = paintings.random_scene(rng)
        images = (paintings.draw(scene, rng), Image.new("RGB", (192, 192), "white"))
        text = prompt(processor, "\nthe whole picture")
        caption = f"{corpus.caption(scene, rng)}.<|eot_id|>"
        for name, image in zip(names, images, strict=True):
            inputs = processor(images=[image], text=[text + caption], return_tensors="pt", add_special_tokens=False)
            start = len(processor.tokenizer(text, add_special_tokens=False)["input_ids"])
            labels = inputs["input_ids"].clone()
            labels[:, :start] = -100
            with torch.no_grad():
                losses[name].append(model(**inputs, labels=labels).loss.item())
    seen, blank = (sum(losses[name]) / len(losses[name]) for name in names)
    assert seen < 0.6
    assert blank > 2 * seen


def test_names_left_and_right(model: Any, processor: Any) -> None:
    """Two remarks on each of some unseen images: shape and colour of the side that is named."""
    hits = 0
    for number in range(6):
        rng = Random(f"test-sides-{number}")
        scene = paintings.random_scene(rng)
        image = paintings.draw(scene, rng)
        for side, shape, colour in (
            ("left", scene.left_shape, scene.left_colour),
            ("right", scene.right_shape, scene.right_colour),
        ):
            inputs = processor(
                images=[image],
                text=[prompt(processor, f"\nthe {side} side")],
                return_tensors="pt",
                add_special_tokens=False,
            )
            written = model.generate(**inputs, max_new_tokens=12, do_sample=False)[0, inputs["input_ids"].shape[1] :]
            remark = processor.tokenizer.decode(written, skip_special_tokens=True)
            hits += shape in remark and colour in remark
    assert hits >= 11


@pytest.mark.slow
def test_recipe_runs_from_end_to_end(tmp_path: Path) -> None:
    plan = material.Schedule(scenes=20, visual_texts=2, fact_texts=1, vision_steps=2, steps=2, batch_size=4)
    figures = recipe.run(tmp_path, plan)
    assert set(figures) == {"loss", "loss_blank"}
    assert {file.name for file in tmp_path.iterdir()} == {file.name for file in WEIGHTS.iterdir()}
    assert type(AutoModelForImageTextToText.from_pretrained(tmp_path)) is MllamaForConditionalGeneration


def test_batches_refuse_too_few_examples() -> None:
    few = material.Material(*(torch.zeros(3).numpy() for _ in range(7)))
    with pytest.raises(ValueError, match="do not fill a batch"):
        next(material.batches(few, 4, 0))
