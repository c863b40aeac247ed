"""Jobs of this machine that take milliseconds: instead of `jobs.run`, they run what a test defines."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.jobs.schedulers.local.machine import ROOT, Machine, supervisors

# Python runs this before anything else. `begin` and `end` record in one file which jobs ran at the same time.
LAUNCHER = """
import os, sys
if sys.orig_argv[1:4] == ["-u", "-m", "jobs.run"]:
    import pathlib, signal, time
    kind, settings = sys.orig_argv[4:6]
    run = pathlib.Path(settings).parents[1]
    name = run.name
    def tell(what):
        with open(os.environ["HISTORY"], "a") as file:
            file.write(f"{what} {kind} {name}\\n")
    def until(file):
        while not (run / file).exists():
            time.sleep(0.02)
    def end(code):
        tell("end")
        codes = pathlib.Path(os.environ["EXIT_CODES_DIR"])
        codes.mkdir(parents=True)
        (codes / "0").write_text(f"{code}\\n")
        os._exit(code)
    signal.signal(signal.SIGTERM, lambda number, frame: end(75))
    tell("begin")
    exec(os.environ["BODY"])
    end(0)
"""


@pytest.fixture
def machine(
    here: Path, state_home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Machine]:
    """The folder `here`, from which jobs are submitted that run `Machine.body`."""
    folder = tmp_path_factory.mktemp("launcher")
    (folder / "sitecustomize.py").write_text(LAUNCHER)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), str(ROOT)]))
    monkeypatch.setenv("HISTORY", str(folder / "history"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    found = Machine(here, state_home, folder / "history", monkeypatch)
    found.body("pass")
    yield found
    _kill(supervisors(state_home))
    _kill(found.processes())  # only now: a supervisor may start another job until it has ended


def _kill(processes: list[psutil.Process]) -> None:
    """End them, and wait until they have."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)
    psutil.wait_procs(processes, timeout=10)
