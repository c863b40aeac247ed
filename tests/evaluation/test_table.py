"""The tables show what is in the rows, as text."""

from __future__ import annotations

from io import StringIO
from typing import Any

from rich.console import Console, RenderableType

from vizsage.evaluation.table import comparison_table, error_table, overall_table, preview_table


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


def results(**changes: Any) -> dict[str, Any]:
    group = {"samples": 4, "exact_match_percentage": 25.0}
    return {
        "mode": "squad",
        "split": "test",
        "limit": None,
        "adapter": "out/adapter",
        "knowledge": "oracle",
        "total_samples": 4,
        "exact_match_percentage": 25.0,
        "with_external_knowledge": group,
        "without_external_knowledge": {"samples": 0, "exact_match_percentage": None},
        "failed_predictions": 1,
        "truncated_predictions": 2,
        "left_out": {"need_external_knowledge": 0},
        "missing_descriptions": 0,
    } | changes


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("│").split("│")]


def test_overall_table() -> None:
    lines = text_of(overall_table(results())).splitlines()
    assert "Exact match (SQuAD) on test: adapter" in lines[0]
    assert ["with external knowledge", "4", "25.00 %"] in map(cells, lines)
    assert ["without external knowledge", "0", "-"] in map(cells, lines)
    assert [line.strip() for line in lines[-3:]] == ["knowledge: oracle", "failed: 1", "cut at max_new_tokens: 2"]


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
    text = text_of(comparison_table(rows, normalise=True))
    line = next(line for line in text.splitlines() if "The Cat." in line)
    assert cells(line) == ["'The Cat.'", "'cat'", "'cat'", "'cat'", "yes"]
    line = next(line for line in text.splitlines() if "failed" in line)
    assert cells(line) == ["failed", "'the'", "failed", "''", "no"]
    assert "normalised" not in text_of(comparison_table(rows, normalise=False))
