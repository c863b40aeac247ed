"""All output of `python -m jobs`: results on stdout, warnings and errors on stderr."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from vizsage.errors import printable

INSTALLED = "vizsage-jobs"
"""The name of this program where the package is installed."""


def program() -> str:
    """What a user types to call this program: as it was called now, `vizsage-jobs` or `python -m jobs`."""
    return INSTALLED if Path(sys.argv[0]).name == INSTALLED else "python -m jobs"


def say(text: str) -> None:
    """Print a line to stdout. Names and messages in it cannot control the terminal."""
    print(printable(text))


def show(text: str) -> None:
    """Print a script or a manifest as it is."""
    print(text, end="")


def warn(problem: str | None) -> None:
    """Print a warning, if there is one."""
    if problem:
        print(f"jobs: warning: {printable(problem)}", file=sys.stderr)


def fail(error: Exception) -> None:
    """Print the error that ends a command, in one line."""
    print(f"jobs: error: {printable(' '.join(str(error).split()))}", file=sys.stderr)


class Warnings(logging.Handler):
    """Prints the records of loggers as warnings."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record."""
        warn(record.getMessage())
