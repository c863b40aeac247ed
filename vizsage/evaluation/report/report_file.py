"""report.html: an evaluation on one page, its errors as images; one file that fetches nothing.

Here its parts are gathered; `page` puts them into words and HTML.
"""

from __future__ import annotations

import base64
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vizsage.config import build_config, parse_overrides
from vizsage.errors import ConfigError, DataError, one_line
from vizsage.evaluation.answers import Row
from vizsage.evaluation.folder import BLIND
from vizsage.evaluation.predictions import PREDICTIONS, REPORT, RESULTS
from vizsage.evaluation.report.curves import Chart, curves
from vizsage.evaluation.report.page import page_context, render
from vizsage.evaluation.report.thumbnails import Thumbnails, keep_earlier, thumbnails
from vizsage.evaluation.results import READABLE_VERSIONS, SCHEMA_VERSION
from vizsage.files import parse_json, write_bytes
from vizsage.json_lines import read_jsonl
from vizsage.scoring.groups import question_word
from vizsage.scoring.metrics import accepted_answers

log = logging.getLogger(__name__)

METRICS = "metrics.jsonl"
DATA_SETTINGS = ("base_path", "dataset", "external_knowledge_path", "max_image_px")  # where images are read, and how
GALLERY_ROWS = 20_000  # of more samples the page shows the first right and the first wrong ones, so many in all

# In these, and in the data, a blind evaluation and a real one must be alike: else the image is not all that differs.
_ALIKE = (
    "backend", "adapter_sha256", "adapter_config_sha256", "base_files_sha256", "fingerprint", "generation", "precision",
    "max_seq_length", "knowledge", "mode",
)  # fmt: skip

_NEEDED = {"sample_id", "image", "question", "answer", "need_external_knowledge", "prediction", "exact_match"}


def write_report(folder: Path, overrides: Sequence[str] = (), *, images: bool = True) -> Path:
    """Make `folder`/report.html from the results.json and predictions.jsonl there.

    A blind evaluation is looked for beside a real one, and the other way round; metrics.jsonl of the training above;
    images in the data set that the settings in results.json name, then in the report that is there. What is missing is
    said in the page. Memory holds what is shown: at most GALLERY_ROWS rows and a thumbnail for each of their images.

    Args:
        folder: of one evaluation.
        overrides: `key=value` texts of settings in DATA_SETTINGS: where the data set is by now.
        images: show them; without, the report is small.

    Raises DataError where there are no results of this version of VizSage, ConfigError for a wrong override.
    """
    moved = _moved(overrides)
    results = read_results(folder)
    rows = list(_shown(_rows(folder), results))
    counterpart, remarks = _counterpart(folder, results)
    path = folder / REPORT
    if images:
        found = _images(path, results | {"settings": results["settings"] | moved}, {row["image"]: None for row in rows})
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


def _images(report: Path, results: dict[str, Any], names: Mapping[str, None]) -> Thumbnails:
    """Those of the data set; what cannot be had there, of the report that is to be replaced."""
    found = thumbnails(results, names.keys())
    reason = next(iter(found.problems), "")
    if kept := keep_earlier(found, report, names):
        log.warning("%s: %d images are kept from the report before: %s", report, kept, reason)
    elif reason:
        log.warning("%s: images are missing: %s", report, reason)
    return found


def evaluation_folders(run: Path, split: str = "test") -> list[Path]:
    """Folders with results in `run`: itself, or those of `split` below an output_dir (adapter, base model, blind).

    Raises ConfigError where there is no such folder, DataError where it holds no results.
    """
    if not run.is_dir():
        raise ConfigError(f"{run}: no such folder; name an output_dir or a folder of its evaluation_results")
    if (run / RESULTS).is_file():
        return [run]
    parent = run / "evaluation_results"
    split = "val" if split == "validation" else split
    names = [f"{split}{model}{blind}" for model in ("", "-base") for blind in ("", BLIND)]
    folders = [parent / name for name in names if (parent / name / RESULTS).is_file()]
    if not folders:
        there = sorted(path.parent.name for path in parent.glob(f"*/{RESULTS}")) or ["nothing"]
        raise DataError(
            f"{run}: no results of split {split!r}; evaluated there: {', '.join(there)}; run vizsage eval, or name "
            "another split with --split"
        )
    return folders


