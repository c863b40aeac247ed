"""The command line as a user sees it: exit codes, one line on stderr, nothing half-written."""

from __future__ import annotations

import errno
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from vizsage import __version__, cli
from vizsage.errors import CheckpointError, ConfigError, DataError, Interrupted, RepeatingError
from vizsage.parser import EXAMPLES, parse

WriteData = Callable[..., Path]
WriteSettings = Callable[..., Path]
ROOT = Path(__file__).parents[1]


def vizsage(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the command in a separate process."""
    command = [sys.executable, "-m", "vizsage", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, **options)


def refused(capsys: pytest.CaptureFixture[str], exit_code: int, *arguments: str | Path) -> str:
    """Run the command in this process; it must end with `exit_code` and one line, which is returned."""
    try:
        found = cli.main([str(argument) for argument in arguments])
    except SystemExit as error:  # argparse
        found = int(error.code or 0)
    err = capsys.readouterr().err
    assert found == exit_code, err
    assert err.startswith("vizsage: error: "), err
    assert err.count("\n") == 1, err
    assert "Traceback" not in err
    return err.strip()


# --- start-up --------------------------------------------------------------------------------------------------------


def test_help_is_quick_and_names_every_command() -> None:
    vizsage("--help")  # the first start compiles
    started = time.perf_counter()
    done = vizsage("--help")
    seconds = time.perf_counter() - started
    assert done.returncode == 0
    for command in ("train", "eval", "score", "report", "check", "predict", "config", "demo"):
        assert f"    {command} " in done.stdout
    assert seconds < 0.6


@pytest.mark.parametrize("command", cli._COMMANDS)
def test_each_command_has_help_with_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.main([command, "--help"])
    shown = capsys.readouterr().out
    assert f"usage: vizsage {command}" in shown
    assert f"vizsage {command} " in shown.partition("examples:\n")[2]
    assert max(map(len, shown.splitlines())) <= 80
    assert ("docs/reference/settings.md" in shown) == (command == "train")


@pytest.mark.parametrize("command", EXAMPLES)
def test_examples_of_the_help_can_be_parsed(command: str) -> None:
    for line in EXAMPLES[command].strip().splitlines():
        line = line.strip().removeprefix('eval "$(').replace(')"', "").partition(" > ")[0]
        assert parse(shlex.split(line, comments=True)[1:]).command == command


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"vizsage {__version__}\n"


def test_the_version_is_the_one_of_the_package() -> None:
    assert f'\nversion = "{__version__}"\n' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


# --- config and demo -------------------------------------------------------------------------------------------------


def test_config_prints_settings_that_can_be_read_back(
    write_settings: WriteSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_settings(seed=1)
    assert cli.main(["config", str(path), "lr=1e-3", "epochs=2"]) == 0
    settings = yaml.safe_load(capsys.readouterr().out)
    assert (settings["seed"], settings["lr"], settings["epochs"]) == (1, 1e-3, 2.0)


def test_schema_is_a_json_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config", "--schema"]) == 0
    jsonschema.Draft202012Validator.check_schema(json.loads(capsys.readouterr().out))


def test_overrides_may_stand_before_and_after_options(
    write_settings: WriteSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: dict[str, Any] = {}

    def evaluate(config: Any, **options: Any) -> None:
        called.update(options, config=config)

    monkeypatch.setitem(sys.modules, "vizsage.evaluation.evaluate", type("Module", (), {"evaluate": evaluate}))
    path = write_settings()
    arguments = ["eval", str(path), "seed=1", "--split", "val", "lr=0.5", "--limit", "3", "--base", "epochs=7"]
    assert cli.main(arguments) == 0
    assert (called["config"].seed, called["config"].lr, called["config"].epochs) == (1, 0.5, 7)
    assert (called["split"], called["limit"], called["base"], called["adapter"]) == ("val", 3, True, None)


def test_demo_writes_a_data_set_that_check_accepts(tmp_path: Path) -> None:
    done = vizsage("demo", tmp_path / "data", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    (tmp_path / "run.yaml").write_text(
        "dataset: Demo\nexternal_knowledge: true\nexternal_knowledge_path: data/semart.csv\n", encoding="utf-8"
    )
    done = vizsage("check", "run.yaml", "--fast", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Nothing found that would stop a run." in done.stdout
    assert done.stderr == ""


def test_every_path_of_a_command_may_begin_with_the_sign_of_a_home_folder(
    write_data: WriteData, write_settings: WriteSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """No command may make a folder that is called ~."""
    monkeypatch.setenv("HOME", str(tmp_path))
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    write_data()
    write_settings(base_path="~/data", dataset="AQUA", output_dir="~/run", load_in_4bit=False)
    assert cli.main(["demo", "~/demo"]) == 0
    assert cli.main(["check", "~/run.yaml", "--fast"]) == 0
    (tmp_path / "lines.jsonl").write_text(json.dumps({"prediction": "a", "answer": "a", "image": "i", "question": "q"}))
    assert cli.main(["score", "~/lines.jsonl"]) == 0
    assert cli.main(["compare", "~/lines.jsonl", "~/lines.jsonl"]) == 0
    capsys.readouterr()
    assert f"vizsage: error: {tmp_path}/none" in refused(capsys, 3, "eval", "~/run.yaml", "--adapter", "~/none")
    assert f"vizsage: error: {tmp_path}/none" in refused(capsys, 2, "report", "~/none")
    asking = ("predict", "~/run.yaml", "--base", "--question", "q", "--image", "~/none.png")
    assert f"{tmp_path}/none.png" in refused(capsys, 3, *asking, "model_name=vizsage-tiny", "device=cpu")
    assert "~nobody-here names no home folder" in refused(capsys, 2, "check", "~nobody-here/run.yaml")
    assert list(here.iterdir()) == []


# --- wrong commands --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: COMMAND; see vizsage --help"),
        (["trian"], "invalid choice: 'trian'"),
        (["train"], "the following arguments are required: CONFIG; see"),  # key=value may be left out
        (["train", "a.yaml", "--lr", "3"], "arguments: --lr; a setting is written without dashes: lr=3; see"),
        (["train", "a.yaml", "--learning-rate=3", "--lora_rank"], "without dashes: lr=3 lora_r=...; see"),
        (
            ["eval", "a.yaml", "--warmup_ratio", "0.1", "--x"],
            "--warmup_ratio --x; a setting is written without dashes: warmup_steps=...; see",
        ),
        (["train", "a.yaml", "--x", "3"], "unrecognised arguments: --x; see"),
        (["demo", "a", "b"], "unrecognised arguments: b"),
        (["config"], "name a YAML file of settings, or ask for --schema"),
        (["eval", "a.yaml", "--limit", "0"], "expected a number of samples of 1 or more, found '0'"),
        (["eval", "a.yaml", "--limit", "few"], "expected a number of samples of 1 or more, found 'few'"),
        (["eval", "a.yaml", "--base", "--adapter", "x"], "not allowed with argument --base"),
        (["predict", "a.yaml", "--question", "who"], "the following arguments are required: --image"),
        (["train", "a.yaml"], "a.yaml: no such file"),
        (["train", "."], ".: a folder without config.yaml; name a YAML file of settings, or the output_dir"),
    ],
)
def test_a_wrong_command_is_one_line_and_exit_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert message in refused(capsys, 2, *arguments)


def test_a_wrong_option_names_the_help_of_the_program_that_was_called(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert refused(capsys, 2, "train", "a.yaml", "--foo").endswith("--foo; see vizsage --help")
    monkeypatch.setenv("VIZSAGE_CALLED_AS", "python -m jobs.run")
    assert refused(capsys, 2, "train", "a.yaml", "--foo").endswith("--foo; see python -m jobs.run --help")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("batchsize: 2", "unknown key 'batchsize', did you mean 'batch_size'?"),
        ("batch_size: true", "batch_size: Input should be 'auto', or expected a number, found true"),
        ("lr: fast", "lr: Input should be a valid number"),
        ("lora_r: 0", "lora_r: Input should be greater than or equal to 1, found 0"),
        ("lr: 1e-4\nseed: [1", "line 2, column 9: broken YAML"),
        ("lr: 1e-4\nlr: 1e-3", "line 2, column 1: broken YAML: key 'lr' is repeated"),
    ],
)
@pytest.mark.parametrize("command", ["config", "check", "train", "eval"])
def test_bad_settings_stop_every_command_before_anything_is_written(
    command: str, text: str, message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(text, encoding="utf-8")
    error = refused(capsys, 2, command, "run.yaml")
    assert message in error
    assert "run.yaml: " in error
    assert [path.name for path in tmp_path.iterdir()] == ["run.yaml"]


# --- bad data, as `vizsage check` shows it ---------------------------------------------------------------------------

RECORD = {"image": "a.png", "question": "what is it", "answer": "grey"}


def broken(**changes: Any) -> list[dict[str, Any]]:
    """A sound record and one with changes; None takes a field away."""
    record = {key: value for key, value in {**RECORD, **changes}.items() if value is not None}
    return [{**RECORD, "question": "and this"}, record]


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (None, "no split 'train'"),
        ("", "expected a JSON array"),
        ("[]", "holds no records"),
        ('[{"image": "a.png"', "broken JSON after record 0"),
        (broken(answer=None), "record 2 (image 'a.png'): answer is missing"),
        (broken(answer="  "), "record 2 (image 'a.png'): answer is empty"),
        (broken(question=None), "record 2 (image 'a.png'): question is missing"),
        (broken(image=None), "record 2: image is missing"),
        (broken(image="../a.png"), "the image name leaves"),
        (broken(image="/etc/passwd"), "the image name leaves"),
        (broken(image="not-there.png"), "image 'not-there.png' is missing"),
        ([1], "record 1: expected an object"),
    ],
)
def test_bad_data_is_one_line_and_exit_3(
    train: Any, message: str, write_data: WriteData, write_settings: WriteSettings, capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:  # fmt: skip
    base = write_data(train=train)
    (base / "Images" / "not-there.png").unlink(missing_ok=True)
    path = write_settings(base_path=str(base), output_dir=str(tmp_path / "run"))
    assert message in refused(capsys, 3, "check", path, "--fast")
    assert not (tmp_path / "run").exists()


def test_an_image_name_may_not_be_a_link_out_of_the_folder(
    write_data: WriteData, write_settings: WriteSettings, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    base = write_data()
    (tmp_path / "secret.png").write_bytes((base / "Images" / "train-0.png").read_bytes())
    (base / "Images" / "train-0.png").unlink()
    (base / "Images" / "train-0.png").symlink_to(tmp_path / "secret.png")
    path = write_settings(base_path=str(base))
    assert "symbolic link that leaves" in refused(capsys, 3, "check", path, "--fast")


def test_a_number_is_read_as_its_text_and_a_byte_order_mark_does_no_harm(
    write_data: WriteData, write_settings: WriteSettings
) -> None:
    base = write_data(train="\ufeff" + json.dumps([{**RECORD, "answer": 3}]))
    (base / "Images" / "a.png").write_bytes((base / "Images" / "val-0.png").read_bytes())
    assert cli.main(["check", str(write_settings(base_path=str(base))), "--fast"]) == 0


def test_output_dir_that_is_a_file_is_exit_2(
    write_data: WriteData, write_settings: WriteSettings, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "run").write_text("here first")
    path = write_settings(base_path=str(write_data()), output_dir=str(tmp_path / "run"))
    assert "is a file; name a folder" in refused(capsys, 2, "check", path, "--fast")
    assert (tmp_path / "run").read_text() == "here first"


# --- errors become exit codes ----------------------------------------------------------------------------------------


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> list[str]:
    """A command line whose command raises `error`."""

    def raise_it(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setitem(cli._COMMANDS, "demo", raise_it)
    return ["demo", "somewhere"]


class OutOfMemoryError(RuntimeError):
    """Named like torch's."""


@pytest.mark.parametrize(
    ("error", "exit_code", "line"),
    [
        (ConfigError("lr: wrong"), 2, "vizsage: error: lr: wrong"),
        (DataError("a.json: broken\nhere"), 3, "vizsage: error: a.json: broken here"),
        (CheckpointError("no adapter"), 3, "vizsage: error: no adapter"),
        (RepeatingError("loss is nan"), 4, "vizsage: error: loss is nan"),
        (Interrupted("SIGTERM at step 3"), 75, "vizsage: interrupted: SIGTERM at step 3"),
        (KeyboardInterrupt(), 130, "vizsage: interrupted: nothing was left half-written"),
        (OutOfMemoryError("CUDA"), 4, "vizsage: error: out of GPU memory; "),
        (ZeroDivisionError("by\nzero"), 1, "vizsage: error: unexpected ZeroDivisionError: by zero; --debug"),
        (OSError(errno.ENOSPC, "No space left", "run/x"), 1, "vizsage: error: run/x: the disk is full"),
        (OSError(errno.ENOSPC, "No space left"), 1, "vizsage: error: a file of the run: the disk is full"),
    ],
)  # fmt: skip
def test_every_error_is_one_line_with_its_exit_code(
    error: BaseException, exit_code: int, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(failing(monkeypatch, error)) == exit_code
    err = capsys.readouterr().err
    assert err.startswith(line)
    assert err.count("\n") == 1


@pytest.mark.parametrize("position", [0, 1])
def test_debug_shows_where_it_happened(
    position: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = failing(monkeypatch, ZeroDivisionError("why"))
    arguments.insert(position, "--debug")
    assert cli.main(arguments) == 1
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert "in raise_it" in err
    assert err.splitlines()[-1].startswith("vizsage: error: unexpected ZeroDivisionError: why")


def test_a_reader_that_goes_away_is_no_error() -> None:
    command = f"{sys.executable} -m vizsage config --schema | head -c 1 > {os.devnull}; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.stderr == ""
    assert done.returncode in (0, 1)
