"""What a user of a cluster does: writes settings and a profile, submits, looks at what came of it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.integration import run_files
from tests.integration.run_files import MISHAPS, ROOT

SECRET = "hf_nobodyshallreadthis"


@dataclass(frozen=True)
class Job:
    """What `submit` said about a job, and about the evaluation that follows it."""

    job_id: str
    run_dir: Path
    log: Path
    evaluation_id: str | None = None

    def text(self) -> str:
        """The log so far."""
        return self.log.read_text(encoding="utf-8") if self.log.exists() else ""

    def attempts_logged(self) -> int:
        """How often the log says that an attempt begins."""
        return len(re.findall(r"^=== attempt \d+", self.text(), re.MULTILINE))

    def attempts(self) -> list[dict[str, Any]]:
        """What run.json says about each attempt."""
        return run_files.attempts(self.run_dir)

    def outcome(self) -> dict[str, Any]:
        """outcome.json."""
        return run_files.outcome(self.run_dir)

    def adapter_sha256(self) -> str:
        """Hash of the adapter that the run delivered."""
        return run_files.adapter_sha256(self.run_dir)

    def failures(self) -> int:
        """Unknown failures that the job has counted."""
        path = self.run_dir / "jobs" / f"{self.job_id}.failures"
        return int(path.read_text()) if path.exists() else 0

    def wait_until_held(self, processes: int = 1, timeout_s: float = 240) -> None:
        """Wait until each process waits for a signal, as mishaps/sitecustomize.py has it."""
        end = time.monotonic() + timeout_s
        while not run_files.held(self.run_dir, processes):
            assert time.monotonic() < end, self.text()
            time.sleep(0.3)


class User:
    """A user with a folder for runs and a data set. All paths that are written anywhere are absolute."""

    def __init__(self, folder: Path, data: Path) -> None:
        self.folder, self.data = folder, data
        self.environment = os.environ | {"XDG_STATE_HOME": str(folder / "state"), "HF_TOKEN": SECRET}

    def config(self, name: str, **changes: Any) -> Path:
        """Settings of a run of 9 steps with dropout, with its run directory beside them."""
        places = {"base_path": str(self.data), "output_dir": str(self.folder / name)}
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(run_files.settings(**places | changes), sort_keys=False))
        return path

    def profile(self, name: str, mishap: str | None = None, **changes: Any) -> Path:
        """A cluster profile with little of everything, and what is to happen to the training."""
        settings: dict[str, Any] = {
            "cpus_per_task": 1,
            "mem": "1G",
            "time": "00:30:00",
            "environment": {"PYTHONPATH": str(MISHAPS), "MISHAP": mishap} if mishap else {},
        }
        path = self.folder / f"{name}.profile.yaml"
        path.write_text(yaml.safe_dump(settings | changes, sort_keys=False))
        return path

    def run(self, *command: str | Path, code: int = 0) -> str:
        """Run a command in the repository's folder and return what it printed, errors last."""
        done = subprocess.run(
            [str(word) for word in command],
            cwd=ROOT, env=self.environment, capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip
        assert done.returncode == code, f"{command} gave {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def jobs(self, *arguments: str | Path, code: int = 0) -> str:
        """`python -m jobs`."""
        return self.run(sys.executable, "-m", "jobs", *arguments, code=code)

    def submit(self, config: Path, profile: Path, *more: str, kind: str = "train") -> Job:
        """Send a training, or an evaluation."""
        return read_job(self.jobs("submit", "slurm", kind, config, "--profile", profile, *more))

    def train_here(self, config: Path) -> Path:
        """`vizsage train` without a cluster and without an interruption; returns the run directory."""
        self.run(sys.executable, "-m", "vizsage", "train", config)
        return Path(yaml.safe_load(config.read_text())["output_dir"])


def read_job(printed: str) -> Job:
    """What `submit` printed."""
    found = {
        name: re.search(rf"^{name} (\S+)", printed, re.MULTILINE)
        for name in ("job", "run directory", "log", "evaluation job")
    }
    values = {name: match[1] for name, match in found.items() if match}
    assert values.keys() >= {"job", "run directory", "log"}, printed
    return Job(values["job"], Path(values["run directory"]), Path(values["log"]), values.get("evaluation job"))


def training_pid(run_dir: Path) -> int:
    """The one process here that trains into a run directory."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        if "vizsage" in words and any(word.startswith(f"{run_dir}/") for word in words):
            found.append(int(folder.name))
    [pid] = found
    return pid
