"""Processes that wait for each other: they hear of results, failures, signals, and of each other's death."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.listening import listening
from vizsage.distributed import processes
from vizsage.distributed.group import Group
from vizsage.distributed.messages import SignedStore, to_all
from vizsage.distributed.processes import Processes
from vizsage.errors import ConfigError, DataError, Interrupted, VizSageError
from vizsage.interruption import SignalLatch


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Runs a function for each of two processes, here in two threads, and returns what each returned or raised."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(port))
    monkeypatch.setenv("VIZSAGE_SECRET", "known to both")
    monkeypatch.setattr(processes, "_BEAT_S", 0.1)

    def run(*works: Callable[[Processes], Any], latches: tuple[SignalLatch | None, ...] = (None, None)) -> list[Any]:
        found: list[Any] = [None, None]

        def one(rank: int) -> None:
            try:
                with Processes(Group(rank, 2), latch=latches[rank]) as these:
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
    with Processes(Group(0, 1)) as these:
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


def test_no_thread_is_left_that_python_would_abort_while_it_shuts_down(
    two: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    put, beating = SignedStore.put, set()

    def slow(self: SignedStore, key: str, message: Any) -> None:
        if key.startswith("alive/"):
            beating.add(threading.current_thread())
            threading.Event().wait(0.5)
        put(self, key, message)

    monkeypatch.setattr(SignedStore, "put", slow)
    assert two(lambda these: these.rank, lambda these: these.rank) == [0, 1]
    assert len(beating) == 2
    assert not any(thread.is_alive() for thread in beating)


# --- other programs that reach the port -------------------------------------------------------------------------------


class Hostile:
    """Pickled, it is code that leaves a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return (os.system, (f"touch {self.trace}",))


def store(secret: str) -> SignedStore:
    """The store of `two`, as a process that knows `secret` uses it."""
    from torch import distributed

    port = int(os.environ["MASTER_PORT"])
    found = distributed.TCPStore("127.0.0.1", port, is_master=False, wait_for_workers=False)
    return SignedStore(found, secret, of="evaluation 0/")


@pytest.mark.parametrize("written", ["pickled", "signed by another", "of another key", "not JSON"])
def test_what_a_stranger_writes_is_refused_and_never_run(two: Callable[..., Any], tmp_path: Path, written: str) -> None:
    """Instead of the message that process 1 is about to send."""
    trace = tmp_path / "ran"
    placed = threading.Event()

    def first(these: Processes) -> Any:
        these.gather(None)
        strange = store("a guess" if written == "signed by another" else "known to both")
        if written == "pickled":
            strange._store.set("evaluation 0/2/1", pickle.dumps(Hostile(trace)))
        elif written == "of another key":
            strange._store.set("evaluation 0/2/1", strange._store.get("evaluation 0/1/1"))
        elif written == "not JSON":
            strange._store.set("evaluation 0/2/1", strange._signature("2/1", b"{") + b"{")
        else:
            strange.put("2/1", [["forged"], None])
        placed.set()
        return these.gather("honest")

    def second(these: Processes) -> None:
        these.gather(None)
        placed.wait(60)

    found, _ = two(first, second)
    assert type(found) is VizSageError
    assert ("where a message in JSON was expected" if written == "not JSON" else "no process of this job") in str(found)
    assert not trace.exists()


def test_a_store_on_this_host_listens_on_loopback_only(two: Callable[..., Any]) -> None:
    def work(these: Processes) -> Any:
        these.gather(None)
        found = listening(int(os.environ["MASTER_PORT"]))
        these.gather(None)
        return found

    found, _ = two(work, work)
    assert found == ["127.0.0.1"]


def test_a_port_in_use_is_named(two: Callable[..., Any]) -> None:
    port = int(os.environ["MASTER_PORT"])
    with (
        socket.create_server(("127.0.0.1", port)),
        pytest.raises(VizSageError, match=f"MASTER_PORT: {port} cannot be listened at"),
    ):
        Processes(Group(0, 2)).__enter__()


def test_processes_without_a_secret_are_refused(two: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VIZSAGE_SECRET")
    with pytest.raises(ConfigError, match=r"VIZSAGE_SECRET: not set, and RANK=0 WORLD_SIZE=2 in .* unset RANK"):
        Processes(Group(0, 2)).__enter__()


def _tell(rank: int, port: int, told: Any, answers: Any) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    from accelerate import PartialState

    PartialState(cpu=True)
    answers.put((rank, to_all(told[rank])))


def test_in_training_messages_travel_as_json_in_tensors(two: Callable[..., Any]) -> None:
    """Of different lengths, with what is not ASCII."""
    told = [{"left_out": {"ä": "zu lang"}}, [0.1, None, "x" * 99]]
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    arguments = [(rank, int(os.environ["MASTER_PORT"]), told, answers) for rank in range(2)]
    started = [context.Process(target=_tell, args=one) for one in arguments]
    for process in started:
        process.start()
    found = [answers.get(timeout=120) for _ in started]
    for process in started:
        process.join(60)
    assert sorted(found, key=lambda one: one[0]) == [(0, told), (1, told)]
