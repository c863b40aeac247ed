"""report.html as a file: what it says, that it holds no address and no markup of the data, and what may be missing."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.evaluation.report_run import answered, failed_row, make_row, write_run
from vizsage import cli
from vizsage.config import Config
from vizsage.errors import ConfigError, DataError
from vizsage.evaluation import report, thumbnails
from vizsage.evaluation.page import percent, script_json
from vizsage.evaluation.report import counterpart_folder, evaluation_folders, write_report
from vizsage.files import write_jsonl

HOSTILE = [
    "<script>window.hurt = true</script>",
    "</script><script>window.hurt = true</script>",
    "<!-- <script>",
    "]]><img src=x onerror='window.hurt = true'>",
    "\"'`&lt;&amp;",
    "\u2028\u2029 line separators",
    "🎨👩🏽‍🎨 emoji",
    "مرحبا \u202e abc",
    "{{ 7 * 7 }}{% raw %}",
]


class Page(HTMLParser):
    """The elements of a page with their attributes, and the texts in script elements by id."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: dict[str, str] = {}
        self.text = ""
        self._open: str | None = None
        self.feed(text)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._open = (dict(attrs).get("id") or "code") if tag == "script" else "style" if tag == "style" else None

    def handle_endtag(self, tag: str) -> None:
        self._open = None

    def handle_data(self, data: str) -> None:
        if self._open is None:
            self.text += f" {data} "
        else:
            self.scripts[self._open] = self.scripts.get(self._open, "") + data

    def data(self, name: str) -> Any:
        return json.loads(self.scripts[name])


def made(folder: Path) -> Page:
    return Page(write_report(folder).read_text(encoding="utf-8"))


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


# --- what it says


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
    assert "1 of 3 records failed; they count as wrong." in text
    assert "1 answers were cut at max_new_tokens 16." in text
    assert "7 samples need external knowledge and were left out." in text
    assert "2 samples need a description that the table lacks." in text
    assert "Only the first 3 samples of the split were asked." in text
    assert re.search(r"Failed records \(1\) test-1 it broke", text)


def test_the_blind_score_stands_beside_the_real_one_in_both_reports(config: Config, run: Path) -> None:
    text = made(run).text
    assert "Blind How far guesses without the picture go: vizsage eval CONFIG --base --blind" in text
    blind = write_run(counterpart_folder(run), answered(config, lambda row: None), config, blind=True)
    assert "Blind 0.0 %" in made(run).text
    assert "vizsage eval" not in made(run).text
    assert "Exact match, picture withheld 0.0 %" in made(blind).text
    assert "Picture shown 50.0 %" in made(blind).text
    assert counterpart_folder(blind) == run


def test_curves_are_those_of_the_training_that_made_the_adapter(config: Config, run: Path) -> None:
    lines = [{"step": step, "loss": 1 / step} for step in (1, 2, 3)]
    write_jsonl(config.output_dir / "metrics.jsonl", [*lines, {"step": 3, "exact_match": 0.25}])
    assert "Training loss" not in made(run).text  # of a base model
    for adapter, drawn in ((config.adapter_dir, True), (Path("elsewhere"), False)):
        page = made(write_run(run, answered(config, lambda row: "grey"), config, adapter=str(adapter)))
        assert ("Training loss" in page.text) is drawn
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
    assert page.data("gallery-data")["rows"][0]["answers"] == [["red", 7], ["dark red", 3]]


def test_an_image_has_one_small_picture_however_many_questions(run: Path) -> None:
    page = made(run)
    pictures = page.data("picture-data")
    assert len(pictures) == len(page.data("gallery-data")["images"]) == 3
    with Image.open(BytesIO(base64.b64decode(pictures[0]))) as picture:
        assert (picture.format, picture.size) == ("WEBP", (24, 16))


def test_a_large_picture_becomes_small(config: Config, run: Path) -> None:
    Image.effect_noise((1200, 800), 40).save(config.images_dir / "test-0.png")
    with Image.open(BytesIO(base64.b64decode(made(run).data("picture-data")[0]))) as picture:
        assert (picture.width, round(picture.height / 10)) == (160, 11)


def test_a_broken_and_a_missing_picture_are_said_once(config: Config, run: Path) -> None:
    (config.images_dir / "test-0.png").write_bytes(b"no picture")
    (config.images_dir / "test-1.png").unlink()
    page = made(run)
    assert [picture is None for picture in page.data("picture-data")] == [True, True, False]
    assert page.text.count("Pictures are missing in the gallery: image 'test-0.png' is not a picture") == 1
    assert "(and 1 more)" in page.text


def test_without_the_data_there_is_a_report_all_the_same(config: Config, run: Path) -> None:
    for path in config.split_dir.iterdir():
        path.unlink()
    page = made(run)
    assert page.data("picture-data") == [None, None, None]
    assert "Pictures are missing in the gallery" in page.text
    assert "no split 'test'" in page.text


def test_settings_of_another_version_cost_the_pictures_only(config: Config, run: Path) -> None:
    rows = answered(config, lambda row: "grey")
    settings = config.model_dump(mode="json") | {"no_longer_known": 1}
    page = made(write_run(run, rows, config, settings=settings))
    assert "unknown key" in page.text
    assert page.data("picture-data") == [None, None, None]


