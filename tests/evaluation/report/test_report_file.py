"""report.html as a file: its text, what its gallery contains, and what may be missing."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.evaluation.conftest import FakeModel
from tests.evaluation.report_run import Page, answered, failed_row, made, make_row, write_run
from vizsage import cli
from vizsage.config import Config
from vizsage.evaluation.evaluate import evaluate
from vizsage.evaluation.report import report_file as report
from vizsage.evaluation.report import thumbnails
from vizsage.evaluation.report.beside import counterpart_folder
from vizsage.evaluation.report.rendering import percent
from vizsage.json_lines import write_jsonl


@pytest.fixture
def config(write_data: Callable[..., Path], tmp_path: Path) -> Config:
    return Config(
        base_path=write_data(),
        output_dir=tmp_path / "out",
        external_knowledge=True,
        external_knowledge_path=_table(tmp_path),
    )


def _table(folder: Path) -> Path:
    path = folder / "table.csv"
    path.write_text("IMAGE_FILE,DESCRIPTION\ntest-0.png,Painted by nobody.\n", encoding="utf-8")
    return path


@pytest.fixture
def run(config: Config) -> Path:
    rows = answered(config, lambda row: "grey")
    return write_run(config.output_dir / "evaluation_results" / "test", rows, config)


# --- its text


def test_the_headline_has_score_interval_samples_and_images(run: Path) -> None:
    text = made(run).text
    assert "Exact match 50.0 %" in text
    assert re.search(r"95% interval \d+\.\d – \d+\.\d % 6 samples on 3 images, 3 right", text)
    assert "Knowledge: oracle. Each question that needs external knowledge was asked with the true description" in text
    assert "With knowledge 0.0 %" in text
    assert "Without knowledge 100.0 %" in text


def test_groups_have_a_row_each_by_size(run: Path) -> None:
    text = made(run).text
    assert re.search(r"all 6 3 50\.0 % .*with knowledge 3 3 0\.0 % .*without knowledge 3 3 100\.0 %", text)
    assert re.search(r"what 3 3 100\.0 % .*who 3 3 0\.0 %", text)


def test_of_a_tag_with_many_values_the_largest_are_shown(tmp_path: Path) -> None:
    rows = [make_row(sample_id=str(i), tags={"title": f"title {i // 2:02}"}) for i in range(61)]
    text = made(write_run(tmp_path / "test", rows)).text
    assert "title 24 2 1" in text
    assert "title 30" not in text
    assert "and 6 more values" in text


def test_every_metric_is_there(run: Path) -> None:
    text = made(run).text
    for name in ("Rigorous match", "Token F1", "VQA accuracy", "ANLS", "Relaxed accuracy"):
        assert f"{name} 50.0 %" in text


def test_provenance_and_settings_are_complete(run: Path) -> None:
    results = json.loads((run / "results.json").read_text())
    text = made(run).text
    assert f"data.sha256 {'d' * 64}" in text
    assert f"fingerprint.template_sha256 {'f' * 64}" in text
    assert "versions.python 3.11.7" in text
    for name in results["settings"]:
        assert f" {name} " in text


def test_what_a_reader_must_know_is_said(config: Config) -> None:
    rows = [make_row(), failed_row(sample_id="test-1"), make_row(sample_id="test-2", finish_reason="length")]
    notes = {"left_out": {"need_external_knowledge": 7}, "missing_descriptions": 2, "limit": 3}
    text = made(write_run(config.output_dir / "evaluation_results" / "test", rows, config, **notes)).text
    assert "Records that failed, and count as wrong: 1 of 3." in text
    assert "Answers cut at max_new_tokens 16: 1." in text
    assert "Samples left out because they need external knowledge: 7." in text
    assert "Samples whose description is not in the table: 2." in text
    assert "Only the first 3 samples of the split were asked." in text
    assert re.search(r"Failed records \(1\) test-1 it broke", text)


def test_the_blind_score_stands_beside_the_real_one_in_both_reports(config: Config, run: Path) -> None:
    text = made(run).text
    assert "Blind The score of guesses without the image is measured by vizsage eval CONFIG --base --blind" in text
    blind = write_run(counterpart_folder(run), answered(config, lambda row: None), config, blind=True)
    assert "Blind 0.0 %" in made(run).text
    assert "vizsage eval" not in made(run).text
    assert "Exact match, image withheld 0.0 %" in made(blind).text
    assert "Image shown 50.0 %" in made(blind).text
    assert counterpart_folder(blind) == run


@pytest.mark.parametrize(
    "changed",
    [{"adapter_sha256": "of an earlier training"}, {"knowledge": "none"}, {"data": {"path": "x", "sha256": "other"}}],
)
def test_a_blind_score_of_another_model_or_data_does_not_stand_beside_the_real_one(
    config: Config, run: Path, changed: dict[str, Any]
) -> None:
    blind = write_run(counterpart_folder(run), answered(config, lambda row: None), config, blind=True)
    assert "Blind 0.0 %" in made(run).text
    path = blind / "results.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    (name,) = changed
    for folder, other in ((run, blind), (blind, run)):
        text = made(folder).text
        assert f"{other.name} is not compared with this: it has another {name}. Evaluate it again." in text
    assert "Blind The score of guesses without the image" in made(run).text
    assert "Image shown 50.0 %" not in made(blind).text


def test_curves_are_those_of_the_training_that_made_the_adapter(config: Config, run: Path) -> None:
    lines = [{"step": step, "loss": 1 / step} for step in (1, 2, 3)]
    write_jsonl(config.output_dir / "metrics.jsonl", [*lines, {"step": 3, "exact_match": 0.25}])
    assert "Loss (nats per answer token)" not in made(run).text  # of a base model
    for adapter, drawn in ((config.adapter_dir, True), (Path("elsewhere"), False)):
        page = made(write_run(run, answered(config, lambda row: "grey"), config, adapter=str(adapter)))
        assert ("Loss (nats per answer token)" in page.text) is drawn
        assert [tag for tag, _ in page.elements].count("polyline") == 2 * drawn
    assert "over optimizer steps, at the end" not in page.text


def test_an_empty_group_has_dashes_and_no_bar(tmp_path: Path) -> None:
    page = made(write_run(tmp_path / "test", [make_row()]))
    assert "With knowledge – 0 samples" in page.text
    assert re.search(r"with knowledge 0 0 – – without knowledge 1 1 100\.0 % –", page.text)
    assert "No interval: fewer than two images" in page.text


@pytest.mark.parametrize("rows", [[], [failed_row()], [make_row(prediction="a hill", exact_match=False)]])
def test_a_report_on_nothing_or_nothing_right(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    page = made(write_run(tmp_path / "test", rows))
    assert f"{'0.0 %' if rows else '–'}" in page.text
    assert [row["outcome"] for row in page.data("gallery-data")["rows"]] == [
        "failed" if row["prediction"] is None else "wrong" for row in rows
    ]


# --- the gallery


def test_rows_carry_what_a_card_shows(run: Path) -> None:
    content = made(run).data("gallery-data")
    first, second, third = content["rows"][:3]
    assert (first["question"], first["prediction"], first["outcome"]) == ("what colour is it", "grey", "right")
    assert (second["outcome"], second["word"], second["knowledge"]) == ("wrong", "who", True)
    assert content["images"][third["image"]] == "test-1.png"
    assert content["descriptions"][second["description"]] == "Painted by nobody."
    assert first["description"] is None


def test_equal_answers_are_counted(tmp_path: Path) -> None:
    page = made(write_run(tmp_path / "test", [make_row(answers=["red"] * 7 + ["dark red"] * 3)]))
    assert page.data("gallery-data")["rows"][0]["answers"] == [["red", 7], ["dark red", 3], ["a mill", 1]]


def test_an_image_has_one_small_image_however_many_questions(run: Path) -> None:
    page = made(run)
    images = page.data("thumbnail-data")
    assert len(images) == len(page.data("gallery-data")["images"]) == 3
    with Image.open(BytesIO(base64.b64decode(images[0]))) as image:
        assert (image.format, image.size) == ("WEBP", (24, 16))


def test_a_large_image_becomes_small(config: Config, run: Path) -> None:
    Image.effect_noise((1200, 800), 40).save(config.images_dir / "test-0.png")
    with Image.open(BytesIO(base64.b64decode(made(run).data("thumbnail-data")[0]))) as image:
        assert (image.width, round(image.height / 10)) == (512, 34)


def test_a_broken_and_a_missing_image_are_said_once(config: Config, run: Path) -> None:
    (config.images_dir / "test-0.png").write_bytes(b"no image")
    (config.images_dir / "test-1.png").unlink()
    page = made(run)
    assert [image is None for image in page.data("thumbnail-data")] == [True, True, False]
    assert page.text.count("Images are missing in the gallery: image 'test-0.png' is not an image") == 1
    assert "(and 1 more)" in page.text


def test_without_the_data_there_is_a_report_all_the_same(config: Config, run: Path) -> None:
    for path in config.split_dir.iterdir():
        path.unlink()
    page = made(run)
    assert page.data("thumbnail-data") == [None, None, None]
    assert "Images are missing in the gallery" in page.text
    assert "no split 'test'" in page.text


def images(report: Path) -> list[str | None]:
    found: list[str | None] = Page(report.read_text(encoding="utf-8")).data("thumbnail-data")
    return found


def test_a_report_with_images_is_not_replaced_by_one_without(
    config: Config, run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = made(run).data("thumbnail-data")
    assert None not in before
    (config.images_dir / "test-1.png").unlink()
    assert made(run).data("thumbnail-data") == before
    config.base_path.rename(tmp_path / "moved")
    rows = answered(config.model_copy(update={"base_path": tmp_path / "moved"}), lambda row: "nobody")
    page = made(write_run(run, rows, config))  # other numbers, the same images
    assert page.data("thumbnail-data") == before
    assert "Exact match 50.0 %" in page.text
    assert "Images are missing" not in page.text
    assert f"{run / 'report.html'}: 3 images are taken from the earlier report: " in caplog.text


NO_REPORTS = ("", "no page", '<script type="application/json" id="thumbnail-data">[1]</script>', "no images")


@pytest.mark.parametrize("content", NO_REPORTS)
def test_what_is_no_report_has_no_images(config: Config, run: Path, content: str) -> None:
    page = made(run)
    report = run / "report.html"
    if content == "no images":  # a page like ours that holds something else in their place
        content = report.read_text(encoding="utf-8")
        for image in page.data("thumbnail-data"):
            content = content.replace(image, "bm90IHdlYnA=")
    report.write_text(content, encoding="utf-8")
    for path in config.images_dir.iterdir():
        path.unlink()
    assert made(run).data("thumbnail-data") == [None] * 3


def test_a_report_is_told_where_the_data_is_by_now(
    config: Config, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config.base_path.rename(tmp_path / "moved")
    assert cli.main(["report", str(run)]) == 0
    assert images(run / "report.html") == [None] * 3
    assert "images are missing: " in capsys.readouterr().err
    assert cli.main(["report", str(config.output_dir), f"base_path={tmp_path / 'moved'}"]) == 0
    assert None not in images(run / "report.html")
    assert capsys.readouterr() == (f"{run / 'report.html'}\n", "")
    assert cli.main(["report", "--no-images", str(run)]) == 0
    assert images(run / "report.html") == [None] * 3
    assert "they were left out on request" in (run / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "lr=1e-4",
            "on the command line: lr: does not change a report, which takes base_path, dataset, ",
        ),
        ("max_image_px=many", "on the command line: max_image_px: Input should be a valid integer"),
        ("moved", "moved: no predictions there; expected an output_dir"),
    ],
)
def test_an_override_that_no_report_takes(
    run: Path, capsys: pytest.CaptureFixture[str], override: str, message: str
) -> None:
    assert cli.main(["report", str(run), override]) == 2
    assert message in capsys.readouterr().err
    assert not (run / "report.html").exists()


def test_an_evaluation_in_a_copied_run_leaves_the_other_report_its_images(
    config: Config, model: FakeModel, tmp_path: Path
) -> None:
    """The other evaluation's settings name a place where the data no longer is."""
    evaluate(config)
    folder = config.output_dir / "evaluation_results"
    before = images(folder / "test" / "report.html")
    config.base_path.rename(tmp_path / "moved")
    evaluate(config.model_copy(update={"base_path": tmp_path / "moved"}), blind=True)
    assert images(folder / "test" / "report.html") == images(folder / "test-blind" / "report.html") == before
    assert "Blind 100.0 %" in Page((folder / "test" / "report.html").read_text(encoding="utf-8")).text


