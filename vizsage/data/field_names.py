"""Recognises records written for other tools: fields under other names, conversations. For messages only."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

NAMES_SHOWN = 12

# What other data sets and tools call a field, the likeliest first.
_OTHER_NAMES = {
    "image": "image_path image_file image_name image_id file_name filename file_path file img img_path path images",
    "question": "query questions question_text sent prompt instruction input text problem",
    "answer": "label multiple_choice_answer gt_answer ground_truth gt target response output solution caption text",
    "prediction": "predicted pred predict predicted_answer model_answer generated_text response output text",
}
_CONVERSATIONS = ("conversations", "messages")
_FORM = '{"image": ..., "question": ..., "answer": ...}'


def missing_field(field: str, raw: Mapping[str, Any]) -> str:
    """The problem, as "question is missing; the record has image, query: is it 'query'? Then call it question"."""
    if field in raw:
        return f"{field} is missing: it is null"
    names = [str(name) for name in raw]
    shown = ", ".join(f"{name[:40]}" for name in names[:NAMES_SHOWN]) or "no fields"
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    plain = {name.strip().lower().replace("-", "_"): name for name in reversed(names)}
    likely = next((plain[name] for name in [field, *_OTHER_NAMES[field].split()] if name in plain), None)
    if likely is None:
        likely = next(iter(difflib.get_close_matches(field, names, n=1, cutoff=0.7)), None)
    found = f"{field} is missing; the record has {shown}{more}"
    if likely is None:
        return found
    one = ", one name instead of a list" if isinstance(raw.get(likely), list) else ""
    return f"{found}: is it {likely[:40]!r}? Then call it {field}{one}"


def record_form(raw: Any) -> str | None:
    """The message for a record in the form of another tool's training data; None for any other record."""
    if not isinstance(raw, dict) or "question" in raw:
        return None
    found = next((name for name in _CONVERSATIONS if isinstance(raw.get(name), list)), None)
    if found is None:
        return None
    return (
        f"the records hold {found!r}, as LLaVA's and LLaMA-Factory's do; a record is one question on one image "
        f"here: write {_FORM} for each pair of turns, without <image> in the question"
    )
