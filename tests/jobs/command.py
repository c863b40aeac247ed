"""`python -m jobs` as its tests call it."""

from __future__ import annotations

import pytest

from jobs import cli

TRAIN = ("submit", "slurm", "train", "run.yaml")
EVAL = ("submit", "slurm", "eval", "run.yaml")
SWEEP = ("sweep", "slurm", "train", "run.yaml", "lr=1e-4,2e-4")


def run(*words: str) -> int:
    try:
        return cli.main(words)
    except SystemExit as error:  # argparse
        return int(error.code or 0)


def refused(capsys: pytest.CaptureFixture[str], *words: str, code: int = 2) -> str:
    """Run the command, which must end with `code` and one line on stderr, which is returned."""
    capsys.readouterr()
    found = run(*words)
    printed = capsys.readouterr()
    assert found == code, printed.err
    assert printed.out == ""
    assert printed.err.startswith("jobs: error: ")
    assert printed.err.count("\n") == 1
    return printed.err


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Run the command, which must succeed without a word on stderr, and return what it printed."""
    capsys.readouterr()
    assert run(*words) == 0, capsys.readouterr().err
    found = capsys.readouterr()
    assert found.err == ""
    return found.out
