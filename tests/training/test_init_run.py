"""A run that begins from the weights of an adapter: its record, and what it needs to continue."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable

import pytest
from safetensors.torch import load_file

from tests.training.test_continuation import train_with_signal
from tests.training.test_train import adapter_bytes, outcome
from vizsage.config import Config
from vizsage.errors import CheckpointError, ConfigError, Interrupted
from vizsage.files import sha256_file
from vizsage.training.train import train


def test_a_run_begins_from_an_adapter_and_continues_without_it(
    make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make_config(max_steps=2)
    train(first)
    weights = first.adapter_dir / "adapter_model.safetensors"
    folder = first.output_dir.with_name("second")
    second = make_config(
        max_steps=3, init_adapter=str(first.output_dir), output_dir=str(folder), lr=1e-9, lora_dropout=0
    )
    with pytest.raises(ConfigError, match="write lora_r: 4"):
        train(second.model_copy(update={"lora_r": 8}))
    assert not (folder / "run.json").exists()
    train(second)
    before, after = load_file(weights), load_file(second.adapter_dir / "adapter_model.safetensors")
    assert all(after[name].allclose(before[name], atol=1e-7) for name in before)
    record = json.loads((folder / "run.json").read_text())
    assert record["settings"]["init_adapter"] == str(first.output_dir)
    assert record["identity"]["weights of init_adapter"] == sha256_file(weights)
    assert (
        f"began from the weights of: run (SHA-256 {sha256_file(weights)})"
        in (second.adapter_dir / "README.md").read_text()
    )

    stopped = second.model_copy(update={"output_dir": folder.with_name("stopped")})
    with pytest.raises(Interrupted):
        train_with_signal(monkeypatch, stopped, 1, signal.SIGTERM)
    kept = weights.read_bytes()
    weights.write_bytes(kept[:-1] + b"?")
    with pytest.raises(ConfigError, match="weights of init_adapter was"):
        train(stopped)
    shutil.rmtree(first.output_dir)
    train(stopped)
    assert adapter_bytes(stopped) == adapter_bytes(second)
    assert outcome(stopped)["attempt"] == 2
    assert train(stopped).step == 3, "done"
    with pytest.raises(CheckpointError, match=r"init_adapter: .* is no adapter"):
        train(stopped.model_copy(update={"output_dir": folder.with_name("third")}))
