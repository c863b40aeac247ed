"""The hashes of a training split: written once, by bytes or by name, and kept by what continues the run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from accelerate import PartialState

from vizsage.config import Config
from vizsage.contract.hashes_file import SampleHashes, read_hashes
from vizsage.contract.run_files import read_run
from vizsage.data.identity import bytes_hash, name_hash
from vizsage.data.sample_hashes import unpacked
from vizsage.errors import DataError
from vizsage.record import RunRecord
from vizsage.training import training_hashes
from vizsage.training.plan import make_plan
from vizsage.training.training_hashes import note_hashes

MakeConfig = Callable[..., Config]


def note(config: Config, *, continued: bool = False, stop: Callable[[], bool] = lambda: False) -> SampleHashes | None:
    """What is noted in run.json after `note_hashes`."""
    plan, record = make_plan(config), RunRecord(config.output_dir)
    note_hashes(plan, record, world=PartialState(cpu=True), continued=continued, stop=stop)
    facts = read_run(config.output_dir).sample_hashes
    return None if facts is None else read_hashes(config.output_dir, facts)


@pytest.fixture
def begun(make_config: MakeConfig) -> MakeConfig:
    """Settings of a run that has a run.json."""

    def make(**changes: object) -> Config:
        config = make_config(**changes)
        if not RunRecord(config.output_dir).exists:
            RunRecord(config.output_dir).begin_attempt(make_plan(config).facts, 0)
        return config

    return make


@pytest.mark.parametrize("streaming", [False, True])
def test_images_are_hashed_by_bytes_or_if_streamed_by_name(begun: MakeConfig, data_dir: Path, streaming: bool) -> None:
    found = note(begun(use_streaming=streaming))
    assert found is not None
    assert len(unpacked(found.questions)) == 3
    kind, other = (found.by_name, found.by_content) if streaming else (found.by_content, found.by_name)
    assert other is None
    assert kind is not None
    names = [f"{number}.png" for number in range(6)]
    contents = {bytes_hash((data_dir / "Images" / name).read_bytes()) for name in names}
    expected = set(map(name_hash, names)) if streaming else contents
    assert {one.tobytes() for one in unpacked(kind.images)} == expected
    assert len(unpacked(kind.samples)) == (18 if streaming else 3 * len(contents))


def test_a_continued_run_keeps_what_it_has_and_a_new_one_replaces_it(begun: MakeConfig, data_dir: Path) -> None:
    config = begun()
    before = note(config)
    records = json.loads((data_dir / "Dots" / "train.json").read_text())
    (data_dir / "Dots" / "train.json").write_text(json.dumps([{**one, "question": "why"} for one in records]))
    assert note(config, continued=True) == before
    assert note(config) != before
    (config.output_dir / "sample_hashes.json").unlink()
    assert note(config, continued=True) != before


def test_a_signal_ends_it_and_nothing_is_written(begun: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_hashes, "_IMAGES_AT_ONCE", 2)
    monkeypatch.setattr(training_hashes, "_APART_S", -1)  # a message to other processes after each part
    asked = iter([False, True])
    config = begun()
    assert note(config, stop=lambda: next(asked)) is None
    assert not (config.output_dir / "sample_hashes.json").exists()
    assert note(begun(use_streaming=True), stop=lambda: True) is None


def test_an_image_that_cannot_be_read_stops_the_run_before_the_model_is_loaded(
    begun: MakeConfig, data_dir: Path
) -> None:
    (data_dir / "Images" / "3.png").unlink()
    with pytest.raises(DataError, match=r"image '3\.png' is missing"):
        note(begun())
