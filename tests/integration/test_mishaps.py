"""What happens to the jobs of the integration tests on their way happens in methods that there are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "mishaps"


@pytest.mark.parametrize(
    ("mishap", "module", "method"),
    [
        ("answer 2", "vizsage.evaluation.worker", "EvaluationWorker.answer"),
        ("hold 5", "vizsage.training.flow", "Flow.on_step_end"),
    ],
)
def test_a_mishap_changes_its_method(mishap: str, module: str, method: str) -> None:
    code = f"import {module} as module; print(module.{method}.__module__)"
    environment = os.environ | {"MISHAP": mishap, "PYTHONPATH": os.pathsep.join([str(FOLDER), *sys.path])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("sitecustomize\n")
