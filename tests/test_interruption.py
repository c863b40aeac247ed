"""The latch that turns a signal into a request to stop."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from vizsage import interruption
from vizsage.errors import CheckpointError, Interrupted
from vizsage.interruption import SIGNALS, catch_signals, time_limit


@pytest.fixture(autouse=True)
def _handlers_unchanged() -> Iterator[None]:
    before = [signal.getsignal(number) for number in SIGNALS]
    yield
    assert [signal.getsignal(number) for number in SIGNALS] == before


@pytest.mark.parametrize("number", SIGNALS)
def test_remembers_the_first_signal(number: signal.Signals) -> None:
    with catch_signals() as latch:
        assert latch.signal is None
        os.kill(os.getpid(), number)
        assert latch.signal == number.name
        os.kill(os.getpid(), signal.SIGTERM)
        assert latch.signal == number.name


def test_all_four_are_caught() -> None:
    assert {number.name for number in SIGNALS} == {"SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2"}


def test_second_ctrl_c_stops_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interruption, "_SAME_KEYPRESS_S", 0.0)
    with catch_signals() as latch:
        os.kill(os.getpid(), signal.SIGINT)
        assert latch.signal == "SIGINT"
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_one_ctrl_c_that_a_launcher_doubles_is_one() -> None:
    with catch_signals() as latch:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        assert latch.signal == "SIGINT"


def test_handlers_come_back_after_an_error() -> None:
    with pytest.raises(ValueError, match="inside"), catch_signals():
        raise ValueError("inside")


def test_blocks_nest() -> None:
    with catch_signals() as outer:
        with catch_signals() as inner:
            os.kill(os.getpid(), signal.SIGUSR1)
        assert (outer.signal, inner.signal) == (None, "SIGUSR1")
        os.kill(os.getpid(), signal.SIGUSR2)
        assert outer.signal == "SIGUSR2"


def test_outside_of_the_main_thread_nothing_is_caught() -> None:
    seen: list[str | None] = []

    def block() -> None:
        with catch_signals() as latch:
            seen.append(latch.signal)

    thread = threading.Thread(target=block)
    thread.start()
    thread.join()
    assert seen == [None]


def loop() -> None:
    while True:
        sum(range(100))


@pytest.mark.parametrize("signalled", [False, True])
@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_block_that_loops_is_ended(monkeypatch: pytest.MonkeyPatch, signalled: bool, elsewhere: bool) -> None:
    """By its limit, or by a signal long before; in the main thread and in another one."""
    monkeypatch.setattr(interruption, "_TICK_S", 0.05)
    limit_s = 1000 if signalled else 0.1
    ended: list[Exception] = []

    def run() -> None:
        try:
            with time_limit(limit_s, lambda: CheckpointError("it loops")):
                loop()
        except (CheckpointError, Interrupted) as error:
            ended.append(error)

    with time_limit(1, lambda: CheckpointError("never")):
        pass  # the main thread has entered one
    with catch_signals():
        if signalled:
            os.kill(os.getpid(), signal.SIGTERM)
        if elsewhere:
            thread = threading.Thread(target=run)
            thread.start()
            while thread.is_alive():
                thread.join(0.05)
        else:
            run()
    [error] = ended
    assert isinstance(error, Interrupted if signalled else CheckpointError)
    assert str(error) == ("SIGTERM: stopped while a prompt was made" if signalled else "it loops")
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0, 0)


def test_a_block_that_ends_in_time_keeps_its_own_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal on its way changes nothing, nor does time that other blocks took."""
    monkeypatch.setattr(interruption, "_TICK_S", 0.05)
    with catch_signals() as latch:
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(200):
            with time_limit(0.05, lambda: CheckpointError("never")):
                sum(range(10_000))
        with pytest.raises(KeyError), time_limit(0.05, lambda: CheckpointError("never")):
            raise KeyError
        assert latch.signal == "SIGTERM"


def test_a_latch_that_catches_already_serves() -> None:
    with catch_signals() as outer, catch_signals(outer) as inner:
        os.kill(os.getpid(), signal.SIGTERM)
        assert inner is outer
        assert outer.signal == "SIGTERM"


# --- in a separate process -------------------------------------------------------------------------------------------

# Instead of training and evaluation, something that takes no time; then the shutdown of Python, which takes some.
ENDING = """
import atexit, pathlib, sys, time, types
folder = pathlib.Path(__file__).parent
def wait(**more):
    (folder / "waits").touch()
    while not (folder / "go-on").exists():
        time.sleep(0.02)
atexit.register(wait)
nothing = types.SimpleNamespace(train=lambda *_: None, evaluate=lambda *_, **__: None)
sys.modules["vizsage.training.train"] = sys.modules["vizsage.evaluation.evaluate"] = nothing
"""


def wait_for(path: Path) -> None:
    end = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < end, path
        time.sleep(0.02)


@pytest.mark.parametrize("command", ["train", "eval"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_after_the_end_does_not_change_the_exit_code(
    tmp_path: Path, command: str, number: signal.Signals
) -> None:
    """Python's shutdown takes a moment, and outcome.json already contains that all is done."""
    (tmp_path / "sitecustomize.py").write_text(ENDING)
    (tmp_path / "run.yaml").write_text("device: cpu\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "vizsage", command, str(tmp_path / "run.yaml")],
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[1]}"},
    )
    wait_for(tmp_path / "waits")
    process.send_signal(number)
    (tmp_path / "go-on").touch()
    assert process.wait(60) == 0


@pytest.mark.parametrize("early", [False, True])
def test_a_process_is_told_to_stop_when_its_launcher_is_killed(tmp_path: Path, early: bool) -> None:
    """Also when the launcher dies before the process has asked for the signal."""
    child = f"""
import os, pathlib, sys, time
from vizsage.interruption import catch_signals, end_with_launcher
folder = pathlib.Path({str(tmp_path)!r})
launcher = os.getppid()
(folder / "begun").touch()
while {early} and os.getppid() == launcher:
    time.sleep(0.02)
with catch_signals() as latch:
    end_with_launcher()
    (folder / "asked").touch()
    while latch.signal is None:
        time.sleep(0.02)
(folder / "new").write_text(latch.signal)
(folder / "new").rename(folder / "stopped")
"""
    launcher = f"""
import os, subprocess, sys, time
subprocess.Popen([sys.executable, "-c", {child!r}], env=os.environ | {{"VIZSAGE_LAUNCHER": str(os.getpid())}})
time.sleep(600)
"""
    process = subprocess.Popen([sys.executable, "-c", launcher], cwd=Path(__file__).parents[1])
    wait_for(tmp_path / ("begun" if early else "asked"))
    process.kill()
    process.wait(60)
    wait_for(tmp_path / "stopped")
    assert (tmp_path / "stopped").read_text() == "SIGTERM"
