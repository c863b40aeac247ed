"""The benchmark of answering runs and reports what it measured, and docs/benchmarks.md shows it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import eval_throughput
from tools.answering_figures import RESULTS, with_tables

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_it_measures_every_way_on_a_cpu(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.eval_throughput", "--questions", "12", "--padded", "4"]
    done = subprocess.run(
        [*command, "--json", str(tmp_path / "found.json")], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert [row["way"] for row in found["measurements"]] == ["vizsage", "vizsage-plain", "padded-4", "loop"]
    assert all(row["answers_per_s"] == pytest.approx(12 / row["seconds"]) for row in found["measurements"])
    assert found["other_answers"] == {"of": "vizsage", "against": "vizsage-plain", "share": 0.0}
    assert found["bars"] == []  # they are about real sizes
    assert "answers of vizsage that are not those of vizsage-plain: 0.00%" in done.stdout


@pytest.mark.parametrize(
    ("loop", "padded", "met"), [(4.0, 16.0, [True, True]), (4.1, 16.0, [False, True]), (4.0, 16.1, [True, False])]
)
def test_bars(loop: float, padded: float, met: list[bool]) -> None:
    speeds = {"vizsage": 40.0, "vizsage-plain": 15.0, "padded-24": padded, "loop": loop}
    rows = [{"way": way, "answers_per_s": speed} for way, speed in speeds.items()]
    assert [bar["met"] for bar in eval_throughput._bars(rows, "real", "mllama", 4.8)] == met
    assert [bar["met"] for bar in eval_throughput._bars(rows[:3], "real", "mllama", 4.8)] == [None, met[1]]
    assert eval_throughput._bars(rows, "tiny", "mllama", 4.8) == []


def test_the_page_shows_the_present_figures() -> None:
    page = (ROOT / "docs/benchmarks.md").read_text(encoding="utf-8")
    assert with_tables(page) == page, "run `make answering-figures`"


def test_the_bars_are_met_in_the_results() -> None:
    [real] = (json.loads(path.read_text()) for path in RESULTS.glob("llama*.json"))
    assert [bar["met"] for bar in real["bars"]] == [True, True]
