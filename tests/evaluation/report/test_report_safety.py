"""report.html holds no address, and no text of the data becomes markup in it; and what `vizsage report` refuses."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.evaluation.report_run import Page, failed_row, made, make_row, write_run
from vizsage import cli
from vizsage.errors import ConfigError, DataError
from vizsage.evaluation.report.rendering import script_json
from vizsage.evaluation.report.report_file import evaluation_folders, write_report

ROWS = [make_row(), failed_row(sample_id="test-1")]
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


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """An evaluation in an output_dir, with a right and a failed answer; its data set is gone."""
    return write_run(tmp_path / "out" / "evaluation_results" / "test", ROWS)


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


# --- vizsage report


def test_the_command_writes_every_report_of_the_split_and_prints_where(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [write_run(run.with_name(name), ROWS) for name in ("test-base", "test-blind", "val", "tests")]
    assert cli.main(["report", str(run.parents[1])]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed == [str(folder / "report.html") for folder in (run, folders[1], folders[0])]
    assert all(Path(path).is_file() for path in printed)
    assert not (folders[2] / "report.html").exists()
    assert cli.main(["report", str(run.parents[1]), "--split", "validation"]) == 0
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
        ('{"schema_version": 1}', "schema_version 3, found 1; run vizsage eval again"),
        ("[]", "expected an object"),
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
