"""The latch that turns a signal into a request to stop."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

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