def test_settings_of_another_version_cost_the_images_only(config: Config, run: Path) -> None:
    rows = answered(config, lambda row: "grey")
    settings = config.model_dump(mode="json") | {"no_longer_known": 1}
    page = made(write_run(run, rows, config, settings=settings))
    assert "unknown key" in page.text
    assert page.data("thumbnail-data") == [None, None, None]


def test_images_end_where_the_page_would_become_too_large(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thumbnails, "TOTAL_BYTES", 10)
    monkeypatch.setattr(thumbnails, "_AHEAD", 1)
    page = made(run)
    assert [image is None for image in page.data("thumbnail-data")] == [False, True, True]
    assert "2 images are left out, because the page would become too large" in page.text


@pytest.mark.parametrize(("rights", "wrongs", "kept"), [(8, 8, (3, 3)), (8, 1, (5, 1)), (2, 8, (2, 4)), (3, 3, (3, 3))])
def test_of_too_many_rows_both_kinds_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rights: int, wrongs: int, kept: tuple[int, int]
) -> None:
    monkeypatch.setattr(report, "GALLERY_ROWS", 6)
    rows = [make_row(sample_id=f"r{i}") for i in range(rights)]
    rows += [make_row(sample_id=f"w{i}", prediction="no", exact_match=False) for i in range(wrongs)]
    page = made(write_run(tmp_path / "test", rows))
    ids = [row["id"] for row in page.data("gallery-data")["rows"]]
    assert ids == [f"r{i}" for i in range(kept[0])] + [f"w{i}" for i in range(kept[1])]
    assert (f"The gallery shows {sum(kept)} of {len(rows)} samples" in page.text) is (sum(kept) < len(rows))


def test_percent() -> None:
    assert [percent(None), percent(0), percent(1), percent(0.98765)] == ["–", "0.0 %", "100.0 %", "98.8 %"]
