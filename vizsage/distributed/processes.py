"""The processes of one command: each does its share, and all of them continue, stop or fail together."""

from __future__ import annotations

import contextlib
import datetime
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, TypeVar

from vizsage.contract import EXIT_UNKNOWN
from vizsage.distributed.group import Group, own_group
from vizsage.distributed.messages import Message, SignedStore, to_all
from vizsage.errors import ConfigError, Interrupted, VizSageError, error_of
from vizsage.interruption import SignalLatch

T = TypeVar("T")
_BEAT_S = 10.0  # between two signs of life
_SILENCE_S = 300.0  # after so long without one a process counts as dead: loading may keep it busy
_SILENCE_STOPPING_S = 45.0  # the same where a signal asks to stop, and time is short
_LOOK_S = 0.2
_PATIENCE = datetime.timedelta(seconds=_SILENCE_S)
_THIS_HOST = ("127.0.0.1", "localhost")
_FAREWELL = datetime.timedelta(seconds=20)
_LAST_BEAT_S = 20.0
SECRET = "VIZSAGE_SECRET"
"""The variable with the secret that the processes of one evaluation share, and no other process knows."""


class Processes:
    """This process and its peers, as torchrun numbers them: `rank` of `count`.

    As a context manager it lets them send messages to each other through a store: the launcher's if it has one, or
    one in the first process. A process that waits for one that died raises after some time, and a signal to one of
    them stops all. In training `gather` uses the process group that exists already. Messages must be what JSON can
    represent. (A process group of gloo has its own threads, which sometimes end an evaluation's process with SIGABRT
    after its work is done: github.com/pytorch/pytorch/pull/179291.)
    """

    def __init__(self, group: Group | None = None, *, latch: SignalLatch | None = None) -> None:
        """Find out which process this is.

        Args:
            group: rank and number of processes; None: from the environment.
            latch: notes the signals that ask this process to stop.

        Raises:
            ConfigError: the environment does not define which of how many processes this is.
        """
        self.rank, self.count = group or own_group()
        self.latch = latch or SignalLatch()
        self._store: SignedStore | None = None
        self._gathered = 0
        self._done = threading.Event()
        self._beating: threading.Thread | None = None

    def __enter__(self) -> Processes:
        if self.count > 1:
            self._store = self._connect(first=self.rank == 0)
            # With a separate client: a client serves one thread at a time, and the main thread may wait in it.
            self._beating = threading.Thread(target=self._beat, args=(self._connect(first=False),), daemon=True)
            self._beating.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._done.set()
        if self._beating is not None:
            # Python would abort the process if this thread returned from the store while Python shuts down.
            self._beating.join(_LAST_BEAT_S)
        if self._store is None:
            return
        # The first process ends last, because the store ends with it. It does not wait long for one that was killed.
        with contextlib.suppress(RuntimeError):
            self._store.put(f"left/{self.rank}", True)
            if self.rank == 0:
                self._store.wait([f"left/{rank}" for rank in range(self.count)], _FAREWELL)
        self._store = None

    def stopping(self) -> bool:
        """Whether a signal asked this process or any other to stop; sends it to the others."""
        if self._store is None:
            return self.latch.signal is not None
        with self._first_process_there():
            if self.latch.signal:
                self._store.put("stop", self.latch.signal)
            return bool(self.latch.signal or (self._store.has("stop") and self._store.get("stop")))

    def together(self, work: Callable[[], T]) -> list[T]:
        """Call `work` in each process; the results of all, by rank. If it raises in one of them: see `gather`."""
        part: Any = None
        problem: Exception | None = None
        try:
            part = work()
        except Exception as error:  # noqa: BLE001 -- raised again there, when the other processes know of it
            problem = error
        return self.gather(part, problem)

    def gather(self, part: T, problem: Exception | None = None) -> list[T]:
        """The parts of all processes, by rank, in each of them. Of several processes they went through JSON.

        Raises:
            Exception: `problem`, if it is not None; in the other processes an error that reports it, with its exit
                code.
            VizSageError: a process gives no sign of life any more; Interrupted, if a signal asked to stop.
        """
        try:
            parts = self._exchange([part, problem and [getattr(problem, "exit_code", EXIT_UNKNOWN), str(problem)]])
        except VizSageError:
            if problem is not None:
                raise problem from None
            raise
        if problem is not None:
            raise problem
        for rank, (_, elsewhere) in enumerate(parts):
            if elsewhere:
                raise error_of(elsewhere[0], f"process {rank} failed: {elsewhere[1]}")
        return [part for part, _ in parts]

    def _exchange(self, told: Message) -> list[Message]:
        if self.count == 1:
            return [told]
        if self._store is None:
            return to_all(told)
        self._gathered += 1
        with self._first_process_there():
            self._store.put(f"{self._gathered}/{self.rank}", told)
            return [self._wait_for(f"{self._gathered}/{rank}", rank) for rank in range(self.count)]

    def _wait_for(self, key: str, rank: int) -> Message:
        """What process `rank` puts at `key`; waits as long as that process gives signs of life."""
        assert self._store is not None
        beat, heard_s = None, time.monotonic()
        while not self._store.has(key):
            stopping = self.stopping()
            if self._store.has(f"alive/{rank}") and (found := self._store.get(f"alive/{rank}")) != beat:
                beat, heard_s = found, time.monotonic()
            silence_s = time.monotonic() - heard_s
            if stopping and silence_s > _SILENCE_STOPPING_S:
                raise Interrupted(
                    f"{self.latch.signal or 'a signal'}: stopped; process {rank} is not heard of any more"
                )
            if silence_s > _SILENCE_S:
                raise VizSageError(f"process {rank} has not been heard of for {silence_s:.0f} s; run the command again")
            time.sleep(_LOOK_S)
        return self._store.get(key)

    def _beat(self, store: SignedStore) -> None:
        count = 0
        with contextlib.suppress(RuntimeError):  # the first process is gone; a process that waits for it will notice
            while True:
                store.put(f"alive/{self.rank}", count)
                count += 1
                if self._done.wait(_BEAT_S):
                    return

    def _connect(self, *, first: bool) -> SignedStore:
        from torch import distributed

        if not (secret := os.environ.get(SECRET)):
            raise ConfigError(
                f"{SECRET}: not set, and RANK={self.rank} WORLD_SIZE={self.count} in the environment: this is one of "
                "several processes. Those of an evaluation know each other by the same random text in it, which no "
                f"other program knows: before you start them, export {SECRET}=$(openssl rand -hex 32); for a single "
                "process: unset RANK WORLD_SIZE LOCAL_RANK"
            )
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        # torchrun's, which all of its processes use; its attempts share one.
        shared = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        listening = listen(address, port).detach() if first and not shared else None
        with self._first_process_there():
            store = distributed.TCPStore(  # type: ignore[attr-defined]
                address,
                port,
                is_master=listening is not None,
                timeout=_PATIENCE,
                wait_for_workers=False,
                master_listen_fd=listening,
            )
        return SignedStore(store, secret, of=f"evaluation {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/")

    @contextlib.contextmanager
    def _first_process_there(self) -> Iterator[None]:
        with reaching(f"process {self.rank}"):
            yield


def listen(address: str, port: int) -> socket.socket:
    """A socket that listens at `port`: on loopback if `address` is there, otherwise on all interfaces.

    Raises:
        VizSageError: the port cannot be listened at.
    """
    try:
        if address in _THIS_HOST:
            return socket.create_server((address, port))
        dual = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if dual else socket.AF_INET
        return socket.create_server(("", port), family=family, dualstack_ipv6=dual)
    except OSError as error:
        raise VizSageError(
            f"MASTER_PORT: {port} cannot be listened at ({error.strerror or error}); give all processes a free one"
        ) from error


@contextlib.contextmanager
def reaching(who: str) -> Iterator[None]:
    """Raise VizSageError if `who` cannot reach the process at MASTER_ADDR and MASTER_PORT, or loses it."""
    try:
        yield
    except RuntimeError as error:  # torch.distributed.DistError
        if not type(error).__module__.startswith("torch") or not type(error).__name__.startswith("Dist"):
            raise
        place = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        if "EADDRINUSE" in str(error):
            raise VizSageError(f"MASTER_PORT: {place} is in use; give all processes a free port") from error
        raise VizSageError(f"{who} cannot reach the first one at {place} any more; run the command again") from error
