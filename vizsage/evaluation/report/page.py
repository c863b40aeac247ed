"""What the page of one evaluation shows: its results and what is beside them, as texts for template/page.html."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from vizsage.contract.results_file import GroupScores, IntervalMethod, ResultsFile
from vizsage.evaluation.comparison.number_texts import p_value, point_range, points
from vizsage.evaluation.report.beside import BaseModel, Beside
from vizsage.evaluation.report.curves import Chart
from vizsage.evaluation.report.leak_statement import leak_statement
from vizsage.evaluation.report.rendering import interval_text, percent, plain
from vizsage.scoring.caveats import caveat_warnings
from vizsage.scoring.normalisation import MODE_TITLES
from vizsage.scoring.registry import METRICS

TAG_VALUES = 25  # lines of the table of one tag

KNOWLEDGE = {
    "none": "Questions were asked with the image alone.",
    "oracle": (
        "Each question that needs external knowledge was asked with the true description of its image; many of these "
        "descriptions contain the answer word for word."
    ),
    "retrieved": "Descriptions were found by retrieval, and may be those of other images.",
}


def page_context(
    results: ResultsFile, beside: Beside, *, shown: int, charts: list[Chart], image_problems: list[str], name: str
) -> dict[str, Any]:
    """What page.html shows.

    Args:
        results: results.json.
        beside: other evaluations that are shown beside this one.
        shown: the number of rows in the gallery.
        charts: curves of the training.
        image_problems: why images are missing, one line per reason.
        name: of the run.
    """
    real, withheld = (beside.counterpart, results) if results.blind else (results, beside.counterpart)
    columns = beside.columns()
    others = list(columns.values())

    def group(label: str, scores: GroupScores, choose: Mapping[str, str]) -> dict[str, Any]:
        return _group(label, scores, choose) | {"beside": [percent(_score_in(other, choose)) for other in others]}

    by_word = _by_size(results.by_question_word)
    return {
        "name": name,
        "model": "base model" if results.adapter is None else Path(results.adapter).name,
        "results": results,
        "mode": MODE_TITLES.get(results.mode, results.mode),
        "knowledge_note": KNOWLEDGE.get(results.knowledge, ""),
        "leaks": leak_statement(results),
        "headline": group("all", results.whole(), {}),
        "confidence": f"{(results.interval or IntervalMethod()).confidence:.0%}",
        "with_knowledge": group("with knowledge", results.with_external_knowledge, {"knowledge": "yes"}),
        "without_knowledge": group("without knowledge", results.without_external_knowledge, {"knowledge": "no"}),
        "is_blind": results.blind,
        "real": real and _group("image shown", real.whole()),
        "blind": withheld and _group("image withheld", withheld.whole()),
        "blind_command": _command(results, base=results.adapter is None, blind=True),
        "base": beside.base and _base(beside.base),
        "base_command": None if results.adapter is None else _command(results, base=True, blind=results.blind),
        "columns": list(columns),
        "metrics": list(_metrics(results)),
        "words": [group(word, scores, {"word": word}) for word, scores in by_word],
        "tags": list(_tag_tables(results.by_tag, group)),
        "interval": _interval_note(results),
        "notes": [*_notes(results, shown, image_problems), *beside.remarks],
        "image_problems": image_problems,
        "charts": charts,
        "failed": results.failed,
        "provenance": list(_provenance(results)),
        "settings": [(key, plain(value)) for key, value in results.settings.items()],
    }


def _base(base: BaseModel) -> dict[str, Any]:
    """The base model's score, and what the training changed."""
    difference = base.against.difference
    return {
        **_group("base model", base.results.whole()),
        "difference": points(difference["difference"], digits=1),
        "range": point_range(difference["interval"]) if difference["interval"] else None,
        "p_value": p_value(difference["p_value"]),
        "gained": difference["gained"],
        "lost": difference["lost"],
    }


def _metrics(results: ResultsFile) -> Iterator[dict[str, str]]:
    """A line for each metric of the results, in the order of the registry."""
    for metric in METRICS.values():
        if metric.name in results.metrics:
            scored = results.scored_samples.get(metric.name)
            yield {
                "name": metric.title[0].upper() + metric.title[1:],
                "note": metric.note + ("" if scored is None else f": {scored:,}"),
                "percent": percent(results.metrics[metric.name]),
            }


