"""What tests of the local scheduler look at: the history of the jobs, the supervisor, the queue's folder."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from jobs.schedulers.local.local_processes import living

ROOT = Path(__file__).parents[4]


def until(condition: Callable[[], Any], timeout_s: float = 120) -> None:
    """Wait until `condition` is true. The test fails if it never is."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@dataclass(frozen=True)
class Machine:
    """The machine as one user sees it who submits from `folder`."""

    folder: Path
    state_home: Path
    history_file: Path
    monkeypatch: pytest.MonkeyPatch

    def body(self, text: str) -> None:
        """What jobs do that are submitted from now on."""
        self.monkeypatch.setenv("BODY", text)

    def history(self) -> list[str]:
        """What has begun and ended so far."""
        return self.history_file.read_text().splitlines() if self.history_file.exists() else []

    def queue(self) -> list[str]:
        """Names of the files in the queue's folder."""
        [folder] = (path for path in (self.state_home / "vizsage" / "local").iterdir() if path.is_dir())
        return sorted(path.name for path in folder.iterdir())

    def until_idle(self) -> None:
        """Wait for the end of the supervisor."""
        until(lambda: not supervisors(self.state_home))

    def kill_supervisor(self) -> None:
        """As the kernel does when memory is short."""
        [process] = supervisors(self.state_home)
        process.send_signal(signal.SIGKILL)
        until(lambda: not living([process]))  # its command line is gone before its lock is

    def processes(self) -> list[psutil.Process]:
        """Of all jobs."""
        return _processes(
            lambda process: process.environ().get("VIZSAGE_LOCAL_JOB", "").startswith(str(self.state_home))
        )


def supervisors(state_home: Path) -> list[psutil.Process]:
    """The supervisors that work on a queue below `state_home`."""
    return _processes(
        lambda process: (
            "jobs.schedulers.local.detached" in (words := process.cmdline())
            and any(word.startswith(f"{state_home}/") for word in words)
        )
    )


def _processes(condition: Callable[[psutil.Process], bool]) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and condition(process):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found
