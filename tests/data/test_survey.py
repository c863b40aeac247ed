from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from vizsage.config import Config, build_config
from vizsage.data.survey import SHOWN, Survey, decode_images, find_missing_files, survey_splits

WriteData = Callable[..., Path]


def settings(base: Path, **more: Any) -> Config:
    return build_config({"base_path": str(base), "output_dir": str(base.parent / "run"), **more})


def table(base: Path, *names: str) -> Path:
    path = base / "semart.csv"
    path.write_text("image_file,description\n" + "".join(f"{name},An image.\n" for name in names), encoding="utf-8")
    return path


def survey_of(config: Config) -> Survey:
    survey = Survey()
    survey_splits(config, survey)
    return survey


def record(image: str, question: str = "what is it", **more: Any) -> dict[str, Any]:
    return {"image": image, "question": question, "answer": "grey", **more}


def test_counts_samples_images_and_knowledge_of_each_split(write_data: WriteData) -> None:
    base = write_data()
    path = table(base, *(f"{split}-{i}.png" for split in ("train", "val", "test") for i in range(3)))
    survey = survey_of(settings(base, external_knowledge=True, external_knowledge_path=str(path)))
    assert [(r.name, r.records, r.samples, r.images, r.with_knowledge, r.without_knowledge, r.left_out)
            for r in survey.rows] == [(name, 6, 6, 3, 3, 3, 0) for name in ("train", "val", "test")]  # fmt: skip
    assert not survey.kinds
    assert len(survey.images) == 9


def test_without_knowledge_the_samples_that_need_it_are_counted_as_left_out(write_data: WriteData) -> None:
    survey = survey_of(settings(write_data()))
    assert [(r.samples, r.with_knowledge, r.without_knowledge, r.left_out) for r in survey.rows] == [(3, 0, 3, 3)] * 3


def test_coverage_of_the_knowledge_table_is_a_warning_that_names_the_images(write_data: WriteData) -> None:
    base = write_data()
    path = table(base, "train-0.png", "train-1.png", "val-0.png")
    survey = survey_of(settings(base, external_knowledge=True, external_knowledge_path=str(path)))
    kind = survey.kinds["external knowledge"]
    assert (kind.count, kind.warning, survey.errors) == (6, True, 0)
    assert kind.first[0] == "train: train-2.png has no description in the table"


def test_val_and_test_may_be_missing_but_train_must_be_there(write_data: WriteData) -> None:
    survey = survey_of(settings(write_data(val=None, test=None)))
    assert survey.missing == ["val", "test"]
    assert not survey.errors
    (write_data(val=None, test=None) / "AQUA" / "train.json").unlink()
    survey = survey_of(settings(write_data(train=None, val=None, test=None)))
    assert survey.errors == 1
    assert "no split 'train'" in survey.kinds["splits"].first[0]


def test_every_bad_record_is_counted_and_the_first_ten_are_named(write_data: WriteData) -> None:
    bad = [{"image": "a.png", "question": "what is it"} for _ in range(13)]
    survey = survey_of(settings(write_data(train=[*bad, record("a.png")], val=[{"question": 1}])))
    kind = survey.kinds["records"]
    assert kind.count == 14
    assert len(kind.first) == SHOWN
    assert "train.json: record 1 (image 'a.png'): answer is missing" in kind.first[0]
    assert "record 10" in kind.first[9]


def test_a_broken_table_is_reported_once(write_data: WriteData) -> None:
    base = write_data()
    survey = survey_of(settings(base, external_knowledge=True, external_knowledge_path=str(base / "none.csv")))
    assert survey.errors == 1


def test_a_sample_in_two_splits_is_an_error_and_a_shared_image_a_warning(write_data: WriteData) -> None:
    base = write_data(
        train=[record("a.png", "What is  it?"), record("b.png")],
        val=[record("a.png", "what is it?")],
        test=[record("b.png", "who made it")],
    )
    survey = survey_of(settings(base))
    assert survey.kinds["samples in two splits"].first == ["train and val: a.png: what is it?"]
    shared = survey.kinds["images in several splits"]
    assert (shared.warning, shared.first) == (True, ["a.png: train, val", "b.png: train, test"])
    assert survey.errors == 1


