from __future__ import annotations

import io
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from tests.families import BUILDERS
from vizsage.check import check, model_fit, quick_check
from vizsage.config import Config, build_config
from vizsage.data.survey import Survey, decode_images, survey_splits
from vizsage.errors import CheckpointError, ConfigError, DataError

WriteData = Callable[..., Path]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return BUILDERS["mllama"](tmp_path_factory.mktemp("models") / "mllama")


def settings(base: Path, model: Path | str = "nobody/nothing", **more: Any) -> Config:
    values = {"base_path": str(base), "output_dir": str(base.parent / "run"), "model_name": str(model), "num_proc": 0}
    return build_config({**values, "load_in_4bit": False, **more})


def report(config: Config, *, decode: bool = True) -> tuple[str, Exception | None]:
    """What `check` shows, and what it raises."""
    console = Console(file=io.StringIO(), width=300)
    try:
        check(config, console=console, decode=decode)
    except (ConfigError, DataError, CheckpointError) as error:
        return console.file.getvalue(), error  # type: ignore[attr-defined]
    return console.file.getvalue(), None  # type: ignore[attr-defined]


def test_a_sound_run_passes_and_nothing_is_written(write_data: WriteData, model: Path) -> None:
    base = write_data()
    text, error = report(settings(base, model))
    assert error is None
    assert "Nothing found that would stop a run." in text
    for line in ("train │       3 │      3 │", "val   │       3 │", "test  │       3 │"):
        assert line in text
    assert "tokens of max_seq_length 2048" in text
    assert "GiB free, about" in text
    assert not (base.parent / "run").exists()


def test_answers_that_normalisation_empties_or_changes_are_warned_of(write_data: WriteData, caplog: Any) -> None:
    answers = {
        "which": "A",
        "how high": "1.5",
        "where": "Cafe\u0301",
        "when": "1914-1918",
        "how many": "1,000",
        "who": "B",
    }
    base = write_data(train=[{"image": "a.png", "question": asked, "answer": said} for asked, said in answers.items()])
    text, error = report(settings(base), decode=False)
    assert error is None
    for said in (
        "warning: answers of which SQuAD's normalisation leaves nothing, so that an empty prediction is right; "
        "use_text_normalization: light keeps them (1)\n  train: a.png: which: 'A' becomes ''",
        "light keeps them (1)\n  train: a.png: how high: '1.5' becomes '15'",
        "(1)\n  train: a.png: where: 'Cafe",
    ):
        assert said in text
    quick_check(settings(base))
    assert "SQuAD's normalisation leaves nothing" in caplog.text
    text, error = report(settings(base, use_text_normalization="light"), decode=False)
    assert (error, "warning" in text) == (None, False)


def test_missing_val_and_test_are_said(write_data: WriteData, model: Path) -> None:
    base = write_data(val=None, test=None)
    text, error = report(settings(base, model))
    assert error is None
    assert text.count("not there") == 2
    assert "warning: no validation split: no score during training, no early stopping, the last weights are" in text
    assert "warning: no test split: vizsage eval needs one, or another with --split" in text
    text, error = report(settings(base, use_early_stopping=True), decode=False)
    assert error is None
    assert "no score during training, use_early_stopping: true cannot act, the last weights" in text
    assert "no test split" in text


def test_all_kinds_of_problems_are_shown_before_it_fails(write_data: WriteData, model: Path) -> None:
    same = {"image": "a.png", "question": "what", "answer": "x"}
    base = write_data(train=[same, {"image": "b.png", "question": "what"}], val=[same])
    (base / "Images" / "a.png").write_bytes(b"")
    text, error = report(settings(base, model))
    assert isinstance(error, DataError)
    assert "3 problems (records: 1, " in str(error)
    assert "images: 1" in str(error)
    assert "samples in two splits: 1" in str(error)
    for part in ("error: records (1)", "error: images (1)", "error: samples in two splits (1)",
                 "warning: images in several splits (1)", "zero bytes", "answer is missing"):  # fmt: skip
        assert part in text


