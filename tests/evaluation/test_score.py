"""Scoring a file again: the numbers of the evaluation that wrote it, and files of other tools."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vizsage import cli
from vizsage.config import Config, build_config
from vizsage.demo.drawn_data import write_demo
from vizsage.errors import DataError
from vizsage.evaluation.evaluate import evaluate
from vizsage.evaluation.score import read_rows, score_file
from vizsage.json_lines import read_jsonl, write_jsonl
from vizsage.scoring.normalisation import Normalise

from .conftest import FakeSplit, Stage, make_samples

Line = dict[str, Any]


def line(**changes: Any) -> Line:
    return {"image": "a.png", "question": "what", "answer": "cat", "prediction": "The cat", **changes}


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Path]:
    def write(*lines: Any) -> Path:
        path = tmp_path / "theirs.jsonl"
        path.write_text("".join(json.dumps(each) + "\n" for each in lines), encoding="utf-8")
        return path

    return write


def printed(capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    """What `vizsage score` writes to stdout; it must succeed."""
    capsys.readouterr()
    assert cli.main(["score", *map(str, arguments)]) == 0
    return capsys.readouterr().out


# the evaluation's own files


def test_the_numbers_are_those_of_the_tiny_model_s_evaluation(tmp_path: Path, capsys: Any) -> None:
    pytest.importorskip("torch")
    write_demo(tmp_path)
    config = build_config(
        {
            "model_name": "vizsage-tiny",
            "device": "cpu",
            "load_in_4bit": False,
            "use_bf16": False,
            "use_gradient_checkpointing": False,
            "base_path": tmp_path,
            "dataset": "Demo",
            "external_knowledge": True,
            "external_knowledge_path": tmp_path / "semart.csv",
            "max_new_tokens": 8,
            "output_dir": tmp_path / "out",
        }
    )
    results = evaluate(config, base=True, limit=40)
    again = json.loads(printed(capsys, tmp_path / "out/evaluation_results/test-base/predictions.jsonl", "--json"))
    assert 0 < again["metrics"]["anls"] < 1
    assert {"metrics", "by_question_word", "interval", "failed", "exact_match_interval"} <= again.keys()
    assert again == {name: results[name] for name in again}


def _evaluated(stage: Stage, config: Config) -> tuple[Line, Path]:
    """An evaluation with several answers, tags, wrong answers and failed records."""
    stage.split = FakeSplit(
        [
            replace(
                sample,
                answers=(sample.answer, "the two", f"{number}"),
                question=("who is it", "how many are there", "is it a cat")[number % 3] + f" {number}",
                tags={"school": "ÉB"[number % 2], "title": f"t{number}"},
            )
            for number, sample in enumerate(make_samples(300))
        ]
    )
    replies = {0: lambda sample: sample.answer.upper(), 1: lambda sample: "2", 2: lambda sample: "no idea"}
    stage.model.reply = lambda sample: (
        None if sample.sample_id in ("test-7", "test-8") else replies[int(sample.sample_id[5:]) % 5 % 3](sample)
    )
    return evaluate(config), config.output_dir / "evaluation_results/test/predictions.jsonl"


def test_vqa_accuracy_asks_the_annotators_alone(stage: Stage, config: Config, capsys: Any) -> None:
    """0.6 is what vqaEval.py gives for two of ten answers: multiple_choice_answer beside them is no eleventh."""
    [sample] = make_samples(1)
    ten = ("two",) * 2 + ("three",) * 8
    stage.split = FakeSplit([replace(sample, answer="2", answers=ten)])
    stage.model.reply = lambda sample: "2"
    results = evaluate(config)
    assert results["metrics"]["vqa_accuracy"] == pytest.approx(0.6)
    assert results["exact_match_score"] == 1  # what is learned is accepted
    path = config.output_dir / "evaluation_results/test/predictions.jsonl"
    [row] = read_jsonl(path)
    assert (row["answer"], row["answers"]) == ("2", list(ten))
    assert row["scores"]["vqa_accuracy"] == pytest.approx(0.6)
    assert json.loads(printed(capsys, path, "--json"))["metrics"] == results["metrics"]


@pytest.mark.parametrize("normalise", [True, "light", False])
def test_the_numbers_and_the_mode_are_those_of_results_json(
    stage: Stage, config: Config, capsys: Any, normalise: Normalise
) -> None:
    results, path = _evaluated(stage, config.model_copy(update={"use_text_normalization": normalise}))
    again = json.loads(printed(capsys, path, "--json"))
    assert again == {name: results[name] for name in again}
    assert again["failed"] == [{"sample_id": f"test-{i}", "error": "it broke"} for i in (7, 8)]
    assert (again["tags_not_grouped"], again["by_tag"].keys()) == (["title"], {"school"})
    # All scores of results.json are there; the other keys describe what was run.
    assert not [name for name in results.keys() - again.keys() if "match" in name or name.endswith("predictions")]
    other = json.loads(printed(capsys, path, "--json", "--rigorous" if normalise else "--no-rigorous"))
    assert (other["exact_match_score"] < again["exact_match_score"]) == bool(normalise)
    assert other["metrics"]["rigorous_match"] == again["metrics"]["rigorous_match"]


def test_tables_say_under_what_conditions(stage: Stage, config: Config, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    _, path = _evaluated(stage, config)
    text = printed(capsys, path)
    for expected in ("Exact match (SQuAD) on test: adapter", "knowledge: none", "token F1", "by school", "how many",
                     "too many values to group by: title", "failed: 2"):  # fmt: skip
        assert expected in text


def test_a_damaged_results_json_is_said(written: Any, caplog: Any) -> None:
    path = written(line())
    (path.parent / "results.json").write_text("{", encoding="utf-8")
    assert score_file(path).conditions.content() == {"split": str(path), "mode": "squad"}
    assert "results.json: cannot be read" in caplog.text


# files of other tools


def test_another_tool_s_lines(written: Any) -> None:
    path = written(
        line(need_external_knowledge=True),
        line(answer=2, prediction=2, id=7),
        {"prediction": "dog ", "answers": ["cat", "dog"]},
        line(prediction=None, answers=["two", "2"], sample_id=17, error=None),
        {"answer": "1.50", "prediction": 1.5, "image": "b.png", "tags": {"school": "Dutch", "year": 1650, "x": None}},
    )
    with path.open("a") as file:
        file.write('\n  \n{"answer": 1.50, "prediction": 1.50, "image": "b.png"}')  # no newline at the end
    scored = score_file(path)
    scores = scored.scores.content()
    assert (scores["total_samples"], scores["images"], scores["correct_predictions"]) == (6, 3, 4)
    assert scores["with_external_knowledge"]["samples"] == 1
    assert scores["failed"] == [{"sample_id": "17", "error": None}]
    assert scores["by_tag"].keys() == {"school", "year"}
    assert scores["by_question_word"]["what"]["samples"] == 3
    assert scored.conditions.content() == {"split": str(path), "mode": "squad"}
    assert score_file(path, mode="rigorous").scores.correct_predictions == 3


def test_repeated_lines_without_sample_id_are_counted_and_said(written: Any, caplog: Any) -> None:
    other = line(question="who")
    path = written(line(), other, line(), line(prediction="dog"), line(image="b.png"), other)
    assert score_file(path).scores.total_samples == 6
    assert "3 lines without sample_id repeat image and question of an earlier line" in caplog.text
    assert "(the first: line 3, as line 1)" in caplog.text
    caplog.clear()
    told_apart = [line(), line(sample_id=1), line(sample_id=2), line(image="b.png"), line(question="who")]
    unknown = [{"answer": "cat", "prediction": "cat", "question": "what"}] * 2 + [line(question=None)] * 2
    score_file(written(*told_apart, *unknown))
    assert caplog.text == ""


def test_bad_lines_are_named_together(written: Any) -> None:
    path = written(
        line(),
        [1],
        {"prediction": "cat", "image": "a.png"},
        line(prediction=True),
        {"answer": "cat"},
        line(answers=[]),
        line(image=3),
        line(need_external_knowledge="maybe"),
        line(tags=["a"]),
        line(sample_id="a"),
        line(sample_id="a"),
        line(answer="\ud800"),
        line(error="\udfff"),
    )
    content = path.read_bytes()
    path.write_bytes(content + b'{"answer": \n\xff\n')
    with pytest.raises(DataError) as error:
        score_file(path)
    message = str(error.value)
    for part in (
        f"{path}: 13 bad lines: line 2: expected an object, found a list",
        "line 3: answer is missing",
        "line 4: prediction is true",
        "line 5: prediction is missing; the record has answer; write a text, or null where the record failed",
        "line 6: answers is empty",
        "line 7: image is 3",
        "line 8: need_external_knowledge is 'maybe'",
        "line 9: tags is a list",
        "line 11: sample_id 'a' is already that of line 10",
        "line 12: no valid Unicode",
        "and 3 more",
    ):
        assert part in message
    assert "line 13" not in message
    path.write_bytes(b'{"answer": \n\xff\n')
    with pytest.raises(
        DataError, match="none of 2 lines is one; the first: broken JSON in line 1, column 11: "
    ) as error:
        score_file(path)
    assert f"{path}: no file of JSON lines: expected one JSON object per line, and none" in str(error.value)
    assert "line 2" not in str(error.value)
    path.write_bytes(b'{"answer": \n\xff\n{"answer": "a", "prediction": "a"}')
    with pytest.raises(DataError, match=r"2 bad lines: broken JSON in line 1, column .*; line 2 is not UTF-8"):
        score_file(path)


DEEP = "[" * 5000 + "]" * 5000


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ('"answer": 1E9999999999999999999, "prediction": "a"', "a number is out of range"),
        ('"answer": "a", "prediction": -1E-9999999999999999999', "a number is out of range"),
        (f'"answer": {DEEP}, "prediction": "a"', "nested"),
        (f'"answer": "a", "answers": {DEEP}, "prediction": "a"', "nested"),
        (f'"answer": "a", "prediction": "a", "tags": {{"x": {DEEP}}}', "nested"),
        (f'"answer": {"[" * 90}{"]" * 90}, "prediction": "a"', "line 1: answer is a list"),
    ],
)
def test_numbers_and_nesting_beyond_reason_are_a_bad_line(tmp_path: Path, capsys: Any, fields: str, told: str) -> None:
    path = tmp_path / "theirs.jsonl"
    path.write_text(f"{{{fields}}}\n")
    assert cli.main(["score", str(path)]) == 3
    message = capsys.readouterr().err
    assert f"{path}: 1 bad line: " in message
    assert told in message
    assert len(message) < 500
    path.write_text('{"answer": 1E999999999999999999, "prediction": "1E999999999999999999"}\n')
    assert score_file(path).scores.metrics["rigorous_match"] == 1


def test_a_results_json_that_is_nested_too_deep(written: Any, capsys: Any) -> None:
    path = written(line(), line(question="who"))
    path = path.rename(path.with_name("predictions.jsonl"))
    (path.parent / "results.json").write_text(DEEP)
    assert cli.main(["score", str(path)]) == 0
    assert "results.json: cannot be read (it is nested too deep)" in capsys.readouterr().err
    assert cli.main(["compare", str(path), str(path)]) == 3
    assert "results.json: cannot be read: it is nested too deep" in capsys.readouterr().err
    assert cli.main(["report", str(path.parent)]) == 3
    assert "results.json: cannot be read: it is nested too deep" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_an_empty_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "empty.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"empty\.jsonl: contains no predictions"):
        score_file(path)


def test_files_that_cannot_be_read(tmp_path: Path, capsys: Any) -> None:
    for path, reason in ((tmp_path / "none.jsonl", "No such file"), (tmp_path, "Is a directory")):
        assert cli.main(["score", str(path)]) == 3
        assert f"{path}: cannot be read: {reason}" in capsys.readouterr().err


def test_standard_input(written: Any, monkeypatch: Any, capsys: Any) -> None:
    content = written(line(), line(prediction="dog")).read_bytes()
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"\xef\xbb\xbf" + content)))
    assert json.loads(printed(capsys, "-", "--json"))["exact_match_score"] == 0.5
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"[]\n")))
    assert cli.main(["score", "-"]) == 3
    assert "standard input: 1 bad line: line 1: expected an object" in capsys.readouterr().err


HARD = [
    # answer, prediction, and whether it is right by SQuAD's, the light and the rigorous definition
    ("A", "", True, False, False),
    ("A", "the", True, False, False),
    ("A", "a", True, True, False),
    ("A", "A", True, True, True),
    ("+", "-", True, False, False),
    ("B", "", False, False, False),
    ("1.5", "15", True, False, False),
    ("-5", "5", True, False, False),
    ("1/2", "12", True, False, False),
    ("1,000", "1000", True, False, False),
    ("5", "$5.", True, False, False),
    ("Caf\u00e9", "Cafe\u0301", False, True, False),
]


def test_answers_that_normalisation_empties_or_merges_are_counted_and_said(
    written: Any, capsys: Any, caplog: Any
) -> None:
    path = written(*(line(answer=each[0], prediction=each[1], sample_id=i) for i, each in enumerate(HARD)))
    scores = score_file(path).scores.content()
    assert scores["correct_predictions"] == sum(squad for _, _, squad, _, _ in HARD)
    assert scores["normalisation"] == {
        "emptied": {"samples": 5, "affected": 3},
        "changed_numbers": {"samples": 3, "affected": 3},
        "unicode_forms": {"samples": 0, "affected": 1},
    }
    for said in (
        "5 of 12 samples accept an answer of which SQuAD's normalisation leaves nothing",
        "an empty prediction is right there, and 3 predictions are right for no other reason",
        "3 of 12 predictions are right although their numbers differ",
        "1 of 12 predictions are wrong only because their accents have another Unicode form",
        "use_text_normalization: light (vizsage score --light)",
    ):
        assert said in caplog.text
    capsys.readouterr()
    for option, place in (("--light", 3), ("--rigorous", 4)):
        assert cli.main(["score", str(path), "--json", option]) == 0
        shown = capsys.readouterr()
        assert json.loads(shown.out)["correct_predictions"] == sum(row[place] for row in HARD)
        assert shown.err == ""


def test_many_failed_records_are_a_warning_only(written: Any, caplog: Any) -> None:
    lines = [line(prediction=None) if i < 2 else line(finish_reason="length") for i in range(100)]
    scores = score_file(written(*lines)).scores.content()
    assert (scores["failed_predictions"], scores["exact_match_score"]) == (2, 0.98)
    assert "2 of 100 records failed; they score 0" in caplog.text
    assert "98 of 100 answers were cut short" in caplog.text
    caplog.clear()
    score_file(written(*lines[1:]))  # 1 of 99 is more than 1%
    assert "records failed" in caplog.text
    caplog.clear()
    score_file(written(*lines[1:], line(), line()))
    assert "records failed" not in caplog.text


def test_neither_torch_nor_settings_are_needed(written: Any) -> None:
    path = written(line())
    code = (
        "import sys; from vizsage.cli import main\n"
        f"code = main(['score', {str(path)!r}, '--json'])\n"
        "print([name for name in ('torch', 'transformers', 'datasets') if name in sys.modules], file=sys.stderr)\n"
        "sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "[]\n")
    assert json.loads(done.stdout)["total_samples"] == 1


def test_what_it_writes_can_be_read_by_scripts(written: Any, capsys: Any) -> None:
    path = written(line(tags={"school": "École"}), line(tags={"school": "Dutch"}))
    text = printed(capsys, path, "--json")
    assert "École" in text
    assert json.loads(text, parse_constant=lambda name: pytest.fail(name))["schema_version"] == 3


def test_rows_without_scores_are_scored(stage: Stage, config: Config) -> None:
    """An earlier version wrote one answer and no scores."""
    results, path = _evaluated(stage, config)
    old = [
        {name: row[name] for name in row if name not in ("scores", "tags", "description")} for row in read_jsonl(path)
    ]
    write_jsonl(path, old)
    assert score_file(path).scores.metrics == results["metrics"]


def test_a_line_without_end_is_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    with path.open("wb") as file:
        file.write(b'{"answer": "a", "prediction": "a"}\n{"answer": "')
        file.truncate(64 * 2**20)
    with pytest.raises(DataError, match="line 2 has more than 8 MiB"):
        list(read_rows(path, "predictions"))
