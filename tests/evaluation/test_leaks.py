"""Samples of a test split that were trained on: counted by an evaluation, found from the files of two runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vizsage import cli
from vizsage.config import Config
from vizsage.data.identity import bytes_hash
from vizsage.data.sample import Sample
from vizsage.data.sample_hashes import HashCollector, write_hashes
from vizsage.evaluation import evaluate as run
from vizsage.evaluation.evaluate import evaluate
from vizsage.files import write_json

from .conftest import BytesImage, FakeSplit, Stage, make_samples, png

Train = Callable[..., Path]


def with_bytes(samples: list[Sample]) -> list[Sample]:
    """The samples, each image with other bytes."""
    return [replace(s, images=(BytesImage(s.group[0], png() + s.group[0].encode()),)) for s in samples]


@pytest.fixture
def trained(stage: Stage, config: Config, monkeypatch: pytest.MonkeyPatch) -> Train:
    """Writes a training run on questions 4 and 5 of the split and two more on its first image, in output_dir."""
    samples = with_bytes(make_samples(12))
    stage.split = FakeSplit(samples)
    of_run = lambda config, *, base, adapter: None if base else adapter or config.adapter_dir  # noqa: E731
    monkeypatch.setattr(run, "find_adapter", of_run)

    def train(folder: Path = config.output_dir, *, by_name: bool = False) -> Path:
        used = [*samples[4:6], *(replace(samples[0], question=question) for question in ("why", "What is 11"))]
        collector = HashCollector(lambda image: bytes_hash(image.read()), by_content=not by_name, by_name=by_name)
        list(collector.watch(used))
        folder.mkdir(parents=True, exist_ok=True)
        facts = write_hashes(folder, collector.hashes()).model_dump()
        write_json(folder / "run.json", {"identity": {"seed": 1}, "attempts": [{}], "sample_hashes": facts})
        return folder

    return train


COUNTS = {
    "samples": 12,
    "samples_in_training": 2,
    "images": 6,
    "images_in_training": 2,
    "questions": 12,
    "questions_in_training": 3,
}


@pytest.mark.parametrize("by_name", [False, True])
@pytest.mark.parametrize("blind", [False, True])
def test_an_evaluation_counts_what_its_adapter_was_trained_on(
    trained: Train, config: Config, caplog: pytest.LogCaptureFixture, blind: bool, by_name: bool
) -> None:
    folder = trained(by_name=by_name)
    results = evaluate(config, blind=blind)
    kind = "name" if by_name else "content"
    assert results["leaks"] == {"train_run": str(folder), "images_by": kind, **COUNTS}
    assert results["data"]["sample_hashes"]["images"] == 6
    assert "2 of 12 samples are in the training split" in caplog.text


def test_another_adapter_has_the_run_above_it_and_the_base_model_none(
    trained: Train, config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = trained(tmp_path / "other")
    assert evaluate(config, adapter=other / "adapter")["leaks"]["train_run"] == str(other)
    assert evaluate(config, adapter=tmp_path / "copied" / "adapter")["leaks"] is None
    assert evaluate(config)["leaks"] is None  # nothing was trained in output_dir
    trained()
    assert evaluate(config, base=True)["leaks"] is None
    assert "cannot be read" not in caplog.text
    (config.output_dir / "sample_hashes.json").write_text("{}")
    assert evaluate(config)["leaks"] is None
    assert "its SHA-256 is not the one that was recorded" in caplog.text


def test_results_of_other_conditions_are_set_aside_with_their_hashes(trained: Train, config: Config) -> None:
    evaluate(config, limit=4)
    evaluate(config)
    folder = config.output_dir / "evaluation_results" / "test"
    (aside,) = folder.glob("earlier-*")
    assert {path.name for path in aside.iterdir()} >= {"results.json", "sample_hashes.json", "predictions.jsonl"}
    assert (aside / "sample_hashes.json").read_bytes() != (folder / "sample_hashes.json").read_bytes()


# vizsage compare --leaks


@pytest.fixture
def evaluated(trained: Train, config: Config) -> Path:
    """An evaluation that knows of no training, as another group may have made it."""
    evaluate(config)
    return config.output_dir


def compared(capsys: pytest.CaptureFixture[str], *arguments: Path | str) -> dict[str, Any]:
    capsys.readouterr()
    assert cli.main(["compare", *map(str, arguments), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.parametrize("by_name", [False, True])
def test_the_files_of_two_runs_show_the_leak(
    trained: Train, evaluated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], by_name: bool
) -> None:
    train_run = trained(tmp_path / "other", by_name=by_name)
    found = compared(capsys, evaluated, "--leaks", train_run / "run.json")
    (one,) = found["runs"]
    assert found["train_run"] == str(train_run)
    assert {name: one["leaks"][name] for name in COUNTS} == COUNTS
    assert [(each["sample_id"], each["in_training"]) for each in one["samples"]] == [
        ("test-4", ["sample", "image", "question"]),
        ("test-5", ["sample", "image", "question"]),
        ("test-0", ["image"]),
        ("test-1", ["image"]),
        ("test-11", ["question"]),
    ]
    assert cli.main(["compare", str(evaluated), "--leaks", str(train_run)]) == 0
    table = capsys.readouterr().out
    assert "2 of 12" in table
    assert "test-4" in table


def test_results_without_predictions_are_enough_for_the_counts(
    trained: Train, evaluated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = evaluated / "evaluation_results" / "test"
    sent = tmp_path / "sent"
    sent.mkdir()
    for name in ("results.json", "sample_hashes.json"):
        shutil.copy(folder / name, sent)
    (one,) = compared(capsys, sent, "--leaks", trained(tmp_path / "other"))["runs"]
    assert one["leaks"]["samples_in_training"] == 2
    assert one["samples"] is None
    assert cli.main(["compare", str(sent), "--leaks", str(tmp_path / "other")]) == 0
    assert "cannot be named" in capsys.readouterr().out


def remove_facts(path: Path, *names: str) -> None:
    content = json.loads(path.read_text())
    part = content
    for name in names[:-1]:
        part = part[name]
    del part[names[-1]]
    write_json(path, content)


def test_what_is_missing_is_one_line(
    trained: Train,
    evaluated: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, train_run = evaluated / "evaluation_results" / "test", trained(tmp_path / "other")

    def told(run: Path, train: Path) -> tuple[int, str]:
        capsys.readouterr()
        code = cli.main(["compare", str(run), "--leaks", str(train)])
        return code, capsys.readouterr().err

    def expect(code: int, text: str, run: Path = evaluated, train: Path = train_run) -> None:
        found, line = told(run, train)
        assert (found, line.count("\n")) == (code, 1), line
        assert text in line

    expect(2, "no training run there", train=tmp_path)
    expect(2, "no results there", run=tmp_path)
    predictions = (folder / "predictions.jsonl").read_bytes()
    (folder / "predictions.jsonl").write_bytes(b"[]\n")
    expect(3, "predictions.jsonl: cannot be read: a line is no object")
    (folder / "predictions.jsonl").write_bytes(predictions)
    hashes = (folder / "sample_hashes.json").read_text()
    (folder / "sample_hashes.json").write_text(hashes + " ")
    expect(3, "sample_hashes.json: cannot be read: its SHA-256 is not the one that was recorded")
    (folder / "sample_hashes.json").unlink()
    expect(3, "sample_hashes.json: is missing; copy it together with results.json")
    remove_facts(folder / "results.json", "data", "sample_hashes")
    expect(3, "has no hashes of its samples: an earlier version wrote it; evaluate again")
    remove_facts(train_run / "run.json", "sample_hashes")
    expect(3, "has no hashes of its samples: an earlier version wrote it; train with this version")
    (train_run / "run.json").write_text("[]")
    expect(3, "run.json: cannot be read: expected an object")
