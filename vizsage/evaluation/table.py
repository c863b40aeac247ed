"""What an evaluation prints: rich tables made of results and rows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vizsage.evaluation.predictions import Row
from vizsage.evaluation.results import LISTED, Highlights
from vizsage.scoring.normalisation import normalise_squad


def show(console: Console, results: dict[str, Any], highlights: Highlights, *, debug_exact_match: bool = False) -> None:
    """Write all tables of an evaluation to `console`."""
    if debug_exact_match:
        console.print(comparison_table(highlights.compared, normalise=results["mode"] == "squad"))
    console.print(preview_table(highlights.previewed))
    wrong = results["incorrect_predictions"] - results["failed_predictions"]
    if highlights.wrong:
        console.print(error_table(highlights.wrong, f"Wrong answers{_first(highlights.wrong, wrong)}"))
    if highlights.failed:
        listed = _first(highlights.failed, results["failed_predictions"])
        console.print(error_table(highlights.failed, f"Failed records{listed}", reasons=True))
    console.print(overall_table(results))


def overall_table(results: dict[str, Any]) -> Table:
    """Exact match over all samples and in both knowledge groups; what was left out, failed or cut in the caption."""
    mode = "SQuAD" if results["mode"] == "squad" else "rigorous"
    first = f", first {results['limit']}" if results["limit"] else ""
    model = "base model" if results["adapter"] is None else "adapter"
    table = Table(title=f"Exact match ({mode}) on {results['split']}{first}: {model}", title_justify="left")
    table.add_column("group")
    table.add_column("samples", justify="right")
    table.add_column("exact match", justify="right")
    table.add_row("all", str(results["total_samples"]), _percent(results["exact_match_percentage"]), style="bold")
    for key in ("with_external_knowledge", "without_external_knowledge"):
        group = results[key]
        table.add_row(key.replace("_", " "), str(group["samples"]), _percent(group["exact_match_percentage"]))
    left_out = results["left_out"]
    notes = [
        f"knowledge: {results['knowledge']}",
        f"failed: {results['failed_predictions']}",
        f"cut at max_new_tokens: {results['truncated_predictions']}",
    ]
    if left_out["need_external_knowledge"]:
        notes.append(f"left out, need external knowledge: {left_out['need_external_knowledge']}")
    if results["missing_descriptions"]:
        notes.append(f"without the description they need: {results['missing_descriptions']}")
    table.caption = "\n".join(notes)
    table.caption_justify = "left"
    return table


def preview_table(rows: Iterable[Row]) -> Table:
    """Predictions against the ground truth."""
    table = _row_table("Samples", "question", "prediction", "ground truth", "match")
    for row in rows:
        table.add_row(
            Text(row["image"]), Text(row["question"]), _prediction(row), Text(row["answer"]), _match(row["exact_match"])
        )
    return table


def error_table(rows: Iterable[Row], title: str, *, reasons: bool = False) -> Table:
    """Wrong answers, or with `reasons` failed records and why they failed."""
    table = _row_table(title, "question", "reason" if reasons else "prediction", "ground truth")
    for row in rows:
        shown = Text(str(row["error"])) if reasons else _prediction(row)
        table.add_row(Text(row["image"]), Text(row["question"]), shown, Text(row["answer"]))
    return table


def comparison_table(rows: Iterable[Row], *, normalise: bool) -> Table:
    """How predictions and labels were compared: original and normalised text, and the outcome.

    Texts are shown as Python literals, so that white space and odd characters can be seen.
    """
    table = Table(title=f"Comparisons ({'SQuAD' if normalise else 'rigorous'})", title_justify="left")
    columns = ["prediction", "label"]
    if normalise:
        columns += ["normalised prediction", "normalised label"]
    for column in [*columns, "match"]:
        table.add_column(column, overflow="fold")
    for row in rows:
        texts = [row["prediction"], row["answer"]]
        if normalise:
            texts += [None if text is None else normalise_squad(text) for text in texts]
        cells = [Text("failed", style="red") if text is None else Text(repr(text)) for text in texts]
        table.add_row(*cells, _match(row["exact_match"]))
    return table


def _row_table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for column in ("image", *columns):
        table.add_column(column, overflow="fold")
    return table


def _prediction(row: Row) -> Text:
    """Text, never markup: an answer such as "[red]" stands as it is."""
    if row["prediction"] is None:
        return Text("failed", style="red")
    return Text(row["prediction"] + (" [cut]" if row["finish_reason"] == "length" else ""))


def _match(correct: bool) -> Text:
    return Text("yes", style="green") if correct else Text("no", style="red")


def _percent(percentage: float | None) -> str:
    return "-" if percentage is None else f"{percentage:.2f} %"


def _first(rows: list[Row], total: int) -> str:
    return f" (first {LISTED} of {total})" if total > len(rows) else f" ({total})"
