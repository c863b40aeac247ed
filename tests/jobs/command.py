"""`python -m jobs` as its tests call it, and jobs that it has sent."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs import cli
from jobs.submissions import Submission, now

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


def sent(run_dir: Path, job_id: str = "7", *, kind: str = "train", submitted: str | None = None) -> Submission:
    """A job as `submit` would note it, with its folder."""
    folder = run_dir / "jobs"
    folder.mkdir(parents=True, exist_ok=True)
    return Submission(
        job_id=job_id,
        kind=kind,
        scheduler="slurm",
        submitted=submitted or now(),
        run_dir=str(run_dir),
        log=str(folder / f"{job_id}_0_log.out"),
        script=str(folder / f"{job_id}_submission.sh"),
        config=str(folder / "settings.yaml"),
    )
