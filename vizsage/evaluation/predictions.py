"""predictions.jsonl: one line per sample that was asked, in the order of the split; written when all are answered."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from vizsage.contract import PREDICTIONS, REPORT, RESULTS, SAMPLE_HASHES
from vizsage.contract.results_file import Conditions, read_conditions
from vizsage.data.sample import Sample
from vizsage.evaluation.answers import AnswerKeys, AnswerStore
from vizsage.files import fsync_dir, replacing, set_aside_path
from vizsage.scoring.normalisation import Normalise
from vizsage.scoring.registry import score_row
from vizsage.scoring.rows import PredictionRow

log = logging.getLogger(__name__)


def write_predictions(
    path: Path,
    samples: Iterable[Sample],
    shown: Callable[[Sample], Sample],
    keys: AnswerKeys,
    store: AnswerStore,
    *,
    normalise: Normalise,
) -> Iterator[PredictionRow]:
    """Replace `path` with one line for each of `samples`, in their order, when the last row has been taken.

    Args:
        path: the file.
        samples: what was asked.
        shown: gives what the model saw instead of a sample.
        keys: gives the key of a sample's answer.
        store: the answers. A sample without one becomes a failed record.
        normalise: for exact match.

    Yields:
        The rows, each with its "seconds" besides.
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
            scored: dict[str, Any] = {"answer": sample.answer, "answers": list(sample.answers)}
            if sample.choices:
                scored["choices"] = list(sample.choices)
            row: dict[str, Any] = {
                "sample_id": sample.sample_id,
                "image": image,
                "image_sha256": image_sha256,
                "question": sample.question,
                **scored,
                "need_external_knowledge": sample.need_external_knowledge,
                "description": sample.description,
                "tags": dict(sample.tags),
                "prediction": answer["prediction"],
                **score_row(scored | {"prediction": answer["prediction"]}, normalise=normalise),
                **{name: answer[name] for name in ("raw_text", "token_ids", "finish_reason", "error")},
                "key": key,
            }
            file.write(json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n")
            yield cast("PredictionRow", row | {"seconds": answer["seconds"]})
    if ambiguous:
        log.warning(
            "%d image names are those of several different images, such as %s: each question had its own image, but "
            "scores count a name as one image, and the report shows the first",
            len(ambiguous),
            min(ambiguous),
        )


def set_aside_other(folder: Path, conditions: Mapping[str, Any]) -> None:
    """Move results of other conditions into a separate folder, so that the results to come do not replace them.

    Args:
        folder: of an evaluation.
        conditions: what decides the results to come, under the names of results.json; "data.sha256" is the key sha256
            within data.
    """
    path = folder / RESULTS
    if not path.exists():
        return
    try:
        before = read_conditions(folder)
        keys = [key for key in conditions if _value(before, key) != conditions[key]]
    except ValueError:
        keys = ["(damaged results.json)"]
    if not keys:
        return
    aside = set_aside_path(folder)
    aside.mkdir()
    for name in (PREDICTIONS, SAMPLE_HASHES, RESULTS, REPORT):
        if (folder / name).exists():
            (folder / name).replace(aside / name)
    fsync_dir(folder)
    log.warning("%s: earlier results are set aside in %s: they have another %s", folder, aside.name, ", ".join(keys))


def _value(before: Conditions, key: str) -> Any:
    value: Any = before
    for name in key.split("."):
        value = getattr(value, name, None)
    return value
