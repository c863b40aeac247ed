"""Logs that are files of this machine or of storage that it shares."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from jobs.submissions import Submission
from vizsage.errors import ConfigError, VizSageError, printable


def newest_begun(submissions: Sequence[Submission], follow: bool) -> Submission:
    """The newest of the jobs that has a log, or, with `follow`, the newest of all where none has one yet.

    Raises ConfigError where no job has begun and nothing is to be followed.
    """
    begun = [one for one in submissions if Path(one.log).exists()]
    if not begun and not follow:
        last = submissions[-1]
        raise ConfigError(f"{last.log}: not there yet; job {last.job_id} has not begun")
    return (begun or submissions)[-1]


def print_files(files: Sequence[Path], follow: bool) -> None:
    """Print the files to stdout, one after the other; with `follow`, and what is appended to them until Ctrl-C.

    On a terminal, nothing in them can control it. Raises VizSageError where tail fails.
    """
    sys.stdout.flush()
    tail = ["tail", "-n", "+1", *(["-F"] if follow else []), *map(str, files)]
    if not sys.stdout.isatty():
        os.execvp("tail", tail)
    with subprocess.Popen(tail, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for line in process.stdout:
            sys.stdout.buffer.write(for_terminal(line))
            sys.stdout.buffer.flush()
    if process.returncode:
        raise VizSageError(f"{files[0]}: tail ended with exit code {process.returncode}")


def for_terminal(content: bytes) -> bytes:
    r"""Lines of a log as a terminal may get them; bytes that are not UTF-8 are shown as \x9b."""
    return printable(content.decode("utf-8", "backslashreplace"), lines=True).encode()
