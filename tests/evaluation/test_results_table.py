"""The tables show what is in the rows, as text."""

from __future__ import annotations

from io import StringIO
from typing import Any

from rich.console import Console, RenderableType

from vizsage.contract.results_file import Conditions, Scores
from vizsage.evaluation import results_table
from vizsage.evaluation.results_table import comparison_table, error_table, preview_table
from vizsage.tables import FittedTable


def text_of(renderable: RenderableType) -> str:
    output = StringIO()
    Console(file=output, width=200).print(renderable)
    return output.getvalue()


def row(prediction: str | None, answer: str, *, match: bool = False, finish_reason: str = "stop") -> dict[str, Any]:
    return {
        "image": "a.png",
        "question": "[bold]what[/bold]",
        "prediction": prediction,
        "answer": answer,
        "exact_match": match,
        "finish_reason": finish_reason,
        "error": "image 'a.png' cannot be decoded" if prediction is None else None,
    }


def group(samples: int) -> dict[str, Any]:
    some = samples > 0
    return {
        "samples": samples,
        "images": samples // 2,
        "exact_match_percentage": 25.0 if some else None,
        "exact_match_interval": [0.1, 0.4512] if some else None,
    }


def results(**changes: Any) -> dict[str, Any]:
    return {
        "schema_version": 3,
        "correct_predictions": 1,
        "incorrect_predictions": 3,
        "mode": "squad",
        "split": "test",
        "limit": None,
        "adapter": "out/adapter",
        "knowledge": "oracle",
        "blind": False,
        "total_samples": 4,
        "images": 3,
        "exact_match_percentage": 25.0,
        "exact_match_interval": [0.0514, 0.6],
        "with_external_knowledge": group(4),
        "without_external_knowledge": group(0),
        "by_question_word": {"what": group(4)},
        "by_tag": {},
        "tags_not_grouped": [],
        "metrics": {"exact_match": 0.25, "token_f1": 0.3755, "anls": None},
        "interval": {"confidence": 0.95},
        "failed_predictions": 1,
        "truncated_predictions": 2,
        "left_out": {"need_external_knowledge": 0},
        "missing_descriptions": 0,
    } | changes


def overall_table(told: dict[str, Any]) -> FittedTable:
    return results_table.overall_table(Scores.model_validate(told), Conditions.model_validate(told))


def metrics_table(told: dict[str, Any]) -> FittedTable:
    return results_table.metrics_table(Scores.model_validate(told))


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("│").split("│")]


def test_overall_table() -> None:
    lines = text_of(overall_table(results())).splitlines()
    assert "Exact match (SQuAD) on test: adapter" in lines[0]
    assert ["all", "4", "3", "25.00 %", "5.1 to 60.0 %"] in map(cells, lines)
    assert ["with external knowledge", "4", "2", "25.00 %", "10.0 to 45.1 %"] in map(cells, lines)
    assert ["without external knowledge", "0", "0", "-", "-"] in map(cells, lines)
    assert [line.strip() for line in lines[-4:]] == [
        "knowledge: oracle",
        "blind: no",
        "failed: 1",
        "cut at max_new_tokens: 2",
    ]
    assert "95% interval" in lines[2]
    assert "question word" not in "".join(lines)  # there is only one


def test_overall_table_by_question_word_and_tag() -> None:
    tags = {
        "[b]school": {"[red]Dutch": group(2), "French": group(1)},
        "alike": {"same": group(4)},
        "year": {str(1600 + i): group(1) for i in range(20)},
    }
    words = {"what": group(3), "how many": group(1)}
    table = overall_table(results(by_question_word=words, by_tag=tags, tags_not_grouped=["title", "[x]"]))
    rows = [cells(line) for line in text_of(table).splitlines()]
    assert rows.index(["by question word", "", "", "", ""]) + 1 == rows.index(
        ["what", "3", "1", "25.00 %", "10.0 to 45.1 %"]
    )
    assert ["by [b]school", "", "", "", ""] in rows
    assert ["[red]Dutch", "2", "1", "25.00 %", "10.0 to 45.1 %"] in rows
    assert ["by year (8 more in results.json)", "", "", "", ""] in rows
    assert [row[0] for row in rows if row[0].startswith("16")] == [str(1600 + i) for i in range(12)]
    assert not any("same" in row[0] for row in rows)
    assert rows[-1] == ["too many values to group by: title, [x]"]


def test_a_blind_run_says_so_in_title_and_caption() -> None:
    lines = text_of(overall_table(results(blind=True, knowledge="retrieved"))).splitlines()
    assert "on test: adapter, blind: the image was withheld" in lines[0]
    assert [line.strip() for line in lines[-4:-2]] == ["knowledge: retrieved", "blind: yes, the image was withheld"]


def test_overall_table_of_another_tool_s_file() -> None:
    known = results(split="[b]their.jsonl")
    for name in ("limit", "adapter", "knowledge", "blind", "left_out", "missing_descriptions"):
        del known[name]
    lines = text_of(overall_table(known)).splitlines()
    assert lines[0].strip() == "Exact match (SQuAD) on [b]their.jsonl"
    assert [line.strip() for line in lines[-2:]] == ["failed: 1", "cut at max_new_tokens: 2"]


def test_metrics_table() -> None:
    lines = [cells(line) for line in text_of(metrics_table(results())).splitlines()]
    assert ["25.00 %", "37.55 %", "-"] in lines
    assert any("token F1" in line[0] for line in lines)


def test_a_metric_that_scored_a_part_says_how_many() -> None:
    told = results(metrics={"exact_match": 0.25, "multiple_choice": 0.5}, scored_samples={"multiple_choice": 2})
    header, *_ = [line for line in text_of(metrics_table(told)).splitlines() if "exact match" in line]
    assert "multiple choice (2 samples)" in header


def test_overall_table_of_a_part_of_the_data() -> None:
    left_out = {"need_external_knowledge": 3}
    text = text_of(
        overall_table(results(adapter=None, mode="rigorous", limit=9, left_out=left_out, missing_descriptions=5))
    )
    assert "Exact match (rigorous) on test, first 9: base model" in text
    assert "left out, need external knowledge: 3" in text
    assert "without the description they need: 5" in text


def test_texts_are_never_markup() -> None:
    text = text_of(preview_table([row("[red]x[/red]", "[link=y]z")]))
    for shown in ("[bold]what[/bold]", "[red]x[/red]", "[link=y]z"):
        assert shown in text


def test_preview_marks_failed_and_cut_answers() -> None:
    rows = [row(None, "cat"), row("a long", "cat", finish_reason="length"), row("cat", "cat", match=True)]
    text = text_of(preview_table(rows))
    assert "failed" in text
    assert "a long [cut]" in text
    assert "yes" in text


def test_failed_records_give_their_reason() -> None:
    assert "cannot be decoded" in text_of(error_table([row(None, "cat")], "Failed records", reasons=True))


def test_comparisons_show_original_and_normalised_texts() -> None:
    rows = [row("The Cat.", "cat", match=True), row(None, "the")]
    text = text_of(comparison_table(rows, mode="squad"))
    line = next(line for line in text.splitlines() if "The Cat." in line)
    assert cells(line) == ["'The Cat.'", "'cat'", "'cat'", "'cat'", "yes"]
    line = next(line for line in text.splitlines() if "failed" in line)
    assert cells(line) == ["failed", "'the'", "failed", "''", "no"]
    assert "normalised" not in text_of(comparison_table(rows, mode="rigorous"))
