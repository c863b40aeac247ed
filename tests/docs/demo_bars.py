"""What `make demo` promises, checked after it ran."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any


def check_demo(checkout: Path) -> None:
    """At most 0.30 before; then 0.85 in all, 0.75 in each group; without images, visual answers are below 0.45.

    Before training, many replies contain the answer in other words, which the last lines say; no test sample was
    trained on.
    """
    before, after = _results(checkout, "test-base"), _results(checkout, "test")
    assert before["total_samples"] == after["total_samples"] >= 200
    assert before["exact_match_score"] <= 0.30
    assert after["exact_match_score"] >= 0.85
    assert after["with_external_knowledge"]["exact_match_score"] >= 0.75
    assert after["without_external_knowledge"]["exact_match_score"] >= 0.75

    assert before["metrics"]["contains_answer"] >= 0.5
    assert after["metrics"]["contains_answer"] >= after["exact_match_score"]
    blind = _results(checkout, "test-blind")
    assert blind["without_external_knowledge"]["exact_match_score"] < 0.45

    assert before["leaks"] is None
    for leaks in (after["leaks"], blind["leaks"]):
        assert leaks["samples"] == after["total_samples"]
        assert (leaks["samples_in_training"], leaks["images_in_training"]) == (0, 0)

    command = [sys.executable, "-m", "tools.before_after", "config/demo_config.yaml"]
    told = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=True).stdout
    assert f"contain the answer: {before['metrics']['contains_answer']:.3f} before" in told
    scores = [f"{one['exact_match_score']:.3f}" for one in (_results(checkout, "test-base-blind"), blind)]
    assert f"Without the image: exact match {scores[0]} before, {scores[1]} after" in told
    assert re.search(r"Of the \d+ questions that became right,\n +\d+ \(\d+%\) had the answer", told)


def _results(checkout: Path, evaluation: str) -> dict[str, Any]:
    path = checkout / "outputs" / "demo" / "evaluation_results" / evaluation / "results.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found
