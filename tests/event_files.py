"""TensorBoard's event files, read back as TensorBoard does."""

from __future__ import annotations

from pathlib import Path


def read_scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """By tag, (step, value) of all that TensorBoard would show of a folder."""
    events = _read(folder)
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def read_texts(folder: Path) -> dict[str, str]:
    """By tag, the last text."""
    events = _read(folder)
    tags = [tag for tag in events.Tags()["tensors"] if tag.endswith("/text_summary")]
    return {
        tag.removesuffix("/text_summary"): events.Tensors(tag)[-1].tensor_proto.string_val[0].decode() for tag in tags
    }


def _read(folder: Path):  # type: ignore[no-untyped-def]
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    return events
