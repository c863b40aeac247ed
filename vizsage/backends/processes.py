"""The processes of one command: each takes its share, and all of them go on, stop or fail together."""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar

from vizsage.errors import VizSageError

T = TypeVar("T")
_PATIENCE = datetime.timedelta(days=7)  # a launcher ends the others where one has died


class Processes:
    """This process and its peers, as torchrun numbers them: `rank` of `count`.

    As a context it lets them talk to each other, over the CPU. Training has a process group of its own.
    """

    def __init__(self, rank: int | None = None, count: int | None = None) -> None:
        self.rank = int(os.environ.get("RANK", "0")) if rank is None else rank
        self.count = int(os.environ.get("WORLD_SIZE", "1")) if count is None else count
        self._opened = False

    def __enter__(self) -> Processes:
        if self.count > 1:
            import torch.distributed

            if not torch.distributed.is_initialized():
                torch.distributed.init_process_group("gloo", timeout=_PATIENCE)
                self._opened = True
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._opened:
            import torch.distributed

            torch.distributed.destroy_process_group()

    def together(self, work: Callable[[], T]) -> list[T]:
        """What `work` returns in all processes, by rank; where it raises in one of them, see `gather`."""
        part, problem = None, None
        try:
            part = work()
        except Exception as error:  # noqa: BLE001 -- raised again there, once the other processes know of it
            problem = error
        return self.gather(part, problem)  # type: ignore[return-value]

    def gather(self, part: T, problem: Exception | None = None) -> list[T]:
        """The parts of all processes, by rank, in each of them.

        With a `problem` in one of them all raise: that one its own, the others a report of it with its exit code.
        """
        told: Any = (part, problem and (getattr(problem, "exit_code", 1), str(problem)))
        parts = [told]
        if self.count > 1:
            import torch.distributed

            parts = [None] * self.count
            torch.distributed.all_gather_object(parts, told)
        if problem is not None:
            raise problem
        for rank, (_, elsewhere) in enumerate(parts):
            if elsewhere:
                failure = VizSageError(f"process {rank} failed: {elsewhere[1]}")
                failure.exit_code = elsewhere[0]
                raise failure
        return [part for part, _ in parts]
