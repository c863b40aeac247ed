"""Two runs and more on the same samples: joined, refused or warned of, counted, and shown."""

from __future__ import annotations

import io
import json
import logging
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from scipy.stats import binomtest

from tools.compare_example import BEGIN, END
from tools.compare_example import main as compare_example
from vizsage import cli
from vizsage.errors import ConfigError, DataError
from vizsage.evaluation.comparison.compare import compare
from vizsage.evaluation.comparison.compare_table import CHANGES_SHOWN, show
from vizsage.evaluation.report.several_runs import write_comparison
from vizsage.scoring.metrics import exact_match, token_f1

ROOT = Path(__file__).parents[3]
AQUA = ROOT.parent / "shared" / "data" / "aqua" / "val.json"
Row = dict[str, Any]


def row(number: int, prediction: str | None, *, image: int | None = None, **changes: Any) -> Row:
    return {
        "sample_id": f"test-{number}",
        "image": f"{number // 2 if image is None else image}.png",
        "question": ("what is there", "who is it")[number % 2],
        "answers": ["cat"],
        "need_external_knowledge": number % 2 == 1,
        "tags": {"school": ("Dutch", "Italian")[number // 2 % 2]},
        "prediction": prediction,
        **changes,
    }


def run(folder: Path, rows: list[Row], results: dict[str, Any] | None = None, *, split: str = "test") -> Path:
    """An output folder with an evaluation of `split`."""
    evaluation = folder / "evaluation_results" / split
    evaluation.mkdir(parents=True)
    write(evaluation / "predictions.jsonl", rows)
    if results is not None:
        (evaluation / "results.json").write_text(json.dumps(results), encoding="utf-8")
    return folder


def write(path: Path, rows: list[Row]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def results(**changes: Any) -> dict[str, Any]:
    return {
        "schema_version": 2,
        "split": "test",
        "limit": None,
        "mode": "squad",
        "knowledge": "none",
        "blind": False,
        "data": {"path": "data/AQUA/test.json", "sha256": "aa"},
        "base_model": "base",
        "revision": None,
        "precision": {"dtype": "float32", "load_in_4bit": False},
        "generation": {"max_new_tokens": 32},
        **changes,
    }


def answered(words: str) -> list[Row]:
    """A row for each word: c a cat, n none (failed), else a dog."""
    texts = {"c": "The cat.", "n": None}
    return [row(number, texts.get(letter, "dog")) for number, letter in enumerate(words)]


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    return run(tmp_path / "one", answered("ccddccnd")), run(tmp_path / "other", answered("ccccdccn"))


def refusal(*paths: Path, **options: Any) -> str:
    with pytest.raises(DataError) as error:
        compare(paths, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_vqa_accuracy_and_exact_match_ask_other_answers(tmp_path: Path) -> None:
    """`answer` beside `answers` is accepted, and is no annotator: a run that lists it was asked otherwise."""
    listed = {"answer": "2", "answers": ["two"] * 2 + ["three"] * 8, "prediction": "2"}
    paths = [run(tmp_path / name, [row(0, "") | listed, row(1, "cat")]) for name in ("a", "b")]
    assert compare(paths, metric="vqa_accuracy")["runs"][0]["score"] == pytest.approx((0.6 + 1) / 2)
    older = run(tmp_path / "older", [row(0, "") | listed | {"answers": [*listed["answers"], "2"]}, row(1, "cat")])
    assert compare([paths[0], older])["samples"] == 2
    assert "have other answers in 1 samples" in refusal(paths[0], older, metric="vqa_accuracy")


# --- what is counted -------------------------------------------------------------------------------------------------


def test_scores_changes_and_tests_of_two_runs(two: tuple[Path, Path]) -> None:
    comparison = compare(two)
    assert (comparison["samples"], comparison["images"]) == (8, 4)
    assert [run["score"] for run in comparison["runs"]] == [0.5, 0.75]
    assert [run["failed_predictions"] for run in comparison["runs"]] == [1, 1]
    (pair,) = comparison["pairs"]
    assert (pair["baseline"], pair["run"], pair["baseline_score"], pair["score"]) == (0, 1, 0.5, 0.75)
    assert (pair["difference"], pair["gained"], pair["lost"]) == (0.25, 3, 1)
    assert pair["p_value"] == pytest.approx(binomtest(1, 4).pvalue)
    assert pair["adjusted_p_value"] is None
    assert comparison["test"] == "mcnemar_exact"
    low, high = pair["interval"]
    assert -1 <= low < 0.25 < high <= 1
    for each in comparison["runs"]:
        assert 0 <= each["interval"][0] < each["score"] < each["interval"][1] <= 1


def test_samples_that_changed_either_way(two: tuple[Path, Path]) -> None:
    (pair,) = compare(two)["pairs"]
    assert [sample["sample_id"] for sample in pair["gained_samples"]] == ["test-2", "test-3", "test-6"]
    assert pair["gained_samples"][2] == {
        "sample_id": "test-6",
        "image": "3.png",
        "question": "what is there",
        "answers": ["cat"],
        "predictions": [None, "The cat."],
        "scores": [0.0, 1.0],
    }
    assert [sample["sample_id"] for sample in pair["lost_samples"]] == ["test-4"]


def test_groups_of_two_runs(two: tuple[Path, Path]) -> None:
    (pair,) = compare(two)["pairs"]
    with_knowledge, without = pair["with_external_knowledge"], pair["without_external_knowledge"]
    assert (with_knowledge["samples"], with_knowledge["baseline_score"], with_knowledge["score"]) == (4, 0.5, 0.75)
    assert (without["gained"], without["lost"], without["difference"]) == (2, 1, 0.25)
    assert pair["by_question_word"] == {"what": without, "who": with_knowledge}
    assert {value: group["gained"] for value, group in pair["by_tag"]["school"].items()} == {"Dutch": 0, "Italian": 3}
    for group in (with_knowledge, *pair["by_tag"]["school"].values()):
        low, high = group["interval"]
        assert low <= group["difference"] <= high


def test_a_failed_record_is_wrong_even_where_the_answer_is_empty(tmp_path: Path) -> None:
    rows = [[row(0, text, answers=["the"]), row(1, "cat")] for text in (None, "a")]
    (pair,) = compare([write(tmp_path / name, some) for name, some in zip("ab", rows, strict=True)])["pairs"]
    assert (pair["baseline_score"], pair["score"]) == (0.5, 1.0)


def test_one_image_gives_no_interval_and_an_empty_group_no_score(tmp_path: Path) -> None:
    files = [write(tmp_path / text, [row(0, text, image=0), row(2, text, image=0)]) for text in ("cat", "dog")]
    comparison = compare(files)
    assert comparison["pairs"][0]["interval"] is None
    assert comparison["runs"][0]["interval"] is None
    empty = comparison["pairs"][0]["with_external_knowledge"]
    assert (empty["samples"], empty["images"], empty["score"], empty["difference"]) == (0, 0, None, None)
    assert "-" in shown(comparison)


def test_metrics_between_0_and_1(two: tuple[Path, Path]) -> None:
    one, other = two
    write(one / "evaluation_results/test/predictions.jsonl", [row(0, "a red cat"), row(1, "cat"), row(2, "dog")])
    write(other / "evaluation_results/test/predictions.jsonl", [row(0, "cat"), row(1, "dog"), row(2, "red cat")])
    comparison = compare(two, metric="token_f1")
    (pair,) = comparison["pairs"]
    assert comparison["test"] == "sign_exact"
    assert pair["baseline_score"] == pytest.approx((token_f1("a red cat", ["cat"]) + 1) / 3)
    assert (pair["gained"], pair["lost"]) == (2, 1)
    assert compare(two, metric="relaxed_accuracy")["test"] == "mcnemar_exact"


def test_rigorous_where_all_runs_were_scored_so(tmp_path: Path) -> None:
    rows = [row(0, "Cat"), row(1, "cat")], [row(0, "cat"), row(1, "cat")]
    modes = [("rigorous", "rigorous"), ("squad", "rigorous")]
    for number, pair in enumerate(modes):
        paths = [
            run(tmp_path / f"{number}-{place}", some, results(mode=mode))
            for place, (some, mode) in enumerate(zip(rows, pair, strict=True))
        ]
        comparison = compare(paths)
        assert comparison["mode"] == ("rigorous", "squad")[number]
        assert comparison["pairs"][0]["baseline_score"] == (0.5, 1.0)[number]


def test_several_runs_all_pairs_with_holms_correction(tmp_path: Path) -> None:
    words = ["d" * 40, "c" * 10 + "d" * 30, "c" * 14 + "d" * 26]
    comparison = compare([run(tmp_path / str(number), answered(each)) for number, each in enumerate(words)])
    pairs = comparison["pairs"]
    assert [(pair["baseline"], pair["run"]) for pair in pairs] == [(0, 1), (0, 2), (1, 2)]
    raw = [pair["p_value"] for pair in pairs]
    assert raw == pytest.approx([2 / 2**10, 2 / 2**14, 2 / 2**4])
    assert [pair["adjusted_p_value"] for pair in pairs] == pytest.approx([2 * raw[0], 3 * raw[1], raw[2]])
    assert comparison["correction"] == "holm"
    assert [sample["sample_id"] for sample in pairs[2]["gained_samples"]] == [f"test-{n}" for n in range(10, 14)]
    assert "predictions" not in pairs[0]["gained_samples"][0]  # too many to hold
    assert pairs[0]["with_external_knowledge"]["gained"] == 5


# --- what is joined --------------------------------------------------------------------------------------------------


def test_the_order_of_lines_does_not_matter(two: tuple[Path, Path], tmp_path: Path) -> None:
    expected = compare(two)
    shuffled = answered("ccccdccn")
    random.Random(0).shuffle(shuffled)
    found = compare([two[0], write(tmp_path / "shuffled.jsonl", shuffled)])
    assert found["pairs"] == expected["pairs"]


def test_the_order_of_lines_does_not_matter_to_intervals(tmp_path: Path) -> None:
    both = answered("cddcdddddccccddd"), answered("ccccdcccdcddccdc")
    forwards, backwards = (
        compare([write(tmp_path / f"{name}{number}", rows[::step]) for number, rows in enumerate(both)])
        for name, step in (("forwards", 1), ("backwards", -1))
    )
    assert forwards["pairs"][0]["interval"] == backwards["pairs"][0]["interval"]
    assert forwards["runs"][0]["interval"] == backwards["runs"][0]["interval"]


def test_files_of_other_tools_are_joined_by_image_and_question(two: tuple[Path, Path], tmp_path: Path) -> None:
    """One line per sample with one answer and no id; the answers distinguish repeated questions."""
    twice = [row(8, "cat", image=9), row(10, "cat", image=9, answers=["dog"])]
    ours = write(tmp_path / "ours.jsonl", [*answered("ccddccnd"), *twice])
    theirs = [*answered("ccccdccn"), {**twice[1], "prediction": "dog"}, twice[0]]
    for line in theirs:
        line["answer"] = line.pop("answers")[0]
        del line["sample_id"], line["tags"]
    (pair,) = compare([ours, write(tmp_path / "theirs.jsonl", theirs)])["pairs"]
    assert (pair["samples"], pair["gained"], pair["lost"]) == (10, 4, 1)


def test_an_output_dir_an_evaluation_and_a_file_name_the_same_run(two: tuple[Path, Path]) -> None:
    other = two[1]
    evaluation = other / "evaluation_results" / "test"
    paths = [other, evaluation, evaluation / "predictions.jsonl"]
    found = [compare([two[0], path]) for path in paths]
    assert [each["runs"][1]["path"] for each in found] == [str(path) for path in paths]
    assert {each["runs"][1]["predictions"] for each in found} == {str(paths[2])}
    assert found[0]["pairs"] == found[1]["pairs"] == found[2]["pairs"]


def test_another_split(tmp_path: Path) -> None:
    one, other = (run(tmp_path / name, answered("cd"), split="val") for name in "ab")
    assert compare([one, other], split="val")["samples"] == 2
    with pytest.raises(ConfigError, match=r"no predictions there.*evaluated there: val"):
        compare([one, other])


# --- what is refused, and what is warned of --------------------------------------------------------------------------


def test_other_samples_are_refused_and_named(two: tuple[Path, Path], tmp_path: Path) -> None:
    message = refusal(two[0], write(tmp_path / "less.jsonl", answered("ccddc")))
    assert "3 only in" in message
    assert "test-5, test-6, test-7" in message
    more = write(tmp_path / "more.jsonl", answered("c" * 14))
    assert "6 only in" in refusal(two[0], more)
    assert "test-8, test-9, test-10, ..." in refusal(two[0], more)
    nameless = [{**each, "sample_id": None} for each in answered("ccddc")]
    assert "'who is it' on 2.png" in refusal(two[0], write(tmp_path / "nameless.jsonl", nameless))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"answers": ["dog"]}, "other answers in 1 samples.*test-1: ['cat'] and ['dog']"),
        ({"answers": ["cat", "dog"]}, "other answers"),
        ({"question": "why"}, "other questions in 1 samples.*test-1: 'who is it' and 'why'"),
        ({"image": "x.png"}, "other images in 1 samples.*test-1: '0.png' and 'x.png'"),
    ],
)
def test_the_same_sample_asked_otherwise_is_refused(
    two: tuple[Path, Path], tmp_path: Path, changes: Row, told: str
) -> None:
    rows = answered("ccddccnd")
    rows[1] |= changes
    message = refusal(two[0], write(tmp_path / "other.jsonl", rows))
    for part in told.split(".*"):
        assert part in message


