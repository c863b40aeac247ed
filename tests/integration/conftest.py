"""The data of runs that take seconds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vizsage.demo.drawn_data import write_demo


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo data set with 12 questions to test."""
    base = tmp_path_factory.mktemp("data")
    write_demo(base)
    for split, count in (("val", 12), ("test", 12)):
        path = base / "Demo" / f"{split}.json"
        path.write_text(json.dumps(json.loads(path.read_text())[:count]))
    return base
