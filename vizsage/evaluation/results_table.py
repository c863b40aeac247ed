"""What an evaluation prints: rich tables of its scores and of some rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from rich.console import Console
from rich.text import Text

from vizsage.contract.results_file import Conditions, GroupScores, IntervalMethod, ResultsFile, Scores
from vizsage.evaluation.results import LISTED, Highlights
from vizsage.scoring.normalisation import MODE_TITLES, MODES, NORMALISERS
from vizsage.scoring.registry import METRICS
from vizsage.scoring.rows import PredictionRow
from vizsage.tables import FittedTable, cell

GROUPS_SHOWN = 12
Group = TypeVar("Group")


def show(console: Console, results: ResultsFile, highlights: Highlights, *, debug_exact_match: bool = False) -> None:
    """Write all tables of an evaluation to `console`."""
    if debug_exact_match:
        console.print(comparison_table(highlights.compared, mode=results.mode))
    console.print(preview_table(highlights.previewed))
    wrong = results.incorrect_predictions - results.failed_predictions
    if highlights.wrong:
        console.print(error_table(highlights.wrong, f"Wrong answers{_first(highlights.wrong, wrong)}"))
    if highlights.failed:
        listed = _first(highlights.failed, results.failed_predictions)
        console.print(error_table(highlights.failed, f"Failed records{listed}", reasons=True))
    for table in score_tables(results, results):
        console.print(table)


def score_tables(scores: Scores, conditions: Conditions) -> list[FittedTable]:
    """The scores, without any row: exact match by group, and all metrics."""
    return [metrics_table(scores), overall_table(scores, conditions)]


def overall_table(scores: Scores, conditions: Conditions) -> FittedTable:
    """Exact match with its interval over all samples, by knowledge, question word and tag.

    The caption has what was left out, failed or cut, and the conditions as far as they are known: of another tool's
    file `vizsage score` knows the mode only, and its name, which it gives as the split.
    """
    confidence = (scores.interval or IntervalMethod()).confidence
    table = FittedTable(_title(conditions), cell("\n".join(_notes(scores, conditions))))
    table.add_texts("group")
    table.add_numbers("samples", "images", "exact match", f"{confidence:.0%} interval")
    _add_group(table, "all", scores.whole(), style="bold")
    _add_group(table, "with external knowledge", scores.with_external_knowledge)
    _add_group(table, "without external knowledge", scores.without_external_knowledge)
    add_section(table, "question word", scores.by_question_word, _add_group, "in results.json")
    for tag, values in scores.by_tag.items():
        add_section(table, tag, values, _add_group, "in results.json")
    return table


def metrics_table(scores: Scores) -> FittedTable:
    """The mean of each metric over all samples, failed ones counted as 0, or over the part that it scores."""
    table = FittedTable(f"Means over {scores.total_samples} samples")
    for name in scores.metrics:
        title = METRICS[name].title if name in METRICS else name  # of a later version
        part = f" ({scores.scored_samples[name]} samples)" if name in scores.scored_samples else ""
        table.add_numbers(title + part)
    table.add_row(*(_percent(None if mean is None else 100 * mean) for mean in scores.metrics.values()))
    return table


def _title(conditions: Conditions) -> Text:
    mode = MODE_TITLES[conditions.mode or "squad"]
    first = f", first {conditions.limit}" if conditions.limit else ""
    model = ("base model" if conditions.adapter is None else "adapter") if conditions.has("adapter") else ""
    blind = ", blind: the image was withheld" if conditions.blind else ""
    return cell(f"Exact match ({mode}) on {conditions.split}{first}{model and f': {model}'}{blind}")


def _notes(scores: Scores, conditions: Conditions) -> list[str]:
    notes = [f"knowledge: {conditions.knowledge}"] if conditions.has("knowledge") else []
    if conditions.has("blind"):
        notes.append(f"blind: {'yes, the image was withheld' if conditions.blind else 'no'}")
    notes += [f"failed: {scores.failed_predictions}", f"cut at max_new_tokens: {scores.truncated_predictions}"]
    if left_out := conditions.left_out.get("need_external_knowledge"):
        notes.append(f"left out, need external knowledge: {left_out}")
    if missing := conditions.missing_descriptions:
        notes.append(f"without the description they need: {missing}")
    if leaks := conditions.leaks:
        notes.append(
            f"in the training split: {leaks.samples_in_training} of {leaks.samples} samples, "
            f"{leaks.images_in_training} of {leaks.images} images, "
            f"{leaks.questions_in_training} of {leaks.questions} questions"
        )
    if scores.tags_not_grouped:
        notes.append(f"too many values to group by: {', '.join(scores.tags_not_grouped)}")
    return notes


def add_section(
    table: FittedTable,
    name: str,
    groups: Mapping[str, Group],
    add_group: Callable[[FittedTable, str, Group], None],
    where: str,
) -> None:
    """Add the groups by one property, the first GROUPS_SHOWN of them; nothing if all samples have the same value.

    Args:
        table: gets the lines.
        name: of the property.
        groups: by value.
        add_group: adds the line of a group.
        where: a text: where the other groups are.
    """
    if len(groups) < 2:
        return
    table.add_section()
    more = len(groups) - GROUPS_SHOWN
    table.add_row(cell(f"by {name}" + (f" ({more} more {where})" if more > 0 else "")), style="dim")
    for label, group in list(groups.items())[:GROUPS_SHOWN]:
        add_group(table, f"  {label}", group)


def _add_group(table: FittedTable, label: str, group: GroupScores, style: str | None = None) -> None:
    interval = group.exact_match_interval
    ends = "-" if interval is None else " to ".join(f"{100 * end:.1f}" for end in interval) + " %"
    images = "-" if group.images is None else str(group.images)
    table.add_row(cell(label), str(group.samples), images, _percent(group.exact_match_percentage), ends, style=style)


def preview_table(rows: Iterable[PredictionRow]) -> FittedTable:
    """Predictions beside the accepted answers."""
    table = _row_table("Samples", "question", "prediction", "ground truth", "match")
    for row in rows:
        table.add_row(
            cell(row["image"]), cell(row["question"]), _prediction(row), cell(row["answer"]), _match(row["exact_match"])
        )
    return table


def error_table(rows: Iterable[PredictionRow], title: str, *, reasons: bool = False) -> FittedTable:
    """Wrong answers, or with `reasons` failed records and why they failed."""
    table = _row_table(title, "question", "reason" if reasons else "prediction", "ground truth")
    for row in rows:
        shown = cell(str(row["error"])) if reasons else _prediction(row)
        table.add_row(cell(row["image"]), cell(row["question"]), shown, cell(row["answer"]))
    return table


def comparison_table(rows: Iterable[PredictionRow], *, mode: str) -> FittedTable:
    """How predictions and labels were compared: original and normalised text, and the outcome.

    Texts are shown as Python literals, so that white space and control characters are visible.
    """
    table = FittedTable(f"Comparisons ({MODE_TITLES[mode]})")
    table.add_texts("prediction", "label")
    normalise = MODES[mode]
    if normalise:
        table.add_texts("normalised prediction", "normalised label")
    table.add_texts("match")
    for row in rows:
        texts = [row["prediction"], row["answer"]]
        if normalise:
            texts += [None if text is None else NORMALISERS[normalise](text) for text in texts]
        cells = [Text("failed", style="red") if text is None else Text(repr(text)) for text in texts]
        table.add_row(*cells, _match(row["exact_match"]))
    return table


def _row_table(title: str, *columns: str) -> FittedTable:
    table = FittedTable(title)
    table.add_paths("image")
    table.add_texts(*columns)
    return table


def _prediction(row: PredictionRow) -> Text:
    """The prediction as text: "[red]" is no markup."""
    prediction = row["prediction"]
    if prediction is None:
        return Text("failed", style="red")
    return cell(prediction + (" [cut]" if row["finish_reason"] == "length" else ""))


def _match(correct: bool) -> Text:
    return Text("yes", style="green") if correct else Text("no", style="red")


def _percent(percentage: float | None) -> str:
    return "-" if percentage is None else f"{percentage:.2f} %"


def _first(rows: list[PredictionRow], total: int) -> str:
    return f" (first {LISTED} of {total})" if total > len(rows) else f" ({total})"