def _group(label: str, group: GroupScores, choose: Mapping[str, str] | None = None) -> dict[str, Any]:
    """A line of a table. `choose`: what the gallery shows when the line is clicked."""
    interval, score = group.exact_match_interval, group.exact_match_score
    return {
        "label": label,
        "samples": group.samples,
        "images": group.images,
        "score": score,
        "percent": percent(score),
        "low": None if interval is None else interval[0],
        "high": None if interval is None else interval[1],
        "interval": interval_text(interval),
        "choose": dict(choose or {}),
        "beside": [],
    }


def _score_in(results: ResultsFile, choose: Mapping[str, str]) -> float | None:
    """The score of the group of another evaluation that `choose` names: all of it where that is empty."""
    group: GroupScores | None = results.whole()
    if "knowledge" in choose:
        group = results.with_external_knowledge if choose["knowledge"] == "yes" else results.without_external_knowledge
    elif "word" in choose:
        group = results.by_question_word.get(choose["word"])
    elif "tag" in choose:
        group = results.by_tag.get(choose["tag"], {}).get(choose["value"])
    return None if group is None else group.exact_match_score


def _by_size(groups: Mapping[str, GroupScores]) -> list[tuple[str, GroupScores]]:
    return sorted(groups.items(), key=lambda item: (-item[1].samples, item[0]))


def _tag_tables(
    by_tag: Mapping[str, Mapping[str, GroupScores]],
    group: Callable[[str, GroupScores, Mapping[str, str]], dict[str, Any]],
) -> Iterator[dict[str, Any]]:
    for tag, values in by_tag.items():
        found = _by_size(values)
        rows = [group(value, scores, {"tag": tag, "value": value}) for value, scores in found[:TAG_VALUES]]
        yield {"tag": tag, "rows": rows, "more": max(0, len(found) - TAG_VALUES)}


def _interval_note(results: ResultsFile) -> str:
    if (interval := results.interval) is None:
        return ""
    return (
        f"{interval.confidence:.0%} intervals: {interval.method}, {interval.resamples:,} resamples, "
        f"seed {interval.seed}."
    )


def _command(results: ResultsFile, *, base: bool, blind: bool) -> str:
    """The command that evaluates the same samples otherwise."""
    words = ["vizsage eval CONFIG"]
    if results.split != "test":
        words.append(f"--split {results.split}")
    if base:
        words.append("--base")
    if results.limit:
        words.append(f"--limit {results.limit}")
    return " ".join([*words, *["--blind"] * blind])


def _notes(results: ResultsFile, shown: int, image_problems: list[str]) -> list[str]:
    """What a reader must know to judge the numbers."""
    total = results.total_samples
    left_out = sum(results.left_out.values())
    notes = []
    if results.limit:
        notes.append(f"Only the first {results.limit:,} samples of the split were asked.")
    if results.failed_predictions:
        notes.append(f"Records that failed, and count as wrong: {results.failed_predictions:,} of {total:,}.")
    if results.truncated_predictions:
        limit = (results.generation or {}).get("max_new_tokens", "")
        notes.append(f"Answers cut at max_new_tokens {limit}: {results.truncated_predictions:,}.")
    if left_out:
        notes.append(f"Samples left out because they need external knowledge: {left_out:,}.")
    if results.missing_descriptions:
        notes.append(f"Samples whose description is not in the table: {results.missing_descriptions:,}.")
    if results.tags_not_grouped:
        notes.append(f"Tags with too many values for a table: {', '.join(results.tags_not_grouped)}.")
    notes += [f"{warning[0].upper()}{warning[1:]}." for warning in caveat_warnings(results, results.mode)]
    if shown < total:
        notes.append(f"The gallery shows {shown:,} of {total:,} samples: the first right and the first wrong ones.")
    if image_problems:
        more = f" (and {len(image_problems) - 1:,} more)" if len(image_problems) > 1 else ""
        notes.append(f"Images are missing in the gallery: {image_problems[0]}{more}.")
    return notes


def _provenance(results: ResultsFile) -> Iterator[tuple[str, str]]:
    """Name and value of each condition of the evaluation; nested values have dotted names."""
    keys = (
        "backend base_model revision base_files_sha256 adapter adapter_sha256 adapter_config_sha256 data fingerprint "
        "generation precision max_seq_length knowledge blind seed processes throughput versions hardware finished"
    )
    content = results.content()
    for key in keys.split():
        if key in content:
            yield from _flat(key, content[key])


def _flat(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flat(f"{name}.{key}", inner)
    else:
        yield name, plain(value)
