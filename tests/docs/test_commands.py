"""Each command on each page is one that the real parsers accept, with options and settings that there are."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import jobs.parser
import vizsage.parser
from tests.docs.markdown_blocks import blocks, simple_commands
from vizsage.config import Config

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", "CONTRIBUTING.md", "slurm/README.md", "k8s/README.md"]
PAGES += sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))
MAKE = {"train": ("vizsage", "train"), "eval": ("vizsage", "eval"), "check": ("vizsage", "check")}
MAKE |= {"submit-local": ("jobs", "submit local train"), "submit-slurm": ("jobs", "submit slurm train")}
MAKE |= {"submit-k8s": ("jobs", "submit kubernetes train")}
PARSERS = {"vizsage": vizsage.parser.parse, "jobs": jobs.parser.parse}


def arguments_of(words: list[str]) -> tuple[str, list[str]] | None:
    """Which parser takes a command, and its arguments; None for other programs."""
    program = words[0].rpartition("/")[2]
    if program in ("vizsage", "vizsage-jobs"):
        return program.removeprefix("vizsage-"), words[1:]
    if re.match(r"python[\d.]*$", program) and words[1:3] == ["-m", "jobs"]:
        return "jobs", words[3:]
    if re.match(r"python[\d.]*$", program) and words[1:3] == ["-m", "jobs.run"]:
        return "vizsage", [word for word in words[3:] if word != "--then-eval"]
    if program == "make" and words[1:] and words[1] in MAKE:
        parser, command = MAKE[words[1]]
        given = dict(word.partition("=")[::2] for word in words[2:])
        return parser, [*command.split(), given.get("CONFIG", "run.yaml"), *shlex.split(given.get("ARGS", ""))]
    return None


def commands_of(page: str) -> Iterator[tuple[str, list[str]]]:
    if page == "docs/architecture/contracts.md":  # a synopsis, with [optional] words
        return
    for block in blocks((ROOT / page).read_text(encoding="utf-8")):
        for line in block.commands:
            if "[options]" in line:  # a synopsis of the reference
                continue
            if re.search(r"\bvizsage |\bpython\S* -m jobs|\bmake ", line):
                yield from filter(None, map(arguments_of, simple_commands(line)))


def accepted(parser: str, arguments: list[str]) -> bool:
    try:
        PARSERS[parser](arguments)
    except SystemExit as end:  # --help and --version end with 0
        return end.code == 0
    return True


@cache
def options_of(parser: str, command: str, capsys: pytest.CaptureFixture[str]) -> frozenset[str]:
    """The options of a command, from its --help; none for an unknown command."""
    arguments = [command, "slurm", "train", "--help"] if command in ("submit", "sweep") else [command, "--help"]
    with pytest.raises(SystemExit):
        PARSERS[parser](arguments)
    return frozenset(re.findall(r"(?<!\S)-{1,2}[a-z][a-z-]*", capsys.readouterr().out))


@pytest.mark.parametrize("page", PAGES)
def test_commands_to_copy_are_accepted(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    for parser, arguments in commands_of(page):
        assert accepted(parser, arguments), f"{parser} {' '.join(arguments)}: {capsys.readouterr().err}"


@pytest.mark.parametrize("page", PAGES)
def test_commands_in_sentences_have_options_and_settings_that_exist(
    page: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for code in re.findall(
        r"`((?:vizsage|vizsage-jobs|python -m jobs) [^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    ):
        words = code.replace("[", " ").replace("]", " ").split()
        parser = "vizsage" if words[0] == "vizsage" else "jobs"
        command = words[1] if words[0].startswith("vizsage") else words[3]
        if command.startswith("-") or not command.islower():  # --help, or a COMMAND
            continue
        known = options_of(parser, command, capsys)
        assert known, code
        options = {word.partition("=")[0] for word in words if word.startswith("-") and word.strip("-.")}
        assert options <= known, code
        keys = {word.partition("=")[0] for word in words if re.match(r"[a-z_0-9]+=", word)}
        assert keys <= set(Config.model_fields), code


def test_the_pages_have_commands_and_a_wrong_one_is_noticed() -> None:
    assert sum(1 for page in PAGES for _ in commands_of(page)) > 60
    line = "A=1 .venv/bin/vizsage eval c.yaml lr=1 --bland > log && python -m jobs status | cat  # now"
    found = [arguments_of(words) for words in simple_commands(line)]
    assert found == [("vizsage", ["eval", "c.yaml", "lr=1", "--bland"]), ("jobs", ["status"]), None]
    assert [accepted(*one) for one in found if one] == [False, True]
