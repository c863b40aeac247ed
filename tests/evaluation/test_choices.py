"""Multiple choice from the samples of a split to results, tables, report and comparison."""

from __future__ import annotations

import json
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.evaluation.report_run import Page
from vizsage import cli
from vizsage.config import Config
from vizsage.errors import DataError
from vizsage.evaluation.comparison.compare import compare
from vizsage.evaluation.evaluate import evaluate
from vizsage.json_lines import read_jsonl

from .conftest import FakeSplit, Stage, make_samples

OPTIONS = ("a cat", "a dog", "a cow")


@pytest.fixture
def asked(stage: Stage) -> Stage:
    """Four samples with options, two without; the answer is B once by its letter and else by its text."""
    samples = [replace(sample, answer="a dog", answers=("a dog",), choices=OPTIONS) for sample in make_samples(6)]
    samples[1] = replace(samples[1], answer="B", answers=("B",))
    samples[4:] = [replace(sample, choices=()) for sample in samples[4:]]
    stage.split = FakeSplit(samples)
    replies = ["(b)", "The answer is B.", "A or B", "A dog", "a dog", "B"]
    stage.model.reply = lambda sample: replies[int(sample.sample_id.removeprefix("test-"))]
    return stage


def folder(config: Config) -> Path:
    return config.output_dir / "evaluation_results" / "test"


def test_an_evaluation_scores_the_samples_with_choices(asked: Stage, config: Config, capsys: Any) -> None:
    shown = StringIO()
    results = evaluate(config, console=Console(file=shown, width=200))
    assert results["metrics"]["multiple_choice"] == 0.75
    assert results["scored_samples"] == {"multiple_choice": 4}
    assert "multiple choice (4 samples)" in shown.getvalue()
    rows = list(read_jsonl(folder(config) / "predictions.jsonl"))
    assert [row.get("choices") for row in rows] == [list(OPTIONS)] * 4 + [None] * 2
    assert [row["scores"].get("multiple_choice") for row in rows] == [1, 1, 0, 1, None, None]
    assert cli.main(["score", str(folder(config) / "predictions.jsonl"), "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again == {name: results[name] for name in again}
    page = Page((folder(config) / "report.html").read_text(encoding="utf-8"))
    assert "Multiple choice 75.0 %" in page.text
    assert [row.get("choices") for row in page.data("gallery-data")["rows"]] == [list(OPTIONS)] * 4 + [None] * 2


def test_without_choices_nothing_is_told_of_them(stage: Stage, config: Config) -> None:
    results = evaluate(config)
    assert "multiple_choice" not in results["metrics"]
    assert "scored_samples" not in results
    for name in ("predictions.jsonl", "results.json"):
        text = (folder(config) / name).read_text(encoding="utf-8")
        assert '"choices"' not in text
        assert '"multiple_choice"' not in text
    page = Page((folder(config) / "report.html").read_text(encoding="utf-8"))
    assert "Multiple choice" not in page.text
    assert "choices" not in page.scripts["gallery-data"]


def test_other_choices_are_other_data(asked: Stage, config: Config) -> None:
    first = evaluate(config)["data"]["sha256"]
    asked.split = FakeSplit([replace(sample, choices=sample.choices[::-1]) for sample in asked.split.samples])
    assert evaluate(config)["data"]["sha256"] != first


def test_runs_are_compared_on_the_samples_with_choices(asked: Stage, config: Config, tmp_path: Path) -> None:
    evaluate(config)
    other = config.model_copy(update={"output_dir": tmp_path / "other"})
    asked.model.reply = lambda sample: "c"
    evaluate(other)
    comparison = compare([config.output_dir, other.output_dir], metric="multiple_choice")
    assert (comparison["samples"], comparison["test"]) == (4, "mcnemar_exact")
    assert [run["score"] for run in comparison["runs"]] == [0.75, 0.0]
    assert any("2 of 6 samples have no multiple_choice" in warning for warning in comparison["warnings"])
    lines = list(read_jsonl(folder(other) / "predictions.jsonl"))
    turned = tmp_path / "turned.jsonl"
    turned.write_text("".join(json.dumps(line | {"choices": line.get("choices", [])[::-1]}) + "\n" for line in lines))
    with pytest.raises(DataError, match="other choices in 4 samples"):
        compare([config.output_dir, turned], metric="multiple_choice")
    assert compare([config.output_dir, turned])["samples"] == 6


def test_no_choices_anywhere_leave_nothing_to_compare(stage: Stage, config: Config) -> None:
    evaluate(config)
    with pytest.raises(DataError, match=r"no prediction can be scored by multiple_choice, for which .* choices"):
        compare([config.output_dir, config.output_dir], metric="multiple_choice")


@pytest.mark.parametrize("choices", ["AB", [["a"], "b"], {"A": "a"}, 2])
def test_choices_of_another_form_are_a_bad_line(tmp_path: Path, capsys: Any, choices: Any) -> None:
    path = tmp_path / "theirs.jsonl"
    path.write_text(json.dumps({"prediction": "a", "answer": "a", "choices": choices}))
    assert cli.main(["score", str(path)]) == 3
    assert "line 1: choices is" in capsys.readouterr().err
