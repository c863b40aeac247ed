"""The tables of training speed in docs/benchmarks.md, from the measurements that are kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tools.training_figures import BEGIN, END, kept, with_tables
from vizsage.config import Config
from vizsage.models.loading.hardware import choose_backend

ROOT = Path(__file__).parents[2]


def write(folder: Path, name: str, size: str, *rows: dict[str, Any], notes: tuple[str, ...] = ()) -> None:
    result = {
        "machine": {"device": "a GPU", "cores": 8, "torch": "2.11.0", "transformers": "5.17.0", "unsloth": None},
        "settings": {"size": size, "family": "mllama", "step_questions": 24},
        "row": {"text_tokens": 111.6},
        "measurements": list(rows),
        "notes": list(notes),
    }
    (folder / name).write_text(json.dumps(result))


def measured(contender: str, **more: Any) -> dict[str, Any]:
    figures = {"questions": 4.8, "samples_per_s": 20.04, "peak_gb": 28.96, "data_wait_share": 0.004}
    ratios = {"ratio_to_unsloth": 6.684, "ratio_to_trl": None, "ratio_to_plain": 4.0, "ratio_merged": []}
    return {"contender": contender, **figures, **ratios, **more}


def test_the_page_shows_what_is_kept() -> None:
    text = (ROOT / "docs/benchmarks.md").read_text(encoding="utf-8")
    assert with_tables(text) == text, "run `make training-figures`"


def test_auto_is_the_backend_that_was_measured_to_be_the_faster() -> None:
    """In every pair of one run that is equal except for the backend."""
    pairs = 0
    for result in kept():
        rows = result["measurements"]
        speeds = {(row["contender"], row["questions"]): row["samples_per_s"] for row in rows if "samples_per_s" in row}
        for (name, questions), unsloth in speeds.items():
            hf = speeds.get((name.replace("-unsloth-", "-hf-"), questions))
            if "-unsloth-" in name and hf is not None:
                assert choose_backend(Config(backend="auto")) == ("hf" if hf >= unsloth else "unsloth"), (
                    result["model"],
                    name,
                )
                pairs += 1
    assert pairs


def test_a_table_for_each_file_real_sizes_first(tmp_path: Path) -> None:
    write(tmp_path, "a.json", "tiny", measured("small"), {"contender": "none", "not_run": "no GPU"})
    starred = measured("large", merged=True, ratio_merged=["unsloth"], data_wait_share=None, peak_gb=None)
    write(tmp_path, "b.json", "real", starred, notes=("none not run: no GPU", "* measured before"))
    (tmp_path / "other.json").write_text('{"rows": []}')
    page = with_tables(f"before\n{BEGIN}\nold\n{END}\nafter\n", tmp_path)
    assert "old" not in page
    assert page.startswith("before\n")
    assert page.endswith("after\n")
    assert page.index("Llama 3.2 11B") < page.index("A small model")
    assert "24 questions per step, 112 text tokens per row; a GPU, 8 cores; torch 2.11.0, transformers 5.17.0 (" in page
    assert r"| large\* | 4.8 | 20.0 |  |  | 6.68\* |  | 4.00 |" in page
    assert "| small | 4.8 | 20.0 | 29.0 | 0.4% | 6.68 |  | 4.00 |" in page
    assert "\n\\* measured before\n" in page
    assert "not run" not in page


def test_nothing_is_kept(tmp_path: Path) -> None:
    assert with_tables(f"{BEGIN}\nold\n{END}\n", tmp_path / "none") == f"{BEGIN}\n{END}\n"


def test_a_page_without_markers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no place for the table"):
        with_tables("no markers", tmp_path)
