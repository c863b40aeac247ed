"""predictions.jsonl: a line for each sample that was asked, in the order of the split; written when all is answered."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from vizsage.data.sample import Sample
from vizsage.evaluation.answers import AnswerKeys, AnswerStore, Row
from vizsage.files import fsync_dir, parse_json, replacing, set_aside_path
from vizsage.scoring.metrics import score_row
from vizsage.scoring.normalisation import Normalise

log = logging.getLogger(__name__)

PREDICTIONS, RESULTS, REPORT = "predictions.jsonl", "results.json", "report.html"


def write_predictions(
    path: Path,
    samples: Iterable[Sample],
    shown: Callable[[Sample], Sample],
    keys: AnswerKeys,
    store: AnswerStore,
    *,
    normalise: Normalise,
) -> Iterator[Row]:
    """Replace `path` with one line for each of `samples`, in their order; yields the rows, each with its "seconds".

    `shown` says what the model saw in the place of a sample. A sample that nothing is known of becomes a failed record.
    The file is replaced when the last row has been taken.
    """
    images: dict[str, str] = {}
    ambiguous: set[str] = set()
    with replacing(path) as file:
        for sample in samples:
            key = keys(shown(sample))
            image, image_sha256 = sample.image_names, keys.images_sha256(sample)
            if images.setdefault(image, image_sha256) != image_sha256:
                ambiguous.add(image)
            answer = store.get(key)
            scored = {
                "answer": sample.answer,
                "answers": list(sample.answers),
                "prediction": answer["prediction"],
            }
            if sample.choices:
                scored["choices"] = list(sample.choices)
            row = {
                "sample_id": sample.sample_id,
                "image": image,
                "image_sha256": image_sha256,
                "question": sample.question,
                "answer": scored["answer"],
                "answers": scored["answers"],
                **({"choices": scored["choices"]} if sample.choices else {}),
                "need_external_knowledge": sample.need_external_knowledge,
                "description": sample.description,
                "tags": dict(sample.tags),
                "prediction": scored["prediction"],
                **score_row(scored, normalise=normalise),
                **{name: answer[name] for name in ("raw_text", "token_ids", "finish_reason", "error")},
                "key": key,
            }
            file.write(json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n")
            yield row | {"seconds": answer["seconds"]}
    if ambiguous:
        log.warning(
            "%d image names stand for different images, such as %s: each question had its own, but scores "
            "count a name as one image, and the report shows the first",
            len(ambiguous),
            min(ambiguous),
        )


def set_aside_other(folder: Path, conditions: Mapping[str, Any]) -> None:
    """Move results that were made otherwise into a folder of their own, so that nothing replaces or is taken for them.

    Args:
        folder: of an evaluation.
        conditions: what decides the results to come, under the names of results.json; "data.sha256" is the sha256 of
            its data.
    """
    path = folder / RESULTS
    if not path.exists():
        return
    try:
        before = parse_json(path.read_text(encoding="utf-8"))
        keys = [key for key in conditions if _value(before, key) != conditions[key]]
    except (ValueError, AttributeError):
        keys = ["(damaged results.json)"]
    if not keys:
        return
    aside = set_aside_path(folder)
    aside.mkdir()
    for name in (PREDICTIONS, RESULTS, REPORT):
        if (folder / name).exists():
            (folder / name).replace(aside / name)
    fsync_dir(folder)
    log.warning("%s: earlier results are set aside in %s: they have another %s", folder, aside.name, ", ".join(keys))


def _value(results: dict[str, Any], key: str) -> Any:
    group, dot, name = key.rpartition(".")
    return (results.get(group) or {}).get(name) if dot else results.get(name)
