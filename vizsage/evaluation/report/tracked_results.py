"""What trackers get of an evaluation: its numbers, a summary, its report, and its answers as a table."""

from __future__ import annotations

import json
import logging
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import cast

from vizsage.config import Config
from vizsage.contract import PREDICTIONS, REPORT
from vizsage.contract.results_file import GroupScores, ResultsFile
from vizsage.contract.run_files import read_run
from vizsage.evaluation.report.gallery import outcome
from vizsage.evaluation.report.thumbnails import thumbnails
from vizsage.json_lines import read_jsonl
from vizsage.scoring.registry import EXACT_MATCH, METRICS
from vizsage.scoring.rows import PredictionRow, accepted_answers
from vizsage.tracking.tracker import AnswerTable, TrackedEvaluation

log = logging.getLogger(__name__)

MOST_ROWS = 10_000  # a larger table is slow in W&B
THUMBNAIL_PX = 160
COLUMNS = (
    "thumbnail sample_id image question prediction answers outcome finish_reason need_external_knowledge description "
    "tags"
).split()

_NUMBERS = (
    "total_samples images correct_predictions incorrect_predictions failed_predictions truncated_predictions".split()
)
_GROUPS = ("with_external_knowledge", "without_external_knowledge")


def tracked_evaluation(config: Config, results: ResultsFile, folder: Path) -> TrackedEvaluation:
    """The evaluation in `folder`, whose results, predictions and report are on disk already."""
    return TrackedEvaluation(
        name=folder.name,
        step=_step_of(config, results),
        scores=summary_numbers(results),
        summary=markdown_summary(results),
        report=folder / REPORT,
        table=lambda: answer_table(results, folder),
    )


def summary_numbers(results: ResultsFile) -> dict[str, float]:
    """The numbers of results.json under flat names, with the knowledge groups and the ends of the intervals."""
    exact_match = EXACT_MATCH.name
    found: dict[str, float | None] = {name: getattr(results, name) for name in _NUMBERS} | results.metrics
    found |= {f"{name}_samples": samples for name, samples in results.scored_samples.items()}
    found |= _ends(exact_match, results.exact_match_interval)
    for name in _GROUPS:
        group: GroupScores = getattr(results, name)
        found[f"{name}/samples"] = group.samples
        found[f"{name}/{exact_match}"] = group.exact_match_score
        found |= _ends(f"{name}/{exact_match}", group.exact_match_interval)
    return {name: value for name, value in found.items() if value is not None}


def markdown_summary(results: ResultsFile) -> str:
    """What was evaluated, and a table of its scores."""
    model = "the base model" if results.adapter is None else "the adapter"
    first = "the first " if results.limit else ""
    blind = ", the images withheld" if results.blind else ""
    lines = [
        f"{first}{results.total_samples} samples of the split {results.split}, answered by {model}{blind}.",
        "",
        "| score | value | 95% interval | samples |",
        "|---|---|---|---|",
        _line(EXACT_MATCH.title, results.whole()),
    ]
    for name in _GROUPS:
        group: GroupScores = getattr(results, name)
        if group.samples not in (0, results.total_samples):
            lines.append(_line(f"{EXACT_MATCH.title}, {name.replace('_', ' ')}", group))
    for name, score in results.metrics.items():
        if name != EXACT_MATCH.name and score is not None:
            title = METRICS[name].title if name in METRICS else name
            lines.append(f"| {title} | {score:.4f} | | {results.scored_samples.get(name, results.total_samples)} |")
    return "\n".join(lines)


def answer_table(results: ResultsFile, folder: Path) -> AnswerTable:
    """The first MOST_ROWS rows, each with the thumbnail of its image."""
    total = results.total_samples
    if total > MOST_ROWS:
        log.warning("the trackers' table has the first %d of %d samples; %s has all", MOST_ROWS, total, PREDICTIONS)
    rows = [cast("PredictionRow", row) for row in islice(read_jsonl(folder / PREDICTIONS), MOST_ROWS)]
    names = {row["image"] or "" for row in rows}
    found = thumbnails(results.settings, results.split, names, largest_px=THUMBNAIL_PX)
    if found.problems:
        log.warning("the trackers' table lacks images: %s", found.problems[0])
    values = []
    for row in rows:
        texts = {
            "answers": " | ".join(accepted_answers(row)),
            "outcome": outcome(row),
            "tags": json.dumps(row.get("tags") or {}, ensure_ascii=False),
        }
        values.append([texts[name] if name in texts else row.get(name) for name in COLUMNS[1:]])
    return AnswerTable(COLUMNS, values, [found.files.get(row["image"] or "") for row in rows])


def _ends(name: str, interval: list[float] | None) -> dict[str, float]:
    return {} if interval is None else {f"{name}_low": interval[0], f"{name}_high": interval[1]}


def _line(title: str, group: GroupScores) -> str:
    ends = group.exact_match_interval
    interval = "" if ends is None else f"{ends[0]:.4f} to {ends[1]:.4f}"
    score = "" if group.exact_match_score is None else f"{group.exact_match_score:.4f}"
    return f"| {title} | {score} | {interval} | {group.samples} |"


def _step_of(config: Config, results: ResultsFile) -> int:
    """The optimizer steps of the adapter of this output_dir; 0 for another one and for the base model."""
    if results.adapter is not None and Path(results.adapter) == config.adapter_dir:
        with suppress(OSError, ValueError):  # no training, or a damaged record, which is not needed here
            return read_run(config.output_dir).best_step or 0
    return 0