def test_other_images_are_refused_by_the_hash_of_the_data(tmp_path: Path) -> None:
    hashes = {"a": "aa", "b": "bb", "c": "aa"}
    paths = {
        name: run(tmp_path / name, answered("cd"), results(data={"path": "test.json", "sha256": sha256}))
        for name, sha256 in hashes.items()
    }
    assert "data.sha256" in refusal(paths["a"], paths["b"])
    assert compare([paths["a"], paths["c"]])["samples"] == 2
    newer = run(tmp_path / "newer", answered("cd"), results(schema_version=3, data={"sha256": "cc"}))
    assert "data.sha256" in refusal(paths["a"], newer)  # the hash is made as before
    older = run(tmp_path / "older", answered("cd"), results(schema_version=1, data={"sha256": "cc"}))
    assert compare([paths["a"], older])["samples"] == 2


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"precision": {"dtype": "bfloat16", "load_in_4bit": True}}, "precision is dtype bfloat16, load_in_4bit true"),
        ({"knowledge": "oracle"}, "knowledge is oracle, in"),
        ({"limit": 2}, "limit is 2"),
        ({"mode": "rigorous"}, "mode is rigorous"),
        ({"blind": True}, "blind is true, in"),
        ({"base_model": "larger"}, "base_model is larger"),
        ({"generation": {"max_new_tokens": 4}}, "generation is max_new_tokens 4"),
        ({"max_seq_length": 512}, "max_seq_length is 512"),
        ({"fingerprint": {"instruction": "Say it."}}, "instruction is Say it., in"),
        ({"fingerprint": {"pixel_limits": '{"resize_px": 1024}'}}, 'pixel_limits is {"resize_px": 1024}, in'),
    ],
)
def test_other_conditions_are_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, changes: dict[str, Any], told: str
) -> None:
    one, other = (
        run(tmp_path / "one", answered("cd"), results()),
        run(tmp_path / "b", answered("dc"), results(**changes)),
    )
    with caplog.at_level(logging.WARNING):
        comparison = compare([one, other])
    (warning,) = comparison["warnings"]
    assert told in warning
    assert str(other) in warning
    assert caplog.messages == [warning]


