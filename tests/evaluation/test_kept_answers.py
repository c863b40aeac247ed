"""Answers kept and found again, in whatever way a start ended, and nothing that is no longer true."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vizsage.config import Config
from vizsage.errors import FolderInUse, Interrupted
from vizsage.evaluation import predictions
from vizsage.evaluation.evaluate import evaluate
from vizsage.scoring.registry import score_row

from .conftest import BytesImage, FakeModel, FakeSplit, Stage, content, kept, make_samples, png, rows, set_aside


def test_a_second_start_asks_nothing_again(stage: Stage, config: Config) -> None:
    first = evaluate(config)
    before = content(config)
    stage.model = FakeModel()
    second = evaluate(config)
    assert stage.model.asked == []
    assert content(config) == before
    assert second["throughput"]["answers"] == first["throughput"]["answers"] == 12
    assert second["correct_predictions"] == 12


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2"])
def test_a_signal_keeps_the_answers(stage: Stage, config: Config, tmp_path: Path, name: str, streaming: bool) -> None:
    def interrupt(asked: int) -> None:
        if asked == 3:
            os.kill(os.getpid(), getattr(signal, name))

    config = config.model_copy(update={"use_val_streaming": streaming})
    stage.model.before = interrupt
    with pytest.raises(Interrupted, match=name) as error:
        evaluate(config)
    assert error.value.exit_code == 75
    assert len(kept(config)) == 4  # the batch under way is finished
    assert not (config.output_dir / "evaluation_results/test/results.json").exists()

    first = stage.model.asked
    stage.model = FakeModel()
    results = evaluate(config)
    assert first
    assert not set(first) & set(stage.model.asked)
    assert results["total_samples"] == 12
    whole = config.model_copy(update={"output_dir": tmp_path / "whole"})
    evaluate(whole)
    assert content(config) == content(whole)


def test_a_question_that_stands_twice_is_asked_once(stage: Stage, config: Config, tmp_path: Path) -> None:
    """Sampled answers to it would differ, and which one is kept would depend on where the evaluation was killed."""
    samples = make_samples(12)
    samples[11] = replace(samples[0], sample_id="test-11", answer="other", answers=())
    stage.split, sampled = FakeSplit(samples), FakeModel(reply=lambda sample: f"as {sample.sample_id} says")
    stage.model = replace(sampled, asked=[], before=lambda asked: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted):
        evaluate(config)
    stage.model = replace(sampled, asked=[])
    assert evaluate(config)["total_samples"] == 12
    assert sorted(stage.model.asked) == sorted(f"test-{i}" for i in range(1, 8))
    whole = config.model_copy(update={"output_dir": tmp_path / "whole"})
    stage.model = replace(sampled, asked=[])
    assert evaluate(whole)["total_samples"] == 12
    assert len(stage.model.asked) == 11
    assert content(config) == content(whole)
    assert rows(config)[0]["prediction"] == rows(config)[11]["prediction"] == "as test-11 says"


@pytest.mark.parametrize("asked", [0, 1, 4, 6, 11])
def test_sigkill_on_the_way(stage: Stage, config: Config, tmp_path: Path, asked: int) -> None:
    def die(count: int) -> None:
        if count == asked:
            os.kill(os.getpid(), signal.SIGKILL)

    stage.model.before = die
    child = multiprocessing.get_context("fork").Process(target=evaluate, args=(config,))
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    stage.model = FakeModel()
    results = evaluate(config)
    assert results["total_samples"] == results["correct_predictions"] == 12
    assert len(stage.model.asked) == 12 - asked // 4 * 4  # whole batches of 4 are on disk
    whole = config.model_copy(update={"output_dir": tmp_path / "whole"})
    evaluate(whole)
    assert content(config) == content(whole)


def test_a_kill_in_the_middle_of_a_line(stage: Stage, config: Config, tmp_path: Path) -> None:
    """SIGKILL leaves whatever was written; a torn last line is answered again, the rest is kept."""
    evaluate(config)
    whole = content(config)
    folder = config.output_dir / "evaluation_results/test"
    [file] = (folder / "answers").iterdir()
    lines = file.read_bytes()
    for cut in (0, 1, len(lines) // 2, len(lines) - 1):
        killed = config.model_copy(update={"output_dir": tmp_path / f"killed-{cut}"})
        shutil.copytree(folder, killed.output_dir / "evaluation_results/test")
        (killed.output_dir / "evaluation_results/test/answers" / file.name).write_bytes(lines[:cut])
        stage.model = FakeModel()
        assert evaluate(killed)["total_samples"] == 12
        assert len(stage.model.asked) == 12 - lines[:cut].count(b"\n")
        assert content(killed) == whole


@pytest.mark.parametrize(
    "damage",
    [
        b'{"key": "abc"',
        b"\0\0",
        b"\xff",
        b"[1]",
        b"null",
        b'{"key": [], "prediction": "a"}',
        b'{"key": "a", "prediction": 5}',
    ],
)
def test_a_damaged_line_is_answered_again(stage: Stage, config: Config, damage: bytes) -> None:
    evaluate(config)
    whole = content(config)
    [file] = (config.output_dir / "evaluation_results/test/answers").iterdir()
    lines = file.read_bytes().splitlines(keepends=True)
    lines[4] = damage + b"\n"
    file.write_bytes(b"".join(lines))
    stage.model = FakeModel()
    evaluate(config)
    assert len(stage.model.asked) == 1
    assert content(config) == whole


@pytest.mark.parametrize(
    "made_by",
    [
        {"adapter_sha256": "bb", "generation": {"num_beams": 1}},
        {"adapter_sha256": "aa", "generation": {"num_beams": 2}},
        {"adapter_sha256": "aa", "generation": {"num_beams": 1}, "precision": {"dtype": "bfloat16"}},
    ],
)
def test_results_of_another_model_are_set_aside_and_its_answers_kept(
    stage: Stage, config: Config, caplog: pytest.LogCaptureFixture, made_by: dict[str, Any]
) -> None:
    evaluate(config)
    before = content(config)
    stage.made_by, stage.model = made_by, FakeModel(reply=lambda sample: "new")
    results = evaluate(config)
    assert len(stage.model.asked) == 12
    assert results["correct_predictions"] == 0
    assert results["throughput"]["answers"] == 12
    [aside] = set_aside(config)
    assert (aside / "predictions.jsonl").read_bytes() == before
    assert (aside / "results.json").exists()
    assert aside.name in caplog.text

    stage.made_by, stage.model = {"adapter_sha256": "aa", "generation": {"num_beams": 1}}, FakeModel()
    evaluate(config)  # the first model again: its answers are still true
    assert stage.model.asked == []
    assert content(config) == before


def test_results_are_gone_while_another_model_answers(stage: Stage, config: Config) -> None:
    """The results of an earlier adapter must not be mistaken for the new ones."""
    evaluate(config)
    stage.made_by = {"adapter_sha256": "bb", "generation": {"num_beams": 1}}
    stage.model = FakeModel(before=lambda asked: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted):
        evaluate(config)
    folder = config.output_dir / "evaluation_results/test"
    assert [path.name for path in folder.iterdir() if path.is_file()] == [".lock"]


@pytest.mark.parametrize("damage", ["{", "[]"])
def test_a_damaged_results_file_is_set_aside(stage: Stage, config: Config, damage: str) -> None:
    first = evaluate(config)
    (config.output_dir / "evaluation_results/test/results.json").write_text(damage)
    stage.model = FakeModel()
    assert evaluate(config)["correct_predictions"] == first["correct_predictions"]
    assert stage.model.asked == []
    assert len(set_aside(config)) == 1


@pytest.mark.parametrize("while_writing", [False, True])
def test_a_second_evaluation_in_the_folder_is_refused(
    stage: Stage, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, while_writing: bool
) -> None:
    """It would replace what the first one writes, which then ends as a success without results."""
    whole = config.model_copy(update={"output_dir": tmp_path / "whole"})
    evaluate(whole)
    refusals: list[str] = []

    def second(*_: Any, **__: Any) -> None:
        other = multiprocessing.get_context("fork")
        told = other.SimpleQueue()

        def run() -> None:
            try:
                evaluate(config, limit=4)
                told.put("not refused")
            except FolderInUse as error:
                told.put(f"{error.exit_code}: {error}")

        process = other.Process(target=run)
        process.start()
        refusals.append(told.get())
        process.join(60)

    def scored(row: dict[str, Any], *, normalise: bool) -> dict[str, Any]:
        if not refusals:
            second()
        return score_row(row, normalise=normalise)

    if while_writing:
        monkeypatch.setattr(predictions, "score_row", scored)
    else:
        stage.model = FakeModel(before=lambda asked: second() if asked == 5 else None)
    assert evaluate(config)["total_samples"] == 12
    assert content(config) == content(whole)
    [refusal] = refusals
    folder = config.output_dir / "evaluation_results/test"
    assert refusal.startswith(
        f"2: {folder}: process {os.getpid()} on host {socket.gethostname()} has been evaluating since 20"
    )
    assert set_aside(config) == []
    assert not [path.name for path in folder.iterdir() if path.name.startswith(".") and path.name != ".lock"]


def test_what_a_killed_evaluation_left_is_deleted(
    stage: Stage, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half_written() -> list[str]:
        folder = config.output_dir / "evaluation_results/test"
        return [path.name for path in folder.iterdir() if path.name.startswith(".") and path.name != ".lock"]

    with monkeypatch.context() as patch:
        patch.setattr(predictions, "score_row", lambda *_, **__: os._exit(9))
        process = multiprocessing.get_context("fork").Process(target=evaluate, args=(config,))
        process.start()
        process.join(60)
    assert process.exitcode == 9
    assert len(half_written()) == 1
    evaluate(config)
    assert half_written() == []


def test_a_fresh_start(stage: Stage, config: Config) -> None:
    evaluate(config)
    stage.model = FakeModel()
    evaluate(config, fresh=True)
    assert len(stage.model.asked) == 12
    [aside] = set_aside(config)
    assert aside.name.endswith("-answers")


def test_only_what_changed_in_the_data_is_answered_again(stage: Stage, config: Config) -> None:
    first = evaluate(config)
    samples = make_samples(12)
    samples[1] = replace(samples[1], question="what else")
    samples[2] = replace(
        samples[2], answer="other", answers=()
    )  # the answer is not shown to the model: scored again only
    samples[3] = replace(samples[3], description="a long story")
    # Sample 10 has another image of this name, as embedded ones may.
    samples[11] = replace(samples[11], images=(BytesImage("5.png", png("red")),))
    stage.split, stage.model = FakeSplit(samples), FakeModel(reply=lambda sample: "new")
    results = evaluate(config)
    assert sorted(stage.model.asked) == ["test-1", "test-11", "test-3"]
    assert results["correct_predictions"] == 12 - 4
    assert rows(config)[2]["answer"] == "other"
    assert results["data"]["sha256"] != first["data"]["sha256"]

    stage.split, stage.model = FakeSplit(make_samples(12)), FakeModel()  # the old data again: the old answers again
    assert evaluate(config)["data"] == first["data"]
    assert stage.model.asked == []


@pytest.mark.parametrize("named", ["limit", "mode", "data.sha256", "knowledge", "data.descriptions_sha256"])
def test_results_of_other_conditions_are_set_aside_and_no_answer_is_lost(
    stage: Stage, config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture, named: str
) -> None:
    """A finished evaluation is never replaced by one that cannot be compared with it."""
    first = evaluate(config)
    whole = content(config)
    samples, limit, changes = make_samples(12), None, dict[str, Any]()
    if named == "limit":
        limit = 5
    elif named == "mode":
        changes = {"use_text_normalization": False}
    elif named == "knowledge":
        changes = {"external_knowledge": True, "external_knowledge_path": tmp_path, "model_name": "a"}
    elif named == "data.sha256":
        samples[2] = replace(samples[2], answer="other", answers=())
    else:
        samples[2] = replace(samples[2], description="found elsewhere")
    stage.split = FakeSplit(samples)
    assert evaluate(config.model_copy(update=changes), limit=limit)["total_samples"] == limit or 12
    [aside] = set_aside(config)
    assert (aside / "predictions.jsonl").read_bytes() == whole
    assert json.loads((aside / "results.json").read_text()) == first
    assert f"set aside in {aside.name}: they have another " in caplog.text
    assert named in caplog.text.split("they have another ")[1]

    stage.split, stage.model = FakeSplit(make_samples(12)), FakeModel()  # the first one again: its answers are used
    assert evaluate(config)["data"] == first["data"]
    assert stage.model.asked == []
    assert content(config) == whole
    assert len(set_aside(config)) == 2


def test_the_same_evaluation_again_sets_nothing_aside(stage: Stage, config: Config) -> None:
    evaluate(config, limit=5)
    evaluate(config.model_copy(update={"eval_batch_size": 2, "seed": 1}), limit=5)
    assert set_aside(config) == []


def test_an_error_on_the_way_keeps_the_answers(stage: Stage, config: Config) -> None:
    def crash(asked: int) -> None:
        if asked == 6:
            raise RuntimeError("CUDA error")

    stage.model.before = crash
    with pytest.raises(RuntimeError, match="CUDA error"):
        evaluate(config)
    assert len(kept(config)) == 4  # those of the batch before
    stage.model = FakeModel()
    evaluate(config)
    assert len(stage.model.asked) == 8
