"""`from vizsage import ...`: what the documentation shows, and what an import costs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import vizsage

ROOT = Path(__file__).parents[1]
NAMES = ["evaluate", "load_config", "predict", "train"]


def python(code: str, folder: Path) -> str:
    """What the code prints, run in a separate process."""
    # With WANDB_MODE a library prints a line about it.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    environment["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_package_offers_the_commands_as_functions() -> None:
    assert set(NAMES) <= set(vizsage.__all__) <= set(dir(vizsage))
    for name in NAMES:
        assert callable(getattr(vizsage, name))
    with pytest.raises(AttributeError, match=r"module 'vizsage' has no attribute 'trian'"):
        vizsage.trian  # type: ignore[attr-defined]  # noqa: B018


def test_importing_the_package_imports_no_other_module(tmp_path: Path) -> None:
    code = "import sys; before = set(sys.modules); import vizsage; print(*sorted(set(sys.modules) - before))"
    assert python(code, tmp_path) == "vizsage\n"
    code = "import sys; from vizsage import load_config, train, evaluate, predict; print('torch' in sys.modules)"
    assert python(code, tmp_path) == "False\n"


def test_the_example_of_the_documentation(tmp_path: Path) -> None:
    text = (ROOT / "docs/reference/python-api.md").read_text(encoding="utf-8")
    example = re.findall(r"<!-- example: run by tests/test_api.py -->\n(.*?)<!-- end of example -->", text, re.DOTALL)
    code = "\n".join(line.removeprefix("    ") for line in example[0].splitlines())
    shutil.copytree(ROOT / "config", tmp_path / "config")
    python("from vizsage.cli import main; main(['demo', 'data'])", tmp_path)
    checks = (
        "result = train(config)\n"  # done before: nothing is trained again
        "assert result.step == result.best_step == result.validation.step == 12, result\n"
        "assert result.output_dir.samefile('outputs/debug')\n"
    )
    adapter, score, *answer = python(f"{code}\n{checks}", tmp_path).splitlines()
    assert adapter == "outputs/debug/vizsage-adapter"
    assert (tmp_path / adapter / "adapter_model.safetensors").exists()
    assert 0 <= float(score) <= 1
    assert answer  # one line or several: the model has learned next to nothing
