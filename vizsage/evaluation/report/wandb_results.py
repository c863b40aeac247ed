"""Weights & Biases: scores, predictions as a table and the report, in the W&B run of the training if there is one."""

from __future__ import annotations

import json
import logging
from contextlib import suppress
from functools import partial
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any, cast

from vizsage.config import Config
from vizsage.contract import EVALUATIONS, PREDICTIONS, REPORT
from vizsage.contract.results_file import GroupScores, ResultsFile
from vizsage.contract.run_files import read_run
from vizsage.evaluation.report.gallery import outcome
from vizsage.evaluation.report.thumbnails import thumbnails
from vizsage.files import write_text
from vizsage.json_lines import read_jsonl
from vizsage.scoring.registry import EXACT_MATCH
from vizsage.scoring.rows import PredictionRow, accepted_answers
from vizsage.tracking import WandbTracker, guarded

log = logging.getLogger(__name__)

MOST_ROWS = 10_000  # a larger table is slow in W&B
THUMBNAIL_PX = 160
RUN_ID = "wandb_run_id"
COLUMNS = (
    "thumbnail sample_id image question prediction answers outcome finish_reason need_external_knowledge description "
    "tags"
).split()

_NUMBERS = (
    "total_samples images correct_predictions incorrect_predictions failed_predictions truncated_predictions".split()
)


def log_evaluation(config: Config, results: ResultsFile, folder: Path) -> str | None:
    """Log the evaluation in `folder` to W&B.

    All names there begin with the name of `folder` (test, test-base, test-blind, ...): the numbers of the summary, the
    table `table` with at most MOST_ROWS rows, and `report`. The W&B run is that of the training in output_dir, else one
    that all evaluations in output_dir share. What W&B refuses is a warning, because the results are on disk already.

    Returns:
        The id of the W&B run; None with use_wandb: false.
    """
    if not config.use_wandb:
        return None
    known = _known_run(config.output_dir)
    tracker = WandbTracker(config, known, config.model_dump(mode="json"))
    if known is None:
        write_text(config.output_dir / EVALUATIONS / RUN_ID, f"{tracker.run_id}\n")
    name = folder.name
    for what, make in (("table", _table), ("report", _report)):
        media = guarded(partial(make, results, folder), f"without the {what}")
        if media is not None:
            tracker.log({f"{name}/{what}": media})
    tracker.finish(0, {f"{name}/{key}": value for key, value in summary_numbers(results).items()})
    return tracker.run_id


def summary_numbers(results: ResultsFile) -> dict[str, float]:
    """The numbers of results.json under flat names, with the knowledge groups and the ends of the intervals."""
    exact_match = EXACT_MATCH.name
    found: dict[str, float | None] = {name: getattr(results, name) for name in _NUMBERS} | results.metrics
    found |= {f"{name}_samples": samples for name, samples in results.scored_samples.items()}
    found |= _ends(exact_match, results.exact_match_interval)
    for name in ("with_external_knowledge", "without_external_knowledge"):
        group: GroupScores = getattr(results, name)
        found[f"{name}/samples"] = group.samples
        found[f"{name}/{exact_match}"] = group.exact_match_score
        found |= _ends(f"{name}/{exact_match}", group.exact_match_interval)
    return {name: value for name, value in found.items() if value is not None}


def _ends(name: str, interval: list[float] | None) -> dict[str, float]:
    return {} if interval is None else {f"{name}_low": interval[0], f"{name}_high": interval[1]}


def _known_run(output_dir: Path) -> str | None:
    """The id of the W&B run of the training, or of an earlier evaluation where no training was logged."""
    with suppress(OSError, ValueError):  # no training, or a damaged record, which is not needed here
        if known := read_run(output_dir).wandb_run_id:
            return known
    try:
        return (output_dir / EVALUATIONS / RUN_ID).read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


def _table(results: ResultsFile, folder: Path) -> Any:
    """A wandb.Table of the rows, each with the thumbnail of its image."""
    import wandb
    from PIL import Image

    total = results.total_samples
    if total > MOST_ROWS:
        log.warning("W&B: the table has the first %d of %d samples; %s has all", MOST_ROWS, total, PREDICTIONS)
    rows = [cast("PredictionRow", row) for row in islice(read_jsonl(folder / PREDICTIONS), MOST_ROWS)]
    names = {row["image"] or "" for row in rows}
    found = thumbnails(results.settings, results.split, names, largest_px=THUMBNAIL_PX)
    if found.problems:
        log.warning("W&B: the table lacks images: %s", found.problems[0])
    shown = {name: wandb.Image(Image.open(BytesIO(data))) for name, data in found.files.items()}
    table = wandb.Table(columns=list(COLUMNS))
    for row in rows:
        texts = {
            "thumbnail": shown.get(row["image"] or ""),
            "answers": " | ".join(accepted_answers(row)),
            "outcome": outcome(row),
            "tags": json.dumps(row.get("tags") or {}, ensure_ascii=False),
        }
        table.add_data(*(texts[name] if name in texts else row.get(name) for name in COLUMNS))
    return table


def _report(_: ResultsFile, folder: Path) -> Any:
    import wandb

    # Without inject=False wandb adds elements, which the Content Security Policy of the page refuses.
    return wandb.Html((folder / REPORT).read_text(encoding="utf-8"), inject=False)
