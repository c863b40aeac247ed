"""A run of seconds: a small random Mllama, a dozen questions, two processes' worth of steps."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vizsage.config import Config, build_config

QUESTIONS = (("what colour is it", None), ("is it dark", "no"), ("what shape is it", "square"))


@pytest.fixture
def tiny_mllama() -> Path:
    """Folder of a small random Mllama with its processor."""
    from tests.families import model_folder

    return model_folder("mllama")


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """base_path with the data set Dots: 6 training and 2 validation images, 3 questions each."""
    base = tmp_path / "data"
    (base / "Images").mkdir(parents=True)
    (base / "Dots").mkdir()
    number = 0
    for split, images in (("train", 6), ("val", 2)):
        records: list[dict[str, Any]] = []
        for _ in range(images):
            colour = ("red", "green", "blue")[number % 3]
            name = f"{number}.png"
            Image.new("RGB", (40, 30), colour).save(base / "Images" / name)
            records += [
                {
                    "image": name,
                    "question": question,
                    "answer": answer or colour,
                    "need_external_knowledge": index == 1,
                }
                for index, (question, answer) in enumerate(QUESTIONS)
            ]
            number += 1
        (base / "Dots" / f"{split}.json").write_text(json.dumps(records))
    lines = ["image_file,description", *(f"{i}.png,the image number {i} is not dark" for i in range(number))]
    (base / "table.csv").write_text("\n".join(lines))
    return base


@pytest.fixture
def settings(tiny_mllama: Path, data_dir: Path, tmp_path: Path) -> dict[str, Any]:
    """Settings of a run of 9 steps with dropout, validated and saved now and then."""
    return {
        "model_name": str(tiny_mllama),
        "load_in_4bit": False,
        "use_bf16": False,
        "use_gradient_checkpointing": False,
        "device": "cpu",
        "share_images": True,
        "lora_r": 4,
        "lora_dropout": 0.2,
        "batch_size": 2,
        "grad_accum": 2,
        "epochs": 2,
        "lr": 1e-2,
        "warmup_steps": 2,
        "logging_steps": 2,
        "eval_steps": 4,
        "save_steps": 3,
        "val_samples": 6,
        "val_at_start": False,
        "max_new_tokens": 4,
        "num_proc": 0,
        "dataset": "Dots",
        "base_path": str(data_dir),
        "external_knowledge": True,
        "external_knowledge_path": str(data_dir / "table.csv"),
        "stream_buffer_size": 7,
        "output_dir": str(tmp_path / "run"),
    }


@pytest.fixture
def make_config(settings: dict[str, Any]) -> Callable[..., Config]:
    """The run's Config with some settings changed."""

    def make(**changes: Any) -> Config:
        return build_config(settings | changes)

    return make