@pytest.mark.parametrize(
    ("found", "split", "told"),
    [
        ({"samples_in_training": 2, "images_in_training": 3}, "test", "2 of 8 samples and 3 of 4 images are in the"),
        ({"images_in_training": 1}, "test", "0 of 8 samples and 1 of 4 images are in the training split of trained"),
        ({"images_in_training": 1}, "train", None),
        ({"questions_in_training": 5}, "test", None),
    ],
)
def test_a_run_that_was_asked_what_it_was_trained_on_is_warned_of(
    tmp_path: Path, found: dict[str, int], split: str, told: str | None
) -> None:
    names = ("samples", "images", "questions")
    counts = dict(zip(names, (8, 4, 8), strict=True)) | {f"{name}_in_training": 0 for name in names}
    leaks = {"train_run": "trained", "images_by": "content", **counts, **found}
    first = run(tmp_path / "a", answered("cd"), results(leaks=leaks, split=split))
    other = run(tmp_path / "b", answered("dc"), results(leaks=None, split=split))
    for runs in ([first, other], [other, first]):
        warnings = compare(runs)["warnings"]
        assert len(warnings) == (told is not None)
        assert told is None or told in warnings[0]
        assert all(warning.startswith(f"{first}/") for warning in warnings)
        page = write_comparison(runs, output=tmp_path / "page.html").read_text(encoding="utf-8")
        assert (told or "in the training split of") in page or told is None
        assert told is not None or "in the training split of" not in page


