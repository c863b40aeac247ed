"""What commands print, byte for byte: no text of data, models or names controls the terminal."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from jobs import cli as jobs_cli
from jobs.schedulers.kubernetes.pod_logs import _Log
from jobs.submissions import Submission
from jobs.terminal import Warnings
from vizsage import cli
from vizsage.config import Config, config_to_yaml
from vizsage.errors import ConfigError, printable, printable_json
from vizsage.evaluation.results_table import comparison_table, error_table, preview_table

HOSTILE = "\x1b[31mred\x07\x9b2J\u202eevil\u2066x"
SHOWN = r"\x1b[31mred\x07\x9b2J\u202eevil\u2066x"
RAW = [chr(n) for n in (*range(9), *range(11, 32), *range(127, 160), *range(0x2028, 0x202F), *range(0x2066, 0x206A))]


@pytest.fixture(autouse=True)
def _root_logger() -> Iterator[None]:
    """`main` replaces the handlers of the root logger."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


def safe(text: str) -> str:
    """`text`, once nothing in it can control a terminal."""
    assert not [c for c in RAW if c in text]
    text.encode()
    return text


# the two functions


def test_what_is_printable_stays_and_all_else_is_named() -> None:
    assert (
        printable("Malevič's сад, 庭園, باغ, 🎨, a\tb\u200f\u200d") == "Malevič's сад, 庭園, باغ, 🎨, a\tb\u200f\u200d"
    )
    assert printable(HOSTILE) == SHOWN
    assert printable("one\r\ntwo\u2028") == r"one\r\ntwo\u2028"
    assert printable("one\ntwo\r", lines=True) == "one\ntwo\\r"
    assert printable("\udc9b\ud83d") == r"\udc9b\ud83d"


@given(st.text(st.characters() | st.sampled_from(RAW)))
def test_no_text_controls_a_terminal(text: str) -> None:
    safe(printable(text, lines=True))
    assert "\n" not in printable(text)
    assert printable(printable(text)) == printable(text)
    document = json.dumps({"text": text}, ensure_ascii=False, indent=2)
    assert json.loads(safe(printable_json(document))) == {"text": text}


# vizsage


def lines_of(prediction: str) -> list[dict[str, Any]]:
    one = {"image": f"{HOSTILE}.png", "question": f"what {HOSTILE}", "answer": HOSTILE, "tags": {HOSTILE: HOSTILE}}
    other = {"image": "b.png", "question": "who", "answer": "b", "prediction": "b", "tags": {HOSTILE: "other"}}
    return [{**one, "prediction": prediction}, other]


def write(folder: Path, lines: list[dict[str, Any]]) -> Path:
    folder.mkdir()
    path = folder / "theirs.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def run(main: Any, capsys: Any, *arguments: Any) -> tuple[int, str, str]:
    """Exit code, stdout and stderr."""
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as error:
        code = int(error.code or 0)
    out, err = capsys.readouterr()
    return code, safe(out), safe(err)


