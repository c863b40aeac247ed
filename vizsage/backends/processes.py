"""The processes of one command: each takes its share, and all of them go on, stop or fail together."""

from __future__ import annotations

import contextlib
import datetime
import os
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, TypeVar

from vizsage.errors import Interrupted, VizSageError
from vizsage.interruption import SignalLatch

T = TypeVar("T")
_BEAT_S = 10.0  # between two signs of life
_SILENCE_S = 300.0  # after so long without one a process counts as dead: loading may keep it busy
_SILENCE_STOPPING_S = 45.0  # the same where a signal asks to stop, and time is short
_LOOK_S = 0.2
_PATIENCE = datetime.timedelta(seconds=_SILENCE_S)
_FAREWELL = datetime.timedelta(seconds=20)


class Processes:
    """This process and its peers, as torchrun numbers them: `rank` of `count`.

    As a context it lets them talk to each other through a store of the first one. Whoever waits for one that has died
    raises in the end, and a signal to one of them stops all. In training there is a process group already, which
    `gather` uses. (One of gloo for an evaluation would have threads of its own that, now and then, end a process with
    SIGABRT when its work is done: github.com/pytorch/pytorch/pull/179291.)
    """

    def __init__(self, rank: int | None = None, count: int | None = None, *, latch: SignalLatch | None = None) -> None:
        """`latch` notes the signals that ask this process to stop."""
        self.rank = int(os.environ.get("RANK", "0")) if rank is None else rank
        self.count = int(os.environ.get("WORLD_SIZE", "1")) if count is None else count
        self.latch = latch or SignalLatch()
        self._store: Any = None
        self._gathered = 0
        self._done = threading.Event()

    def __enter__(self) -> Processes:
        if self.count > 1:
            self._store = self._connect(first=self.rank == 0)
            # A client serves one thread at a time: the one that waits must not keep this one from giving signs of life.
            threading.Thread(target=self._beat, args=(self._connect(first=False),), daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._done.set()
        if self._store is None:
            return
        # The first process goes last, because the store goes with it. It does not wait long for one that was killed.
        with contextlib.suppress(RuntimeError):
            self._store.set(f"left/{self.rank}", b"")
            if self.rank == 0:
                self._store.wait([f"left/{rank}" for rank in range(self.count)], _FAREWELL)
        self._store = None

    def stopping(self) -> bool:
        """Whether a signal has asked this process or any other to stop; all learn of it."""
        if self._store is None:
            return self.latch.signal is not None
        with self._first_process_there():
            if self.latch.signal:
                self._store.set("stop", self.latch.signal)
            return bool(self.latch.signal or self._store.check(["stop"]))

    def together(self, work: Callable[[], T]) -> list[T]:
        """What `work` returns in all processes, by rank; where it raises in one of them, see `gather`."""
        part: Any = None
        problem: Exception | None = None
        try:
            part = work()
        except Exception as error:  # noqa: BLE001 -- raised again there, once the other processes know of it
            problem = error
        return self.gather(part, problem)

    def gather(self, part: T, problem: Exception | None = None) -> list[T]:
        """The parts of all processes, by rank, in each of them.

        With a `problem` in one of them all raise: that one its own, the others a report of it with its exit code.
        Raises Interrupted or VizSageError where a process gives no sign of life any more.
        """
        try:
            parts = self._exchange((part, problem and (getattr(problem, "exit_code", 1), str(problem))))
        except VizSageError:
            if problem is not None:
                raise problem from None
            raise
        if problem is not None:
            raise problem
        for rank, (_, elsewhere) in enumerate(parts):
            if elsewhere:
                failure = VizSageError(f"process {rank} failed: {elsewhere[1]}")
                failure.exit_code = elsewhere[0]
                raise failure
        return [part for part, _ in parts]

    def _exchange(self, told: Any) -> list[Any]:
        if self.count == 1:
            return [told]
        if self._store is None:
            from accelerate.utils import gather_object

            return list(gather_object([told]))
        self._gathered += 1
        with self._first_process_there():
            self._store.set(f"{self._gathered}/{self.rank}", pickle.dumps(told))
            for rank in range(self.count):
                self._wait_for(f"{self._gathered}/{rank}", rank)
            return [pickle.loads(self._store.get(f"{self._gathered}/{rank}")) for rank in range(self.count)]

    def _wait_for(self, key: str, rank: int) -> None:
        """Wait until process `rank` has set `key`, as long as it lives."""
        beat, heard_s = b"", time.monotonic()
        while not self._store.check([key]):
            stopping = self.stopping()
            if self._store.check([f"alive/{rank}"]) and (found := self._store.get(f"alive/{rank}")) != beat:
                beat, heard_s = found, time.monotonic()
            silence_s = time.monotonic() - heard_s
            if stopping and silence_s > _SILENCE_STOPPING_S:
                raise Interrupted(
                    f"{self.latch.signal or 'a signal'}: stopped; process {rank} is not heard of any more"
                )
            if silence_s > _SILENCE_S:
                raise VizSageError(f"process {rank} has not been heard of for {silence_s:.0f} s; run the command again")
            time.sleep(_LOOK_S)

    def _beat(self, store: Any) -> None:
        count = 0
        with contextlib.suppress(RuntimeError):  # the first process is gone; whoever waits for it notices
            while True:
                store.set(f"alive/{self.rank}", str(count))
                count += 1
                if self._done.wait(_BEAT_S):
                    return

    def _connect(self, *, first: bool) -> Any:
        from torch import distributed

        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store: Any = distributed.TCPStore  # type: ignore[attr-defined]
        with self._first_process_there():
            return store(address, port, is_master=first, timeout=_PATIENCE, wait_for_workers=False)

    @contextlib.contextmanager
    def _first_process_there(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # torch.distributed.DistError
            if not type(error).__module__.startswith("torch"):
                raise
            raise VizSageError(
                f"process {self.rank} cannot reach the first one any more; run the command again"
            ) from error