def test_like_conditions_are_not_warned_of(tmp_path: Path) -> None:
    old = results()
    del old["blind"]  # written before there was such an evaluation
    assert (
        compare([run(tmp_path / "a", answered("cd"), results()), run(tmp_path / "b", answered("cd"), old)])["warnings"]
        == []
    )


def test_files_without_results_are_warned_of(two: tuple[Path, Path]) -> None:
    warnings = compare(two)["warnings"]
    assert len(warnings) == 2
    assert all("no results.json beside it" in warning for warning in warnings)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{", "line 2"),
        ('{"question": "q", "answer": "a", "prediction": "p"}', "prediction 2: image is missing"),
        ('{"image": "i", "answer": "a", "prediction": "p"}', "prediction 2: question is missing"),
        ('{"image": "i", "question": "q", "answer": "a"}', "line 2: prediction is missing"),
        ('{"sample_id": "test-0", "image": "i", "question": "q", "answer": "a", "prediction": "p"}', "of line 1"),
    ],
)
def test_a_line_that_cannot_be_used_is_named(two: tuple[Path, Path], tmp_path: Path, line: str, told: str) -> None:
    path = write(tmp_path / "bad.jsonl", answered("c"))
    path.write_text(path.read_text(encoding="utf-8") + line + "\n", encoding="utf-8")
    message = refusal(two[0], path)
    assert message.startswith(f"{path}: ")
    assert told in message


