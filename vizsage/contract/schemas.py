"""The JSON Schema of each file that other programs may read. Needs the standard library until one is asked for."""

from __future__ import annotations

import importlib
from typing import Any

MODELS = {
    "run": "run_files.RunFile",
    "outcome": "run_files.Outcome",
    "metrics": "run_files.MetricsLine",
    "results": "results_file.ResultsFile",
    "sample_hashes": "hashes_file.SampleHashes",
    "submissions": "submission_lines.Submission",
}
"""The class, in a module of this package, that describes a file, by the name that a user gives it. Of a file of JSON
lines the class describes one line."""


def json_schema(name: str) -> dict[str, Any]:
    """The JSON Schema of the file called `name`, a key of MODELS."""
    from pydantic import TypeAdapter

    module, _, model = MODELS[name].partition(".")
    return TypeAdapter(getattr(importlib.import_module(f"{__package__}.{module}"), model)).json_schema()
