"""benchmarks.train_throughput: two small contenders for real; ratios and bars on made-up figures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest

from benchmarks import train_throughput
from benchmarks.throughput import child, drawn_questions, machine, merging, ours, random_models, ratios, theirs
from benchmarks.throughput.contenders import CONTENDERS, Job
from vizsage.training.loader import read_ahead

ROOT = Path(__file__).parents[2]
SMALL = "--step-questions 8 --their-batch 4 --our-batch 4 --warmup 2 --steps 2 --text-tokens 64".split()


def run(folder: Path, *arguments: str) -> tuple[int, dict[str, Any], str]:
    """Run the benchmark; exit code, the JSON file, what it printed."""
    found = folder / "found.json"
    options = [*SMALL, "--models", str(folder / "models"), "--json", str(found), *arguments]
    command = [sys.executable, "-m", "benchmarks.train_throughput", *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    return done.returncode, json.loads(found.read_text()) if found.exists() else {}, done.stdout + done.stderr


@pytest.mark.slow
def test_two_contenders_on_this_machine(tmp_path: Path) -> None:
    names = ("trl-16bit", "vizsage-hf-shared-16bit")
    code, found, output = run(tmp_path, "--questions", "4.8", "--only", *names, "unsloth-4bit")
    assert code == 0, output
    rows = {row["contender"]: row for row in found["measurements"]}
    for name in names:
        row = rows[name]
        assert row["samples_per_s"] * row["step_s"] == pytest.approx(8)
        assert len(row["step_times_s"]) == 2
        assert 0 <= row["data_wait_share"] < 1
        assert row["peak_gb"] is None or row["peak_gb"] > 0.1
    trl, shared = (rows[name] for name in names)
    assert shared["ratio_to_trl"] == pytest.approx(shared["samples_per_s"] / trl["samples_per_s"])
    assert shared["ratio_to_unsloth"] is None
    assert 2 <= shared["images_per_step"] <= 4  # 8 questions, 4.8 per image
    assert trl["row"]["pixel_values"] == found["row"]["pixel_values"]
    assert found["row"]["text_tokens"] == pytest.approx(64, abs=3)
    assert "not_run" in rows["unsloth-4bit"] or rows["unsloth-4bit"]["samples_per_s"] > 0
    assert found["bars"] == []
    assert "not run" in output

    # The same again with another contender takes these over, and prints that.
    (tmp_path / "found.json").rename(tmp_path / "earlier.json")
    merge = ("--merge", str(tmp_path / "earlier.json"))
    code, found, output = run(tmp_path, "--questions", "4.8", "--only", "vizsage-hf-plain-16bit", *merge)
    assert code == 0, output
    assert [row.get("merged", False) for row in found["measurements"]] == [True, True, False]
    assert found["measurements"][2]["ratio_merged"] == ["trl"]
    assert "trl-16bit*" in output


@pytest.mark.slow
def test_a_contender_that_fails_is_told_with_its_last_line(tmp_path: Path) -> None:
    code, found, output = run(
        tmp_path, "--questions", "1", "--only", "vizsage-hf-plain-16bit", "--set", "no_such_setting=1"
    )
    assert code == 1
    assert "unknown key 'no_such_setting'" in found["measurements"][0]["failed"]
    assert "unknown key 'no_such_setting'" in output


@pytest.mark.parametrize(
    ("limit", "measured_first", "wanted"),
    [
        ("--budget", True, [("samples_per_s", 9.0), ("samples_per_s", 3.0), ("not_run", "no time left (--budget)")]),
        ("--budget", False, [("samples_per_s", 3.0), ("samples_per_s", 3.0), ("not_run", "no time left (--budget)")]),
        ("--timeout", False, [("failed", "not done after 2 s")] * 3),
    ],
)
def test_a_budget_that_ends_is_no_failure_of_who_was_running(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    limit: str,
    measured_first: bool,
    wanted: list[tuple[str, Any]],
) -> None:
    """Figures that were taken over stay then, and those that it had written count; one that takes too long failed."""
    child = "import json, sys, time\nfrom pathlib import Path\nresult = sys.argv[sys.argv.index('--result') + 1]\n"
    if measured_first:
        child += "row = {'questions': 4.8, 'samples_per_s': 9.0}\n"
        child += "Path(result).write_text(json.dumps({'measured': [row]}))\n"
    (tmp_path / "child.py").write_text(child + "time.sleep(60)\n")
    monkeypatch.setattr(train_throughput, "CHILD", (str(tmp_path / "child.py"),))
    arguments = train_throughput._parser().parse_args([limit, "2"])
    benchmark = train_throughput.Run(arguments, tmp_path)
    earlier = [measured("trl-16bit", mean, 3.0, 82, merged=True) for mean in (4.8, 3.6)]
    benchmark.measurements = list(earlier)
    benchmark.measure("trl-16bit", [4.8, 3.6, 1.0])
    rows = sorted(benchmark.measurements, key=lambda row: -row["questions"])
    assert [(key, row.get(key)) for row, (key, _) in zip(rows, wanted, strict=True)] == wanted


def test_a_pattern_that_names_nobody_is_refused(tmp_path: Path) -> None:
    code, _, output = run(tmp_path, "--only", "axolotl*")
    assert code == 2
    assert "axolotl*: no such contender" in output


@pytest.mark.parametrize(
    ("only", "wanted"),
    [
        (["trl-16bit@1", "trl-16bit@4.8", "trl*@1"], {"trl-16bit": [4.8, 1.0]}),
        (["trl-16bit@1", "trl-16bit"], {"trl-16bit": [4.8, 3.6, 1.0]}),
        (["trl-16bit", "unsloth-16bit@3.6", "trl-16bit@1"], {"unsloth-16bit": [3.6], "trl-16bit": [4.8, 3.6, 1.0]}),
    ],
)
def test_only_adds_up_in_the_order_of_contenders_and_questions(only: list[str], wanted: dict[str, list[float]]) -> None:
    parser = train_throughput._parser()
    chosen = train_throughput._chosen(parser, parser.parse_args(["--only", *only]))
    assert chosen == wanted
    assert list(chosen) == list(wanted)


@pytest.mark.parametrize("mean", [4.8, 3.6, 2.5, 1.0, 7.0])
def test_groups_have_the_mean_and_differ_in_size(mean: float) -> None:
    sizes = drawn_questions.group_sizes(mean)
    assert sum(sizes) / len(sizes) == pytest.approx(mean)
    assert min(sizes) >= 1
    assert len(set(sizes)) >= (3 if mean > 2 else 1)


def test_nothing_that_unsloth_patches_is_imported_before_it() -> None:
    modules = "benchmarks.throughput.child, benchmarks.throughput.theirs, benchmarks.throughput.ours"
    code = f"import sys, {modules}; sys.exit(str([m for m in ('transformers', 'trl', 'peft') if m in sys.modules]))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert done.stderr.strip() == "[]"


@pytest.mark.parametrize("other", ["settings", "machine"])
def test_figures_of_another_kind_are_refused_before_a_model_is_made(tmp_path: Path, other: str) -> None:
    job = train_throughput.Run(
        train_throughput._parser().parse_args(["--models", str(tmp_path / "models")]), tmp_path
    ).job
    earlier = {"machine": machine.describe_machine(), "settings": dict(job.settings)}
    earlier[other] |= {"text_tokens": 80, "torch": "1.0"}
    (tmp_path / "earlier.json").write_text(json.dumps(earlier))
    with pytest.raises(SystemExit, match=r"cannot be merged, measured with other (text_tokens|torch)$"):
        child.prepare(job, [1.0], tmp_path / "result.json", tmp_path / "earlier.json")
    assert not (tmp_path / "models").exists()


def test_figures_of_other_code_of_this_project_are_left_out(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The others' code is no part of it, and theirs stay."""
    benchmark = train_throughput.Run(train_throughput._parser().parse_args([]), tmp_path)
    benchmark._add(measured("vizsage-hf-shared-16bit", 4.8, 20.0, 28))
    benchmark._add(measured("trl-16bit", 4.8, 3.6, 82))
    old = measured("vizsage-hf-shared-16bit", 1, 7.0, 29)  # of a run that did not write down its code
    changed = {**old, "questions": 3.6, "run": {**old["run"], "source": "0" * 12}}
    (tmp_path / "earlier.json").write_text(json.dumps({"measurements": [*benchmark.measurements, old, changed]}))
    benchmark.merge(tmp_path / "earlier.json")
    assert [(row["contender"], row["questions"], row["merged"]) for row in benchmark.measurements] == [
        ("vizsage-hf-shared-16bit", 4.8, True),
        ("trl-16bit", 4.8, True),
    ]
    assert "2 figures of this project are left out, measured with other code" in capfd.readouterr().err


