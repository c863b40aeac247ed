"""The page of a report: results as text, and the HTML around them.

Texts of data and model get into the page in two ways only: through Jinja's autoescape, and as JSON in a script element
that is not executed, which page.js shows as text. The Content Security Policy of the page names its one style sheet and
its one script by their hashes, so that nothing else is executed or fetched even if a text did become markup.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vizsage.contract.results_file import GroupScores, IntervalMethod, ResultsFile
from vizsage.evaluation.report import curves
from vizsage.scoring.caveats import caveat_warnings
from vizsage.scoring.normalisation import MODE_TITLES
from vizsage.scoring.registry import METRICS

FOLDER = Path(__file__).with_name("template")
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
    results: ResultsFile,
    *,
    gallery: dict[str, Any],
    shown: int,
    counterpart: ResultsFile | None,
    charts: list[curves.Chart],
    image_problems: list[str],
    remarks: list[str],
    name: str,
) -> dict[str, Any]:
    """What page.html shows.

    Args:
        results: results.json.
        gallery: rows, image names and descriptions for page.js.
        shown: the number of rows in the gallery.
        counterpart: results of the blind evaluation of a real one, or of the real one of a blind one.
        charts: curves of the training.
        image_problems: why images are missing, one line per reason.
        remarks: what else a reader must know, one line each.
        name: of the run.
    """
    real, withheld = (counterpart, results) if results.blind else (results, counterpart)
    return {
        "name": name,
        "model": "base model" if results.adapter is None else Path(results.adapter).name,
        "results": results,
        "mode": MODE_TITLES.get(results.mode, results.mode),
        "knowledge_note": KNOWLEDGE.get(results.knowledge, ""),
        "headline": _group("all", results.whole()),
        "confidence": f"{(results.interval or IntervalMethod()).confidence:.0%}",
        "with_knowledge": _group("with knowledge", results.with_external_knowledge, {"knowledge": "yes"}),
        "without_knowledge": _group("without knowledge", results.without_external_knowledge, {"knowledge": "no"}),
        "is_blind": results.blind,
        "real": real and _group("image shown", real.whole()),
        "blind": withheld and _group("image withheld", withheld.whole()),
        "blind_command": _blind_command(results),
        "metrics": list(_metrics(results)),
        "words": [_group(word, group, {"word": word}) for word, group in _by_size(results.by_question_word)],
        "tags": list(_tag_tables(results.by_tag)),
        "interval": _interval_note(results),
        "notes": [*_notes(results, shown, image_problems), *remarks],
        "image_problems": image_problems,
        "charts": charts,
        "chart_size": {key.lower(): getattr(curves, key) for key in ("WIDTH", "HEIGHT", "LEFT", "RIGHT", "BOTTOM")},
        "failed": results.failed,
        "provenance": list(_provenance(results)),
        "settings": [(key, _plain(value)) for key, value in results.settings.items()],
        "gallery": gallery,
    }


def render(context: Mapping[str, Any], thumbnails: list[str | None]) -> str:
    """The page as HTML.

    Args:
        context: what `page_context` gives.
        thumbnails: WebP files in base64, in the order of the gallery's images; None for an image that is missing.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    style, script = ((FOLDER / name).read_text(encoding="utf-8") for name in ("style.css", "page.js"))
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page: str = environment.get_template("page.html").render(
        context,
        policy=(
            f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
            "base-uri 'none'; form-action 'none'"
        ),
        style=Markup(style),
        script=Markup(script),
        gallery_json=Markup(script_json(context["gallery"])),
        thumbnails_json=Markup(script_json(thumbnails)),
    )
    return page


def script_json(value: Any) -> str:
    """JSON that is safe in a script element: no `<`, so neither `</script>` nor `<!--`, and no line separators."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def percent(share: float | None) -> str:
    """`98.8 %` for 0.988; a dash where there is no sample."""
    return "–" if share is None else f"{100 * share:.1f} %"


def _hash(text: str) -> str:
    """A source expression of the Content Security Policy that allows exactly this inline text."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


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


def _group(label: str, group: GroupScores, choose: dict[str, str] | None = None) -> dict[str, Any]:
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
        "interval": None if interval is None else f"{100 * interval[0]:.1f} – {100 * interval[1]:.1f}",
        "choose": choose or {},
    }


def _by_size(groups: Mapping[str, GroupScores]) -> list[tuple[str, GroupScores]]:
    return sorted(groups.items(), key=lambda item: (-item[1].samples, item[0]))


def _tag_tables(by_tag: Mapping[str, Mapping[str, GroupScores]]) -> Iterator[dict[str, Any]]:
    for tag, values in by_tag.items():
        rows = [_group(value, group, {"tag": tag, "value": value}) for value, group in _by_size(values)]
        yield {"tag": tag, "rows": rows[:TAG_VALUES], "more": max(0, len(rows) - TAG_VALUES)}


def _interval_note(results: ResultsFile) -> str:
    if (interval := results.interval) is None:
        return ""
    return (
        f"{interval.confidence:.0%} intervals: {interval.method}, {interval.resamples:,} resamples, "
        f"seed {interval.seed}."
    )


def _blind_command(results: ResultsFile) -> str:
    words = ["vizsage eval CONFIG"]
    if results.split != "test":
        words.append(f"--split {results.split}")
    if results.adapter is None:
        words.append("--base")
    if results.limit:
        words.append(f"--limit {results.limit}")
    return " ".join([*words, "--blind"])


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
        yield name, _plain(value)


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
