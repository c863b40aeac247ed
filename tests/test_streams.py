"""Logs that cannot be written change nothing; a product that cannot be written is a failure."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
LOST = [">/dev/full 2>&1", ">&-", "2>&-", "<&- >&- 2>&-"]


def shell(command: list[str], redirection: str) -> subprocess.CompletedProcess[str]:
    """Run `command` as a shell does with `redirection` behind it."""
    return subprocess.run(
        ["bash", "-c", f'"$@" {redirection}', "shell", *command],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip


PRINTING = """
import logging, subprocess, sys
from vizsage.streams import keep_streams
keep_streams(product=False)
with open(sys.argv[1], "w") as file:
    assert file.fileno() > 2
    logging.basicConfig(level=logging.INFO)
    for stream in (sys.stdout, sys.stderr):
        print("x" * 100_000, file=stream, flush=True)
        stream.writelines(["a", "b"])
        assert not stream.isatty()
    logging.info("y" * 100_000)
    subprocess.run([sys.executable, "-c", "print(1)"], stdout=sys.stdout, stderr=sys.stderr)
sys.exit(5)
"""


@pytest.mark.parametrize("redirection", LOST)
def test_a_log_that_cannot_be_written_decides_nothing(tmp_path: Path, redirection: str) -> None:
    file = tmp_path / "file"
    assert shell([sys.executable, "-c", PRINTING, str(file)], redirection).returncode == 5
    assert file.read_text() == ""  # nor does a log go where a file of the run is


@pytest.mark.slow
def test_a_training_without_a_log_delivers(
    tmp_path: Path, write_data: Callable[..., Path], write_settings: Callable[..., Path]
) -> None:
    settings = write_settings(
        model_name="vizsage-tiny", device="cpu", load_in_4bit=False, use_bf16=False, use_gradient_checkpointing=False,
        batch_size=1, grad_accum=1, max_steps=1, warmup_steps=0, val_samples=1, num_proc=0, dataset="AQUA",
        base_path=str(write_data()), output_dir=str(tmp_path / "run"),
    )  # fmt: skip
    assert shell([sys.executable, "-m", "vizsage", "train", str(settings)], ">&- 2>/dev/full").returncode == 0
    assert json.loads((tmp_path / "run" / "outcome.json").read_text())["exit_code"] == 0
    assert (tmp_path / "run" / "vizsage-adapter" / "adapter_model.safetensors").stat().st_size > 0


@pytest.mark.parametrize("redirection", [">/dev/full", ">&-"])
@pytest.mark.parametrize("command", ["config", "score --json", "score"])
def test_a_product_that_cannot_be_written_is_a_failure_in_one_line(
    tmp_path: Path, command: str, redirection: str
) -> None:
    (tmp_path / "config").write_text("device: cpu\n")
    (tmp_path / "score").write_text('{"image": "a.png", "question": "?", "prediction": "blue", "answer": "blue"}\n')
    name, *options = command.split()
    done = shell([sys.executable, "-m", "vizsage", name, str(tmp_path / name), *options], redirection)
    assert done.returncode == 1
    assert done.stderr.startswith("vizsage: error: stdout: what was asked for cannot be written there: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("redirection", [">/dev/full", ">&-"])
def test_what_launchers_are_asked_to_show_and_cannot_is_a_failure_in_one_line(tmp_path: Path, redirection: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text('{"attempts": [{"step": 1}], "settings": {}, "identity": {}}')
    done = shell([sys.executable, "-m", "jobs", "table", str(tmp_path)], redirection)
    assert done.returncode == 1
    assert done.stderr.startswith("jobs: error: stdout: what was asked for cannot be written there: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("redirection", LOST)
def test_the_launcher_s_exit_code_does_not_depend_on_its_log(redirection: str) -> None:
    assert shell([sys.executable, "-m", "jobs.run", "dance", "x.yaml"], redirection).returncode == 2


# --- encodings -------------------------------------------------------------------------------------------------------

WORDS = "é “so” 日本 😀"


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_an_encoding_that_lacks_characters_ends_no_command(
    write_data: Callable[..., Path], write_settings: Callable[..., Path], tmp_path: Path, encoding: str
) -> None:
    """What a command prints is of the same value where scripts read it."""
    records = [{"image": "a.png", "question": f"what is {WORDS} {i}", "answer": WORDS} for i in range(2)]
    base = write_data(train=records, val=records, test=[{**records[0], "image": f"{WORDS}.png"}])
    path = write_settings(
        model_name="vizsage-tiny", device="cpu", load_in_4bit=False, use_bf16=False, base_path=str(base), num_proc=0,
        output_dir=str(tmp_path / f"out {WORDS}"), instruction=WORDS, debug_exact_match=True, max_new_tokens=2,
    )  # fmt: skip
    lines = tmp_path / "lines.jsonl"
    row = {"image": "i", "question": WORDS, "prediction": WORDS, "answer": "no", "tags": {WORDS: WORDS}}
    lines.write_text(json.dumps(row) + "\n", encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": encoding}

    def stdout(*words: str | Path, code: int = 0) -> str:
        command = [sys.executable, "-m", *map(str, words)]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=False)
        assert done.returncode == code, done.stderr
        return done.stdout.decode(encoding)

    if encoding == "ascii":  # an evaluation takes long, and ASCII lacks the most
        assert "Comparisons" in stdout("vizsage", "eval", path, "--base")
    checked = stdout("vizsage", "check", path, "--fast", code=3)
    assert "error: samples in two splits" in checked
    assert ("\\u00e9" if encoding == "ascii" else "é") in checked
    assert json.loads(stdout("vizsage", "score", lines, "--json"))["by_tag"][WORDS][WORDS]["samples"] == 1
    assert stdout("vizsage", "score", lines)
    assert stdout("vizsage", "compare", lines, lines)
    assert json.loads(stdout("vizsage", "compare", lines, lines, "--json"))["samples"] == 1
    assert yaml.safe_load(stdout("vizsage", "config", path))["instruction"] == WORDS
    script = stdout("jobs", "submit", "slurm", "train", path, f"model_name={WORDS}", "--dry-run")
    assert "#SBATCH" in script


def test_a_name_that_the_locale_cannot_spell_is_one_line(
    write_data: Callable[..., Path], write_settings: Callable[..., Path]
) -> None:
    records = [{"image": "\xe9t\xe9.png", "question": "what", "answer": "one"}]
    path = write_settings(model_name="vizsage-tiny", device="cpu", base_path=str(write_data(train=records)))
    environment = os.environ | {"PYTHONPATH": str(ROOT), "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-m", "vizsage", "check", str(path)]
    done = subprocess.run(command, cwd=path.parent, env=environment, capture_output=True, check=False, text=True)
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1] == (
        "vizsage: error: '\\u00e9t\\u00e9.png' cannot be written in this locale's encoding, ascii; set PYTHONUTF8=1, "
        "or LC_ALL to a locale of UTF-8"
    )
