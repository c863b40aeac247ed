"""Weights & Biases: numbers, answers as a table, and the report, in the run of the training where there is one."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from functools import partial
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

from vizsage.config import Config
from vizsage.evaluation.predictions import PREDICTIONS, REPORT
from vizsage.evaluation.report.report_file import outcome
from vizsage.evaluation.report.thumbnails import thumbnails
from vizsage.files import write_text
from vizsage.json_lines import read_jsonl
from vizsage.scoring.metrics import accepted_answers
from vizsage.tracking import WandbTracker, guarded

log = logging.getLogger(__name__)

MOST_ROWS = 10_000  # what a W&B table takes without becoming slow
RUN_ID = "wandb_run_id"
COLUMNS = (
    "thumbnail sample_id image question prediction answers outcome finish_reason need_external_knowledge description "
    "tags"
).split()

_NUMBERS = (
    "total_samples images correct_predictions incorrect_predictions failed_predictions truncated_predictions".split()
)


def log_evaluation(config: Config, results: Mapping[str, Any], folder: Path) -> str | None:
    """Log what lies in `folder` to W&B; the id of the run there, or None with use_wandb: false.

    Everything stands under the name of `folder` (test, test-base, test-blind, ...): summary numbers, the table
    `table` with at most MOST_ROWS rows, and `report`. The run is that of the training in output_dir, or one that
    all evaluations in output_dir share. Never a reason for an evaluation to fail: what W&B refuses is a warning.
    """
    if not config.use_wandb:
        return None
    known = _known_run(config.output_dir)
    tracker = WandbTracker(config, known, config.model_dump(mode="json"))
    if known is None:
        write_text(config.output_dir / "evaluation_results" / RUN_ID, f"{tracker.run_id}\n")
    name = folder.name
    for what, make in (("table", _table), ("report", _report)):
        media = guarded(partial(make, results, folder), f"without the {what}")
        if media is not None:
            tracker.log({f"{name}/{what}": media})
    tracker.finish(0, {f"{name}/{key}": value for key, value in summary_numbers(results).items()})
    return tracker.run_id


def summary_numbers(results: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of results.json under flat names, those of the knowledge groups and the interval among them."""
    found: dict[str, Any] = {name: results.get(name) for name in _NUMBERS} | dict(results["metrics"])
    found |= _ends("exact_match", results.get("exact_match_interval"))
    for group in ("with_external_knowledge", "without_external_knowledge"):
        found[f"{group}/samples"] = results[group]["samples"]
        found[f"{group}/exact_match"] = results[group]["exact_match_score"]
        found |= _ends(f"{group}/exact_match", results[group].get("exact_match_interval"))
    return {name: value for name, value in found.items() if value is not None}


def _ends(name: str, interval: list[float] | None) -> dict[str, float]:
    return {} if interval is None else {f"{name}_low": interval[0], f"{name}_high": interval[1]}


def _known_run(output_dir: Path) -> str | None:
    """The id that the training, or an earlier evaluation without one, was logged under."""
    try:
        record = json.loads((output_dir / "run.json").read_text(encoding="utf-8"))
        if record.get("wandb_run_id"):
            return str(record["wandb_run_id"])
    except (OSError, ValueError, AttributeError):
        pass
    try:
        return (output_dir / "evaluation_results" / RUN_ID).read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


def _table(results: Mapping[str, Any], folder: Path) -> Any:
    """A wandb.Table of the rows, with a thumbnail each; questions on one image share it."""
    import wandb
    from PIL import Image

    total = results["total_samples"]
    if total > MOST_ROWS:
        log.warning("W&B: the table holds the first %d of %d samples; %s has all", MOST_ROWS, total, PREDICTIONS)
    rows = list(islice(read_jsonl(folder / PREDICTIONS), MOST_ROWS))
    found = thumbnails(results, {row["image"] for row in rows})
    if found.problems:
        log.warning("W&B: the table lacks images: %s", found.problems[0])
    shown = {name: wandb.Image(Image.open(BytesIO(data))) for name, data in found.files.items()}
    table = wandb.Table(columns=list(COLUMNS))
    for row in rows:
        texts = {
            "thumbnail": shown.get(row["image"]),
            "answers": " | ".join(accepted_answers(row)),
            "outcome": outcome(row),
            "tags": json.dumps(row.get("tags") or {}, ensure_ascii=False),
        }
        table.add_data(*(texts[name] if name in texts else row.get(name) for name in COLUMNS))
    return table


def _report(_: Mapping[str, Any], folder: Path) -> Any:
    import wandb

    # Nothing injected: the policy of the page would refuse it.
    return wandb.Html((folder / REPORT).read_text(encoding="utf-8"), inject=False)