def test_the_code_of_a_package_is_known_by_its_content(tmp_path: Path) -> None:
    hash_source, found = merging.hash_source, []
    for name, text in (("a/x.py", "1"), ("b/x.py", "1"), ("b/x.py", "2"), ("b/sub/y.py", "")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
        found.append(hash_source(tmp_path / name[0]))
    assert found[0] == found[1]
    assert len(set(found)) == 3
    (tmp_path / "b" / "__pycache__").mkdir()
    (tmp_path / "b" / "__pycache__" / "x.pyc").write_bytes(b"3")
    assert hash_source(tmp_path / "b") == found[3]


def test_trl_learns_all_of_a_row_as_the_pages_say() -> None:
    from PIL import Image
    from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

    _, processor = random_models.make_mllama("tiny")
    turns = [{"role": role, "content": [{"type": "text", "text": role}]} for role in ("user", "assistant")]
    turns[0]["content"].insert(0, {"type": "image"})
    row = {"images": [Image.new("RGB", (200, 160))], "messages": turns}
    batch = DataCollatorForVisionLanguageModeling(processor)([row])
    assert (batch["labels"] == batch["input_ids"]).all()


def test_most_steps_on_the_clock_come_after_those_that_were_read_ahead(tmp_path: Path) -> None:
    benchmark = train_throughput.Run(train_throughput._parser().parse_args([]), tmp_path)
    warmup, steps = benchmark.job.measured_steps(CONTENDERS["vizsage-hf-shared-16bit"])
    workers, ahead = 4, read_ahead(4, benchmark.job.step_questions)[1]
    assert steps >= 2 * workers * ahead
    assert warmup == 4
    assert benchmark.job.measured_steps(CONTENDERS["trl-16bit"]) == (2, 4)


@pytest.mark.parametrize("whose", ["ours", "theirs"])
def test_a_late_compilation_neither_slows_nor_hides_the_wait(tmp_path: Path, whose: str) -> None:
    """Steps of 1 s, each waiting 0.03 s, one of them with 60 s of compilation: 3%."""
    times, waits = [1.0, 1.0, 61.0, 1.0], [0.03] * 4
    if whose == "ours":
        job = Job(
            "tiny", "mllama", 112, 24, 4, 8, warmup=1, steps=4, overrides=(), unsloth_resize="max", work="", models=""
        )
        lines = [
            {"step": i, "loss": 1.0, "samples_per_s": 24 / seconds, "data_wait_share": wait / seconds}
            for i, (seconds, wait) in enumerate(zip([90.0, *times], [9.0, *waits], strict=True))
        ]
        (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        shared = CONTENDERS["vizsage-hf-shared-16bit"]
        found = ours.figures(shared, job, tmp_path)
    else:
        watch = object.__new__(theirs.Watch)
        watch.borders, watch.waited, watch.row = list(accumulate([90.0, *times])), [9.0, *waits], {}
        found = watch.figures(1)
    speed = child.speed(found, 24)
    assert speed == pytest.approx({"step_s": 1.0, "samples_per_s": 24.0, "data_wait_share": 0.03})


def measured(contender: str, questions: float, samples_per_s: float, peak_gb: float, **more: Any) -> dict[str, Any]:
    row = {"contender": contender, "questions": questions, "samples_per_s": samples_per_s, "peak_gb": peak_gb}
    run = {"started": "2026-01-01", "overrides": [], "our_batch": 24, "warmup": 4, "steps": 12}
    return {**row, "step_s": 24 / samples_per_s, "data_wait_share": 0.01, "run": run, **more}


def mllama_rows() -> list[dict[str, Any]]:
    """A run in which every bar is met."""
    return [
        measured("unsloth-16bit", 4.8, 3.0, 30),
        measured("trl-16bit", 4.8, 3.6, 82),
        measured("vizsage-hf-shared-16bit", 4.8, 20.0, 28),
        measured("unsloth-4bit", 4.8, 2.9, 16),
        measured("vizsage-hf-shared-4bit", 4.8, 15.0, 14),
        measured("unsloth-16bit", 1, 3.0, 30),
        measured("vizsage-hf-shared-16bit", 1, 7.0, 29),
    ]


def test_all_bars_are_met() -> None:
    bars = ratios.find_bars(mllama_rows(), size="real", family="mllama")
    assert [bar.met for bar in bars] == [True] * 7
    assert bars[0].found.startswith("6.67 x (vizsage-hf-shared-16bit 20.0, unsloth-16bit 3.0")


@pytest.mark.parametrize(
    ("index", "change", "missed"),
    [
        (2, {"samples_per_s": 17.9}, [0, 1]),  # 5.97 and 4.97 times
        (4, {"samples_per_s": 14.4}, [2]),
        (6, {"samples_per_s": 5.9}, [3]),
        (2, {"peak_gb": 30.1}, [4]),
        (4, {"peak_gb": 16.1}, [5]),
        (6, {"data_wait_share": 0.02}, [6]),
    ],
)
def test_each_bar_can_be_missed(index: int, change: dict[str, Any], missed: list[int]) -> None:
    rows = mllama_rows()
    rows[index] |= change
    bars = ratios.find_bars(rows, size="real", family="mllama")
    assert [i for i, bar in enumerate(bars) if bar.met is False] == missed


def test_speed_and_memory_are_promised_of_one_contender() -> None:
    """A faster one that takes more memory than unsloth is ranked behind one that does not."""
    rows = [*mllama_rows(), measured("vizsage-unsloth-shared-16bit", 4.8, 40.0, 50)]
    bars = ratios.find_bars(rows, size="real", family="mllama")
    assert "vizsage-hf-shared-16bit 20.0" in bars[0].found
    rows[2]["peak_gb"] = 31  # none keeps within it: the fastest counts, and misses the memory
    bars = ratios.find_bars(rows, size="real", family="mllama")
    assert "vizsage-unsloth-shared-16bit 40.0" in bars[0].found
    assert bars[4].met is False


def test_where_no_memory_is_promised_the_fastest_counts() -> None:
    rows = [*mllama_rows(), measured("vizsage-unsloth-shared-16bit", 1, 8.0, 50)]
    assert "vizsage-unsloth-shared-16bit 8.0" in ratios.find_bars(rows, size="real", family="mllama")[3].found
    rows = [*mllama_rows(), measured("vizsage-unsloth-shared-16bit", 4.8, 40.0, 50)]
    assert "vizsage-unsloth-shared-16bit 40.0" in ratios.find_bars(rows, size="real", family="qwen2_5_vl")[0].found


def test_a_bar_without_figures_is_open_and_one_of_a_failed_contender_missed() -> None:
    bars = ratios.find_bars([], size="real", family="qwen2_5_vl")
    assert [(bar.found, bar.met) for bar in bars] == [("not measured", None)] * 2
    rows = [{"contender": "vizsage-hf-shared-16bit", "questions": 4.8, "failed": "out of memory"}]
    bars = ratios.find_bars(rows, size="real", family="qwen2_5_vl")
    assert (bars[0].found, bars[0].met) == ("vizsage-hf-shared-16bit failed", False)
    assert ratios.find_bars(mllama_rows(), size="tiny", family="mllama") == []


def test_ratios_compare_like_with_like_and_tell_other_runs() -> None:
    rows = mllama_rows()
    rows[1] |= {"merged": True, "run": {**rows[1]["run"], "started": "2025-12-31"}}
    rows = ratios.with_ratios(rows)
    assert rows[2]["ratio_to_unsloth"] == pytest.approx(20 / 3)
    assert rows[4]["ratio_to_unsloth"] == pytest.approx(15 / 2.9)  # 4 bits with 4 bits
    assert rows[4]["ratio_to_trl"] == pytest.approx(15 / 3.6)
    assert rows[2]["ratio_to_plain"] is None
    assert rows[2]["ratio_merged"] == ["trl"]
    assert rows[0]["ratio_to_unsloth"] is None  # itself


def test_rows_that_differ_are_told() -> None:
    expected = {"tokens": 112.0, "pixel_values": 100.0, "tiles": 4.0}
    rows = [measured("unsloth-16bit", 4.8, 3.0, 30, row={"tokens": 115.0, "pixel_values": 100.0, "tiles": 1.0})]
    assert ratios.notes(rows, expected) == ["unsloth-16bit: 1 tiles per image instead of 4"]
    rows[0]["row"]["tiles"] = 4.0
    assert ratios.notes(rows, expected) == []


def test_reasons_are_told_once() -> None:
    names = ("unsloth-16bit", "unsloth-4bit")
    rows = [{"contender": name, "questions": q, "not_run": "no GPU"} for name in names for q in (4.8, 1)]
    rows.append({"contender": "trl-16bit", "questions": 1, "failed": "out of memory"})
    assert ratios.notes(rows, {}) == [
        "not run: no GPU: unsloth-16bit, unsloth-4bit",
        "failed: trl-16bit, 1: out of memory",
    ]
