"""The processes of a job on this machine, found by a variable in their environment. The only module that uses psutil.

A process id would not be enough: the kernel uses it again for another process, also after a restart of the machine.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable

import psutil  # type: ignore[import-untyped]
from psutil import Process

__all__ = ["MARK", "Process", "living", "processes_of", "send"]

MARK = "VIZSAGE_LOCAL_JOB"
"""Variable that each process of a job inherits; its value is the path of the job's entry in the queue."""


def processes_of(mark: str) -> list[Process]:
    """The processes of this user that have `mark` as the value of MARK, a launcher and its workers, oldest first."""
    # A process may start another one and end during the first search, which then finds neither: the first has ended
    # when its environment is read, and the second is not in the list that the search began with.
    return _search(mark) or _search(mark)


def _search(mark: str) -> list[Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark:
                found.append((process.create_time(), process.pid, process))
        except (psutil.AccessDenied, psutil.NoSuchProcess):  # another user's, or ended since
            continue
    return living(process for *_, process in sorted(found, key=lambda one: one[:2]))


def living(processes: Iterable[Process]) -> list[Process]:
    """Those of `processes` that have not ended. A zombie has; its parent has not read its exit code yet."""
    found = []
    for process in processes:
        try:
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def send(processes: Iterable[Process], number: signal.Signals) -> None:
    """Send a signal to each of `processes` that has not ended."""
    for process in processes:
        try:
            process.send_signal(number)  # psutil compares the start time, so that no other process receives it
        except psutil.NoSuchProcess:
            continue
