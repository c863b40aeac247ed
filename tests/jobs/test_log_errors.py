"""The last error in the log of a job."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.log_errors import last_error


@pytest.mark.parametrize(
    ("log", "error"),
    [
        ("=== attempt 1 of job 7\nvizsage: error: one\n=== attempt 2 of job 7\nvizsage: error: two\n", "two"),
        ("=== attempt 1 of job 7\nvizsage: error: one\n=== attempt 2 of job 7\nloss 1\n", None),
        ("=== attempt 1 of job 7\nvizsage: error: one\nsrun: error: n1: task 0: Exited\n=== job 7 failed\n", "one"),
        ("vizsage: error: one\n  vizsage: error: two\nnoise\n", "two"),
        ("vizsage: error: one\nnoise \xff \r\n\n", "one"),
    ],
)
def test_the_last_error_of_the_newest_attempt(tmp_path: Path, log: str, error: str | None) -> None:
    path = tmp_path / "log"
    path.write_bytes(log.encode("latin-1"))
    assert last_error(path) == (f"vizsage: error: {error}" if error else None)


@pytest.mark.parametrize(
    ("log", "error"),
    [
        (
            "=== attempt 1\nTraceback\nValueError: x\nslurmstepd: error: *** STEP\nTerminated\nsrun: x\n",
            "ValueError: x",
        ),
        ("jobs.run: out: interrupted\nValueError: x\n", "jobs.run: out: interrupted"),
        ("=== attempt 1 of job 7\n", None),
        ("", None),
        # Killed: the last lines show how far it got.
        ("default settings\ntrain: 30 samples\nstep 10/90: loss 3.1\nstep 20/90: loss 2.5\n", None),
        ("step 20: validation exact match 0.500 on 30\nvizsage: warning: step 20: 3 validation samples failed\n", None),
        ("Loading checkpoint shards:  60%|██████    | 3/5\ncontinuing from outputs/run/checkpoint-20\n", None),
        ("step 20/90: loss 2.5\nBus error (core dumped)\nstep 21/90: loss 2.5\n", "Bus error (core dumped)"),
    ],
)
def test_without_a_line_of_this_project_the_last_one_that_speaks_of_an_error(
    tmp_path: Path, log: str, error: str | None
) -> None:
    path = tmp_path / "log"
    path.write_text(log)
    assert last_error(path) == error


def test_a_long_log_is_read_from_its_end(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("=== attempt 1 of job 7\nvizsage: error: early\n" + "loss 1\n" * 50_000 + "vizsage: error: late\n")
    assert last_error(path) == "vizsage: error: late"


def test_a_log_that_is_not_there_has_no_error(tmp_path: Path) -> None:
    assert last_error(tmp_path / "log") is None
