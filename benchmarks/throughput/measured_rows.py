"""What a contender's rows look like: all must see the same pixels and as many tokens."""

from __future__ import annotations

from typing import Any


def describe_rows(batch: Any) -> dict[str, Any]:
    """Means of a batch of plain rows: tokens, numbers of pixel_values and, with Mllama, tiles that are no padding."""
    rows = len(batch["attention_mask"])
    found = {
        "tokens": float(batch["attention_mask"].sum()) / rows,
        "pixel_values": batch["pixel_values"].numel() / rows,
    }
    if "aspect_ratio_mask" in batch:
        found["tiles"] = float(batch["aspect_ratio_mask"].sum()) / rows
    return found


def row_differences(row: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """In words, what of `row` is not as `expected`. Lengths are means of few rows: a tenth is no difference."""
    found = []
    if abs(row["tokens"] - expected["tokens"]) > 0.1 * expected["tokens"]:
        found.append(f"{row['tokens']:.0f} tokens per row instead of {expected['tokens']:.0f}")
    for key, unit in (("pixel_values", "pixel values"), ("tiles", "tiles")):
        if key in row and row[key] != expected.get(key):
            found.append(f"{row[key]:g} {unit} per image instead of {expected.get(key):g}")
    return found
