"""The choice of a backend acts before transformers is imported, and what prevents it is one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from vizsage.config import Config
from vizsage.files import write_text
from vizsage.models.loading.backends import load_early

ROOT = Path(__file__).parents[3]
COMMANDS = {
    "train": [],
    "eval": ["--base"],
    "predict": ["--base", "--image", "none.png", "--question", "what is it"],
}
# Where there is no GPU, unsloth raises an error at once; here it records what was imported before it.
UNSLOTH = """
import json, os, sys
early = [name for name in ("transformers", "peft", "trl", "datasets") if name in sys.modules]
switches = {name: value for name, value in os.environ.items() if name.startswith("UNSLOTH_")}
json.dump({"early": early, "switches": switches}, open(os.environ["NOTES"], "w"))
print("a banner")
raise ImportError("no wheel for\\nthis GPU")
"""
WITH_A_GPU = """
import sys
import torch
from vizsage.models.loading import hardware
from vizsage.cli import main
hardware.detect_hardware = lambda: hardware.Hardware(cuda=True, bf16=True, bitsandbytes=True, unsloth=True)
torch.cuda.set_device = lambda device: None
sys.exit(main(sys.argv[1:]))
"""


def run(program: list[str], command: str, path: Path, *more: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *program, command, str(path), *COMMANDS.get(command, []), *more],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **variables},
        check=False,
    )


@pytest.mark.parametrize("command", [*COMMANDS, "check"])
def test_unsloth_on_a_cpu_is_one_line(command: str, write_settings: Callable[..., Path]) -> None:
    path = write_settings(model_name="none", backend="unsloth", device="cpu")
    done = run(["-m", "vizsage"], command, path)
    problem = "backend: found 'unsloth', but it needs a GPU and device is cpu, so set either to auto"
    assert done.returncode == 2
    assert done.stderr == f"vizsage: error: {path}: {problem}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_unsloth_comes_before_the_libraries_that_it_patches(
    command: str, tmp_path: Path, write_settings: Callable[..., Path]
) -> None:
    """On no GPU: a stand-in for unsloth, which could not be imported."""
    write_text(tmp_path / "packages" / "unsloth" / "__init__.py", UNSLOTH)
    notes = tmp_path / "notes.json"
    done = run(
        ["-c", WITH_A_GPU],
        command,
        write_settings(model_name="none", backend="unsloth"),
        PYTHONPATH=str(tmp_path / "packages"),
        NOTES=str(notes),
    )
    noted = json.loads(notes.read_text())
    assert noted["early"] == []
    assert noted["switches"]["UNSLOTH_RETURN_LOGITS"] == "1"
    assert not Path(noted["switches"]["UNSLOTH_COMPILE_LOCATION"]).is_relative_to(ROOT)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        "vizsage: error: backend: unsloth cannot be imported (no wheel for this GPU); `pip install -e '.[unsloth]'` "
        "installs versions that fit each other; or set backend to auto or hf"
    )
    assert done.stdout == ""  # what scripts read


def test_unsloth_too_late(write_settings: Callable[..., Path]) -> None:
    code = "import transformers\n" + WITH_A_GPU
    done = run(["-c", code], "train", write_settings(model_name="none", backend="unsloth"))
    assert done.returncode == 2
    assert "has to be imported before transformers, which is imported already" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("backend", ["auto", "hf"])
def test_hf_imports_nothing_early(backend: str) -> None:
    code = (
        "import sys; from vizsage.config import Config; from vizsage.models.loading.backends import prepare\n"
        f"prepare(Config(backend={backend!r}))\n"
        "sys.exit(' '.join(m for m in ('torch', 'transformers', 'unsloth') if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.stderr.split() == []


def test_hf_loads_when_it_is_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert load_early(Config(model_name="none")) is None
