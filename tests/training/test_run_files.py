"""Files of a run and of its checkpoints that hold something else than a run writes: one line, exit code 2 or 3."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.models.adapters.test_lora import saved_adapter
from tests.training.test_continuation import train_with_signal
from vizsage.config import Config
from vizsage.errors import Interrupted, VizSageError
from vizsage.files import sha256_file, write_json
from vizsage.models.adapters.lora import load_adapter
from vizsage.models.loading.hf import load_base
from vizsage.training import checkpoints
from vizsage.training.train import train

MakeConfig = Callable[..., Config]
OF_RUN = ("run.json", "outcome.json", "metrics.jsonl")
FILES = (*OF_RUN, "config.yaml", "loss.png")
SEALED = ("progress.json", "identity.json", "trainer_state.json", "adapter_config.json", "fingerprint.json")
CASES = (
    ("run.json", '{"identity": {}, "attempts": [{}]}'),
    ("run.json", "[]"),
    ("metrics.jsonl", "garbage\n"),
    ("metrics.jsonl", '["step"]\n'),
    ("metrics.jsonl", '{"step": 1, "loss": "x"}\n'),
    ("progress.json", "[]"),
    ("progress.json", '{"best_step": "x"}'),
    ("progress.json", '{"best_scores": {}}'),
    ("identity.json", "null"),
    ("trainer_state.json", '{"global_step": 3}'),
    ("trainer_state.json", '{"global_step": 8, "epoch": "x"}'),
    ("optimizer.pt", "no zip file"),
    ("rng_state.pth", ""),
    ("adapter_config.json", "[]"),
    ("adapter_config.json", '{"peft_type": "LORA", "target_modules": "((("}'),
    ("fingerprint.json", "[1]"),
    *((name, None) for name in FILES),  # a folder
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.sampled_from(["(((", "\ud800"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)


@pytest.fixture
def interrupted(make_config: MakeConfig, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """A run stopped after 8 of its 9 steps, to be continued or damaged first."""
    (data_dir / "Dots" / "val.json").unlink()
    config = make_config(save_steps=100, resume=True)
    with pytest.raises(Interrupted):
        train_with_signal(monkeypatch, config, 8, 15)
    shutil.copytree(config.output_dir, config.output_dir.with_name("whole"))
    return config


def put_back(config: Config) -> None:
    shutil.rmtree(config.output_dir)
    shutil.copytree(config.output_dir.with_name("whole"), config.output_dir)


def seal(folder: Path) -> None:
    """An attacker who writes into a checkpoint can write its manifest."""
    sums = {path.name: sha256_file(path) for path in folder.iterdir() if path.name != checkpoints.MANIFEST}
    write_json(folder / checkpoints.MANIFEST, {"sha256": sums})


def told_in_one_line(work: Callable[[], object]) -> str:
    """The message of the error that ends `work`, one line with exit code 2 or 3; an empty text where there is none."""
    try:
        work()
    except VizSageError as error:
        code, text = error.exit_code, str(error)
    else:
        return ""
    assert code in (2, 3), text
    assert "\n" not in text
    return text


def path_of(config: Config, name: str) -> Path:
    return config.output_dir / ("" if name in FILES else "checkpoint-8") / name


@pytest.mark.slow
def test_another_content_is_named(interrupted: Config) -> None:
    for name, content in CASES:
        put_back(interrupted)
        path = path_of(interrupted, name)
        path.unlink(missing_ok=True)
        if content is None:
            path.mkdir()
        else:
            path.write_text(content)
            if name not in OF_RUN:
                seal(path.parent)
        assert name in told_in_one_line(lambda: train(interrupted)), content
    put_back(interrupted)
    assert told_in_one_line(lambda: train(interrupted)) == ""


@pytest.mark.slow
def test_any_shape_of_a_file_is_told_in_one_line(interrupted: Config) -> None:
    """A part of a file is replaced by any JSON, or the file by any text; the run continues, or the error names it."""

    @settings(
        max_examples=10,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def holds(data: st.DataObject) -> None:
        put_back(interrupted)
        name = data.draw(st.sampled_from((*OF_RUN, *SEALED, checkpoints.MANIFEST)))
        path = path_of(interrupted, name)
        lines = path.read_text().splitlines(keepends=True) if name.endswith(".jsonl") else [path.read_text()]
        number = data.draw(st.integers(0, len(lines) - 1))
        lines[number] = data.draw(other_text(json.loads(lines[number])))
        path.write_text("".join(lines), encoding="utf-8", errors="surrogateescape")
        if name in SEALED:
            seal(path.parent)
        told_in_one_line(lambda: train(interrupted))

    holds()


@pytest.mark.slow
def test_any_shape_of_an_adapters_configuration_is_told_in_one_line(tmp_path: Path) -> None:
    """As an evaluation reads it: there is no manifest by which the change is noticed."""
    _, config, folder, _ = saved_adapter(tmp_path)
    path = folder / "adapter_config.json"
    whole = path.read_text()

    @settings(max_examples=8, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def holds(data: st.DataObject) -> None:
        path.write_text(data.draw(other_text(json.loads(whole))), encoding="utf-8", errors="surrogateescape")
        told_in_one_line(lambda: load_adapter(load_base(config), config, folder))

    holds()


@st.composite
def other_text(draw: st.DrawFn, value: Any) -> str:
    """`value` with one of its parts replaced, as JSON; or no JSON at all."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.text(st.characters(codec="utf-8"), max_size=20)) + "\n"
    places = list(places_in(value))
    *way, last = draw(st.sampled_from(places)) if places else (None,)
    other = draw(JSON)
    if last is None:
        return json.dumps(other) + "\n"
    part = value
    for step in way:
        part = part[step]
    part[last] = other
    return json.dumps(value) + "\n"


def places_in(value: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to each part of a JSON value, itself (None) included."""
    yield way or (None,)
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield from places_in(part, (*way, key))
