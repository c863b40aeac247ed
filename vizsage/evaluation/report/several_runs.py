"""comparison.html: several runs on the same samples on one page, in one file that fetches nothing.

This module reads the parts of the page; `several_runs_page` turns them into texts and `rendering` into HTML.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vizsage.contract import REPORT
from vizsage.contract.results_file import Conditions
from vizsage.contract.run_files import read_run
from vizsage.errors import ConfigError, one_line
from vizsage.evaluation.comparison.compare import JoinedRuns, join_runs
from vizsage.evaluation.comparison.differences import Groups, whole_differences
from vizsage.evaluation.comparison.disagreement import Disagreement, disagreement
from vizsage.evaluation.comparison.joining import find_predictions
from vizsage.evaluation.comparison.number_texts import letter
from vizsage.evaluation.report.curves import curves_of_runs
from vizsage.evaluation.report.gallery import GALLERY_ROWS, gallery, reply_outcome
from vizsage.evaluation.report.rendering import write_page
from vizsage.evaluation.report.report_file import images_of, moved_data, run_name, training_of
from vizsage.evaluation.report.several_runs_page import MARK, MetricComparison, ShownRun, page_of_runs
from vizsage.evaluation.report.thumbnails import Thumbnails
from vizsage.files import expanded

log = logging.getLogger(__name__)

COMPARISON = Path("comparison.html")


def write_comparison(
    paths: Sequence[Path],
    overrides: Sequence[str] = (),
    *,
    split: str = "test",
    images: bool = True,
    output: Path | None = None,
) -> Path:
    """Write a page of several runs on the same samples. Its numbers are those of `vizsage compare`.

    Args:
        paths: as for `vizsage.evaluation.comparison.compare.compare`.
        overrides: `key=value` texts: where the data set is now.
        split: a name in evaluation_results/, such as test or test-base.
        images: whether to show images.
        output: the file; None: COMPARISON in the current folder. Such a page of an earlier call is replaced.

    Returns:
        The path of the page.

    Raises:
        ConfigError: no predictions in one of `paths`, a wrong override, or a file in the way.
        DataError: runs on different data, or an unusable file.
    """
    moved = moved_data(overrides)
    page = _free(output or COMPARISON)
    files = [find_predictions(path, split) for path in paths]
    joined = join_runs(files)
    for warning in joined.warnings:
        log.warning("%s", warning)
    runs = [_shown_run(n, path, *file) for n, (path, file) in enumerate(zip(paths, files, strict=True))]
    found = disagreement(joined, most=GALLERY_ROWS)
    shown_images = _images(found, runs, moved, page) if images else Thumbnails(problems=["left out on request"])
    context = page_of_runs(
        runs,
        list(_by_metric(joined)),
        joined,
        found,
        charts=curves_of_runs({f"{run.letter} {run.name}": run.curves for run in runs}),
        image_problems=shown_images.problems,
    )
    others = ([(text, reply_outcome(text, right=right)) for text, right in each] for each in found.others)
    shown = gallery(found.rows, others, runs=[run.letter for run in runs], compares=True)
    write_page(page, "runs.html", context, shown, shown_images.files)
    return page


def _free(page: Path) -> Path:
    """The page to write. Raises ConfigError where something else is in its place."""
    if not page.parent.is_dir():
        raise ConfigError(f"{page.parent}: no such folder; name another --output")
    if page.exists():
        try:
            replaceable = page.is_file() and MARK.encode() in page.read_bytes()[:4096]
        except OSError as error:
            raise ConfigError(f"{page}: cannot be replaced: {one_line(error)}; name another --output") from None
        if not replaceable:
            raise ConfigError(f"{page}: is there already, and no page of this command; name another --output")
    return page


def _shown_run(number: int, path: Path, file: Path, conditions: Conditions | None) -> ShownRun:
    folder = file.parent
    name = run_name(folder) if conditions else file.stem
    if conditions and folder.name != conditions.split:  # of the base model, or blind
        name = f"{name} {folder.name}"
    curves = training_of(folder, conditions) if conditions else None
    settings = None if conditions is None else conditions.settings
    if settings is not None and curves is not None:
        try:  # what it was trained with, which the settings of the evaluation may differ from
            settings = settings | (read_run(folder.absolute().parent.parent).identity or {})
        except (OSError, ValueError) as error:
            log.warning("%s: its settings are those of the evaluation: %s", path, one_line(error))
    return ShownRun(letter(number), name, path, folder, conditions, settings, curves)


def _by_metric(joined: JoinedRuns) -> Iterator[MetricComparison]:
    for metric, runs in joined.by_metric.items():
        groups = Groups(runs[0].asked)
        yield MetricComparison(metric, [groups.score(run.scores) for run in runs], whole_differences(runs, groups))


def _images(found: Disagreement, runs: Sequence[ShownRun], moved: dict[str, Any], page: Path) -> Thumbnails:
    """Images from the data set of the first run that knows it, and what is missing there from the reports of all."""
    known = next((run.conditions for run in runs if run.conditions and run.conditions.settings), None)
    if known is None or known.split is None:
        return Thumbnails(problems=["no results.json beside the predictions names the data set"])
    names = [row["image"] or "" for row in found.rows]
    return images_of(names, (known.settings or {}) | moved, known.split, [run.folder / REPORT for run in runs], page)


def words_of_command(words: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Runs and `key=value` among the words of a command line. A path that exists is a run, also one such as lr=1e-4.

    Raises:
        ConfigError: a path that cannot be expanded.
    """
    runs, overrides = list[Path](), list[str]()
    for word in words:
        key, equals, _ = word.partition("=")
        if equals and "/" not in key and not Path(word).exists():
            overrides.append(word)
            continue
        try:
            runs.append(Path(expanded(word)))
        except ValueError as error:
            raise ConfigError(f"RUN: {error}") from None
    return runs, overrides
