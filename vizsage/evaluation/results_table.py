"""What an evaluation prints: rich tables made of results and rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vizsage.errors import printable
from vizsage.evaluation.answers import Row
from vizsage.evaluation.results import LISTED, Highlights
from vizsage.scoring.normalisation import MODE_TITLES, MODES, NORMALISERS

GROUPS_SHOWN = 12
AddGroup = Callable[[Table, str, dict[str, Any]], None]
_METRIC_NAMES = {
    "exact_match": "exact match",
    "rigorous_match": "rigorous match",
    "token_f1": "token F1",
    "vqa_accuracy": "VQA accuracy",
    "anls": "ANLS",
    "relaxed_accuracy": "relaxed accuracy",
}


def show(console: Console, results: dict[str, Any], highlights: Highlights, *, debug_exact_match: bool = False) -> None:
    """Write all tables of an evaluation to `console`."""
    if debug_exact_match:
        console.print(comparison_table(highlights.compared, mode=results["mode"]))
    console.print(preview_table(highlights.previewed))
    wrong = results["incorrect_predictions"] - results["failed_predictions"]
    if highlights.wrong:
        console.print(error_table(highlights.wrong, f"Wrong answers{_first(highlights.wrong, wrong)}"))
    if highlights.failed:
        listed = _first(highlights.failed, results["failed_predictions"])
        console.print(error_table(highlights.failed, f"Failed records{listed}", reasons=True))
    for table in score_tables(results):
        console.print(table)


def score_tables(results: dict[str, Any]) -> list[Table]:
    """The scores, without any row: exact match by group, and all metrics."""
    return [metrics_table(results), overall_table(results)]


def overall_table(results: dict[str, Any]) -> Table:
    """Exact match with its interval over all samples, by knowledge, question word and tag.

    What was left out, failed or cut stands in the caption, and under what conditions the questions were asked. Takes
    what `vizsage score` knows of another tool's file, too: scores, mode and a name in "split".
    """
    table = Table(title=_title(results), title_justify="left")
    table.add_column("group", overflow="fold")
    for column in ("samples", "images", "exact match", f"{results['interval']['confidence']:.0%} interval"):
        table.add_column(column, justify="right")
    _add_group(table, "all", {**results, "samples": results["total_samples"]}, style="bold")
    for key in ("with_external_knowledge", "without_external_knowledge"):
        _add_group(table, key.replace("_", " "), results[key])
    add_section(table, "question word", results["by_question_word"], _add_group, "in results.json")
    for tag, values in results["by_tag"].items():
        add_section(table, tag, values, _add_group, "in results.json")
    table.caption = cell("\n".join(_notes(results)))
    table.caption_justify = "left"
    return table


def metrics_table(results: dict[str, Any]) -> Table:
    """The mean of each metric over all samples, failed ones counted as 0."""
    table = Table(title=f"Means over {results['total_samples']} samples", title_justify="left")
    for name in results["metrics"]:
        table.add_column(_METRIC_NAMES.get(name, name), justify="right")
    table.add_row(*(_percent(None if mean is None else 100 * mean) for mean in results["metrics"].values()))
    return table


def _title(results: dict[str, Any]) -> Text:
    mode = MODE_TITLES[results["mode"]]
    first = f", first {results['limit']}" if results.get("limit") else ""
    model = "" if "adapter" not in results else ": base model" if results["adapter"] is None else ": adapter"
    blind = ", blind: the image was withheld" if results.get("blind") else ""
    return cell(f"Exact match ({mode}) on {results['split']}{first}{model}{blind}")


def _notes(results: dict[str, Any]) -> list[str]:
    notes = [f"knowledge: {results['knowledge']}"] if "knowledge" in results else []
    if "blind" in results:
        notes.append(f"blind: {'yes, the image was withheld' if results['blind'] else 'no'}")
    notes += [
        f"failed: {results['failed_predictions']}",
        f"cut at max_new_tokens: {results['truncated_predictions']}",
    ]
    if left_out := results.get("left_out", {}).get("need_external_knowledge"):
        notes.append(f"left out, need external knowledge: {left_out}")
    if missing := results.get("missing_descriptions"):
        notes.append(f"without the description they need: {missing}")
    if results["tags_not_grouped"]:
        notes.append(f"too many values to group by: {', '.join(results['tags_not_grouped'])}")
    return notes


def add_section(table: Table, name: str, groups: dict[str, dict[str, Any]], add_group: AddGroup, where: str) -> None:
    """The groups by one property, the first GROUPS_SHOWN of them; none where all samples are alike in it.

    `add_group` adds the row of a group, `where` says where the others are.
    """
    if len(groups) < 2:
        return
    table.add_section()
    more = len(groups) - GROUPS_SHOWN
    table.add_row(cell(f"by {name}" + (f" ({more} more {where})" if more > 0 else "")), style="dim")
    for label, group in list(groups.items())[:GROUPS_SHOWN]:
        add_group(table, f"  {label}", group)


def _add_group(table: Table, label: str, group: dict[str, Any], style: str | None = None) -> None:
    interval = group["exact_match_interval"]
    ends = "-" if interval is None else " to ".join(f"{100 * end:.1f}" for end in interval) + " %"
    score = _percent(group["exact_match_percentage"])
    table.add_row(cell(label), str(group["samples"]), str(group["images"]), score, ends, style=style)


def preview_table(rows: Iterable[Row]) -> Table:
    """Predictions against the ground truth."""
    table = _row_table("Samples", "question", "prediction", "ground truth", "match")
    for row in rows:
        table.add_row(
            cell(row["image"]), cell(row["question"]), _prediction(row), cell(row["answer"]), _match(row["exact_match"])
        )
    return table


def error_table(rows: Iterable[Row], title: str, *, reasons: bool = False) -> Table:
    """Wrong answers, or with `reasons` failed records and why they failed."""
    table = _row_table(title, "question", "reason" if reasons else "prediction", "ground truth")
    for row in rows:
        shown = cell(str(row["error"])) if reasons else _prediction(row)
        table.add_row(cell(row["image"]), cell(row["question"]), shown, cell(row["answer"]))
    return table


def comparison_table(rows: Iterable[Row], *, mode: str) -> Table:
    """How predictions and labels were compared: original and normalised text, and the outcome.

    Texts are shown as Python literals, so that white space and odd characters can be seen.
    """
    table = Table(title=f"Comparisons ({MODE_TITLES[mode]})", title_justify="left")
    columns = ["prediction", "label"]
    normalise = MODES[mode]
    if normalise:
        columns += ["normalised prediction", "normalised label"]
    for column in [*columns, "match"]:
        table.add_column(column, overflow="fold")
    for row in rows:
        texts = [row["prediction"], row["answer"]]
        if normalise:
            texts += [None if text is None else NORMALISERS[normalise](text) for text in texts]
        cells = [Text("failed", style="red") if text is None else Text(repr(text)) for text in texts]
        table.add_row(*cells, _match(row["exact_match"]))
    return table


def _row_table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for column in ("image", *columns):
        table.add_column(column, overflow="fold")
    return table


def _prediction(row: Row) -> Text:
    """An answer such as "[red]" stands as it is."""
    if row["prediction"] is None:
        return Text("failed", style="red")
    return cell(row["prediction"] + (" [cut]" if row["finish_reason"] == "length" else ""))


def cell(text: str) -> Text:
    """A text of data or model in a table: never markup, and nothing that would control a terminal."""
    return Text(printable(text, lines=True))


def _match(correct: bool) -> Text:
    return Text("yes", style="green") if correct else Text("no", style="red")


def _percent(percentage: float | None) -> str:
    return "-" if percentage is None else f"{percentage:.2f} %"


def _first(rows: list[Row], total: int) -> str:
    return f" (first {LISTED} of {total})" if total > len(rows) else f" ({total})"