def read_results(folder: Path) -> dict[str, Any]:
    """The content of results.json. Raises DataError where it is missing, damaged or of another version."""
    path = folder / RESULTS
    try:
        results = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; run vizsage eval first") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {one_line(error)}; run vizsage eval again") from None
    version = results.get("schema_version") if isinstance(results, dict) else None
    if version not in READABLE_VERSIONS or "settings" not in results:
        raise DataError(
            f"{path}: expected the results of an evaluation, schema_version {SCHEMA_VERSION}, found {version}; run "
            "vizsage eval again: answers that are still true are kept"
        )
    return dict(results)


def counterpart_folder(folder: Path) -> Path:
    """Where the blind evaluation lies of the real one in `folder`, or the real one of a blind one."""
    name = folder.absolute().name
    return folder.absolute().with_name(name.removesuffix(BLIND) if name.endswith(BLIND) else name + BLIND)


def gallery(rows: Iterable[Row]) -> dict[str, Any]:
    """What page.js shows: rows, and lists of image names and descriptions, which rows name by their places."""
    images: dict[str, int] = {}
    descriptions: dict[str, int] = {}
    shown = []
    for row in rows:
        text = row.get("description")
        shown.append(
            {
                "id": row["sample_id"],
                "image": images.setdefault(row["image"], len(images)),
                "question": row["question"],
                "answers": [list(pair) for pair in Counter(accepted_answers(row)).items()],
                "prediction": row["prediction"],
                "outcome": outcome(row),
                "cut": row.get("finish_reason") == "length",
                "knowledge": bool(row["need_external_knowledge"]),
                "description": descriptions.setdefault(text, len(descriptions)) if text else None,
                "word": question_word(row["question"]),
                "tags": row.get("tags") or {},
                "error": row.get("error"),
                "scores": {name: round(score, 3) for name, score in (row.get("scores") or {}).items()},
            }
        )
    return {"rows": shown, "images": list(images), "descriptions": list(descriptions)}


def outcome(row: Mapping[str, Any]) -> str:
    """right, wrong, or failed where there is no prediction."""
    if row["prediction"] is None:
        return "failed"
    return "right" if row["exact_match"] else "wrong"


def _rows(folder: Path) -> Iterator[Row]:
    path = folder / PREDICTIONS
    try:
        for number, row in enumerate(read_jsonl(path), start=1):
            if missing := _NEEDED - row.keys():
                raise DataError(f"{path}, line {number}: {min(missing)} is missing; run vizsage eval again")
            yield row
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {one_line(error)}; run vizsage eval again") from None


def _shown(rows: Iterable[Row], results: Mapping[str, Any]) -> Iterator[Row]:
    """All rows in their order; of more than GALLERY_ROWS the first right and the first other ones, half of each.

    Where one kind has less than its half, the other gets what is left.
    """
    right, wrong = results["correct_predictions"], results["incorrect_predictions"]
    half = GALLERY_ROWS // 2
    room = {True: max(half, GALLERY_ROWS - wrong), False: max(half, GALLERY_ROWS - right)}
    for row in rows:
        kind = outcome(row) == "right"
        if room[kind] > 0:
            room[kind] -= 1
            yield row


def _counterpart(folder: Path, results: Mapping[str, Any]) -> tuple[dict[str, Any] | None, list[str]]:
    """Its results, None where there are none of the same model on the same questions; and a remark if so."""
    other = counterpart_folder(folder)
    try:
        found = read_results(other)
    except DataError:
        return None, []
    differ = [name for name in _ALIKE if found.get(name) != results.get(name)]
    if (found.get("data") or {}).get("sha256") != (results.get("data") or {}).get("sha256"):
        differ.append("data")
    if differ:
        return None, [f"{other.name} is not set beside this: it has another {', '.join(differ)}. Evaluate it again."]
    return found, []


def _charts(folder: Path, results: Mapping[str, Any]) -> list[Chart]:
    """Curves of the training that made the adapter; none for a base model or an adapter from elsewhere."""
    path = folder.absolute().parent.parent / METRICS
    adapter = results.get("adapter")
    if adapter is None or not path.is_file():
        return []
    try:
        if Path(adapter) != build_config(results["settings"]).adapter_dir:
            return []
        return curves(read_jsonl(path))
    except (ConfigError, OSError, ValueError):
        return []


def _name(folder: Path) -> str:
    """The run's name: that of its output_dir."""
    folder = folder.absolute()
    return folder.parent.parent.name if folder.parent.name == "evaluation_results" else folder.name