def test_an_empty_file_and_damaged_results_are_refused(two: tuple[Path, Path], tmp_path: Path) -> None:
    assert "contains no predictions" in refusal(two[0], write(tmp_path / "empty.jsonl", []))
    for content, told in (("{", "cannot be read"), ("[]", "cannot be read: expected an object")):
        (two[1] / "evaluation_results/test/results.json").write_text(content)
        assert f"results.json: {told}" in refusal(*two)


def test_wrong_commands(two: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least two runs"):
        compare(two[:1])
    with pytest.raises(ConfigError, match="metric: expected one of exact_match, rigorous_match"):
        compare(two, metric="bleu")
    with pytest.raises(ConfigError, match="no predictions there"):
        compare([two[0], tmp_path / "none"])


# --- what is shown ---------------------------------------------------------------------------------------------------


def shown(comparison: dict[str, Any]) -> str:
    page = io.StringIO()
    show(Console(width=200, file=page), comparison)
    return page.getvalue()


def test_tables_of_two_runs(two: tuple[Path, Path]) -> None:
    text = shown(compare(two))
    for part in (
        "Exact match (SQuAD) on 8 samples, 4 images",
        "B - A",
        "+25.00",
        "McNemar p",
        "0.625",
        "by school",
        "Italian",
    ):
        assert part in text, part
    assert "Better in B (3)" in text
    assert "Worse in B (1)" in text
    assert "failed" in text
    assert "Holm" not in text


def test_tables_of_several_runs(tmp_path: Path) -> None:
    text = shown(compare([run(tmp_path / str(n), answered(each)) for n, each in enumerate(("dddd", "cccc", "cdcd"))]))
    assert "C - B" in text
    assert "Holm p" in text
    assert "Better in" not in text


def test_texts_are_shown_as_they_are_and_long_lists_are_cut(tmp_path: Path) -> None:
    one = write(tmp_path / "a.jsonl", [row(number, "[red]dog[/red]") for number in range(CHANGES_SHOWN + 2)])
    other = write(tmp_path / "b.jsonl", answered("c" * (CHANGES_SHOWN + 2)))
    text = shown(compare([one, other]))
    assert "[red]dog[/red]" in text
    assert f"Better in B (first {CHANGES_SHOWN} of {CHANGES_SHOWN + 2})" in text


def test_the_command(two: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(path) for path in two]
    assert cli.main(["compare", *arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == compare(two)
    assert cli.main(["compare", *arguments, "--metric", "anls"]) == 0
    assert "ANLS on 8 samples" in capsys.readouterr().out
    assert cli.main(["compare", arguments[0]]) == 2
    assert capsys.readouterr().err == "vizsage: error: compare: name at least two runs\n"
    write(two[1] / "evaluation_results/test/predictions.jsonl", answered("c"))
    assert cli.main(["compare", *arguments]) == 3
    assert capsys.readouterr().err.splitlines()[-1].startswith("vizsage: error: the runs answer different samples")


# --- real data -------------------------------------------------------------------------------------------------------


def test_perturbed_answers_of_the_real_split(tmp_path: Path) -> None:
    if not AQUA.exists():
        pytest.skip("needs ../shared/data/aqua")
    records = json.loads(AQUA.read_text(encoding="utf-8"))
    rng = random.Random(0)
    answers = [record["answer"] for record in records]

    def predictions(right: float) -> list[str | None]:
        return [
            answer.upper() + "!" if rng.random() < right else rng.choice([*answers[:50], None]) for answer in answers
        ]

    lines = [
        [{**record, "prediction": prediction} for record, prediction in zip(records, predictions(right), strict=True)]
        for right in (0.5, 0.56)
    ]
    rng.shuffle(lines[1])
    comparison = compare([write(tmp_path / f"{number}.jsonl", rows) for number, rows in enumerate(lines)])
    assert (comparison["samples"], comparison["images"]) == (5124, 1040)
    scores = [np.mean([exact_match(line["prediction"], [line["answer"]]) for line in rows]) for rows in lines]
    (pair,) = comparison["pairs"]
    assert [pair["baseline_score"], pair["score"]] == pytest.approx(scores)
    assert pair["difference"] == pytest.approx(scores[1] - scores[0])
    assert pair["gained"] - pair["lost"] == round(5124 * pair["difference"])
    assert pair["p_value"] == pytest.approx(binomtest(pair["lost"], pair["lost"] + pair["gained"]).pvalue)
    assert 0 < pair["interval"][0] < 0.06 < pair["interval"][1]
    assert pair["with_external_knowledge"]["samples"] == 3617
    assert len(pair["gained_samples"]) == pair["gained"]


# --- the example in the documentation --------------------------------------------------------------------------------


def test_the_example_is_what_the_command_says_of_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs").mkdir()
    for split, words in (("test-base", "dddd"), ("test", "cccd")):
        run(tmp_path / "outputs" / "demo", answered(words), results(), split=split)
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    monkeypatch.setattr("sys.argv", ["compare_example.py", str(page)])
    assert compare_example() == 0
    text = page.read_text(encoding="utf-8")
    assert "old" not in text
    assert text.startswith(
        f"before\n{BEGIN}\n\n    $ vizsage compare outputs/demo/evaluation_results/test-base outputs"
    )
    assert text.endswith(f"\n\n{END}\nafter\n")
    assert "+75.00" in text
    assert "Better in" not in text
    assert not [line for line in text.splitlines() if line != line.rstrip()]


def test_the_example_is_that_of_the_figures() -> None:
    """Both come from `make figures`: scores before and after, and the number of questions."""
    text = (ROOT / "docs/benchmarks.md").read_text(encoding="utf-8")
    before, after, samples = re.findall(r"before, after training \| ([\d.]+), ([\d.]+) \((\d+) questions", text)[0]
    page = (ROOT / "docs/how-to/compare-runs.md").read_text(encoding="utf-8")
    example = page.partition(BEGIN)[2].partition(END)[0]
    assert f" on {samples} samples" in example
    shown = re.findall(r"│ [AB] +│ outputs/\S+ +│ +([\d.]+) %", example)
    assert [f"{float(percent) / 100:.3f}" for percent in shown] == [before, after]
