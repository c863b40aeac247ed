"""comparison.html: several runs on one page, with the numbers of `vizsage compare`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.evaluation.report.test_beside import rows
from tests.evaluation.report.test_report_safety import HOSTILE
from tests.evaluation.report_run import Page, answered, failed_row, make_row, write_run
from vizsage import cli
from vizsage.config import Config
from vizsage.contract.run_files import TRAINING_SETTINGS
from vizsage.errors import ConfigError
from vizsage.evaluation.comparison.compare import compare
from vizsage.evaluation.report import several_runs
from vizsage.evaluation.report.several_runs import words_of_command, write_comparison
from vizsage.files import write_json
from vizsage.json_lines import write_jsonl
from vizsage.scoring.registry import METRICS, score_row

ANSWERS = ("rrrwwnrr", "wwrrwnrr", "rrrrrwrw")


def run(folder: Path, words: str, **changes: Any) -> Path:
    """An output_dir with an evaluation; the text of a wrong answer depends on the run."""
    answers = [row | {"tags": {"school": "Dutch" if i < 4 else "Italian"}} for i, row in enumerate(rows(words))]
    for row in answers:
        if row["prediction"] == "a hill":
            row |= {"prediction": f"a hill, says {folder.name}"}
        row |= score_row(row, normalise=True) if row["prediction"] is not None else {}
    write_run(folder / "evaluation_results" / "test", answers, **changes)
    return folder


@pytest.fixture
def three(tmp_path: Path) -> list[Path]:
    return [run(tmp_path / name, words) for name, words in zip(("one", "two", "three"), ANSWERS, strict=True)]


def page_of(*paths: Path, **options: Any) -> Page:
    output = paths[0].parent / "page.html"
    return Page(write_comparison(paths, output=output, **options).read_text(encoding="utf-8"))


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def test_the_numbers_are_those_of_compare(three: list[Path]) -> None:
    text = page_of(*three).text
    expected = compare(three)
    for letter, each in zip("ABC", expected["runs"], strict=True):
        low, high = (f"{100 * end:.1f}" for end in each["interval"])
        assert f"{letter} {Path(each['path']).name} {each['path']} base model" in text
        assert f"{percent(each['score'])} {low} – {high} {each['failed_predictions']} " in text
    for pair in expected["pairs"]:
        name = f"{'ABC'[pair['run']]} - {'ABC'[pair['baseline']]}"
        low, high = (f"{100 * end:+.1f}" for end in pair["interval"])
        p_values = f"{pair['p_value']:.3f} {pair['adjusted_p_value']:.3f}"
        difference = f"{100 * pair['difference']:+.1f}"
        assert f"{name} {difference} {low} to {high} {pair['gained']} {pair['lost']} {p_values}" in text
    group = expected["pairs"][0]["by_tag"]["school"]["Dutch"]
    assert f"Dutch {group['samples']} {percent(group['baseline_score'])} {percent(group['score'])}" in text


@pytest.mark.parametrize("metric", [metric for metric in METRICS if metric != "multiple_choice"])
def test_every_metric_has_the_scores_and_pairs_of_compare(three: list[Path], metric: str) -> None:
    text = page_of(*three).text
    expected = compare(three, metric=metric)
    title = METRICS[metric].title
    scores = (
        rf"{percent(each['score'])} {100 * each['interval'][0]:.1f} – {100 * each['interval'][1]:.1f}"
        for each in expected["runs"]
    )
    assert f"{title[0].upper()}{title[1:]} {METRICS[metric].note} {' '.join(scores)}" in text
    if metric != "exact_match":
        (pair, *_) = expected["pairs"]
        low, high = (f"{100 * end:+.1f}" for end in pair["interval"])
        difference = f"{100 * pair['difference']:+.1f}"
        assert f"{title[0].upper()}{title[1:]} B - A {difference} {low} to {high} {pair['gained']} " in text


def test_samples_on_which_the_runs_disagree(three: list[Path]) -> None:
    page = page_of(*three)
    content = page.data("gallery-data")
    assert content["runs"] == ["A", "B", "C"]
    shown = {row["id"]: [row["outcome"], *(outcome for _, outcome in row["others"])] for row in content["rows"]}
    assert shown == {
        "test-0": ["right", "wrong", "right"],
        "test-1": ["right", "wrong", "right"],
        "test-3": ["wrong", "right", "right"],
        "test-4": ["wrong", "wrong", "right"],
        "test-5": ["failed", "failed", "wrong"],
        "test-7": ["right", "right", "wrong"],
    }
    assert "In 5 of 8 samples one run is right and another one wrong; in 1 more the predictions differ" in page.text


def test_of_too_many_samples_those_with_another_outcome_are_kept(
    three: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(several_runs, "GALLERY_ROWS", 5)
    page = page_of(*three)
    assert [row["id"] for row in page.data("gallery-data")["rows"]] == [f"test-{i}" for i in (0, 1, 3, 4, 7)]
    assert "The gallery shows 5 of 6 samples on which the runs disagree." in page.text


def test_curves_and_settings_are_those_of_the_trainings(tmp_path: Path) -> None:
    paths = []
    for name, lr in (("one", 1e-4), ("two", 2e-4)):
        config = Config(output_dir=tmp_path / name)
        paths.append(run(config.output_dir, "rw", config=config, adapter=str(config.adapter_dir)))
        identity = {"lr": lr, "seed": 1, "max_steps": 9, "extensions": [{"at_step": 4}], "data": "0123"}
        write_json(config.output_dir / "run.json", {"identity": identity, "attempts": []})
        lines = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}, {"step": 2, "exact_match": 0.5, "val_loss": 1.5}]
        write_jsonl(config.output_dir / "metrics.jsonl", lines)
    paths.append(run(tmp_path / "three", "ww"))
    page = page_of(*paths)
    differing = page.text.partition("Settings that differ setting A B C ")[2].partition(" Samples on which")[0]
    assert differing == "lr 0.0001 0.0002 – seed 1 1 3407"  # C is a base model: it has no settings of a training
    assert Config.model_fields.keys() > TRAINING_SETTINGS
    charts = [
        "Training loss (nats per answer token)",
        "Validation loss (nats per answer token)",
        "Validation exact match",
    ]
    assert [title for title in charts if f" {title} " in page.text] == charts
    lines = [attributes["class"] for tag, attributes in page.elements if tag == "g"]
    assert lines == ["line line1", "line line2"] * 3
    assert "A one 1.000" in page.text


def test_files_of_other_tools_take_part(three: list[Path], tmp_path: Path) -> None:
    theirs = [{key: row[key] for key in ("image", "question", "answer", "prediction")} for row in rows("rwrwrwrw")]
    write_jsonl(tmp_path / "theirs.jsonl", theirs)
    for row in theirs:
        row["question"] += "?"
    page = page_of(three[0], tmp_path / "theirs.jsonl")
    assert "B theirs" in page.text
    assert "B: no results.json beside it; its precision, knowledge and base model are not known." in page.text
    assert "Not known of B: no results.json beside the predictions." in page.text


def test_metrics_for_which_the_runs_were_asked_otherwise_are_left_out_with_the_reason(tmp_path: Path) -> None:
    paths = []
    for name, choices in (("one", ["a mill", "a hill"]), ("two", ["a mill", "a dale"])):
        answers = [row | {"choices": choices} for row in rows("rw")]
        paths.append(write_run(tmp_path / name / "evaluation_results" / "test", answers))
    text = page_of(*paths).text
    assert "Not compared by multiple choice: " in text
    assert "have other choices in 2 samples" in text


def test_images_come_from_the_data_set_or_the_earlier_reports(write_data: Callable[..., Path], tmp_path: Path) -> None:
    paths = []
    for name, reply in (("one", "grey"), ("two", "red")):
        config = Config(base_path=write_data(), output_dir=tmp_path / name)
        paths.append(config.output_dir)
        answers = answered(config, lambda row, reply=reply: reply)
        write_run(config.output_dir / "evaluation_results" / "test", answers, config)
    assert None not in page_of(*paths).data("thumbnail-data")
    assert set(page_of(*paths, images=False).data("thumbnail-data")) == {None}
    assert cli.main(["report", str(paths[1])]) == 0
    config.base_path.rename(tmp_path / "moved")
    assert None not in page_of(*paths).data("thumbnail-data")
    (paths[1] / "evaluation_results" / "test" / "report.html").unlink()
    assert set(page_of(*paths).data("thumbnail-data")) == {None}
    assert None not in page_of(*paths, overrides=[f"base_path={tmp_path / 'moved'}"]).data("thumbnail-data")


@pytest.mark.parametrize("text", HOSTILE)
def test_texts_of_the_data_never_become_elements(tmp_path: Path, text: str) -> None:
    def page_full_of(text: str, folder: Path) -> Page:
        fields = {"question": text, "answer": text, "answers": [text], "image": text, "tags": {text: text}}
        changes = {"adapter": text, "base_model": text + " base", "fingerprint": {"instruction": text}}
        paths = []
        for number in range(2):
            answers = [
                make_row(**fields, sample_id=text, prediction=text if number else "no", exact_match=bool(number))
            ]
            answers += [failed_row(**fields, sample_id=text + "2", error=text)]
            name = str(number)
            paths.append(
                write_run(folder / name / "evaluation_results" / "test", answers, precision={name: text}, **changes)
            )
        return page_of(*paths)

    page, harmless = page_full_of(text, tmp_path / "a"), page_full_of("words", tmp_path / "b")
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in harmless.elements]
    assert page.data("gallery-data")["rows"][0]["others"] == [[text.strip(), "right"]]
    assert " 49 " not in page.text


# --- the command


def test_the_command_writes_one_page_here_and_replaces_only_its_own(
    three: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["report", *map(str, three)]
    assert cli.main(arguments) == 0
    assert capsys.readouterr().out == "comparison.html\n"
    assert cli.main([*arguments, "--output", "comparison.html", "--no-images"]) == 0
    other = tmp_path / "mine.html"
    other.write_text("mine")
    capsys.readouterr()
    assert cli.main([*arguments, "--output", str(other)]) == 2
    assert cli.main([*arguments, "--output", "none/page.html"]) == 2
    assert cli.main(["report", str(three[0]), "--output", "page.html"]) == 2
    assert cli.main([*arguments, "lr=1"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert f"{other}: is there already, and no page of this command; name another --output" in errors[0]
    assert "none: no such folder; name another --output" in errors[1]
    assert "--output is for several runs" in errors[2]
    assert "on the command line: lr: does not change a report" in errors[3]
    assert other.read_text() == "mine"


def test_runs_on_other_data_are_refused_as_by_compare(
    three: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    other = run(tmp_path / "other", "rw")
    assert cli.main(["report", str(three[0]), str(other)]) == 3
    told = capsys.readouterr().err
    assert cli.main(["compare", str(three[0]), str(other)]) == 3
    assert capsys.readouterr().err == told
    assert not (tmp_path / "comparison.html").exists()
    assert cli.main(["report", str(three[0]), str(tmp_path / "none")]) == 2


def test_a_folder_named_like_a_setting_is_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lr=1e-4").mkdir()
    words = ["lr=1e-4", "lr=2e-4", "base_path=data", "sweep/lr=2e-4"]
    assert words_of_command(words) == ([Path("lr=1e-4"), Path("sweep/lr=2e-4")], ["lr=2e-4", "base_path=data"])
    with pytest.raises(ConfigError, match="RUN"):
        words_of_command(["~no-such-user/run"])


def test_json_of_compare_is_what_it_was(three: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["compare", *map(str, three), "--json"]) == 0
    comparison = json.loads(capsys.readouterr().out)
    assert {"base_model", "precision", "pixel_limits", "split", "adapter"} <= comparison["runs"][0].keys()
    assert {"gained_samples", "by_tag", "p_value", "with_external_knowledge"} <= comparison["pairs"][0].keys()
