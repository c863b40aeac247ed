"""Evaluation: every sample counted once, answers kept and found again, in whatever way a start ended."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import re
import shutil
import signal
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from vizsage.config import Config
from vizsage.errors import CheckpointError, ConfigError, DataError, Interrupted, VizSageError
from vizsage.evaluation import predictions
from vizsage.evaluation.answerer import find_adapter
from vizsage.evaluation.run import evaluate
from vizsage.files import read_jsonl
from vizsage.scoring.metrics import score_row

from .conftest import WHITE, BytesImage, FakeModel, FakeSplit, Stage, make_samples, png


def rows(config: Config, folder: str = "test") -> list[dict[str, Any]]:
    return list(read_jsonl(config.output_dir / "evaluation_results" / folder / "predictions.jsonl"))


def content(config: Config) -> bytes:
    return (config.output_dir / "evaluation_results/test/predictions.jsonl").read_bytes()


def set_aside(config: Config) -> list[Path]:
    return sorted((config.output_dir / "evaluation_results/test").glob("earlier-*"))


def kept(config: Config) -> list[dict[str, Any]]:
    """All answers on disk."""
    files = sorted((config.output_dir / "evaluation_results/test/answers").glob("*.jsonl"))
    return [row for file in files for row in read_jsonl(file)]


@pytest.mark.parametrize("streaming", [False, True])
def test_counts_every_sample(stage: Stage, config: Config, streaming: bool) -> None:
    stage.model.reply = lambda sample: sample.answer if sample.need_external_knowledge else "no"
    config = config.model_copy(update={"use_val_streaming": streaming})
    results = evaluate(config)
    assert results["total_samples"] == 12
    assert results["correct_predictions"] == 4
    group = results["with_external_knowledge"]
    assert (group["samples"], group["images"], group["exact_match_score"]) == (4, 4, 1.0)
    assert group["exact_match_percentage"] == 100.0
    assert group["exact_match_interval"][0] > 0.2
    assert results["without_external_knowledge"]["samples"] == 8
    assert results["by_question_word"].keys() == {"what"}
    assert results["metrics"]["exact_match"] == results["metrics"]["vqa_accuracy"] == 4 / 12
    assert stage.model.calls == ([5, 5, 2] if streaming else [12])
    assert [row["sample_id"] for row in rows(config)] == [f"test-{i}" for i in range(12)]
    saved = json.loads((config.output_dir / "evaluation_results/test/results.json").read_text())
    assert saved == results


def test_streaming_writes_the_same_files(stage: Stage, config: Config, tmp_path: Path) -> None:
    other = config.model_copy(update={"use_val_streaming": True, "output_dir": tmp_path / "other"})
    first, second = evaluate(config), evaluate(other)
    assert content(config) == content(other)
    for results in (first, second):
        del results["finished"], results["throughput"], results["settings"]
    assert first == second


@pytest.mark.parametrize("streaming", [False, True])
def test_nameless_pictures_of_the_same_bytes_are_one_image(stage: Stage, config: Config, streaming: bool) -> None:
    """Counted as an image a question, they would make intervals too short."""
    pictures = {sample.sample_id: png(("red", "blue")[i // 6]) for i, sample in enumerate(make_samples(12))}
    stage.split = FakeSplit(
        [replace(s, image=BytesImage(s.sample_id, pictures[s.sample_id], named=False)) for s in make_samples(12)]
    )
    results = evaluate(config.model_copy(update={"use_val_streaming": streaming}))
    assert (results["total_samples"], results["images"]) == (12, 2)
    assert [row["image"] for row in rows(config)] == ["test-0"] * 6 + ["test-6"] * 6
    assert [row["image_sha256"] for row in rows(config)][5:7] == [
        hashlib.sha256(pictures[name]).hexdigest() for name in ("test-5", "test-6")
    ]


def test_a_name_of_two_pictures_is_warned_of(stage: Stage, config: Config, caplog: pytest.LogCaptureFixture) -> None:
    samples = make_samples(12)
    evaluate(config)
    assert "different pictures" not in caplog.text
    for i in (3, 7):
        samples[i] = replace(samples[i], image=BytesImage(samples[i].image.name, png("red")))
    stage.split = FakeSplit(samples)
    evaluate(config)
    assert "2 image names stand for different pictures, such as 1.png" in caplog.text


def test_a_line_holds_what_was_asked_and_answered(stage: Stage, config: Config) -> None:
    evaluate(config)
    row = rows(config)[3]
    assert re.fullmatch("[0-9a-f]{64}", row.pop("key"))
    assert row.pop("image_sha256") == hashlib.sha256(WHITE).hexdigest()
    assert row == {
        "sample_id": "test-3",
        "image": "1.png",
        "question": "what is 3",
        "answer": "answer 3",
        "answers": ["answer 3"],
        "need_external_knowledge": True,
        "description": None,
        "tags": {},
        "prediction": "answer 3",
        "exact_match": True,
        "scores": dict.fromkeys(("rigorous_match", "token_f1", "vqa_accuracy", "anls", "relaxed_accuracy"), 1),
        "raw_text": "answer 3<end>",
        "token_ids": [ord(c) for c in "answer 3"],
        "finish_reason": "stop",
        "error": None,
    }


def test_any_accepted_answer_is_right(stage: Stage, config: Config) -> None:
    samples = [replace(sample, answers=("two", "dog", "dog")) for sample in make_samples(4)]
    stage.split, stage.model.reply = FakeSplit(samples), lambda sample: "The dog"
    results = evaluate(config)
    assert results["exact_match_score"] == 1.0
    assert results["metrics"]["vqa_accuracy"] == pytest.approx((2 * 1 / 3 + 2 * 2 / 3) / 4)
    assert rows(config)[3]["answers"] == ["two", "dog", "dog", "answer 3"]


def test_results_say_what_was_run(stage: Stage, config: Config) -> None:
    results = evaluate(config, limit=7)
    assert results["schema_version"] == 2
    assert (results["split"], results["limit"], results["mode"], results["knowledge"]) == ("test", 7, "squad", "none")
    assert (results["total_samples"], results["left_out"]) == (7, {"need_external_knowledge": 0})
    assert results["adapter_sha256"] == "aa"
    assert results["throughput"]["answers"] == 7
    assert results["versions"]["vizsage"]
    assert {"generation", "data", "hardware", "seed", "finished", "base_model", "adapter"} <= results.keys()


def test_rigorous_mode(stage: Stage, config: Config) -> None:
    stage.model.reply = lambda sample: sample.answer.upper()
    assert evaluate(config)["exact_match_score"] == 1.0
    results = evaluate(config.model_copy(update={"use_text_normalization": False}))
    assert (results["exact_match_score"], results["mode"]) == (0.0, "rigorous")
    assert not any(row["exact_match"] for row in rows(config))
    assert len(stage.model.asked) == 12  # scored anew, not answered anew


def test_the_base_model_has_a_folder_of_its_own(stage: Stage, config: Config) -> None:
    evaluate(config)
    stage.model.reply = lambda sample: "no"
    assert evaluate(config, base=True)["adapter"] is None
    assert rows(config)[0]["prediction"] == "answer 0"
    assert rows(config, "test-base")[0]["prediction"] == "no"


def test_left_out_samples_are_said(stage: Stage, config: Config, caplog: pytest.LogCaptureFixture) -> None:
    stage.split = FakeSplit(make_samples(4), left_out=3)
    with caplog.at_level("INFO", "vizsage"):
        results = evaluate(config)
    assert results["left_out"] == {"need_external_knowledge": 3}
    assert "3 of 7 samples need external knowledge" in caplog.text


# --- failures --------------------------------------------------------------------------------------------------------


def test_failed_records_are_null_scored_0_and_retried(stage: Stage, config: Config) -> None:
    samples = make_samples(200)
    samples[7] = replace(samples[7], answer="the", answers=())  # normalises to the empty string
    stage.split = FakeSplit(samples)
    stage.model.reply = lambda sample: None if sample.sample_id in ("test-7", "test-8") else sample.answer
    results = evaluate(config)  # 2 of 200 is 1%, not more
    assert (results["correct_predictions"], results["failed_predictions"]) == (198, 2)
    failed = [row for row in rows(config) if row["prediction"] is None]
    assert [(row["sample_id"], row["exact_match"], row["error"]) for row in failed] == [
        ("test-7", False, "it broke"),
        ("test-8", False, "it broke"),
    ]
    stage.model = FakeModel()
    assert evaluate(config)["correct_predictions"] == 200
    assert sorted(stage.model.asked) == ["test-7", "test-8"]


def test_more_than_one_percent_failed(stage: Stage, config: Config) -> None:
    stage.split = FakeSplit(make_samples(200))
    stage.model.reply = lambda sample: None if sample.sample_id in ("test-7", "test-8", "test-9") else sample.answer
    with pytest.raises(VizSageError, match="3 of 200 records failed") as error:
        evaluate(config)
    assert error.value.exit_code == 1
    saved = json.loads((config.output_dir / "evaluation_results/test/results.json").read_text())
    assert (saved["failed_predictions"], saved["correct_predictions"]) == (3, 197)


def test_a_sample_the_backend_forgets_is_a_failed_record(stage: Stage, config: Config, monkeypatch: Any) -> None:
    def forgetful(batches: Any) -> Any:
        for answers in FakeModel().answer(batches):
            yield [answer for answer in answers if answer.sample_id != "test-0"]

    stage.split = FakeSplit(make_samples(100))
    monkeypatch.setattr(stage.model, "answer", forgetful)
    results = evaluate(config)
    assert (results["total_samples"], results["failed_predictions"]) == (100, 1)
    assert rows(config)[0]["error"]


@pytest.mark.parametrize("on_bad_image", ["fail", "skip"])
def test_a_bad_image(stage: Stage, config: Config, on_bad_image: str) -> None:
    samples = make_samples(200)
    samples[5] = replace(samples[5], image=BytesImage("bad.png", b"no picture"))
    stage.split = FakeSplit(samples)
    stage.model.reply = lambda sample: None if sample.image.name == "bad.png" else sample.answer
    config = config.model_copy(update={"on_bad_image": on_bad_image})
    if on_bad_image == "skip":
        assert evaluate(config)["failed_predictions"] == 1
    else:
        with pytest.raises(DataError, match=r"bad\.png"):
            evaluate(config)


def test_many_cut_answers_are_warned_of(stage: Stage, config: Config, caplog: pytest.LogCaptureFixture) -> None:
    stage.model.finish_reason = "length"
    results = evaluate(config)
    assert results["truncated_predictions"] == 12
    assert "12 of 12 answers were cut at max_new_tokens: 64" in caplog.text


# --- continuing ------------------------------------------------------------------------------------------------------


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
        {"adapter_sha256": "aa", "generation": {"num_beams": 1}, "precision": "bfloat16"},
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
    """Nobody shall take the results of an earlier adapter for those to come."""
    evaluate(config)
    stage.made_by = {"adapter_sha256": "bb", "generation": {"num_beams": 1}}
    stage.model = FakeModel(before=lambda asked: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted):
        evaluate(config)
    folder = config.output_dir / "evaluation_results/test"
    assert [path.name for path in folder.iterdir() if path.is_file()] == []


@pytest.mark.parametrize("damage", ["{", "[]"])
def test_a_damaged_results_file_is_set_aside(stage: Stage, config: Config, damage: str) -> None:
    first = evaluate(config)
    (config.output_dir / "evaluation_results/test/results.json").write_text(damage)
    stage.model = FakeModel()
    assert evaluate(config)["correct_predictions"] == first["correct_predictions"]
    assert stage.model.asked == []
    assert len(set_aside(config)) == 1


def test_two_evaluations_at_once_do_not_write_into_one_file(
    stage: Stage, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second begins when the first one is in the middle of its predictions."""
    evaluate(config)
    whole, scored = content(config), []

    def interleaved(row: dict[str, Any], *, normalise: bool) -> dict[str, Any]:
        scored.append(row)
        if len(scored) == 6:
            evaluate(config)
            assert content(config) == whole
        return score_row(row, normalise=normalise)

    monkeypatch.setattr(predictions, "score_row", interleaved)
    evaluate(config)
    assert content(config) == whole
    folder = config.output_dir / "evaluation_results/test"
    assert not [path.name for path in folder.iterdir() if path.name.endswith(".tmp")]


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
    # Sample 10 has another picture of this name, as embedded ones may.
    samples[11] = replace(samples[11], image=BytesImage("5.png", png("red")))
    stage.split, stage.model = FakeSplit(samples), FakeModel(reply=lambda sample: "new")
    results = evaluate(config)
    assert sorted(stage.model.asked) == ["test-1", "test-11", "test-3"]
    assert results["correct_predictions"] == 12 - 4
    assert rows(config)[2]["answer"] == "other"
    assert results["data"]["sha256"] != first["data"]["sha256"]

    stage.split, stage.model = FakeSplit(make_samples(12)), FakeModel()  # the old data again: the old answers again
    assert evaluate(config)["data"] == first["data"]
    assert stage.model.asked == []


