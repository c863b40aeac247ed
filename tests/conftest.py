"""Shared by all tests: one thread per process, nothing from the network, no GPU unless a test asks for it."""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

# Before torch or a Hugging Face library is imported anywhere. Tests are many processes on few cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    WANDB_MODE="offline",
    WANDB_SILENT="true",
    TOKENIZERS_PARALLELISM="false",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests marked `gpu` where there is none; torch is asked only if such a test was collected."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a GPU"))


def pytest_collection_finish() -> None:
    """What is imported stays: without this, each search for garbage looks at all of it again."""
    gc.freeze()


@pytest.fixture
def umask() -> Iterator[Callable[[int], None]]:
    """Set the umask for the rest of the test."""
    before = os.umask(0o022)
    os.umask(before)

    def change(mask: int) -> None:
        os.umask(mask)

    yield change
    os.umask(before)


@pytest.fixture
def forbidden() -> Iterator[Callable[[Path], None]]:
    """Take from this test the permission to read a file or folder, of which root has to stop being root."""
    before, modes = os.geteuid(), dict[Path, int]()

    def forbid(path: Path) -> None:
        modes[path] = path.stat().st_mode
        path.chmod(0)
        if before == 0:
            for folder in path.parents[:-1]:  # pytest's own are closed to others
                folder.chmod(folder.stat().st_mode | 0o055)
            os.seteuid(65534)

    yield forbid
    os.seteuid(before)
    for path, mode in modes.items():
        path.chmod(mode)


@pytest.fixture
def write_settings(tmp_path: Path) -> Callable[..., Path]:
    """Write a settings file into tmp_path and return its path."""

    def write(name: str = "run.yaml", **settings: Any) -> Path:
        path = tmp_path / name
        path.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
        return path

    return write


@pytest.fixture
def write_data(tmp_path: Path) -> Callable[..., Path]:
    """Write a data set in the layout of AQUA into tmp_path/data: three images per split, two questions per image.

    Keyword arguments replace a split: a list of records, the text of its file, or None for no such file.
    Images that records name are drawn unless they are there.
    """

    def write(**splits: Any) -> Path:
        base = tmp_path / "data"
        (base / "Images").mkdir(parents=True, exist_ok=True)
        (base / "AQUA").mkdir(exist_ok=True)
        for number, split in enumerate(("train", "val", "test")):
            content = splits.get(split, _records(split))
            if isinstance(content, list):
                for i, record in enumerate(content):
                    _draw(base / "Images", record, shade=40 * number + i)
                content = json.dumps(content)
            if content is not None:
                (base / "AQUA" / f"{split}.json").write_text(content, encoding="utf-8")
        return base

    return write


def _records(split: str) -> list[dict[str, Any]]:
    return [
        {"image": f"{split}-{i}.png", "question": question, "answer": answer, "need_external_knowledge": knowledge}
        for i in range(3)
        for question, answer, knowledge in (("what colour is it", "grey", False), ("who painted it", "nobody", True))
    ]


def _draw(folder: Path, record: Any, *, shade: int) -> None:
    from PIL import Image

    name = record.get("image") if isinstance(record, dict) else None
    if isinstance(name, str) and name and "/" not in name and not (folder / name).exists():
        Image.new("RGB", (24, 16), (shade % 256, 90, 160)).save(folder / name, "PNG")