def test_score_and_compare(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    paths = [write(tmp_path / name, lines_of(said)) for name, said in ((f"one{HOSTILE}", HOSTILE), ("two", "no"))]
    code, out, err = run(cli.main, capsys, "score", paths[0])
    assert code == 0
    assert f"by {SHOWN}" in out
    assert f"one{SHOWN}" in out.replace("\n", "")
    code, out, err = run(cli.main, capsys, "score", paths[0], "--json")
    assert HOSTILE in json.loads(out)["by_tag"]
    code, out, err = run(cli.main, capsys, "compare", *paths)
    assert code == 0
    for part in (f"one{SHOWN}/theirs.jsonl", f"{SHOWN}.png", f"what {SHOWN}", f"by {SHOWN}"):
        assert part in out
    assert f"one{SHOWN}/theirs.jsonl: no results.json beside it" in err
    code, out, err = run(cli.main, capsys, "compare", *paths, "--json")
    assert json.loads(out)["pairs"][0]["lost_samples"][0]["predictions"] == [HOSTILE, "no"]


def test_tables_of_an_evaluation() -> None:
    row = {"image": HOSTILE, "question": HOSTILE, "answer": HOSTILE, "prediction": HOSTILE, "error": HOSTILE}
    row |= {"exact_match": False, "finish_reason": "stop"}
    console = Console(file=io.StringIO(), width=300)
    for table in (preview_table([row]), error_table([row], "Failed", reasons=True), error_table([row], "Wrong")):
        console.print(table)
    console.print(comparison_table([row], mode="squad"))
    assert isinstance(console.file, io.StringIO)
    out = safe(console.file.getvalue())
    assert out.count(SHOWN) == 4 + 4 + 4 + 2  # and 2 normalised
    assert next(line for line in out.splitlines() if SHOWN in line) == f"│ {' │ '.join([SHOWN] * 4)} │ no    │"


def test_check(write_data: Any, capsys: Any, tmp_path: Path) -> None:
    record = {"image": f"{HOSTILE}.png", "question": HOSTILE, "answer": "a"}
    base = write_data(train=[record], val=[record])
    arguments = (f"base_path={base}", f"output_dir={tmp_path}/out", "model_name=vizsage-tiny", "load_in_4bit=false")
    config = tmp_path / "c.yaml"
    config.write_text("")
    code, out, err = run(cli.main, capsys, "check", config, *arguments, "--fast")
    assert code == 3
    assert f"train and val: {SHOWN}.png: {SHOWN}" in out
    assert SHOWN in err


def test_errors_warnings_and_answers(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    code, out, err = run(cli.main, capsys, "config", tmp_path / HOSTILE)
    assert (code, out) == (2, "")
    told = "no such file; name a YAML file of settings, see config/, or a run's output_dir"
    assert err == f"vizsage: error: {tmp_path}/{SHOWN}: {told}\n"
    code, out, err = run(cli.main, capsys, "score", "x", f"--{HOSTILE}")
    assert (code, err.startswith(f"vizsage: error: unrecognised arguments: --{SHOWN}")) == (2, True)

    def reports(_: Any) -> None:
        logging.getLogger("vizsage.x").warning("%s", f"{HOSTILE}\nvizsage: error: forged")
        logging.getLogger("other").warning("%s", f"{HOSTILE}\nsecond line")
        raise ValueError(HOSTILE)

    monkeypatch.setitem(cli._COMMANDS, "demo", reports)
    code, out, err = run(cli.main, capsys, "--debug", "demo", tmp_path)
    assert err.startswith(
        f"vizsage: warning: {SHOWN}\\nvizsage: error: forged\nvizsage: warning: {SHOWN}\nsecond line\n"
    )
    assert f"\nValueError: {SHOWN}\n" in err
    assert err.endswith(f"vizsage: error: unexpected ValueError: {SHOWN}; --debug shows where\n")

    monkeypatch.setattr("vizsage.evaluation.predict.predict", lambda *_, **__: SimpleNamespace(text=f"{HOSTILE}\nb"))
    (tmp_path / "c.yaml").write_text("model_name: vizsage-tiny\nload_in_4bit: false\n")
    code, out, err = run(cli.main, capsys, "predict", tmp_path / "c.yaml", "--image", "a.png", "--question", "what")
    assert (code, out) == (0, f"{SHOWN}\nb\n")


def test_settings_as_yaml_keep_their_value() -> None:
    config = Config(instruction=HOSTILE)
    assert yaml.safe_load(safe(config_to_yaml(config)))["instruction"] == HOSTILE
    assert "庭園" in config_to_yaml(Config(instruction="庭園"))


# jobs


def submission(run_dir: str, log: str) -> Submission:
    return Submission("7_0", "train", "slurm", "2026-01-31T12:00:00+00:00", run_dir, log, script="", config="")


def test_jobs_print_no_control_codes(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    base = tmp_path / HOSTILE
    for name, lr in (("a", "1e-4"), (f"b{HOSTILE}", "2e-4")):
        (base / name).mkdir(parents=True)
        settings = Config(lr=lr, wandb_run_name=HOSTILE + name).model_dump(mode="json")
        (base / name / "run.json").write_text(json.dumps({"settings": settings}))
    (base / "a" / "metrics.jsonl").write_text("{")
    code, out, err = run(jobs_cli.main, capsys, "table", base)
    assert code == 0
    assert f"b{SHOWN}" in out
    code, out, err = run(jobs_cli.main, capsys, "table", tmp_path / f"none{HOSTILE}")
    assert (code, err) == (
        2,
        f"jobs: error: {tmp_path}/none{SHOWN}: no such folder; name one that holds runs\n",
    )
    code, out, err = run(jobs_cli.main, capsys, "status", f"--{HOSTILE}")
    assert (code, f"--{SHOWN}" in err) == (2, True)

    found = submission(f"runs/{HOSTILE}", HOSTILE)
    state = SimpleNamespace(state="failed", detail=HOSTILE, step=3, error=HOSTILE)
    monkeypatch.setattr("jobs.submissions.find", lambda _: [found])
    monkeypatch.setattr("jobs.status.state_of", lambda _: state)
    code, out, err = run(jobs_cli.main, capsys, "status", "run")
    assert out == (
        f"run directory runs/{SHOWN}\ntrain job 7_0: failed ({SHOWN})\n  step 3\n  last error: {SHOWN}\n  log {SHOWN}\n"
    )

    def warns(_: Any) -> None:
        Warnings().handle(logging.makeLogRecord({"msg": HOSTILE, "levelno": logging.WARNING}))
        raise ConfigError(HOSTILE)

    monkeypatch.setitem(jobs_cli._COMMANDS, "status", warns)
    code, out, err = run(jobs_cli.main, capsys, "status")
    assert err == f"jobs: warning: {SHOWN}\njobs: error: {SHOWN}\n"


@pytest.mark.parametrize("terminal", [True, False])
def test_logs_on_a_terminal_and_in_a_file(tmp_path: Path, monkeypatch: Any, terminal: bool) -> None:
    content = f"step 1: {HOSTILE}\n".encode() + b"\x9b2J\xff end\n"
    log = tmp_path / "7_0_log.out"  # of a member of an array, so that there are no logs of other nodes
    log.write_bytes(content)
    found = submission("run", str(log))
    monkeypatch.setattr("jobs.submissions.find", lambda _: [found])
    written = io.BytesIO()
    stdout = SimpleNamespace(buffer=written, isatty=lambda: terminal, flush=lambda: None)
    monkeypatch.setattr(sys, "stdout", stdout)
    run_instead: list[list[str]] = []

    def replaced(_: str, command: list[str]) -> None:
        run_instead.append(command)
        raise KeyboardInterrupt

    monkeypatch.setattr("os.execvp", replaced)
    code = jobs_cli.main(["logs", "run"])
    if terminal:
        assert (code, written.getvalue().decode()) == (0, f"step 1: {SHOWN}\n\\x9b2J\\xff end\n")
    else:
        assert (run_instead, written.getvalue()) == ([["tail", "-n", "+1", str(log)]], b"")
    written.truncate(written.seek(0))
    _Log([], {"metadata": {"name": "pod"}}, "container")._write(content.splitlines())
    shown = f"step 1: {SHOWN}\n\\x9b2J\\xff end\n".encode() if terminal else content
    assert written.getvalue() == b"=== pod pod\n" + shown
