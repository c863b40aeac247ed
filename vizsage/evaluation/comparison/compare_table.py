"""What `vizsage compare` prints: rich tables of the comparison."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from vizsage.evaluation.comparison.comparison_types import ChangedSample, Comparison, Difference, Pair, RunScore
from vizsage.evaluation.comparison.number_texts import TESTS, letter, p_value, point_range, points
from vizsage.evaluation.results_table import add_section
from vizsage.scoring.normalisation import MODE_TITLES
from vizsage.scoring.registry import EXACT_MATCH, METRICS
from vizsage.tables import FittedTable, cell

CHANGES_SHOWN = 10


def show(console: Console, comparison: Comparison) -> None:
    """Write the runs, their pairs and, for two runs, groups and changed samples to `console`."""
    console.print(runs_table(comparison))
    console.print(pairs_table(comparison))
    if len(comparison["runs"]) == 2:
        (pair,) = comparison["pairs"]
        console.print(groups_table(pair))
        for title, changes in (("Better in B", pair["gained_samples"]), ("Worse in B", pair["lost_samples"])):
            if changes:
                console.print(changes_table(title, changes))


def runs_table(comparison: Comparison) -> FittedTable:
    """One line per run: its letter, score, interval and failed records."""
    metric = METRICS[comparison["metric"]].title
    metric = metric[0].upper() + metric[1:]
    if comparison["metric"] == EXACT_MATCH.name:
        metric = f"{metric} ({MODE_TITLES[comparison['mode']]})"
    table = FittedTable(f"{metric} on {comparison['samples']} samples, {comparison['images']} images")
    table.add_texts("run")
    table.add_paths("path")
    table.add_numbers("score", f"{comparison['interval']['confidence']:.0%} interval", "failed")
    for number, run in enumerate(comparison["runs"]):
        table.add_row(
            letter(number), cell(run["path"]), _percent(run["score"]), _range(run), str(run["failed_predictions"])
        )
    return table


def pairs_table(comparison: Comparison) -> FittedTable:
    """One line per pair: the difference with its interval, the samples that changed, and the exact test."""
    test = TESTS[comparison["test"]]
    corrected = comparison["correction"] is not None
    caption = f"{test} takes questions as independent, the intervals do not"
    table = FittedTable("Differences in percentage points", caption)
    table.add_texts("pair")
    table.add_numbers("difference", f"{comparison['interval']['confidence']:.0%} interval", "better", "worse", test)
    if corrected:
        table.add_numbers("Holm p")
    for pair in comparison["pairs"]:
        cells = [points(pair["difference"]), point_range(pair["interval"]), str(pair["gained"]), str(pair["lost"])]
        cells.append(p_value(pair["p_value"]))
        if corrected:
            cells.append(p_value(pair["adjusted_p_value"]))
        table.add_row(f"{letter(pair['run'])} - {letter(pair['baseline'])}", *cells)
    return table


def groups_table(pair: Pair) -> FittedTable:
    """Both scores and their difference by knowledge, question word and tag."""
    table = FittedTable("By group, in percent and percentage points")
    table.add_texts("group")
    table.add_numbers("samples", "A", "B", "B - A", "interval", "better", "worse")
    _add_group(table, "all", pair)
    _add_group(table, "with knowledge", pair["with_external_knowledge"])
    _add_group(table, "without knowledge", pair["without_external_knowledge"])
    for name, groups in (("question word", pair["by_question_word"]), *pair["by_tag"].items()):
        add_section(table, name, groups, _add_group, "with --json")
    return table


def changes_table(title: str, changes: list[ChangedSample]) -> FittedTable:
    """The first CHANGES_SHOWN of the samples that became better, or worse."""
    shown = changes[:CHANGES_SHOWN]
    of_all = f"first {len(shown)} of {len(changes)}" if len(changes) > len(shown) else f"{len(changes)}"
    table = FittedTable(f"{title} ({of_all})")
    table.add_paths("image")
    table.add_texts("question", "answer", "A", "B")
    for change in shown:
        answers = ", ".join(dict.fromkeys(change["answers"]))
        predictions = (Text("failed", style="red") if text is None else cell(text) for text in change["predictions"])
        table.add_row(cell(change["image"]), cell(change["question"]), cell(answers), *predictions)
    return table


def _add_group(table: FittedTable, label: str, group: Difference) -> None:
    table.add_row(
        cell(label),
        str(group["samples"]),
        _percent(group["baseline_score"], unit=""),
        _percent(group["score"], unit=""),
        points(group["difference"]),
        point_range(group["interval"]),
        str(group["gained"]),
        str(group["lost"]),
    )


def _percent(share: float | None, unit: str = " %") -> str:
    return "-" if share is None else f"{100 * share:.2f}{unit}"


def _range(run: RunScore) -> str:
    return "-" if run["interval"] is None else " to ".join(f"{100 * end:.1f}" for end in run["interval"]) + " %"
