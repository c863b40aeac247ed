"""Processes that wait for each other: they hear of results, failures, signals, and of each other's death."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from vizsage.backends import processes
from vizsage.backends.processes import Processes
from vizsage.errors import DataError, Interrupted, VizSageError
from vizsage.interruption import SignalLatch


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Runs a function for each of two processes, here in two threads, and returns what each returned or raised."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(port))
    monkeypatch.setattr(processes, "_BEAT_S", 0.1)

    def run(*works: Callable[[Processes], Any], latches: tuple[SignalLatch | None, ...] = (None, None)) -> list[Any]:
        found: list[Any] = [None, None]

        def one(rank: int) -> None:
            try:
                with Processes(rank, 2, latch=latches[rank]) as these:
                    found[rank] = works[rank](these)
            except Exception as error:  # noqa: BLE001 -- what the test asks for
                found[rank] = error

        threads = [threading.Thread(target=one, args=(rank,), daemon=True) for rank in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        return found

    return run


def test_parts_come_by_rank_to_all(two: Callable[..., Any]) -> None:
    work = lambda these: [these.gather(f"from {these.rank}"), these.together(lambda: these.rank + 5)]  # noqa: E731
    assert two(work, work) == [[["from 0", "from 1"], [5, 6]]] * 2


def test_one_alone_gathers_its_own() -> None:
    with Processes(0, 1) as these:
        assert these.gather("x") == ["x"]
        assert not these.stopping()
        with pytest.raises(DataError, match="broken"):
            these.together(lambda: (_ for _ in ()).throw(DataError("broken")))


def test_a_failure_in_one_is_a_failure_in_all_with_its_exit_code(two: Callable[..., Any]) -> None:
    def failing(these: Processes) -> Any:
        return these.gather(None, DataError("a.json: broken"))

    own, other = two(lambda these: these.gather(None), failing)[::-1]
    assert isinstance(own, DataError)
    assert str(own) == "a.json: broken"
    assert (str(other), other.exit_code) == ("process 1 failed: a.json: broken", 3)


def test_a_signal_to_one_is_told_to_all(two: Callable[..., Any]) -> None:
    latch = SignalLatch()
    latch.signal = "SIGTERM"

    def work(these: Processes) -> Any:
        before = these.stopping()  # of the first process: whether the other one was quick
        these.gather(None)
        these.stopping()
        these.gather(None)
        return before, these.stopping()

    (_, first), (own, second) = two(work, work, latches=(None, latch))
    assert (first, own, second) == (True, True, True)


@contextmanager
def silence(monkeypatch: pytest.MonkeyPatch, seconds: float) -> Iterator[None]:
    monkeypatch.setattr(processes, "_SILENCE_S", seconds)
    monkeypatch.setattr(processes, "_SILENCE_STOPPING_S", seconds / 2)
    yield


@pytest.mark.parametrize("signalled", [False, True])
def test_a_dead_process_is_not_waited_for(
    two: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, signalled: bool
) -> None:
    gone = threading.Event()
    latch = SignalLatch()

    def dies(these: Processes) -> None:
        these.gather(None)
        these._done.set()  # no sign of life any more
        gone.wait(60)

    def waits(these: Processes) -> Any:
        these.gather(None)
        latch.signal = "SIGTERM" if signalled else None
        try:
            return these.gather(None)
        finally:
            gone.set()

    with silence(monkeypatch, 1.0):
        found, _ = two(waits, dies, latches=(latch, None))
    assert isinstance(found, Interrupted if signalled else VizSageError)
    assert "process 1" in str(found)
    assert found.exit_code == (75 if signalled else 1)


def test_a_process_that_is_long_about_its_work_is_waited_for(
    two: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(these: Processes) -> Any:
        threading.Event().wait(2.5)
        return these.gather("done")

    with silence(monkeypatch, 1.0):
        assert two(lambda these: these.gather("done"), slow) == [["done", "done"]] * 2


def test_a_first_process_that_is_gone_is_said(two: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def leaves(these: Processes) -> None:
        these.gather(None)
        monkeypatch.setattr(processes, "_FAREWELL", processes._PATIENCE / 1000)

    def stays(these: Processes) -> Any:
        these.gather(None)
        threading.Event().wait(1.5)
        return these.gather(None)

    with silence(monkeypatch, 2.0):
        _, found = two(leaves, stays)
    assert isinstance(found, VizSageError)
    assert "first one" in str(found) or "process 0" in str(found)
