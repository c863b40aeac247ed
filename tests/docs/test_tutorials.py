"""The tutorials are run: each page's commands, in order, in one shell and a fresh copy of the repository.

A page's blocks of code:

- ```bash: commands. They end with 0, and print what a ```text block directly after them shows. There, `...` is any
  text, a number any number, and widths of tables do not matter.
- ```LANGUAGE FILE: a file of the reader, written before the commands that follow.
- `<!-- not run: REASON -->` before commands that need what is not here; `<!-- run instead: COMMANDS; REASON -->` before
  those for which others are run.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import psutil
import pytest

from tests.docs.demo_bars import check_demo
from tests.docs.markdown_blocks import Block, blocks

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs" / "tutorials").glob("*.md"))
PARTS = ("vizsage", "jobs", "config", "tools", "slurm", "k8s")
FILES = ("Makefile", "pyproject.toml", "requirements.lock", "README.md", "LICENSE")
DEMO = "first-run"
END = "=== end of block"
# Marks of each page; each says why.
MARKS = {"first-run": 2, "your-data": 1, "first-cluster-run": 7}

wanted = pytest.mark.skipif(not os.environ.get("VIZSAGE_DOCS"), reason="takes minutes; `make test-docs` runs it")


class Shell:
    """A bash that keeps its folder and variables between blocks."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=environment,
            text=True,
        )

    def run(self, commands: str) -> str:
        """What `commands` print, both streams. The first that fails ends them, and the test."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"set -e\n{{\n{commands}\n}} < /dev/null\nset +e\necho '{END}'\n")
        self.process.stdin.flush()
        lines = []
        for line in self.process.stdout:
            if line == f"{END}\n":
                return "".join(lines)
            lines.append(line)
        raise AssertionError(f"exit code {self.process.wait()} of\n{commands}\n{''.join(lines)[-5000:]}")


@pytest.fixture
def shell(tmp_path: Path, page: Path) -> Iterator[Shell]:
    """A shell in a copy of the repository after `make install`, which sees nothing of this user.

    The demo has its three epochs on its own page only: what other pages say of it is true after one.
    """
    checkout = tmp_path / "vizsage"
    checkout.mkdir()
    for part in PARTS:
        shutil.copytree(ROOT / part, checkout / part, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy2(ROOT / name, checkout)
    if page.stem != DEMO:
        config = checkout / "config" / "demo_config.yaml"
        config.write_text(config.read_text().replace("\nepochs: 3\n", "\nepochs: 1\n"))
    (checkout / ".venv").mkdir()
    for entry in Path(sys.prefix).iterdir():
        if entry.name != ".installed":
            (checkout / ".venv" / entry.name).symlink_to(entry)
    (checkout / ".venv" / ".installed").touch()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("VIZSAGE_", "MAKE"))}
    environment |= {"HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path / "state"), "PYTHONPATH": str(checkout)}
    environment |= {"OMP_NUM_THREADS": "2", "COLUMNS": "100", "TERM": "dumb", "CUDA_VISIBLE_DEVICES": ""}
    opened = Shell(checkout, environment)
    yield opened
    for process in [opened.process, *psutil.process_iter()]:
        if process is opened.process or str(tmp_path) in _words_of(process):
            process.send_signal(signal.SIGKILL)


def _words_of(process: psutil.Process) -> str:
    try:
        return " ".join([*process.cmdline(), process.environ().get("XDG_STATE_HOME", "")])
    except psutil.Error:
        return ""


@wanted
@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_tutorial_does_what_it_says(page: Path, shell: Shell, tmp_path: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for block, following in pairwise([*blocks(text), Block("", "", "", "", 0)]):
        if block.name:
            path = tmp_path / "vizsage" / block.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{block.text}\n", encoding="utf-8")
        elif block.language == "bash" and not block.mark.startswith("not run:"):
            instead = re.fullmatch(r"run instead: (.*); .+", block.mark)
            printed = shell.run(instead[1] if instead else block.text)
            if following.language == "text":
                assert matches(following.text, printed), f"{page.name}:{following.line}\n{printed}"
    if page.stem == DEMO:
        check_demo(tmp_path / "vizsage")


def matches(shown: str, printed: str) -> bool:
    """Whether `printed` is what a page shows, numbers and widths aside."""
    pattern = ".*".join(map(re.escape, _words(shown).split("...")))
    return re.fullmatch(pattern, _words(printed)) is not None


def _words(text: str) -> str:
    text = re.sub(r"[━─]+", "─", text)
    return " ".join(re.sub(r"\d+(?:[.,:]\d+)*(?:e[+-]\d+)?", "0", text).split())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_few_commands_are_not_run_and_each_mark_has_a_reason(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    marked = [block for block in blocks(text) if block.mark]
    assert len(marked) <= MARKS[page.stem]
    for block in marked:
        assert re.fullmatch(r"not run: .{10,}|run instead: .+; .{10,}", block.mark), block.mark
    for block in blocks(text):  # the name of a file is invisible beside the language of its block
        assert not block.name or f"`{block.name}`" in text, block.name


def test_what_a_page_shows_is_compared_with_what_is_printed() -> None:
    assert matches("a ... c\n│ x │ 1.5 % │", "a b\nb\nc\n│ x   │ 22.75 % │\n")
    assert not matches("two lines", "two lines\nand more")
    assert not matches("a ... c", "a b")


def test_a_command_that_fails_is_noticed(tmp_path: Path) -> None:
    shell = Shell(tmp_path, dict(os.environ))
    assert shell.run("mkdir sub && cd sub\nA=1\necho one") == "one\n"
    assert shell.run("pwd; echo $A; false || echo $?") == f"{tmp_path / 'sub'}\n1\n1\n"
    with pytest.raises(AssertionError, match="exit code 1"):
        shell.run("echo before\nfalse\necho after")
