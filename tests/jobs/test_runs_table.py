"""The table of runs: which folders are runs, what their files contain, and what damaged ones do not hide."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from jobs.runs_table import Run, differing, problems, render, rows, runs_below
from vizsage.config import build_config, config_to_yaml
from vizsage.contract.submission_lines import Submission
from vizsage.errors import ConfigError, DataError


def settings(**values: Any) -> dict[str, Any]:
    return build_config(values).model_dump(mode="json")


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def write_lines(path: Path, *records: Any) -> Path:
    return write(path, "".join(json.dumps(record) + "\n" for record in records))


def begun(path: Path, scores: tuple[float | None, ...] = (), test: float | None = None, **values: Any) -> Path:
    """A run directory as training and evaluation leave it."""
    write(path / "run.json", json.dumps({"identity": {}, "settings": settings(**values), "attempts": []}))
    if scores:
        lines = [{"step": step, "exact_match": score, "attempt": 1} for step, score in enumerate(scores, start=1)]
        at_start = {"step": 0, "exact_match": 1.0, "attempt": 1}  # of the base model: not a score of the run
        write_lines(path / "metrics.jsonl", at_start, {"step": 1, "loss": 2.5}, *lines)
    if test is not None:
        results = {"exact_match_score": test, "limit": None}
        write(path / "evaluation_results" / "test" / "results.json", json.dumps(results))
    return path


def sent(path: Path, kind: str = "train", **values: Any) -> Path:
    """A run directory as a submission leaves it."""
    file = write(path / "jobs" / f"settings-{kind}.yaml", config_to_yaml(build_config(values)))
    write_lines(path / "jobs" / "submissions.jsonl", submission("7", kind, str(file)))
    return path


def submission(job_id: str, kind: str, config: str) -> dict[str, Any]:
    """The line of a job."""
    at = "2026-03-01T12:00:00+00:00"
    return dataclasses.asdict(Submission(job_id, kind, "slurm", at, "run", "log", "script", config))


def names(directory: Path) -> list[str]:
    return [run.name for run in runs_below(directory, completed)]


def completed(path: Path) -> str:
    return "completed"


def only_row(directory: Path) -> dict[str, Any]:
    (row,) = rows(runs_below(directory, completed))
    return row


def shown(runs: list[Run]) -> str:
    console = Console(width=240, color_system=None)
    with console.capture() as capture:
        console.print(render(runs))
    return "\n".join([capture.get(), *problems(runs)])


def test_runs_are_folders_with_a_record_or_a_submission(tmp_path: Path) -> None:
    begun(tmp_path / "b" / "deep")
    sent(tmp_path / "a")
    (tmp_path / "c" / "checkpoint-1").mkdir(parents=True)
    write(tmp_path / "c" / "metrics.jsonl", "")
    assert names(tmp_path) == ["a", "b/deep"]


def test_the_folder_itself_may_be_a_run(tmp_path: Path) -> None:
    assert names(begun(tmp_path / "mine")) == ["mine"]


@pytest.mark.parametrize(
    "inside", ["checkpoint-10", "damaged-checkpoint-10", "previous-1", "wandb", "evaluation_results", ".hidden", "jobs"]
)
def test_what_a_run_keeps_inside_is_no_run(tmp_path: Path, inside: str) -> None:
    begun(begun(tmp_path / "a") / inside)
    assert names(tmp_path) == ["a"]


def test_an_earlier_run_set_aside_is_none_even_where_the_new_one_has_not_begun(tmp_path: Path) -> None:
    begun(tmp_path / "a" / "previous-1")
    begun(tmp_path / "previous-work")
    assert names(tmp_path) == ["previous-work"]


def test_runs_below_a_run_are_found(tmp_path: Path) -> None:
    begun(begun(tmp_path / "a") / "lr=1e-4")
    assert names(tmp_path) == ["a", "a/lr=1e-4"]


def test_members_of_a_sweep_come_in_its_order_and_before_they_begin(tmp_path: Path) -> None:
    folders = ["lr=2e-4", "lr=1e-4", "lr=3e-5"]
    base = tmp_path / "base"
    write(base / "sweep.json", json.dumps({"runs": [{"run_dir": f"/old/base/{f}", "job_id": "1"} for f in folders]}))
    begun(base / "lr=1e-4")
    sent(base / "lr=2e-4")
    begun(base / "another")
    assert names(tmp_path) == [*(f"base/{f}" for f in folders), "base/another"]


@pytest.mark.parametrize("text", ["{", "[]", '{"runs": [{}]}', '{"runs": [{"run_dir": 3}]}', '{"runs": null}'])
def test_a_damaged_sweep_file_hides_no_run(tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "sweep.json", text)
    begun(tmp_path / "lr=1e-4")
    assert names(tmp_path) == ["lr=1e-4"]
    assert "sweep.json" in caplog.text


def test_a_sweep_file_leads_nowhere_else(tmp_path: Path) -> None:
    begun(tmp_path / "outside")
    write(tmp_path / "in" / "sweep.json", json.dumps({"runs": [{"run_dir": ".."}, {"run_dir": "/"}]}))
    assert names(tmp_path / "in") == []


def test_links_are_followed_and_a_circle_ends(tmp_path: Path) -> None:
    begun(tmp_path / "elsewhere" / "a")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "in")
    assert names(tmp_path / "in") == ["linked/a"]


def test_a_folder_that_is_not_there_is_an_error_and_an_empty_one_is_not(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        runs_below(tmp_path / "none", completed)
    with pytest.raises(ConfigError, match="no such folder"):
        runs_below(write(tmp_path / "file", ""), completed)
    assert runs_below(tmp_path, completed) == []
    assert shown([]).split("\n") == ["no runs", ""]  # no frame around nothing


def test_only_settings_that_differ_are_shown(tmp_path: Path) -> None:
    begun(tmp_path / "a", lr=1e-4, lora_r=16, output_dir="x", wandb_run_name="x", wandb_tags=["x"], seed=1)
    begun(tmp_path / "b", lr=2e-4, lora_r=16, output_dir="y", wandb_run_name="y", wandb_tags=["y"], seed=1)
    begun(tmp_path / "c", lr=2e-4, lora_r=32, output_dir="z", save_path="z", name_trained_model="z", seed=1)
    found = runs_below(tmp_path, completed)
    assert differing(found) == ["lora_r", "lr"]
    assert [row["settings"] for row in rows(found)] == [
        {"lora_r": 16, "lr": 1e-4},
        {"lora_r": 16, "lr": 2e-4},
        {"lora_r": 32, "lr": 2e-4},
    ]


def test_what_the_machine_replaces_is_no_difference_from_runs_that_have_not_begun(tmp_path: Path) -> None:
    replaced = {"backend": "hf", "device": "cpu", "load_in_4bit": False, "use_bf16": False, "optim": "adamw_torch"}
    replaced |= {"use_gradient_checkpointing": True, "attn_implementation": "sdpa", "batch_size": 4, "seed": 9}
    free = {"batch_size": "auto", "reproducible": False}
    for name in "ab":
        begun(tmp_path / name, **free | replaced)
    for name in "cd":
        sent(tmp_path / name, **free)
    assert differing(runs_below(tmp_path, completed)) == []
    sent(tmp_path / "d", **free, device="cpu", lr=5e-4)  # another than c, which has not begun either
    assert differing(runs_below(tmp_path, completed)) == ["device", "lr"]
    sent(tmp_path / "d", **free, lr=5e-4)
    begun(tmp_path / "b", **free | replaced | {"device": "cuda"})  # another than a
    sent(tmp_path / "c", reproducible=True, batch_size=2)  # which no machine replaces
    assert {"device", "lr", "batch_size", "seed"} <= set(differing(runs_below(tmp_path, completed)))


def test_settings_come_from_the_record_then_the_copy_then_what_was_sent(tmp_path: Path) -> None:
    a, b, c, d = (tmp_path / name for name in "abcd")
    for path in (a, b, c):
        sent(path, lr=3e-4)
    for path in (a, b):
        write(path / "config.yaml", config_to_yaml(build_config({"lr": 2e-4})))
    begun(a, lr=1e-4)
    d.mkdir()
    write_lines(d / "jobs" / "submissions.jsonl", submission("8", "eval", "x.yaml"))
    assert [row["settings"] for row in rows(runs_below(tmp_path, completed))] == [
        {"lr": 1e-4},
        {"lr": 2e-4},
        {"lr": 3e-4},
        {},
    ]


def test_settings_that_were_sent_are_found_after_a_move_and_the_last_training_counts(tmp_path: Path) -> None:
    run = sent(tmp_path / "a", lr=1e-4)
    for name, lr in (("old", 5e-4), ("new", 6e-4)):
        write(run / "jobs" / f"{name}.yaml", config_to_yaml(build_config({"lr": lr})))
    log = [("train", "old"), ("train", "new"), ("eval", "old")]
    lines = [submission(str(number), kind, f"/gone/jobs/{name}.yaml") for number, (kind, name) in enumerate(log)]
    write_lines(run / "jobs" / "submissions.jsonl", *lines)
    begun(tmp_path / "b", lr=1e-4)
    assert rows(runs_below(tmp_path, completed))[0]["settings"] == {"lr": 6e-4}


def test_the_best_validation_and_the_test_score_are_shown(tmp_path: Path) -> None:
    begun(tmp_path / "a", scores=(0.25, 0.75, None, 0.5), test=0.625)
    begun(tmp_path / "b", scores=(0.0,), test=0.0)
    assert [(r["best_exact_match"], r["test_exact_match"]) for r in rows(runs_below(tmp_path, completed))] == [
        (0.75, 0.625),
        (0.0, 0.0),
    ]
    text = shown(runs_below(tmp_path, completed))
    assert "0.750" in text
    assert "0.625" in text


def test_what_is_missing_is_no_zero(tmp_path: Path) -> None:
    sent(tmp_path / "a", lr=1e-4)
    begun(tmp_path / "b", scores=(None,), lr=2e-4)
    write_lines(tmp_path / "c" / "jobs" / "submissions.jsonl")
    for row in rows(runs_below(tmp_path, completed)):
        assert row["best_exact_match"] is None
        assert row["test_exact_match"] is None
        assert row["problems"] == []
    lines = {
        line.split()[1]: line.split()
        for line in shown(runs_below(tmp_path, completed)).splitlines()
        if "completed" in line
    }
    assert lines["a"].count("-") == 2
    assert lines["c"].count("-") == 3, "its settings are not known either"


def test_a_torn_last_line_is_skipped(tmp_path: Path) -> None:
    path = begun(tmp_path / "a", scores=(0.25,)) / "metrics.jsonl"
    path.write_text(path.read_text(encoding="utf-8") + '{"step": 9, "exact_match": 0.9', encoding="utf-8")
    assert (only_row(tmp_path)["best_exact_match"], only_row(tmp_path)["problems"]) == (0.25, [])
    run = sent(tmp_path / "b", lr=1e-4) / "jobs" / "submissions.jsonl"
    run.write_text(run.read_text(encoding="utf-8") + '{"kind": "tr', encoding="utf-8")
    assert rows(runs_below(tmp_path, completed))[1]["settings"] == {"lr": 1e-4}


@pytest.mark.parametrize(
    "content",
    [b"nonsense\n", b'[1]\n{"exact_match": 0.5}\n', b'{"exact_match": "x"}\n', b'{"exact_match": NaN}\n', b"\xff\n"],
)
def test_damaged_metrics_say_so_in_their_cell(tmp_path: Path, content: bytes) -> None:
    run = begun(tmp_path / "a", test=0.5, lr=1e-4)
    begun(tmp_path / "b", scores=(0.75,), test=0.5, lr=2e-4)
    (run / "metrics.jsonl").write_bytes(content)
    first, second = rows(runs_below(tmp_path, completed))
    assert (first["best_exact_match"], first["test_exact_match"], first["settings"]) == (None, 0.5, {"lr": 1e-4})
    assert len(first["problems"]) == 1
    assert "metrics.jsonl" in first["problems"][0]
    assert (second["best_exact_match"], second["problems"]) == (0.75, [])
    assert shown(runs_below(tmp_path, completed)).count("damaged") == 1


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"exact_match_score": true}', b"\xff", b"null"])
def test_damaged_results_say_so_in_their_cell(tmp_path: Path, content: bytes) -> None:
    run = begun(tmp_path / "a", scores=(0.75,), test=0.5)
    (run / "evaluation_results" / "test" / "results.json").write_bytes(content)
    row = only_row(tmp_path)
    assert (row["best_exact_match"], row["test_exact_match"]) == (0.75, None)
    assert "results.json" in row["problems"][0]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"settings": []}', b"\xff"])
def test_a_damaged_record_is_replaced_by_the_copy_or_said(tmp_path: Path, content: bytes) -> None:
    run = begun(tmp_path / "a", scores=(0.75,), lr=1e-4)
    (run / "run.json").write_bytes(content)
    begun(tmp_path / "b", lr=2e-4)
    begun(tmp_path / "c", lr=3e-4)
    first, *others = rows(runs_below(tmp_path, completed))
    assert (first["settings"], first["best_exact_match"]) == ({}, 0.75)
    assert "run.json" in first["problems"][0]
    assert [row["settings"] for row in others] == [{"lr": 2e-4}, {"lr": 3e-4}]
    text = shown(runs_below(tmp_path, completed))
    assert text.count("damaged") == 1
    assert "a: run.json" in text

    write(run / "config.yaml", config_to_yaml(build_config({"lr": 4e-4})))
    assert rows(runs_below(tmp_path, completed))[0]["settings"] == {"lr": 4e-4}


@pytest.mark.parametrize("content", ["nonsense\n", '{"kind": "train"}\n', '{"kind": "train", "config": 3}\n'])
def test_damaged_submissions_say_so(tmp_path: Path, content: str) -> None:
    write(tmp_path / "a" / "jobs" / "submissions.jsonl", content)
    row = only_row(tmp_path)
    assert row["settings"] == {}
    assert "submissions.jsonl" in row["problems"][0]


def test_damaged_settings_that_were_sent_say_so(tmp_path: Path) -> None:
    run = sent(tmp_path / "a")
    write(run / "jobs" / "settings-train.yaml", "lr: high")
    assert "lr: " in only_row(tmp_path)["problems"][0]


def test_a_score_on_the_first_samples_only_is_marked(tmp_path: Path) -> None:
    run = begun(tmp_path / "a")
    results = {"exact_match_score": 0.5, "limit": 20}
    write(run / "evaluation_results" / "test" / "results.json", json.dumps(results))
    assert only_row(tmp_path)["test_limit"] == 20
    assert "0.500 (first 20)" in shown(runs_below(tmp_path, completed))


def test_states_are_asked_for_each_run_and_one_that_cannot_be_told_hides_no_other(tmp_path: Path) -> None:
    begun(tmp_path / "a")
    begun(tmp_path / "b")

    def state_of(path: Path) -> str:
        if path.name == "a":
            raise DataError("submissions.jsonl: line 1 is no record")
        return f"running {path.name}"

    first, second = rows(runs_below(tmp_path, state_of))
    assert first["state"] == "unknown"
    assert first["problems"] == ["submissions.jsonl: line 1 is no record"]
    assert second["state"] == "running b"


def test_values_are_text_and_never_markup(tmp_path: Path) -> None:
    begun(tmp_path / "a", instruction="[red]Answer.[/red]")
    begun(tmp_path / "b", instruction="[/]", lora_r=8, max_steps=3)
    text = shown(runs_below(tmp_path, completed))
    assert "[red]Answer.[/red]" in text
    assert "[/]" in text
    assert "null" in text, "max_steps of the first run is set, to null"


def test_rows_are_json(tmp_path: Path) -> None:
    begun(tmp_path / "a", scores=(0.5,), wandb_tags=["x"], loftq_config=None, lr=1e-4)
    begun(tmp_path / "b", lr=2e-4)
    found = rows(runs_below(tmp_path, completed))
    assert json.loads(json.dumps(found)) == found
