"""An evaluation is logged to a real W&B run, offline, in the training's run, and to TensorBoard's files."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.evaluation.report_run import answered, make_results, make_row, write_run
from tests.event_files import read_scalars, read_texts
from vizsage.config import Config
from vizsage.contract.results_file import ResultsFile, read_results
from vizsage.evaluation.report import tracked_results
from vizsage.evaluation.report.report_file import write_report
from vizsage.evaluation.report.tracked_results import markdown_summary, summary_numbers, tracked_evaluation
from vizsage.files import write_json
from vizsage.tracking.trackers import Trackers


@pytest.fixture(autouse=True)
def forget_settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """W&B reads its environment once per process."""
    import wandb

    monkeypatch.setenv("WANDB_MODE", "offline")
    wandb.teardown()
    yield
    wandb.teardown()


@pytest.fixture
def config(write_data: Callable[..., Path], tmp_path: Path) -> Config:
    return Config(base_path=write_data(), output_dir=tmp_path / "out", use_wandb=True)


def evaluated(config: Config, name: str = "test") -> tuple[ResultsFile, Path]:
    rows = answered(config, lambda row: "grey")
    folder = write_run(config.output_dir / "evaluation_results" / name, rows, config)
    write_report(folder)
    return read_results(folder), folder


def log_evaluation(config: Config, results: ResultsFile, folder: Path) -> str:
    """Log it; the id of the W&B run."""
    Trackers(config).log_evaluation(tracked_evaluation(config, results, folder))
    return (config.output_dir / "wandb" / "vizsage-run-id").read_text().strip()


def logged(config: Config, run_id: str) -> dict[str, Any]:
    """What the offline files of the run hold: history lines and summary, by name."""
    import wandb
    from wandb.proto import wandb_internal_pb2

    wandb.teardown()  # as the end of a process does: only then are the files sure to be whole
    found: dict[str, Any] = {}
    for path in (config.output_dir / "wandb").glob(f"offline-run-*-{run_id}/*.wandb"):
        for data in records(path.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            for item in [*record.history.item, *record.summary.update]:
                found["/".join(item.nested_key) or item.key] = json.loads(item.value_json)
    return found


def artifact_images(config: Config, run_id: str) -> set[str]:
    """The images that go with the table."""
    from wandb.proto import wandb_internal_pb2

    [path] = (config.output_dir / "wandb").glob(f"offline-run-*-{run_id}/*.wandb")
    found = map(wandb_internal_pb2.Record.FromString, records(path.read_bytes()))
    return {file.path for record in found for file in record.artifact.manifest.contents if "/images/" in file.path}


def records(content: bytes) -> Iterator[bytes]:
    """The records of a .wandb file: a log as LevelDB writes it (doc/log_format.md there) behind 7 bytes of W&B.

    Blocks of 32 KiB hold pieces: checksum (4 bytes), length (2), whether it is whole (1), first, middle or last (4).
    """
    position, record = 7, b""
    while position + 7 <= len(content):
        if (left := 32768 - position % 32768) < 7:
            position += left
            continue
        length, kind = struct.unpack_from("<HB", content, position + 4)
        record += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):
            yield record
            record = b""


def table(config: Config, run_id: str) -> dict[str, Any]:
    """The table of the evaluation in folder test."""
    [folder] = (config.output_dir / "wandb").glob(f"offline-run-*-{run_id}/files")
    content: dict[str, Any] = json.loads((folder / logged(config, run_id)["test/table/path"]).read_text())
    return content


def test_numbers_table_images_and_report_are_logged_under_the_folders_name(config: Config) -> None:
    results, folder = evaluated(config)
    run_id = log_evaluation(config, results, folder)
    found = logged(config, run_id)
    assert found["test/exact_match"] == results.exact_match_score == 1.0
    assert found["test/without_external_knowledge/samples"] == 3
    rows = table(config, run_id)
    assert rows["columns"] == tracked_results.COLUMNS
    assert [row[3] for row in rows["data"]] == ["what colour is it"] * 3
    assert [row[6] for row in rows["data"]] == ["right"] * 3
    assert [row[0] for row in rows["data"]] == ["Image"] * 3
    assert artifact_images(config, run_id)
    assert found["test/report/_type"] == "html-file"


def test_the_run_is_that_of_the_training(config: Config) -> None:
    write_json(config.output_dir / "run.json", {"wandb_run_id": "abcd1234"})
    assert log_evaluation(config, *evaluated(config)) == "abcd1234"
    assert "test/exact_match" in logged(config, "abcd1234")


def test_evaluations_without_a_training_share_a_run(config: Config) -> None:
    first = log_evaluation(config, *evaluated(config, "test-base"))
    time.sleep(1.1)  # W&B names its folders by the second
    assert log_evaluation(config, *evaluated(config, "val-base")) == first
    assert {"test-base/exact_match", "val-base/exact_match"} <= logged(config, first).keys()


def test_nothing_is_logged_unless_asked_for(config: Config) -> None:
    results, folder = evaluated(config)
    Trackers(config.model_copy(update={"use_wandb": False})).log_evaluation(tracked_evaluation(config, results, folder))
    assert not (config.output_dir / "wandb").exists()


def test_a_long_table_is_cut_with_a_warning(
    config: Config, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tracked_results, "MOST_ROWS", 2)
    results, folder = evaluated(config)
    run_id = log_evaluation(config, results, folder)
    assert "first 2 of 3 samples" in caplog.text
    assert len(table(config, run_id)["data"]) == 2


def test_missing_data_and_a_missing_report_are_warnings(config: Config, caplog: pytest.LogCaptureFixture) -> None:
    results, folder = evaluated(config)
    (folder / "report.html").unlink()
    (config.split_dir / "test.json").unlink()
    run_id = log_evaluation(config, results, folder)
    assert "lacks images" in caplog.text
    assert "without the report" in caplog.text
    assert table(config, run_id)["data"][0][0] is None


def test_a_image_that_is_broken_leaves_the_others(config: Config, caplog: pytest.LogCaptureFixture) -> None:
    (config.images_dir / "test-0.png").write_bytes(b"no image")
    results, folder = evaluated(config)
    run_id = log_evaluation(config, results, folder)
    assert [row[0] for row in table(config, run_id)["data"]] == [None, "Image", "Image"]


def test_a_full_disk_is_a_warning(
    config: Config, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tracked_results, "thumbnails", full)
    run_id = log_evaluation(config, *evaluated(config))
    assert "W&B failed ([Errno 28] No space left on device); without the table" in caplog.text
    assert logged(config, run_id)["test/exact_match"] == 1.0


def test_numbers_that_do_not_exist_are_left_out() -> None:
    numbers = summary_numbers(ResultsFile.model_validate(make_results([make_row()])))
    assert numbers["exact_match"] == 1.0
    assert "with_external_knowledge/exact_match" not in numbers
    assert "exact_match_low" not in numbers


def test_tensorboard_gets_numbers_and_a_summary_at_the_step_of_the_adapter(config: Config) -> None:
    write_json(config.output_dir / "run.json", {"best_step": 40})
    config = config.model_copy(update={"use_wandb": False, "trackers": ("tensorboard",)})
    rows = answered(config, lambda row: "grey")
    for name, adapter in (("test", str(config.adapter_dir)), ("test-base", None)):
        folder = write_run(config.output_dir / "evaluation_results" / name, rows, config, adapter=adapter)
        results = read_results(folder)
        Trackers(config).log_evaluation(tracked_evaluation(config, results, folder))
    assert results.exact_match_interval is not None
    low = results.exact_match_interval[0]
    for name, step in (("test", 40), ("test-base", 0)):
        found = read_scalars(config.output_dir / "tensorboard" / name)
        assert found["evaluation/exact_match"] == [(step, 1.0)]
        assert found["evaluation/exact_match_low"] == [(step, pytest.approx(low))]
    text = read_texts(config.output_dir / "tensorboard" / "test")["evaluation"]
    assert text.startswith("3 samples of the split test, answered by the adapter.")
    assert f"| exact match | 1.0000 | {low:.4f} to 1.0000 | 3 |" in text
    assert not (config.output_dir / "wandb").exists()


def test_the_summary_names_groups_only_where_there_are_two() -> None:
    knowing = make_row(sample_id="test-1", need_external_knowledge=True)
    for rows, named in (([make_row()], False), ([make_row(), knowing], True)):
        text = markdown_summary(ResultsFile.model_validate(make_results(rows)))
        assert ("exact match, with external knowledge" in text) is named
