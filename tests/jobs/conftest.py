"""Shared by the tests of jobs: programs of SLURM that are none, and a list of submissions of the test's own."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

# As SLURM answers where it keeps no accounts and has forgotten the job.
SILENT = {
    "sacct": "echo 'Slurm accounting storage is disabled' >&2; exit 1",
    "squeue": "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1",
    "scontrol": "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1",
}


@pytest.fixture(autouse=True)
def state_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the list of all submissions is in this test, instead of in a user's home."""
    folder = tmp_path_factory.mktemp("state")
    monkeypatch.setenv("XDG_STATE_HOME", str(folder))
    return folder


@pytest.fixture
def standin(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Put a program of bash before all others on PATH. SLURM's commands are there and know no job until then."""
    folder = tmp_path_factory.mktemp("programs")

    def put(name: str, text: str) -> None:
        path = folder / name
        path.write_text(f"#!/bin/bash\n{text}\n", encoding="utf-8")
        path.chmod(0o755)

    for name, text in SILENT.items():
        put(name, text)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return put


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder from which everything is submitted, with run.yaml for the run directory out/run, and its data set."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "AQUA").mkdir(parents=True)
    (tmp_path / "run.yaml").write_text("model_name: vizsage-tiny\noutput_dir: out/run\n")
    return tmp_path


@pytest.fixture
def scripts(here: Path, standin: Callable[[str, str], None], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sbatch that takes every job, gives out the ids 101, 102, ... and keeps the script here under its job's id."""
    folder = tmp_path_factory.mktemp("sent")
    standin(
        "sbatch",
        f'n=$((101 + $(ls {folder} | wc -l)))\ncp "${{@: -1}}" "{folder}/$n"\necho "Submitted batch job $n"',
    )
    standin("srun", "exit 1")
    return folder