def test_the_same_question_twice_in_one_split_is_no_overlap(write_data: WriteData) -> None:
    survey = survey_of(settings(write_data(train=[record("a.png"), record("a.png")])))
    assert not survey.kinds


@pytest.mark.parametrize("workers", [0, 2])
def test_every_image_is_decoded(write_data: WriteData, workers: int) -> None:
    base = write_data()
    images = base / "Images"
    (images / "train-0.png").write_bytes(b"")
    (images / "train-1.png").write_bytes((images / "train-1.png").read_bytes()[:60])
    (images / "val-0.png").unlink()
    Image.new("RGB", (300, 300)).save(images / "test-0.png")
    config = settings(base, max_image_px=80_000, num_proc=workers)
    survey = survey_of(config)
    done: list[int] = []
    pixels = decode_images(config, survey, workers=workers, progress=done.append)
    assert sum(done) == 9
    assert {image.name: px for image, px in pixels.items()} == {
        "train-2.png": 384, "val-1.png": 384, "val-2.png": 384, "test-1.png": 384, "test-2.png": 384,
    }  # fmt: skip
    found = survey.kinds["images"]
    assert found.count == 4
    for part, case in zip(
        ("train: record 1: image 'train-0.png' is a file of zero bytes", "'train-1.png' cannot be decoded",
         "val: record 1: image 'val-0.png' is missing", "'test-0.png' has 300 x 300 pixels"),
        found.first, strict=True,
    ):  # fmt: skip
        assert part in case


def test_on_bad_image_skip_makes_undecodable_images_warnings_but_not_missing_ones(write_data: WriteData) -> None:
    base = write_data()
    (base / "Images" / "train-0.png").write_bytes(b"no image")
    config = settings(base, on_bad_image="skip")
    survey = survey_of(config)
    decode_images(config, survey, workers=0)
    assert survey.kinds["images left out"].warning
    assert survey.errors == 0
    (base / "Images" / "train-1.png").unlink()
    survey = survey_of(config)
    decode_images(config, survey, workers=0)
    assert survey.errors == 1


def test_one_image_under_two_names_is_noticed_across_splits_only(write_data: WriteData) -> None:
    base = write_data(train=[record("a.png"), record("b.png")], val=None, test=[record("c.png")])
    for name in ("b.png", "c.png"):
        (base / "Images" / name).write_bytes((base / "Images" / "a.png").read_bytes())
    config = settings(base)
    survey = survey_of(config)
    decode_images(config, survey, workers=0)
    assert survey.kinds["one image under two names in different splits"].first == ["a.png in train; c.png in test"]


def test_a_image_embedded_without_a_name_is_noticed_across_splits(write_data: WriteData) -> None:
    base = write_data(train=None, val=None, test=None)
    images = []
    for colour in ("red", "blue", "green"):
        buffer = io.BytesIO()
        Image.new("RGB", (4, 4), colour).save(buffer, "PNG")
        images.append({"bytes": buffer.getvalue(), "path": None})
    for split, shown in (("train", [0, 1, 0]), ("test", [2, 1])):
        texts = [str(i) for i in range(len(shown))]
        content = {"image": [images[i] for i in shown], "question": texts, "answer": texts}
        pq.write_table(pa.table(content), base / "AQUA" / f"{split}.parquet")
    config = settings(base)
    survey = survey_of(config)
    assert not survey.kinds
    decode_images(config, survey, workers=0)
    found = {name: kind.first for name, kind in survey.kinds.items()}
    assert found == {"one image under two names in different splits": ["train-1 in train; test-1 in test"]}


def test_missing_files_are_found_without_opening_any(write_data: WriteData) -> None:
    base = write_data()
    (base / "Images" / "train-0.png").write_bytes(b"no image")
    (base / "Images" / "test-2.png").unlink()
    survey = survey_of(settings(base))
    find_missing_files(survey)
    assert survey.kinds["images"].first == [f"test: record 5: image 'test-2.png' is missing in {base / 'Images'}"]


def test_a_survey_needs_no_torch() -> None:
    code = "import sys, vizsage.data.survey; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
