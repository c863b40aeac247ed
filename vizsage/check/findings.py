"""The report of `vizsage check`: a table, the first cases of each kind of problem, and the error in one line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from vizsage.config import Config
from vizsage.data.survey import SHOWN, Kind, Survey
from vizsage.errors import printable
from vizsage.tables import FittedTable


def show(console: Console, config: Config, survey: Survey, notes: list[str]) -> None:
    """Print the table of splits, the notes, and of each kind of problem its number and first cases."""
    _print(console, str(config.split_dir), style="bold")
    table = FittedTable()
    table.add_texts("split")
    table.add_numbers("samples", "images", "with knowledge", "without", "left out")
    for row in survey.rows:
        numbers = (row.samples, row.images, row.with_knowledge, row.without_knowledge, row.left_out)
        table.add_row(row.name, *(f"{number:,}" for number in numbers))
    for name in survey.missing:
        table.add_row(name, "not there")
    console.print(table)
    if sum(row.left_out for row in survey.rows):
        console.print("left out: questions that need a description, because external_knowledge is false", style="dim")
    needed = sum(row.with_knowledge for row in survey.rows)
    if needed:
        absent = survey.kinds.get("external knowledge", Kind(warning=True)).count
        console.print(f"descriptions: {needed - absent:,} of the {needed:,} that are needed are in the table")
    for note in notes:
        _print(console, note)
    for name in survey.missing:
        _print(console, f"warning: {_WITHOUT[name](config)}", style="yellow")
    for name, kind in sorted(survey.kinds.items(), key=lambda item: item[1].warning):
        word, style = ("warning", "yellow") if kind.warning else ("error", "red")
        shown = f", the first {SHOWN}" if kind.count > SHOWN else ""
        console.print(f"{word}: {name} ({kind.count:,}{shown})", style=style, highlight=False)
        for case in kind.first:
            _print(console, f"  {case}")


def without_val(config: Config) -> str:
    """What a training without a validation split does otherwise."""
    stopping = "use_early_stopping: true cannot act" if config.use_early_stopping else "no early stopping"
    return f"no validation split: no score during training, {stopping}, the last weights are saved"


def _without_test(config: Config) -> str:
    return "no test split: vizsage eval needs one, or another with --split, and ends with exit code 3 without it"


_WITHOUT = {"val": without_val, "test": _without_test}


def _print(console: Console, text: str, style: str = "") -> None:
    """Print one line that contains texts of the data: no markup is applied, control characters are replaced."""
    console.print(Text(printable(text), style), highlight=False, soft_wrap=True)


def summary_line(config: Config, kinds: dict[str, Kind]) -> str:
    """One line: how many problems of each kind, and the first."""
    stopping = {name: kind for name, kind in kinds.items() if not kind.warning}
    counts = ", ".join(f"{name}: {kind.count:,}" for name, kind in stopping.items())
    first = next(iter(stopping.values())).first[0]
    total = sum(kind.count for kind in stopping.values())
    if total == 1:
        return first
    kinds_found = next(iter(stopping)) if len(stopping) == 1 else counts
    return f"{config.split_dir}: {total:,} problems ({kinds_found}); the first: {first}"


@contextmanager
def decoding_progress(images: int) -> Iterator[Callable[[int], None]]:
    """Show a bar on stderr; gives the function that advances it by a number of images."""
    columns = (TextColumn("decoding images"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=images)
        yield lambda done: progress.advance(task, done)
