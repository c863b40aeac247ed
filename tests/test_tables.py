"""Every table that a command prints, at 80 columns and fewer: no word and no number is broken, nothing is cut off."""

from __future__ import annotations

import ast
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from jobs import runs_table
from jobs.runs_table import Run
from vizsage.check import findings
from vizsage.config import build_config
from vizsage.contract.hashes_file import Leaks
from vizsage.contract.results_file import ResultsFile
from vizsage.data.survey import SplitRow, Survey
from vizsage.evaluation import results_table
from vizsage.evaluation.comparison import compare_table
from vizsage.evaluation.comparison.compare import compare
from vizsage.evaluation.comparison.leak_check import CheckedRun, LeakCheck, LeakedSample, show_leaks
from vizsage.evaluation.results import Highlights
from vizsage.scoring.registry import METRICS
from vizsage.tables import FittedTable, shortened_path

ROOT = Path(__file__).parents[1]
LONG = "outputs/llama-3.2-11b-vision-instruct/aqua-with-external-knowledge/learning-rate-0.0001-seed"
QUESTION = "which compositional characteristics distinguish this fifteenth-century altarpiece from its predecessors"


def row(number: int, prediction: str | None) -> dict[str, Any]:
    return {
        "sample_id": f"test-{number}",
        "image": f"Collections/Rijksmuseum-Amsterdam/seventeenth-century/inventory-number-{number:08}.jpg",
        "question": QUESTION,
        "prediction": prediction,
        "answer": "a counterrevolutionary iconographical representation",
        "answers": ["a counterrevolutionary iconographical representation"],
        "exact_match": False,
        "finish_reason": "stop",
        "need_external_knowledge": number % 2 == 1,
        "error": None if prediction else "https://museum.example.org/0123456789 cannot be decoded",
        "tags": {"school": ("Early-Netherlandish-Primitives", "Italian")[number % 2]},
    }


PREDICTIONS = ("misinterpreted anthropomorphisation", "a counterrevolutionary iconographical representation", None)
ROWS = [row(number, PREDICTIONS[number % 3]) for number in range(12)]


def group(samples: int) -> dict[str, Any]:
    found = {"samples": samples, "images": samples, "exact_match_score": 1.0, "exact_match_percentage": 100.0}
    return found | {"exact_match_interval": [0.9876, 1.0]}


def results() -> ResultsFile:
    told = {
        "schema_version": 3, "settings": {}, "correct_predictions": 1, "incorrect_predictions": 123456, "mode": "squad",
        "split": "test", "limit": 123456, "adapter": "out/adapter", "knowledge": "oracle", "blind": True,
        "total_samples": 123456, "images": 123456, "exact_match_score": 1.0, "exact_match_percentage": 100.0,
        "exact_match_interval": [0.9876, 1.0], "with_external_knowledge": group(123456),
        "without_external_knowledge": group(0), "by_question_word": {"what": group(4), "which": group(5)},
        "by_tag": {"school": {"Early-Netherlandish-Primitives": group(1), "Italian": group(2)}},
        "tags_not_grouped": ["inventory_number"], "metrics": dict.fromkeys(METRICS, 1.0),
        "scored_samples": {"multiple_choice": 123456}, "interval": {"confidence": 0.95},
        "failed_predictions": 4, "truncated_predictions": 123456,
        "left_out": {"need_external_knowledge": 123456}, "missing_descriptions": 123456,
    }  # fmt: skip
    return ResultsFile.model_validate(told)