def test_pictures_end_where_the_page_would_become_too_large(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thumbnails, "TOTAL_BYTES", 10)
    monkeypatch.setattr(thumbnails, "_AHEAD", 1)
    page = made(run)
    assert [picture is None for picture in page.data("picture-data")] == [False, True, True]
    assert "2 pictures are left out, because the page would become too large" in page.text


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
    assert (f"The gallery holds {sum(kept)} of {len(rows)} samples" in page.text) is (sum(kept) < len(rows))


# --- nothing from outside, nothing of the data run


def test_nothing_in_the_page_leads_outside(run: Path) -> None:
    page = made(run)
    for tag, attributes in page.elements:
        assert tag not in ("iframe", "object", "embed", "base", "form") or "action" not in attributes
        for name in ("src", "href", "srcset", "action", "poster", "xlink:href"):
            value = attributes.get(name) or ""
            assert value.startswith(("#", "data:")) or not value, (tag, attributes)
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
    for code in (page.scripts["code"], page.scripts["style"]):
        assert not re.search(r"https?:|//[a-z]+\.|@import|url\(|fetch\(|XMLHttp|innerHTML|eval\(", code)


def test_the_policy_allows_the_one_style_and_the_one_script_only(run: Path) -> None:
    page = made(run)
    [policy] = [a["content"] or "" for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    for rule, text in (("script-src", page.scripts["code"]), ("style-src", page.scripts["style"])):
        assert rules[rule] == f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def page_full_of(text: str, folder: Path) -> Page:
    """A page with `text` in every place that data or a model fills."""
    fields = {"question": text, "answer": text, "answers": [text], "prediction": text, "image": text}
    rows = [
        make_row(**fields, sample_id=text, description=text, tags={text: text}),
        failed_row(sample_id=text + "2", error=text),
    ]
    changes = {"adapter": text, "base_model": text + " base", "fingerprint": {text: text}, "knowledge": text}
    return made(write_run(folder / "evaluation_results" / "test", rows, **changes))


@pytest.mark.parametrize("text", HOSTILE)
def test_texts_of_the_data_never_become_elements(tmp_path: Path, text: str) -> None:
    page, harmless = page_full_of(text, tmp_path / "a"), page_full_of("words", tmp_path / "b")
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in harmless.elements]
    content = page.data("gallery-data")
    assert content["rows"][0]["question"] == content["rows"][0]["prediction"] == content["images"][0] == text
    assert content["rows"][0]["tags"] == {text: text}
    assert " 49 " not in page.text


@given(st.recursive(st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_json_in_a_script_element_reads_back_and_cannot_end_it(value: Any) -> None:
    text = script_json(value)
    assert json.loads(text) == value
    assert "<" not in text
    assert not re.search("[\u2028\u2029]", text)


def test_half_a_surrogate_pair_becomes_a_question_mark(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "test", [make_row()])
    text = (folder / "predictions.jsonl").read_text().replace('"prediction": "a mill"', r'"prediction": "a \ud83c"')
    (folder / "predictions.jsonl").write_text(text)
    assert made(folder).data("gallery-data")["rows"][0]["prediction"] == "a ?"


def test_percent() -> None:
    assert [percent(None), percent(0), percent(1), percent(0.98765)] == ["–", "0.0 %", "100.0 %", "98.8 %"]


# --- vizsage report


def test_the_command_writes_every_report_of_the_split_and_prints_where(
    config: Config, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = answered(config, lambda row: "grey")
    folders = [write_run(run.with_name(name), rows, config) for name in ("test-base", "test-blind", "val", "tests")]
    assert cli.main(["report", str(config.output_dir)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed == [str(folder / "report.html") for folder in (run, folders[1], folders[0])]
    assert all(Path(path).is_file() for path in printed)
    assert not (folders[2] / "report.html").exists()
    assert cli.main(["report", str(config.output_dir), "--split", "validation"]) == 0
    assert cli.main(["report", str(folders[3])]) == 0
    assert capsys.readouterr().out.splitlines() == [str(folder / "report.html") for folder in folders[2:]]


def test_what_is_no_run_is_refused_in_one_line(tmp_path: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", str(tmp_path / "nowhere")]) == 2
    assert cli.main(["report", str(tmp_path)]) == 3
    assert cli.main(["report", str(run.parents[1]), "--split", "train"]) == 3
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert "evaluated there: nothing" in lines[1]
    assert "no results of split 'train'; evaluated there: test" in lines[2]
    with pytest.raises(ConfigError, match="no such folder"):
        evaluation_folders(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read"),
        ('{"schema_version": 1}', "schema_version 2, found 1; run vizsage eval again"),
        ("[]", "found None"),
        (None, "no such file; run vizsage eval first"),
    ],
)
def test_results_of_another_kind_are_refused(run: Path, content: str | None, message: str) -> None:
    (run / "results.json").unlink()
    if content is not None:
        (run / "results.json").write_text(content)
    with pytest.raises(DataError, match=message):
        write_report(run)
    assert not (run / "report.html").exists()


@pytest.mark.parametrize(
    ("line", "message"), [("{}", "line 1: answer is missing"), ("not JSON", "cannot be read"), (None, "No such file")]
)
def test_damaged_predictions_are_refused(run: Path, line: str | None, message: str) -> None:
    path = run / "predictions.jsonl"
    path.unlink()
    if line is not None:
        path.write_text(f"{line}\n")
    with pytest.raises(DataError, match=message):
        write_report(run)
