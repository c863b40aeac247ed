"""Evaluation: every sample counted once, failures reported, results that contain what was run."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from vizsage.config import Config
from vizsage.errors import CheckpointError, ConfigError, DataError, Interrupted, VizSageError
from vizsage.evaluation.answerer import find_adapter
from vizsage.evaluation.evaluate import evaluate
from vizsage.scoring.normalisation import Normalise

from .conftest import WHITE, BytesImage, FakeModel, FakeSplit, Stage, content, make_samples, png, rows


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
def test_nameless_images_of_the_same_bytes_are_one_image(stage: Stage, config: Config, streaming: bool) -> None:
    """Counted as one image per question, they would make intervals too short."""
    images = {sample.sample_id: png(("red", "blue")[i // 6]) for i, sample in enumerate(make_samples(12))}
    stage.split = FakeSplit(
        [replace(s, images=(BytesImage(s.sample_id, images[s.sample_id], named=False),)) for s in make_samples(12)]
    )
    results = evaluate(config.model_copy(update={"use_val_streaming": streaming}))
    assert (results["total_samples"], results["images"]) == (12, 2)
    assert [row["image"] for row in rows(config)] == ["test-0"] * 6 + ["test-6"] * 6
    assert [row["image_sha256"] for row in rows(config)][5:7] == [
        hashlib.sha256(images[name]).hexdigest() for name in ("test-5", "test-6")
    ]


def test_a_name_of_two_images_is_warned_of(stage: Stage, config: Config, caplog: pytest.LogCaptureFixture) -> None:
    samples = make_samples(12)
    evaluate(config)
    assert "different images" not in caplog.text
    for i in (3, 7):
        samples[i] = replace(samples[i], images=(BytesImage(samples[i].images[0].name, png("red")),))
    stage.split = FakeSplit(samples)
    evaluate(config)
    assert "2 image names are those of several different images, such as 1.png" in caplog.text


def test_a_line_holds_what_was_asked_and_answered(stage: Stage, config: Config) -> None:
    evaluate(config)
    row = rows(config)[3]
    assert re.fullmatch("[0-9a-f]{64}", row.pop("key"))
    assert set(row.pop("scores").values()) == {1}
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
    assert results["metrics"]["vqa_accuracy"] == pytest.approx((1 / 2 + 1 / 2 + 1) / 3)  # of three, the two others
    assert rows(config)[3]["answers"] == ["two", "dog", "dog"]


@pytest.mark.parametrize("normalise", [True, "light"])
def test_an_empty_prediction_is_not_silently_right(
    stage: Stage, config: Config, caplog: Any, normalise: Normalise
) -> None:
    """Multiple choice: SQuAD's normalisation takes "A" for an article."""
    stage.split = FakeSplit([replace(s, answer="ABCD"[i], answers=()) for i, s in enumerate(make_samples(4))])
    stage.model.reply = lambda sample: ""
    results = evaluate(config.model_copy(update={"use_text_normalization": normalise}))
    squad = normalise is True
    assert (results["mode"], results["correct_predictions"]) == (("squad", 1) if squad else ("light", 0))
    assert results["normalisation"]["emptied"] == {"samples": 1, "affected": 1}
    said = "1 of 4 samples accept an answer of which SQuAD's normalisation leaves nothing"
    page = (config.output_dir / "evaluation_results/test/report.html").read_text(encoding="utf-8")
    assert (said in caplog.text) == (said in page.replace("&#39;", "'")) == squad


def test_results_say_what_was_run(stage: Stage, config: Config) -> None:
    results = evaluate(config, limit=7)
    assert results["schema_version"] == 3
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
    assert len(stage.model.asked) == 12  # scored again, not answered again


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
    samples[5] = replace(samples[5], images=(BytesImage("bad.png", b"no image"),))
    stage.split = FakeSplit(samples)
    stage.model.reply = lambda sample: None if sample.images[0].name == "bad.png" else sample.answer
    config = config.model_copy(update={"on_bad_image": on_bad_image})
    if on_bad_image == "skip":
        assert evaluate(config)["failed_predictions"] == 1
    else:
        with pytest.raises(DataError, match=r"bad\.png"):
            evaluate(config)


@pytest.mark.parametrize("damage", ["{", '{"schema_version": 1}'])
def test_an_unusable_evaluation_beside_it_is_a_warning(
    stage: Stage, config: Config, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    blind = config.output_dir / "evaluation_results/test-blind"
    blind.mkdir(parents=True)
    (blind / "results.json").write_text(damage)
    assert evaluate(config)["correct_predictions"] == 12
    assert f"{blind / 'results.json'}: " in caplog.text


def test_a_report_beside_it_that_cannot_be_written_is_a_warning(
    stage: Stage, config: Config, caplog: pytest.LogCaptureFixture
) -> None:
    evaluate(config, blind=True)
    report = config.output_dir / "evaluation_results/test-blind/report.html"
    report.unlink()
    report.mkdir()  # as another user's, which must not be replaced
    assert evaluate(config)["correct_predictions"] == 12
    assert f"{report}: not written again: " in caplog.text


def test_many_cut_answers_are_warned_of(stage: Stage, config: Config, caplog: pytest.LogCaptureFixture) -> None:
    stage.model.finish_reason = "length"
    results = evaluate(config)
    assert results["truncated_predictions"] == 12
    assert "12 of 12 answers were cut at max_new_tokens: 64" in caplog.text


# --- what a user may get wrong ---------------------------------------------------------------------------------------


def test_limit_below_one(stage: Stage, config: Config) -> None:
    with pytest.raises(ConfigError, match="limit"):
        evaluate(config, limit=0)


def test_half_of_a_group_is_refused_at_once(stage: Stage, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="RANK=0 WORLD_SIZE=2 LOCAL_RANK=0: MASTER_ADDR, MASTER_PORT missing"):
        evaluate(config)


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
