"""The processes of one command: each takes its share, and all of them go on, stop or fail together."""

from __future__ import annotations

import contextlib
import datetime
import os
import pickle
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar

from vizsage.errors import VizSageError

T = TypeVar("T")
_PATIENCE = datetime.timedelta(days=7)  # a launcher ends the others where one has died
_FAREWELL = datetime.timedelta(seconds=20)


class Processes:
    """This process and its peers, as torchrun numbers them: `rank` of `count`.

    As a context it lets them talk to each other through a store of the first one. In training there is a process group
    already, which `gather` uses. (One of gloo for an evaluation would have threads of its own that, now and then, end
    a process with SIGABRT when its work is done: github.com/pytorch/pytorch/pull/179291.)
    """

    def __init__(self, rank: int | None = None, count: int | None = None) -> None:
        self.rank = int(os.environ.get("RANK", "0")) if rank is None else rank
        self.count = int(os.environ.get("WORLD_SIZE", "1")) if count is None else count
        self._store: Any = None
        self._gathered = 0

    def __enter__(self) -> Processes:
        if self.count > 1:
            from torch import distributed

            address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
            store: Any = distributed.TCPStore  # type: ignore[attr-defined]
            self._store = store(address, port, self.count, self.rank == 0, timeout=_PATIENCE)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._store is None:
            return
        # The first process goes last, because the store goes with it. It does not wait long for one that was killed.
        with contextlib.suppress(RuntimeError):
            self._store.set(f"left/{self.rank}", b"")
            if self.rank == 0:
                self._store.wait([f"left/{rank}" for rank in range(self.count)], _FAREWELL)
        self._store = None

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
        """
        parts = self._exchange((part, problem and (getattr(problem, "exit_code", 1), str(problem))))
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
        self._store.set(f"{self._gathered}/{self.rank}", pickle.dumps(told))
        return [pickle.loads(self._store.get(f"{self._gathered}/{rank}")) for rank in range(self.count)]
