"""report.html: an evaluation on one page with its wrong answers and their images, in one file that fetches nothing.

This module reads the parts of the report; `page` turns them into text and HTML.
"""

from __future__ import annotations

import base64
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from vizsage.config import build_config, parse_overrides
from vizsage.contract import EVALUATIONS, METRICS, PREDICTIONS, REPORT, RESULTS
from vizsage.contract.results_file import BLIND, ResultsFile, evaluation_name, read_results
from vizsage.contract.training_curves import read_curves
from vizsage.errors import ConfigError, DataError, one_line
from vizsage.evaluation.report.curves import Chart, curves
from vizsage.evaluation.report.page import page_context, render
from vizsage.evaluation.report.thumbnails import Thumbnails, keep_earlier, thumbnails
from vizsage.files import write_bytes
from vizsage.json_lines import read_jsonl
from vizsage.scoring.groups import question_word
from vizsage.scoring.rows import PredictionRow, accepted_answers

log = logging.getLogger(__name__)

DATA_SETTINGS = ("base_path", "dataset", "external_knowledge_path", "max_image_px")  # where and how images are read
GALLERY_ROWS = 20_000  # of more samples the page shows the first right and the first wrong ones, so many in all

# A blind evaluation and a real one are compared only if these and the data are the same in both. Otherwise the image
# would not be the only difference.
_ALIKE = (
    "backend", "adapter_sha256", "adapter_config_sha256", "base_files_sha256", "fingerprint", "generation", "precision",
    "max_seq_length", "knowledge", "mode",
)  # fmt: skip

_NEEDED = {"sample_id", "image", "question", "answer", "need_external_knowledge", "prediction", "exact_match"}