@pytest.fixture
def tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[FittedTable]:
    """Those that `eval`, `score`, `compare`, `check` and `python -m jobs table` make, with long names and texts."""
    made: list[FittedTable] = []
    begin = FittedTable.__init__

    def noted(self: FittedTable, *arguments: Any, **options: Any) -> None:
        begin(self, *arguments, **options)
        made.append(self)

    monkeypatch.setattr(FittedTable, "__init__", noted)
    console = Console(width=80, file=io.StringIO())
    rows: Any = ROWS
    results_table.show(console, results(), Highlights(rows, rows[:1], rows[:1], rows[2:3]), debug_exact_match=True)
    for number, runs in ((2, "ab"), (3, "abc")):
        paths = []
        for shift, name in enumerate(runs):
            paths.append(tmp_path / f"{number}" / LONG / name / "predictions.jsonl")
            paths[-1].parent.mkdir(parents=True)
            answered = [one | {"prediction": ROWS[(at + shift) % 3]["prediction"]} for at, one in enumerate(ROWS)]
            paths[-1].write_text("".join(json.dumps(one) + "\n" for one in answered))
        compare_table.show(console, compare(paths))
    counts = dict.fromkeys(("samples", "images", "questions", "samples_in_training"), 123_456_789)
    counts |= dict.fromkeys(("images_in_training", "questions_in_training"), 123_456_789)
    leaked = [LeakedSample("test-17", ROWS[0]["image"], QUESTION, ("image", "question"))]
    leaks = Leaks.model_validate(counts | {"images_by": "content", "train_run": LONG})
    show_leaks(console, LeakCheck(LONG, [CheckedRun(f"{LONG}-1", leaks, leaked)]))
    survey = Survey()
    survey.rows = [SplitRow("train", *[123_456_789] * 6)]
    survey.missing = ["val"]
    findings.show(console, build_config({}), survey, [])
    runs = []
    for seed in (1, 2, 3):
        differs = {"seed": seed, "model_name": f"organisation/{'m' * 30}-{seed}", "lr": seed / 1e4}
        settings = build_config(differs | {"early_stopping_patience_ratio": seed / 10}).model_dump(mode="json")
        runs.append(Run(Path(LONG), f"{LONG}-{seed}", settings, 0.123, 0.456, 123456, "interrupted"))
    runs_table.render(runs)
    return made


def words(text: str) -> set[str]:
    return set(text.split())


@pytest.mark.parametrize("width", [200, 80, 60])
def test_no_word_and_no_number_is_broken(tables: list[FittedTable], width: int) -> None:
    assert len(tables) > 10
    for table in tables:
        page = io.StringIO()
        Console(width=width, file=page).print(table)
        text = page.getvalue()
        assert max(map(cell_len, text.splitlines())) <= width
        shown = words(text)
        for column in table._columns:
            texts = [one.plain for one in column.cells]
            if column.kind == "number":
                assert [one for one in texts if one not in text] == []
            elif column.kind == "text":
                assert {word for one in texts for word in words(one)} - shown == set(), text
            else:
                forms = {one: {shortened_path(one, w) for w in range(12, 200)} & shown for one in texts}
                assert all(forms.values()), text
                assert len({min(found) for found in forms.values()}) == len(set(texts)), text


def test_a_row_is_written_below_each_other_where_no_table_fits() -> None:
    table = FittedTable("Runs")
    table.add_paths("run")
    table.add_texts(*(f"a_setting_with_a_very_long_name_{number}" for number in range(3)))
    table.add_row("one", "1", "", "3")
    page = io.StringIO()
    Console(width=80, file=page).print(table)
    assert [line.split() for line in page.getvalue().splitlines()] == [
        ["Runs"], ["run", "one"], ["a_setting_with_a_very_long_name_0", "1"], ["a_setting_with_a_very_long_name_2", "3"]
    ]  # fmt: skip


def test_the_end_of_a_path_says_more_than_its_beginning() -> None:
    assert shortened_path("outputs/a-very-long-name/seed-17", 20) == "outpu...name/seed-17"
    assert shortened_path("outputs/run", 20) == "outputs/run"


@pytest.mark.parametrize("folder", ["vizsage", "jobs"])
def test_tables_are_made_in_one_place(folder: str) -> None:
    for path in (ROOT / folder).rglob("*.py"):
        imported = {node.module for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)}
        assert path.name == "tables.py" or not re.search(r"rich\.table\b", " ".join(map(str, imported))), path