def test_a_smaller_limit_loses_no_answer(stage: Stage, config: Config) -> None:
    evaluate(config)
    whole = content(config)
    stage.model = FakeModel()
    assert evaluate(config, limit=5)["total_samples"] == 5
    assert [row["sample_id"] for row in rows(config)] == [f"test-{i}" for i in range(5)]
    assert evaluate(config, limit=500)["total_samples"] == 12
    assert stage.model.asked == []
    assert content(config) == whole


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


# --- what a user may get wrong ---------------------------------------------------------------------------------------


def test_limit_below_one(stage: Stage, config: Config) -> None:
    with pytest.raises(ConfigError, match="limit"):
        evaluate(config, limit=0)


def test_no_adapter(config: Config, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"vizsage-adapter: no adapter there") as error:
        find_adapter(config)
    assert error.value.exit_code == 3
    assert find_adapter(config, base=True) is None
    with pytest.raises(ConfigError, match="base model"):
        find_adapter(config, base=True, adapter=tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    assert find_adapter(config, adapter=tmp_path) == tmp_path


def test_output_dir_that_cannot_be_written_to(stage: Stage, config: Config, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="output_dir"):
        evaluate(config.model_copy(update={"output_dir": tmp_path / "file" / "out"}))
    assert stage.model.asked == []


def test_shows_tables(stage: Stage, config: Config) -> None:
    stage.model.reply = lambda sample: "[red]no"
    output = StringIO()
    evaluate(config.model_copy(update={"debug_exact_match": True}), console=Console(file=output, width=160))
    text = output.getvalue()
    for expected in ("Comparisons", "Samples", "Wrong answers (12)", "Exact match (SQuAD) on test", "[red]no"):
        assert expected in text


def test_only_tables_are_on_stdout(stage: Stage, config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    stage.model.before = lambda asked: os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(Interrupted):
        evaluate(config, console=Console())
    assert capsys.readouterr().out == ""
    stage.model = FakeModel()
    evaluate(config, console=Console())
    assert capsys.readouterr().out.startswith("Samples")
