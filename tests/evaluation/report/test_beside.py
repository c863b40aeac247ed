"""What a report shows of the evaluations beside it: the base model's, the blind one by group; and leaks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.evaluation.conftest import FakeModel
from tests.evaluation.report_run import Page, failed_row, made, make_row, write_run
from vizsage import cli
from vizsage.config import Config
from vizsage.evaluation.comparison.compare import compare
from vizsage.evaluation.evaluate import evaluate
from vizsage.evaluation.report.beside import base_folder, shown_by

WORDS = {"r": "a mill", "w": "a hill", "n": None}


def rows(words: str, **changes: Any) -> list[dict[str, Any]]:
    """A row for each letter: r right, w wrong, n no answer; two samples per image."""
    found = []
    for number, word in enumerate(words):
        given = {
            "sample_id": f"test-{number}",
            "image": f"{number // 2}.png",
            "need_external_knowledge": number % 2 == 1,
        }
        text = WORDS[word]
        given |= changes
        found.append(
            failed_row(**given) if text is None else make_row(**given, prediction=text, exact_match=word == "r")
        )
    return found


ADAPTER = {"adapter": "out/adapter", "adapter_sha256": "ad"}


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    return write_run(tmp_path / "out" / "evaluation_results" / "test", rows("rrrwwn"), **ADAPTER)


@pytest.fixture
def base(trained: Path) -> Path:
    return write_run(trained.with_name("test-base"), rows("wwrnrw"))


def test_the_base_model_is_shown_beside_an_adapter(trained: Path, base: Path) -> None:
    page = made(trained)
    (pair,) = compare([base, trained])["pairs"]
    low, high = (f"{100 * end:+.1f}" for end in pair["interval"])
    score = "Base model, before training 33.3 %"
    assert score in page.text
    assert f"Training: +16.7 points ({low} to {high}; p = {pair['p_value']:.3f}) 2 gained , 1 lost" in page.text
    content = page.data("gallery-data")
    assert content["runs"] == ["predicted", "base model"]
    replies = [row["others"] for row in content["rows"]]
    assert replies[0] == [["a hill", "wrong"]]
    assert replies[3] == [[None, "failed"]]
    assert replies[4] == [["a mill", "right"]]
    assert "group samples images exact match interval, % base model" in page.text
    assert score not in made(base).text
    assert "others" not in made(base).data("gallery-data")["rows"][0]


def test_without_it_the_command_is_named(trained: Path) -> None:
    page = made(trained)
    assert "Its score and its answers are measured by vizsage eval CONFIG --base" in page.text
    assert page.data("gallery-data")["runs"] == ["predicted"]


@pytest.mark.parametrize(
    ("changes", "of_rows", "told"),
    [
        ({"data": {"path": "x", "sha256": "other"}}, {}, "have another data.sha256"),
        ({"mode": "rigorous"}, {}, "its mode of exact match is rigorous, here it is squad; evaluate it again"),
        ({}, {"question": "what is it"}, "have other questions in 6 samples"),
        ({"schema_version": 1}, {}, "schema_version 3, found 1"),
    ],
)
def test_a_base_model_that_was_asked_otherwise_is_left_out_with_the_reason(
    trained: Path, base: Path, changes: dict[str, Any], of_rows: dict[str, Any], told: str
) -> None:
    write_run(base, rows("wwrnrw", **of_rows), **changes)
    page = made(trained)
    assert "test-base, the base model, is not shown beside this: " in page.text
    assert told in page.text
    assert page.data("gallery-data")["runs"] == ["predicted"]


def test_conditions_that_differ_are_told_as_compare_tells_them(trained: Path, base: Path) -> None:
    write_run(base, rows("wwrnrw"), knowledge="none")
    (warning,) = compare([trained, base])["warnings"]
    assert warning.endswith("oracle")
    assert "test-base: knowledge is none, in test oracle." in made(trained).text


def test_the_blind_score_of_each_group_is_beside_the_real_one(trained: Path, base: Path) -> None:
    write_run(trained.with_name("test-blind"), rows("wwwrww"), blind=True, **ADAPTER)
    text = made(trained).text
    assert "interval, % base model blind 0 to 100 %" in text
    assert "with knowledge 3 3 33.3 % " in text
    group = text.partition("with knowledge 3 3 33.3 % ")[2][:40]
    assert group.endswith(" 0.0 % 33.3 % without knowledge 3 3 66.7") or "0.0 % 33.3 %" in group


def test_names_of_the_folders_beside() -> None:
    folder = Path("/out/evaluation_results")
    named = {name: base_folder(folder / name).name for name in ("test", "test-blind", "test-base", "test-base-blind")}
    assert named == {
        "test": "test-base",
        "test-blind": "test-base-blind",
        "test-base": "test-base",
        "test-base-blind": "test-base-blind",
    }


def test_which_reports_show_an_evaluation(trained: Path, base: Path) -> None:
    for name in ("test-blind", "test-base-blind"):
        write_run(trained.with_name(name), rows("r"))
    shown = {folder.name: [each.name for each in shown_by(folder)] for folder in trained.parent.iterdir()}
    assert shown == {
        "test": ["test-blind"],
        "test-blind": ["test"],
        "test-base": ["test-base-blind", "test"],
        "test-base-blind": ["test-base", "test-blind"],
    }


def test_an_evaluation_of_the_base_model_writes_the_adapters_report_again(
    write_data: Callable[..., Path], model: FakeModel, tmp_path: Path
) -> None:
    config = Config(base_path=write_data(), output_dir=tmp_path / "out")
    folder = config.output_dir / "evaluation_results" / "test"
    evaluate(config)
    results = folder / "results.json"
    results.write_text(json.dumps(json.loads(results.read_text()) | ADAPTER))  # as if an adapter had answered
    evaluate(config, base=True)
    report = Page((folder / "report.html").read_text(encoding="utf-8"))
    assert "Base model, before training 100.0 %" in report.text


LEAKS = {
    "train_run": "out",
    "images_by": "content",
    "images": 56,
    "images_in_training": 0,
    "questions": 40,
    "questions_in_training": 12,
    "samples": 120,
    "samples_in_training": 0,
}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            ADAPTER | {"leaks": LEAKS},
            "No leaks. 0 of 56 test images are training images (the same bytes); 0 of 120 samples are "
            "training samples; 12 of 40 questions are asked in training too, on any image.",
        ),
        (ADAPTER | {"leaks": LEAKS | {"images_in_training": 3}}, "Leak. 3 of 56 test images are training images"),
        (ADAPTER | {"leaks": LEAKS | {"images_by": "name"}}, "(the same name; contents were not compared)"),
        (ADAPTER | {"leaks": None}, "Leaks: not known. The samples of the training run that made this adapter"),
        (ADAPTER, "Leaks: not known. This evaluation was made by a version that did not compare"),
        ({"leaks": None}, "Leaks: not known. This is the base model, and what it was trained on is not recorded."),
    ],
)
def test_whether_samples_were_trained_on_is_told(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    page = made(write_run(tmp_path / "test", rows("rw"), **changes))
    assert told in page.text
    warns = [attributes for tag, attributes in page.elements if "warns" in (attributes.get("class") or "").split()]
    assert bool(warns) is ("Leak. " in told)


def test_the_command_shows_a_base_model_that_was_evaluated_later(trained: Path) -> None:
    made(trained)
    write_run(trained.with_name("test-base"), rows("wwrnrw"))
    assert cli.main(["report", str(trained.parents[1])]) == 0
    report = Page((trained / "report.html").read_text(encoding="utf-8"))
    assert "Base model, before training 33.3 %" in report.text
