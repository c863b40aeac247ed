"""Completion in real shells: what Tab makes of a line, and what it offers."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from vizsage import cli
from vizsage.completion import PROGRAMS, SHELLS, paths, settings
from vizsage.config import Config

ROOT = Path(__file__).parents[1]
PROMPT = "ready>"
BEGINNING = "\x01"  # keys of bash and zsh
END = "\x05"
CLEAR = "\x15"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with both programs, settings, a run and other files; HOME is there, too."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, module in zip(PROGRAMS, ("vizsage", "jobs"), strict=True):
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" -m {module} "$@"\n')
        (programs / name).chmod(0o755)
    project = tmp_path / "project"
    (project / "outputs" / "first run").mkdir(parents=True)
    for name in ("mine.yaml", "notes.txt", ".hidden.yaml"):
        (project / name).touch()
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.chdir(project)
    return project


class Terminal:
    """A shell that reads from a terminal, as for a user."""

    def __init__(self, *command: str) -> None:
        self.keyboard, slave = pty.openpty()
        # As wide as no line, so that none is wrapped.
        subprocess.run(["stty", "cols", "500"], stdin=slave, check=True)
        self.shell = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
        os.close(slave)
        self.type(f"PS1={PROMPT[:3]}''{PROMPT[3:-1]}'>'\n")

    def type(self, keys: str, mark: str = "\n") -> str:
        """Type the keys of one line. Returns what is shown until the shell is ready, after `mark`, for the next one."""
        os.write(self.keyboard, keys.encode())
        shown, until = "", time.monotonic() + 60
        while not (mark in shown and shown.rpartition(mark)[2].rstrip().endswith(PROMPT)):
            assert time.monotonic() < until, shown
            if select.select([self.keyboard], [], [], 1)[0]:
                shown = re.sub(r"\x1b[\[=>][?\d;]*[A-Za-z]?", "", shown + os.read(self.keyboard, 65536).decode())
        return shown

    def words(self, line: str) -> list[str]:
        """The words of a command line after it was typed; a tab in it completes."""
        shown = self.type(f"{line}{BEGINNING}printf '<%s>\\n' {END} e''nd\n", "<end>")
        return re.findall(r"^<(.*)>\r?$", shown, re.MULTILINE)[:-1]

    def offered(self, line: str) -> list[str]:
        """What Tab, pressed again, lists after a line."""
        shown = self.type(f"{line}\t\t{CLEAR}echo e''nd\n", "end\r\n")
        return [word.removeprefix("backend=") for word in shown.split()]

    def close(self) -> None:
        self.shell.kill()
        self.shell.wait()
        os.close(self.keyboard)


@pytest.fixture(params=["bash", "zsh"])
def terminal(request: pytest.FixtureRequest, here: Path) -> Iterator[Terminal]:
    if not shutil.which(request.param):
        pytest.skip(f"{request.param} is not installed")
    opened = Terminal(*{"bash": ("bash", "--norc", "-i"), "zsh": ("zsh", "-f", "-i")}[request.param])
    if request.param == "zsh":
        opened.type("autoload -U compinit; compinit -D\n")
    opened.type(f'eval "$(vizsage completion {request.param})"\n')
    yield opened
    opened.close()


def test_a_shell_completes_a_line(terminal: Terminal) -> None:
    assert terminal.words("vizsage tr\t") == ["vizsage", "train"]
    assert terminal.words("vizsage train m\t") == ["vizsage", "train", "mine.yaml"]
    assert terminal.words("vizsage eval mine.yaml --bl\t") == ["vizsage", "eval", "mine.yaml", "--blind"]
    assert terminal.words("vizsage train mine.yaml backend=un\t")[3:] == ["backend=unsloth"]
    assert terminal.words("vizsage eval mine.yaml --base share_im\tau\t")[4:] == ["share_images=auto"]
    assert terminal.words("vizsage compare outputs/f\t")[2:] == ["outputs/first run/"]
    assert terminal.words("vizsage compare outputs --metric anl\t")[4:] == ["anls"]
    assert terminal.words("vizsage-jobs submit loc\ttr\tm\t")[1:] == ["submit", "local", "train", "mine.yaml"]
    assert terminal.words("vizsage-jobs submit slurm train mine.yaml --profile pyx\t")[6:] == ["pyxis"]
    assert {"auto", "hf", "unsloth", "vllm"} <= set(terminal.offered("vizsage train mine.yaml backend="))
    found = terminal.offered("vizsage train ")
    assert {"mine.yaml", "outputs/"} <= set(found)
    assert not {"notes.txt", ".hidden.yaml", "--debug"} & set(found)


def test_fish_completes_a_line(here: Path) -> None:
    if not shutil.which("fish"):
        pytest.skip("fish is not installed")

    def offered(line: str) -> set[str]:
        command = f"vizsage completion fish | source; complete -C '{line}'"
        done = subprocess.run(["fish", "--no-config", "-c", command], capture_output=True, text=True, check=True)
        return {one.partition("\t")[0] for one in done.stdout.splitlines()}

    assert offered("vizsage train ") == {"mine.yaml", "outputs/"}
    assert offered("vizsage train mine.yaml backend=") == {
        f"backend={one}" for one in ("auto", "hf", "unsloth", "vllm")
    }
    assert offered("vizsage-jobs submit ") == {"slurm", "kubernetes", "local"}


@pytest.mark.parametrize("shell", SHELLS)
def test_one_script_is_for_both_programs(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["completion", shell]) == 0
    assert set(PROGRAMS) <= set(re.findall(r"[\w-]+", capsys.readouterr().out))


def test_settings_are_offered_with_the_values_that_they_allow(here: Path) -> None:
    assert set(settings("")) == {f"{name}=" for name in Config.model_fields}
    assert settings("lr=") == settings("no_such=") == {}
    assert set(settings("use_gradient_checkpointing=")) == {
        f"use_gradient_checkpointing={value}" for value in ("unsloth", "true", "false")
    }
    assert set(settings("save_path=out")) == {"save_path=outputs/", "save_path=null"}


def test_paths_begin_as_they_were_typed(here: Path) -> None:
    assert list(paths("~/project/no")) == ["~/project/notes.txt"]
    assert list(paths("")) == ["mine.yaml", "notes.txt", "outputs/"]
    assert list(paths(".h")) == [".hidden.yaml"]
    assert list(paths("none/")) == list(paths("~none/")) == []


def test_a_shell_that_does_not_ask_loads_no_library_for_it() -> None:
    code = "import sys, vizsage.cli, jobs.cli; sys.exit('argcomplete' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
