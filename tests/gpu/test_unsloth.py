"""unsloth beside hf on one GPU: the same loss, gradients, answers and adapters, in float32."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("unsloth") is None, reason="unsloth is not installed"),
]
ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{os.environ.get('PYTHONPATH', '')}:{ROOT}"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def facts(backend: str, family: str, folder: Path, **changed: Any) -> dict[str, Any]:
    import torch

    from tests.families.data import settings

    (folder / backend).mkdir()
    chosen = settings(family, device="cuda", **{"max_seq_length": 1024, **changed}).model_dump(mode="json")
    (folder / "settings.json").write_text(json.dumps(chosen))
    run("tests.gpu.backend_facts", backend, str(folder / backend), str(folder / "settings.json"))
    found: dict[str, Any] = torch.load(folder / backend / "facts.pt", weights_only=False)
    return found


@pytest.mark.parametrize("checkpointing", [False, True, "unsloth"])
@pytest.mark.parametrize(
    ("family", "vision"), [("mllama", False), ("mllama", True), ("qwen2_5_vl", True), ("qwen3_vl", True)]
)
def test_loss_gradients_and_answers_are_those_of_hf(
    family: str, vision: bool, checkpointing: bool | str, tmp_path: Path
) -> None:
    """Plain and shared; and again after a validation, after which training must use logits again."""
    settings = {"use_gradient_checkpointing": checkpointing, "finetune_vision_layers": vision}
    ours, theirs = (facts(backend, family, tmp_path, **settings) for backend in ("hf", "unsloth"))
    loss, gradients = ours["plain"]
    for way in ("plain", "shared", "plain again", "shared again"):
        found, its_gradients = theirs[way]
        assert found == pytest.approx(loss, rel=1e-4), way
        assert its_gradients.keys() == gradients.keys(), way
        for name, expected in gradients.items():
            assert (its_gradients[name] - expected).norm() <= 1e-3 * expected.norm(), f"{way}: {name}"
    assert theirs["answers"] == ours["answers"]
    assert theirs["fingerprint"] == ours["fingerprint"]


@pytest.mark.parametrize("trained_by", ["hf", "unsloth"])
def test_an_adapter_answers_the_same_on_both(trained_by: str, tmp_path: Path) -> None:
    """Trained by the command, in 3 steps with a validation between them, then evaluated by it on either backend."""
    from tests.families import model_folder

    run("vizsage", "demo", str(tmp_path / "demo"))
    settings = {
        "model_name": str(model_folder("mllama")), "base_path": str(tmp_path / "demo"), "dataset": "Demo",
        "load_in_4bit": False, "use_bf16": False, "max_steps": 3, "eval_steps": 2, "val_samples": 4, "lr": 1e-2,
        "warmup_steps": 0, "max_new_tokens": 6, "lora_r": 4, "max_seq_length": 1024, "num_proc": 0,
    }  # fmt: skip
    (tmp_path / "run.yaml").write_text(json.dumps(settings))
    given = [str(tmp_path / "run.yaml"), f"output_dir={tmp_path / 'run'}", f"backend={trained_by}"]
    run("vizsage", "train", *given)
    answers = {}
    for backend in ("hf", "unsloth"):
        place = tmp_path / backend
        adapter = ("--adapter", str(tmp_path / "run" / "vizsage-adapter"), "--limit", "16")
        run("vizsage", "eval", *given, f"output_dir={place}", f"backend={backend}", *adapter)
        rows = (place / "evaluation_results" / "test" / "predictions.jsonl").read_text().splitlines()
        answers[backend] = [json.loads(row)["token_ids"] for row in rows]
    assert len(answers["hf"]) == 16
    assert answers["unsloth"] == answers["hf"]
