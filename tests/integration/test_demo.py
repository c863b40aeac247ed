"""What `make demo` promises, through the command line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tools.before_after import main as before_after

ROOT = Path(__file__).parents[2]


def vizsage(folder: Path, *arguments: str) -> None:
    """Run a command in `folder` with two threads, as on the machine of a newcomer."""
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-m", "vizsage", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def results(folder: Path, split: str) -> dict[str, Any]:
    path = folder / "outputs" / "demo" / "evaluation_results" / split / "results.json"
    found: dict[str, Any] = json.loads(path.read_text())
    return found


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_demo_reaches_its_bars_and_the_model_looks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At most 0.30 before; then 0.85 in all, 0.75 in each group; without images, visual answers are below 0.45.

    Before training, many replies contain the answer in other words, which its last lines say; nothing was trained on.
    """
    config = str(ROOT / "config" / "demo_config.yaml")
    vizsage(tmp_path, "demo", "data")
    vizsage(tmp_path, "eval", config, "--base")
    vizsage(tmp_path, "train", config)
    vizsage(tmp_path, "eval", config)
    vizsage(tmp_path, "eval", config, "--base", "--blind")
    vizsage(tmp_path, "eval", config, "--blind")
    before, after = results(tmp_path, "test-base"), results(tmp_path, "test")
    assert before["total_samples"] == after["total_samples"] >= 200
    assert before["exact_match_score"] <= 0.30
    assert after["exact_match_score"] >= 0.85
    assert after["with_external_knowledge"]["exact_match_score"] >= 0.75
    assert after["without_external_knowledge"]["exact_match_score"] >= 0.75

    assert before["metrics"]["contains_answer"] >= 0.5
    assert after["metrics"]["contains_answer"] >= after["exact_match_score"]
    blind = results(tmp_path, "test-blind")
    assert blind["without_external_knowledge"]["exact_match_score"] < 0.45

    assert before["leaks"] is None
    for leaks in (after["leaks"], blind["leaks"]):
        assert leaks["samples"] == after["total_samples"]
        assert (leaks["samples_in_training"], leaks["images_in_training"]) == (0, 0)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["before_after.py", config])
    assert before_after() == 0
    told = capsys.readouterr().out
    assert f"contain the answer: {before['metrics']['contains_answer']:.3f} before" in told
    scores = [f"{one['exact_match_score']:.3f}" for one in (results(tmp_path, "test-base-blind"), blind)]
    assert f"Without the image: exact match {scores[0]} before, {scores[1]} after" in told
    assert re.search(r"Of the \d+ questions that became right,\n +\d+ \(\d+%\) had the answer", told)
