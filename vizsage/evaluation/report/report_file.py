"""report.html: an evaluation on one page with its wrong answers and their images, in one file that fetches nothing.

This module reads the parts of the report; `page` turns them into texts and `rendering` into HTML.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from vizsage.config import build_config, parse_overrides
from vizsage.contract import EVALUATIONS, METRICS, PREDICTIONS, REPORT, RESULTS
from vizsage.contract.results_file import Conditions, ResultsFile, evaluation_name
from vizsage.contract.training_curves import TrainingCurves, read_curves
from vizsage.errors import ConfigError, DataError, one_line
from vizsage.evaluation.report.beside import BaseModel, evaluations_beside, results_of
from vizsage.evaluation.report.curves import curves
from vizsage.evaluation.report.gallery import GALLERY_ROWS, Reply, gallery, outcome, reply_outcome
from vizsage.evaluation.report.page import page_context
from vizsage.evaluation.report.rendering import write_page
from vizsage.evaluation.report.thumbnails import Thumbnails, keep_earlier, thumbnails
from vizsage.json_lines import read_jsonl
from vizsage.scoring.rows import PredictionRow

log = logging.getLogger(__name__)

DATA_SETTINGS = ("base_path", "dataset", "external_knowledge_path", "max_image_px")  # where and how images are read
_NEEDED = {"sample_id", "image", "question", "answer", "need_external_knowledge", "prediction", "exact_match"}


def write_report(folder: Path, overrides: Sequence[str] = (), *, images: bool = True) -> Path:
    """Write report.html from the results.json and predictions.jsonl in `folder`.

    It also reads the evaluations of the same samples beside it: the blind one of a real one (or the real one of a blind
    one), and that of the base model for an adapter; and metrics.jsonl of the training in the output_dir. Images are
    read from the data set that the settings in results.json name, and what is missing there from the earlier report.
    The page lists what is missing. Memory contains what is shown: at most GALLERY_ROWS rows and an image for each of
    them, and of the base model's evaluation what a comparison needs.

    Args:
        folder: of one evaluation.
        overrides: `key=value` texts of settings in DATA_SETTINGS: where the data set is now.
        images: whether to show images; without them the report is small.

    Returns:
        The path of report.html.

    Raises:
        DataError: there are no results of a version that this one reads, or they are damaged.
        ConfigError: a wrong override.
    """
    moved = moved_data(overrides)
    results = results_of(folder)
    places, rows = _shown(_rows(folder), results)
    beside = evaluations_beside(folder, results)
    path = folder / REPORT
    if images:
        names = [row["image"] or "" for row in rows]
        found = images_of(names, results.settings | moved, results.split, [path], path)
    else:
        found = Thumbnails(problems=["they were left out on request"])
    trained = training_of(folder, results)
    context = page_context(
        results,
        beside,
        shown=len(rows),
        charts=curves(trained) if trained else [],
        image_problems=found.problems,
        name=run_name(folder),
    )
    if beside.base:
        shown = gallery(rows, _replies(beside.base, places), runs=("predicted", "base model"))
    else:
        shown = gallery(rows)
    write_page(path, "page.html", context, shown, found.files)
    return path


def moved_data(overrides: Sequence[str]) -> dict[str, Any]:
    """The settings that say where the data is now. Raises ConfigError for others, and for wrong values."""
    values, problems = parse_overrides(overrides)
    problems += [
        f"{key}: does not change a report, which takes {', '.join(DATA_SETTINGS)}"
        for key in values
        if key not in DATA_SETTINGS
    ]
    places = {key: value for key, value in values.items() if key in DATA_SETTINGS}
    build_config({}, "report", places, problems)
    return values


def images_of(
    of_rows: Iterable[str], settings: dict[str, Any], split: str, earlier: Iterable[Path], page: Path
) -> Thumbnails:
    """Images from the data set, and those that are missing there from `earlier` reports; `page` is what is written."""
    names = dict.fromkeys(of_rows)
    found = thumbnails(settings, split, names.keys())
    reason = next(iter(found.problems), "")
    if kept := sum(keep_earlier(found, report, names) for report in earlier):
        log.warning("%s: %d images are taken from the earlier report: %s", page, kept, reason)
    elif reason:
        log.warning("%s: images are missing: %s", page, reason)
    return found


def _replies(base: BaseModel, places: Iterable[int]) -> Iterator[list[Reply]]:
    """The base model's prediction of each row that is shown, by its place in the file."""
    against = base.against
    for place in places:
        prediction = against.predictions[place]
        yield [(prediction, reply_outcome(prediction, right=against.right[place]))]


def evaluation_folders(run: Path, split: str = "test") -> list[Path]:
    """Folders with results in `run`: itself, or those of `split` below an output_dir (adapter, base model, blind).

    Raises:
        ConfigError: there is no folder `run`.
        DataError: it contains no results of `split`.
    """
    if not run.is_dir():
        raise ConfigError(f"{run}: no such folder; name an output_dir or a folder of its evaluation_results")
    if (run / RESULTS).is_file():
        return [run]
    parent = run / EVALUATIONS
    split = "val" if split == "validation" else split
    names = [evaluation_name(split, base=base, blind=blind) for base in (False, True) for blind in (False, True)]
    folders = [parent / name for name in names if (parent / name / RESULTS).is_file()]
    if not folders:
        there = sorted(path.parent.name for path in parent.glob(f"*/{RESULTS}")) or ["nothing"]
        raise DataError(
            f"{run}: no results of split {split!r}; evaluated there: {', '.join(there)}; run vizsage eval, or name "
            "another split with --split"
        )
    return folders


def _rows(folder: Path) -> Iterator[PredictionRow]:
    path = folder / PREDICTIONS
    try:
        for number, row in enumerate(read_jsonl(path), start=1):
            if missing := _NEEDED - row.keys():
                raise DataError(f"{path}, line {number}: {min(missing)} is missing; run vizsage eval again")
            yield cast("PredictionRow", row)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {one_line(error)}; run vizsage eval again") from None


def _shown(rows: Iterable[PredictionRow], results: ResultsFile) -> tuple[list[int], list[PredictionRow]]:
    """All rows in their order; of more than GALLERY_ROWS the first right and the first other ones, half of each.

    Where there are fewer of one kind than its half, the other kind gets the rest.

    Returns:
        The places of the rows in the file, from 0, and the rows.
    """
    right, wrong = results.correct_predictions, results.incorrect_predictions
    half = GALLERY_ROWS // 2
    room = {True: max(half, GALLERY_ROWS - wrong), False: max(half, GALLERY_ROWS - right)}
    places, shown = [], []
    for place, row in enumerate(rows):
        kind = outcome(row) == "right"
        if room[kind] > 0:
            room[kind] -= 1
            places.append(place)
            shown.append(row)
    return places, shown


def training_of(folder: Path, conditions: Conditions) -> TrainingCurves | None:
    """Curves of the training of the adapter; none for a base model or for an adapter of another output_dir."""
    output_dir = folder.absolute().parent.parent
    if conditions.adapter is None or not (output_dir / METRICS).is_file():
        return None
    try:
        if Path(conditions.adapter) != build_config(conditions.settings or {}).adapter_dir:
            return None
        return read_curves(output_dir)
    except (ConfigError, OSError, ValueError):
        return None


def run_name(folder: Path) -> str:
    """The name of the run, which is that of its output_dir."""
    folder = folder.absolute()
    return folder.parent.parent.name if folder.parent.name == EVALUATIONS else folder.name