def test_only_the_first_ten_of_a_kind_are_shown(write_data: WriteData, model: Path) -> None:
    base = write_data(train=[{"image": f"{i}.png", "question": "what", "answer": "x"} for i in range(12)])
    for i in range(12):
        (base / "Images" / f"{i}.png").unlink()
    text, error = report(settings(base, model))
    assert str(error).startswith(f"{base / 'AQUA'}: 12 problems (images); the first: train: record 1: image '0.png' is")
    assert "error: images (12, the first 10)" in text
    assert text.count("is missing in") == 10


def test_a_single_problem_is_the_whole_message(write_data: WriteData, model: Path) -> None:
    base = write_data()
    (base / "Images" / "val-1.png").unlink()
    _, error = report(settings(base, model))
    assert str(error) == f"val: record 3: image 'val-1.png' is missing in {base / 'Images'}"


def test_without_decoding_a_broken_image_passes_and_a_missing_one_does_not(write_data: WriteData) -> None:
    base = write_data()
    (base / "Images" / "val-1.png").write_bytes(b"no image")
    text, error = report(settings(base), decode=False)
    assert error is None
    assert "tokens" not in text
    (base / "Images" / "val-1.png").unlink()
    _, error = report(settings(base), decode=False)
    assert isinstance(error, DataError)


def test_samples_that_do_not_fit_are_warned_about(write_data: WriteData, model: Path) -> None:
    long = {"image": "a.png", "question": "what " * 300, "answer": "x"}
    short = {"image": "a.png", "question": "what", "answer": "x"}
    text, error = report(settings(write_data(train=[long, short]), model, max_seq_length=256, max_new_tokens=8))
    assert error is None
    assert "warning: too long, left out (1)" in text
    assert "train-0" in text


def test_a_window_smaller_than_image_and_instruction_is_a_wrong_setting(write_data: WriteData, model: Path) -> None:
    _, error = report(settings(write_data(), model, max_seq_length=16))
    assert isinstance(error, ConfigError)
    assert "max_seq_length" in str(error)


def test_a_model_that_is_not_at_hand_leaves_lengths_unmeasured(write_data: WriteData) -> None:
    text, error = report(settings(write_data(), "nobody/nothing"))
    assert error is None
    assert "warning: base model not found, so not checked (1)\n  model_name nobody/nothing: no such folder" in text
    assert "lengths in tokens and the room needed are not known" in text
    assert "Nothing found that would stop a run." not in text
    assert text.endswith("The base model was not found here. Nothing else found that would stop a run.\n")


@pytest.mark.parametrize(
    ("backend", "installed", "warned"),
    [("unsloth", False, 1), ("unsloth", True, 0), ("vllm", False, 1), ("vllm", True, 0), ("auto", False, 0)],
)
def test_a_backend_that_is_not_installed_is_warned_about(
    write_data: WriteData, monkeypatch: pytest.MonkeyPatch, backend: str, installed: bool, warned: int
) -> None:
    """No more than that: on clusters `check` runs where there is no GPU, and jobs run in an image."""
    monkeypatch.setattr("vizsage.check.preflight.is_installed", lambda package: installed)
    text, error = report(settings(write_data(), backend=backend), decode=False)
    assert error is None
    assert text.count(f"{backend} is not installed here") == warned
    assert text.count("vllm evaluates only; training takes hf or unsloth") == (backend == "vllm")


def test_a_folder_that_is_no_model_is_a_wrong_setting(write_data: WriteData, tmp_path: Path) -> None:
    _, error = report(settings(write_data(), tmp_path))
    assert isinstance(error, ConfigError)
    assert "config.json" in str(error)


