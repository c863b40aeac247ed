"""What the page of several runs shows, as texts for template/runs.html."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vizsage import __version__
from vizsage.config import Config
from vizsage.contract.results_file import Conditions
from vizsage.contract.run_files import TRAINING_SETTINGS
from vizsage.contract.training_curves import TrainingCurves
from vizsage.evaluation.comparison.compare import JoinedRuns, exact_test
from vizsage.evaluation.comparison.comparison_types import Difference, GroupDifferences, WholeDifference
from vizsage.evaluation.comparison.differences import Groups
from vizsage.evaluation.comparison.disagreement import Disagreement
from vizsage.evaluation.comparison.number_texts import TESTS, letter, p_value, point_range, points
from vizsage.evaluation.report.curves import Chart, line_style
from vizsage.evaluation.report.page import TAG_VALUES
from vizsage.evaluation.report.rendering import interval_text, percent, plain
from vizsage.scoring.normalisation import MODE_TITLES
from vizsage.scoring.registry import EXACT_MATCH, METRICS
from vizsage.scoring.statistics import CONFIDENCE, INTERVAL_METHOD, RESAMPLES, SEED

MARK = '<meta name="generator" content="vizsage comparison">'
"""In the head of every such page: a file without it is not replaced."""

_NOT_COMPARED = ("output_dir",)  # settings that differ between any two runs

Scored = tuple[float | None, list[float] | None]
"""A score and its interval."""


@dataclass(frozen=True)
class ShownRun:
    """A run and what is known of it.

    Attributes:
        letter: A for the first run.
        name: of its output_dir, or of its file.
        path: as it was named.
        folder: of its predictions.
        conditions: those in results.json; None without that file.
        settings: all that are known, those that decide the weights from run.json; None without results.json.
        curves: of its training.
    """

    letter: str
    name: str
    path: Path
    folder: Path
    conditions: Conditions | None
    settings: dict[str, Any] | None
    curves: TrainingCurves | None


@dataclass(frozen=True)
class MetricComparison:
    """The runs by one metric: the score of each run, and all pairs."""

    metric: str
    scores: list[Scored]
    pairs: list[WholeDifference]


def page_of_runs(
    runs: Sequence[ShownRun],
    by_metric: Sequence[MetricComparison],
    joined: JoinedRuns,
    found: Disagreement,
    *,
    charts: list[Chart],
    image_problems: list[str],
) -> dict[str, Any]:
    """What runs.html shows.

    Args:
        runs: in the order of the command.
        by_metric: scores and differences by each metric, exact match first.
        joined: the runs and their samples.
        found: samples on which the runs disagree.
        charts: curves of the trainings.
        image_problems: why images are missing, one line per reason.
    """
    exact = by_metric[0]
    asked = joined.runs[0].asked
    groups = Groups(asked)
    known = next((run.conditions for run in runs if run.conditions), None)
    by_group = [groups.by_group(joined.runs[0].scores, run.scores) for run in joined.runs[1:]]
    return {
        "mark": MARK,
        "version": __version__,
        "runs": [
            _run(run, each.failed, score) | {"style": line_style(number)}
            for number, (run, each, score) in enumerate(zip(runs, joined.runs, exact.scores, strict=True))
        ],
        "letters": [run.letter for run in runs],
        "samples": len(asked.images),
        "images": groups.images,
        "split": known.split if known else None,
        "mode": MODE_TITLES[joined.mode],
        "confidence": f"{CONFIDENCE:.0%}",
        "interval": f"{INTERVAL_METHOD}, {RESAMPLES:,} resamples, seed {SEED}",
        "test": TESTS[exact_test(EXACT_MATCH.name)],
        "holm": len(runs) > 2,
        "pairs": list(_pairs(exact)),
        "pair_scale": _scale(exact.pairs),
        "metrics": [_metric(one) for one in by_metric],
        "other_pairs": [(_title(one.metric), list(_pairs(one))) for one in by_metric[1:]],
        "sections": list(_sections(exact, by_group)),
        "group_scale": _scale([one for each in by_group for one in _flat(each)]),
        "differing": list(_differing(runs)),
        "unknown": [run.letter for run in runs if run.settings is None],
        "charts": charts,
        "other_outcome": found.other_outcome,
        "other_text": found.other_text,
        "shown": len(found.rows),
        "notes": [
            *(_named(warning, runs, joined) for warning in joined.warnings),
            *_notes(joined, found, image_problems),
        ],
    }


def _run(run: ShownRun, failed: int, score: Scored) -> dict[str, Any]:
    conditions = run.conditions
    model = "not known"
    if conditions is not None:
        model = "base model" if conditions.adapter is None else Path(conditions.adapter).name
    return {
        "letter": run.letter,
        "name": run.name,
        "path": str(run.path),
        "model": model,
        "base_model": conditions.base_model if conditions else None,
        "blind": bool(conditions and conditions.blind),
        "failed": failed,
        **_score(score),
    }


def _score(score: Scored) -> dict[str, Any]:
    value, interval = score
    return {
        "score": value,
        "percent": percent(value),
        "low": interval and interval[0],
        "high": interval and interval[1],
        "interval": interval_text(interval),
    }


def _difference(found: Difference) -> dict[str, Any]:
    low, high = found["interval"] or (None, None)
    return {
        "value": found["difference"],
        "points": "–" if found["difference"] is None else points(found["difference"], digits=1),
        "range": "–" if found["interval"] is None else point_range(found["interval"]),
        "low": low,
        "high": high,
        "gained": found["gained"],
        "lost": found["lost"],
    }


def _pairs(one: MetricComparison) -> Iterator[dict[str, Any]]:
    for pair in one.pairs:
        a, b = pair["baseline"], pair["run"]
        yield {
            "name": f"{letter(b)} - {letter(a)}",
            **_difference(pair),
            "p_value": p_value(pair["p_value"]),
            "adjusted": p_value(pair["adjusted_p_value"]),
            "test": TESTS[exact_test(one.metric)],
            "gained_samples": {"runs": {str(a): "wrong", str(b): "right"}},
            "lost_samples": {"runs": {str(a): "right", str(b): "wrong"}},
        }


def _metric(one: MetricComparison) -> dict[str, Any]:
    metric = METRICS[one.metric]
    return {"name": _title(one.metric), "note": metric.note, "scores": [_score(score) for score in one.scores]}


def _title(metric: str) -> str:
    title = METRICS[metric].title
    return title[0].upper() + title[1:]


def _sections(exact: MetricComparison, by_group: Sequence[GroupDifferences]) -> Iterator[dict[str, Any]]:
    """Tables of groups: title, heading, lines, and how many values are not shown."""
    first = by_group[0]
    whole = [pair for pair in exact.pairs if pair["baseline"] == 0]
    knowledge = [
        _line("all", {}, whole),
        _line("with knowledge", {"knowledge": "yes"}, [each["with_external_knowledge"] for each in by_group]),
        _line("without knowledge", {"knowledge": "no"}, [each["without_external_knowledge"] for each in by_group]),
    ]
    yield {"title": "External knowledge", "heading": "group", "lines": knowledge, "more": 0}
    words = _by_size(first["by_question_word"])
    lines = [_line(word, {"word": word}, [each["by_question_word"][word] for each in by_group]) for word in words]
    yield {"title": "Question word", "heading": "question word", "lines": lines, "more": 0}
    for tag, values in first["by_tag"].items():
        ordered = _by_size(values)
        lines = [
            _line(value, {"tag": tag, "value": value}, [each["by_tag"][tag][value] for each in by_group])
            for value in ordered[:TAG_VALUES]
        ]
        yield {"title": f"Tag: {tag}", "heading": tag, "lines": lines, "more": max(0, len(ordered) - TAG_VALUES)}


def _line(label: str, choose: Mapping[str, str], found: Sequence[Difference]) -> dict[str, Any]:
    """A line of a table of groups. `found`: each other run compared with the first one."""
    scores = [found[0]["baseline_score"], *(each["score"] for each in found)]
    return {
        "label": label,
        "choose": dict(choose),
        "samples": found[0]["samples"],
        "scores": [percent(score) for score in scores],
        "differences": [_difference(each) for each in found],
    }


def _by_size(groups: Mapping[str, Difference]) -> list[str]:
    return sorted(groups, key=lambda name: (-groups[name]["samples"], name))


def _flat(groups: GroupDifferences) -> Iterator[Difference]:
    yield groups["with_external_knowledge"]
    yield groups["without_external_knowledge"]
    yield from groups["by_question_word"].values()
    for values in groups["by_tag"].values():
        yield from values.values()


def _scale(differences: Sequence[Difference]) -> float:
    """The largest difference or end of an interval: the half width of the bars."""
    ends: list[float] = [
        abs(end) for one in differences for end in (one["difference"] or 0.0, *(one["interval"] or ()))
    ]
    return max([0.01, *ends])


def _differing(runs: Sequence[ShownRun]) -> Iterator[tuple[str, list[str]]]:
    """Settings in which runs differ, with the value of each run; a dash where there is none, or it is not known.

    A base model has no settings of a training: they are compared between the other runs.
    """
    known = [run.settings for run in runs if run.settings is not None]
    for name in dict.fromkeys(name for settings in known for name in settings):
        values = [_setting(run, name) for run in runs]
        if len({value for value in values if value is not None}) > 1 and name not in _NOT_COMPARED:
            yield name, ["–" if value is None else value for value in values]


def _setting(run: ShownRun, name: str) -> str | None:
    """The value of a setting as a text; None where the run has none, or it is not known."""
    if run.settings is None or run.conditions is None:
        return None
    # run.json names more than settings, such as extensions and the data that was trained on
    of_training = name in TRAINING_SETTINGS or name not in Config.model_fields
    return None if of_training and run.conditions.adapter is None else plain(run.settings.get(name))


def _named(warning: str, runs: Sequence[ShownRun], joined: JoinedRuns) -> str:
    """A warning with the letters of runs instead of their paths."""
    for run, each in sorted(zip(runs, joined.runs, strict=True), key=lambda pair: -len(str(pair[1].path))):
        warning = warning.replace(str(each.path), run.letter)
    return f"{warning}."


def _notes(joined: JoinedRuns, found: Disagreement, image_problems: list[str]) -> Iterator[str]:
    """What a reader must know to judge the numbers."""
    for name, reason in joined.left_out.items():
        yield f"Not compared by {METRICS[name].title}: {reason}."
    total = found.other_outcome + found.other_text
    if len(found.rows) < total:
        yield f"The gallery shows {len(found.rows):,} of {total:,} samples on which the runs disagree."
    if image_problems:
        more = f" (and {len(image_problems) - 1:,} more)" if len(image_problems) > 1 else ""
        yield f"Images are missing in the gallery: {image_problems[0]}{more}."