def write_report(folder: Path, overrides: Sequence[str] = (), *, images: bool = True) -> Path:
    """Write report.html from the results.json and predictions.jsonl in `folder`.

    It also reads the blind evaluation of a real one (or the real one of a blind one) in the folder beside it, and
    metrics.jsonl of the training in the output_dir. Images are read from the data set that the settings in results.json
    name, and what is missing there from the earlier report. The page lists what is missing. Memory contains what is
    shown: at most GALLERY_ROWS rows and a thumbnail for each of their images.

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
    moved = _moved(overrides)
    results = _results(folder)
    rows = list(_shown(_rows(folder), results))
    counterpart, remarks = _counterpart(folder, results)
    path = folder / REPORT
    if images:
        found = _images(path, results.settings | moved, results.split, [row["image"] or "" for row in rows])
    else:
        found = Thumbnails(problems=["they were left out on request"])
    context = page_context(
        results,
        gallery=gallery(rows),
        shown=len(rows),
        counterpart=counterpart,
        remarks=remarks,
        charts=_charts(folder, results),
        image_problems=found.problems,
        name=_name(folder),
    )
    shown = context["gallery"]["images"]
    encoded = [base64.b64encode(found.files[name]).decode() if name in found.files else None for name in shown]
    # A lone surrogate, which JSON may spell and UTF-8 may not, becomes a question mark.
    write_bytes(path, render(context, encoded).encode("utf-8", "replace"))
    return path


def _moved(overrides: Sequence[str]) -> dict[str, Any]:
    values, problems = parse_overrides(overrides)
    problems += [
        f"{key}: does not change a report, which takes {', '.join(DATA_SETTINGS)}"
        for key in values
        if key not in DATA_SETTINGS
    ]
    build_config({key: value for key, value in values.items() if key in DATA_SETTINGS}, "report", problems)
    return values


def _images(report: Path, settings: dict[str, Any], split: str, of_rows: Iterable[str]) -> Thumbnails:
    """Thumbnails from the data set, and of images that are missing there from the report that is to be replaced."""
    names = dict.fromkeys(of_rows)
    found = thumbnails(settings, split, names.keys())
    reason = next(iter(found.problems), "")
    if kept := keep_earlier(found, report, names):
        log.warning("%s: %d images are taken from the earlier report: %s", report, kept, reason)
    elif reason:
        log.warning("%s: images are missing: %s", report, reason)
    return found


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


def _results(folder: Path) -> ResultsFile:
    """results.json. Raises DataError where it is missing, damaged or of another version."""
    path = folder / RESULTS
    try:
        return read_results(folder)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; run vizsage eval first") from None
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: cannot be read: {one_line(error)}; run vizsage eval again: answers that are still valid are kept"
        ) from None


def counterpart_folder(folder: Path) -> Path:
    """The folder of the blind evaluation of the real one in `folder`, or of the real one of a blind one."""
    name = folder.absolute().name
    return folder.absolute().with_name(name.removesuffix(BLIND) if name.endswith(BLIND) else name + BLIND)


def gallery(rows: Iterable[PredictionRow]) -> dict[str, Any]:
    """What page.js shows: rows, and lists of image names and descriptions, to which rows refer by index."""
    images: dict[str | None, int] = {}
    descriptions: dict[str, int] = {}
    shown = []
    for row in rows:
        text, choices = row.get("description"), row.get("choices")
        shown.append(
            {
                "id": row["sample_id"],
                "image": images.setdefault(row["image"], len(images)),
                "question": row["question"],
                "answers": [list(pair) for pair in Counter(accepted_answers(row)).items()],
                **({"choices": list(choices)} if choices else {}),
                "prediction": row["prediction"],
                "outcome": outcome(row),
                "cut": row.get("finish_reason") == "length",
                "knowledge": bool(row["need_external_knowledge"]),
                "description": descriptions.setdefault(text, len(descriptions)) if text else None,
                "word": question_word(row["question"] or ""),
                "tags": row.get("tags") or {},
                "error": row.get("error"),
                "scores": {name: round(score, 3) for name, score in (row.get("scores") or {}).items()},
            }
        )
    return {"rows": shown, "images": list(images), "descriptions": list(descriptions)}


def outcome(row: PredictionRow) -> str:
    """right, wrong, or failed where there is no prediction."""
    if row["prediction"] is None:
        return "failed"
    return "right" if row["exact_match"] else "wrong"


def _rows(folder: Path) -> Iterator[PredictionRow]:
    path = folder / PREDICTIONS
    try:
        for number, row in enumerate(read_jsonl(path), start=1):
            if missing := _NEEDED - row.keys():
                raise DataError(f"{path}, line {number}: {min(missing)} is missing; run vizsage eval again")
            yield cast("PredictionRow", row)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {one_line(error)}; run vizsage eval again") from None


def _shown(rows: Iterable[PredictionRow], results: ResultsFile) -> Iterator[PredictionRow]:
    """All rows in their order; of more than GALLERY_ROWS the first right and the first other ones, half of each.

    Where there are fewer of one kind than its half, the other kind gets the rest.
    """
    right, wrong = results.correct_predictions, results.incorrect_predictions
    half = GALLERY_ROWS // 2
    room = {True: max(half, GALLERY_ROWS - wrong), False: max(half, GALLERY_ROWS - right)}
    for row in rows:
        kind = outcome(row) == "right"
        if room[kind] > 0:
            room[kind] -= 1
            yield row


def _counterpart(folder: Path, results: ResultsFile) -> tuple[ResultsFile | None, list[str]]:
    """Results of the counterpart, None if not of the same model on the same questions; then also a remark."""
    other = counterpart_folder(folder)
    try:
        found = _results(other)
    except DataError:
        return None, []
    differ = [name for name in _ALIKE if getattr(found, name) != getattr(results, name)]
    if found.data.sha256 != results.data.sha256:
        differ.append("data")
    if differ:
        return None, [f"{other.name} is not compared with this: it has another {', '.join(differ)}. Evaluate it again."]
    return found, []


def _charts(folder: Path, results: ResultsFile) -> list[Chart]:
    """Curves of the training of the adapter; none for a base model or for an adapter of another output_dir."""
    output_dir = folder.absolute().parent.parent
    if results.adapter is None or not (output_dir / METRICS).is_file():
        return []
    try:
        if Path(results.adapter) != build_config(results.settings).adapter_dir:
            return []
        return curves(read_curves(output_dir))
    except (ConfigError, OSError, ValueError):
        return []


def _name(folder: Path) -> str:
    """The name of the run, which is that of its output_dir."""
    folder = folder.absolute()
    return folder.parent.parent.name if folder.parent.name == EVALUATIONS else folder.name
