"""Where results go: nothing of another data set or base model gets among those of a run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vizsage.config import Config
from vizsage.data.sources import open_split
from vizsage.errors import ConfigError
from vizsage.evaluation.evaluate import evaluate
from vizsage.evaluation.folder import check_base_model, results_folder
from vizsage.record import RunRecord

from .conftest import FakeModel


@pytest.fixture
def config(write_data: Callable[..., Path], tmp_path: Path) -> Config:
    """Of a run that was trained on the data set that `write_data` writes."""
    from vizsage.training.plan import make_plan

    base = write_data()
    for copy in ("copied", "other"):
        shutil.copytree(base, tmp_path / copy)
    shutil.copytree(base / "AQUA", base / "Renamed")
    shutil.copytree(base / "AQUA", base / "VQA")
    for folder in (base / "VQA", tmp_path / "other" / "AQUA"):
        for split in ("train", "test"):
            records = json.loads((folder / f"{split}.json").read_text())
            (folder / f"{split}.json").write_text(json.dumps([{**one, "answer": "blue"} for one in records]))
    config = Config(base_path=base, output_dir=tmp_path / "cc", load_in_4bit=False, device="cpu")
    config.output_dir.mkdir()
    RunRecord(config.output_dir).begin_attempt(make_plan(config).facts, 0)
    return config


def folder(config: Config, other_data: bool = False, **changes: Any) -> str:
    config = config.model_copy(update=changes)
    split = open_split(config, "test")
    return results_folder(config, split, base=True, blind=True, other_data=other_data).name


@pytest.mark.parametrize("base", [False, True])
def test_another_data_set_is_refused_unless_asked_for(config: Config, model: FakeModel, base: bool) -> None:
    first = evaluate(config, base=base)
    other = config.model_copy(update={"dataset": "VQA"})
    with pytest.raises(ConfigError, match=r"test in .*VQA is not that of .*AQUA.*--other-data") as error:
        evaluate(other, base=base)
    assert error.value.exit_code == 2
    kept = config.output_dir / "evaluation_results"
    assert [path.name for path in kept.iterdir()] == ["test-base" if base else "test"]
    results = evaluate(other, base=base, other_data=True)
    assert (results["exact_match_score"], results["settings"]["dataset"]) == (1.0, "VQA")
    there = kept / ("VQA-test-base" if base else "VQA-test")
    assert json.loads((there / "results.json").read_text()) == results
    assert json.loads((kept / there.name[4:] / "results.json").read_text()) == first


def test_what_tells_data_sets_apart(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert folder(config) == folder(config, other_data=True) == "test-base-blind"
    assert folder(config, base_path=tmp_path / "copied") == "test-base-blind"
    assert folder(config, dataset="Renamed") == "test-base-blind"
    with pytest.raises(ConfigError, match=r"test in .*other/AQUA is not that of .*data/AQUA"):
        folder(config, base_path=tmp_path / "other")
    assert folder(config, base_path=tmp_path / "other", other_data=True) == "AQUA-test-base-blind"
    assert folder(config, dataset="../data/VQA", other_data=True) == "data-VQA-test-base-blind"
    monkeypatch.chdir(tmp_path)  # the same folder, written in another way
    (config.split_dir / "test.json").write_text((config.base_path / "VQA/test.json").read_text())
    assert folder(config, base_path=Path("data")) == "test-base-blind"  # edited where it is: the run's own data set


def test_a_run_of_an_earlier_version_has_its_data_set_by_name(config: Config) -> None:
    path = config.output_dir / "run.json"
    content = json.loads(path.read_text())
    del content["splits"]
    path.write_text(json.dumps(content))
    assert folder(config) == "test-base-blind"
    with pytest.raises(ConfigError, match="dataset was 'AQUA', is now 'VQA'"):
        folder(config, dataset="VQA")


def test_an_output_dir_without_a_training_takes_any_data(config: Config) -> None:
    (config.output_dir / "run.json").unlink()
    assert folder(config, dataset="VQA") == "test-base-blind"


def test_the_base_model_is_that_of_the_run(config: Config) -> None:
    here, other = ({"fingerprint": {"base_identity": identity}} for identity in ("content:aa", "content:bb"))
    check_base_model(config, other)  # no adapter yet: nothing to compare with
    config.adapter_dir.mkdir()
    fingerprint = config.adapter_dir / "fingerprint.json"
    fingerprint.write_text(json.dumps({"base_identity": "content:aa"}))
    check_base_model(config, here)
    with pytest.raises(ConfigError, match=r"holds a run on base model content:aa, and model_name is .*content:bb"):
        check_base_model(config, other)
    fingerprint.write_text("{")
    check_base_model(config, other)