def test_a_model_with_damaged_files_is_unusable(write_data: WriteData, model: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(model, broken)
    (broken / "tokenizer.json").write_text("{")
    _, error = report(settings(write_data(), broken))
    assert isinstance(error, CheckpointError)


def test_too_little_room_on_disk(write_data: WriteData, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")._replace(free=2**20)  # less than the tokenizer alone
    monkeypatch.setattr("vizsage.check.model_fit.shutil.disk_usage", lambda path: usage)
    text, error = report(settings(write_data(), model))
    assert isinstance(error, DataError)
    assert "GiB free, about" in text
    assert "free some space, or lower n_saves or lora_r" in str(error)


@pytest.mark.parametrize("where", ["file", "file/below"])
def test_a_file_in_the_way_of_output_dir(write_data: WriteData, tmp_path: Path, where: str) -> None:
    (tmp_path / "file").write_text("here first")
    config = settings(write_data(), output_dir=str(tmp_path / where))
    for action in (lambda: quick_check(config), lambda: check(config, console=Console(quiet=True), decode=False)):
        with pytest.raises(ConfigError, match="is a file; name a folder"):
            action()
    assert (tmp_path / "file").read_text() == "here first"


def test_a_folder_with_other_runs_is_no_output_dir(write_data: WriteData, tmp_path: Path) -> None:
    """A run that was begun there continues, also after a restart moved it aside."""
    outputs = tmp_path / "outputs"
    config = settings(write_data(), output_dir=str(outputs))
    for name in ("previous-1", "other"):
        quick_check(config)
        (outputs / name).mkdir(parents=True)
        (outputs / name / "run.json").write_text("{}")
    told = rf"output_dir {outputs}: contains the folders of other runs, such as other; name a folder below it"
    for action in (lambda: quick_check(config), lambda: check(config, console=Console(quiet=True), decode=False)):
        with pytest.raises(ConfigError, match=told):
            action()
    (outputs / "run.json").write_text("{}")
    quick_check(config)


def test_a_folder_that_cannot_be_written_to(write_data: WriteData) -> None:
    # /proc refuses files even to root.
    with pytest.raises(ConfigError, match="cannot be written to"):
        quick_check(settings(write_data(), output_dir="/proc/vizsage/run"))


def test_quick_check_is_silent_about_sound_data(write_data: WriteData, caplog: pytest.LogCaptureFixture) -> None:
    base = write_data()
    with caplog.at_level(logging.INFO):
        quick_check(settings(base))
    assert not caplog.records
    assert not (base.parent / "run").exists()


def test_quick_check_finds_bad_records_and_missing_files(write_data: WriteData) -> None:
    base = write_data(train=[{"image": "a.png", "question": "what", "answer": " "}])
    with pytest.raises(DataError, match="answer is empty"):
        quick_check(settings(base))
    base = write_data()
    (base / "Images" / "train-2.png").unlink()
    with pytest.raises(DataError, match=r"train: record 5: image 'train-2\.png' is missing"):
        quick_check(settings(base))


def test_quick_check_warns_of_overlap_and_goes_on(write_data: WriteData, caplog: pytest.LogCaptureFixture) -> None:
    same = [{"image": "a.png", "question": "what", "answer": "x"}]
    quick_check(settings(write_data(train=same, val=same)))
    assert "samples in two splits: 1, the first: train and val: a.png: what" in caplog.text


def test_lengths_are_measured_on_long_texts_and_on_large_images(
    write_data: WriteData, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [{"image": f"{i}.png", "question": "what" * (i + 1), "answer": "x"} for i in range(5)]
    base = write_data(train=records)
    Image.new("RGB", (60, 60)).save(base / "Images" / "1.png")
    config = settings(base)
    survey = Survey()
    survey_splits(config, survey)
    pixels = decode_images(config, survey, workers=0)
    monkeypatch.setattr(model_fit, "MEASURED", 1)
    assert [sample.images[0].name for sample in model_fit.long_samples(config, "train", pixels)] == ["4.png", "1.png"]


@pytest.mark.parametrize(
    ("harmed", "kind", "stops"),
    [
        (30, "error: training (1)", True),
        (10, "warning: training samples left out (1)", False),
        (1, None, False),
    ],
)
@pytest.mark.parametrize("harm", ["too long", "no image"])
def test_what_training_would_leave_out_is_judged(
    write_data: WriteData, model: Path, harm: str, harmed: int, kind: str | None, stops: bool
) -> None:
    """All of 30 training samples end a run, a third of them is a warning, a single one is not."""
    long = " what" * 500 if harm == "too long" else ""
    train = [{"image": f"{i}.png", "question": f"what {i}{long * (i < harmed)}", "answer": "x"} for i in range(30)]
    base = write_data(train=train)
    if harm == "no image":
        for i in range(harmed):
            (base / "Images" / f"{i}.png").write_bytes(b"no image")
    text, error = report(settings(base, model, max_seq_length=256, on_bad_image="skip"))
    why = "too long, which" if harm == "too long" else "with an image that cannot be used"
    assert isinstance(error, DataError) == stops
    assert (f"{harmed} {why}" in text) == (kind is not None)
    assert kind is None or kind in text
