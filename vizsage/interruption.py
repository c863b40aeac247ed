"""Signals that ask a run to stop: noticed at once, acted on when the current step or batch is finished.

`time_limit` ends code of others that may never end: the template of a model.
"""

from __future__ import annotations

import ctypes
import logging
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

from vizsage.errors import LAUNCHER, Interrupted, VizSageError

log = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1
SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2") if hasattr(signal, name))
# One Ctrl-C may arrive as two signals: from the terminal, and passed on by the launcher of the processes.
_SAME_KEYPRESS_S = 1.0
_TICK_S = 0.25  # computing time between two looks at the clock and at signals under `time_limit`


class SignalLatch:
    """Remembers the first signal that asked to stop. `signal` is its name, such as "SIGTERM", or None."""

    def __init__(self) -> None:
        self.signal: str | None = None
        self._first_sigint_s: float | None = None

    def _notice(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self.signal is None:
            self.signal = name
        if number != signal.SIGINT:
            return
        now_s = time.monotonic()
        if self._first_sigint_s is None:
            self._first_sigint_s = now_s
        elif now_s - self._first_sigint_s > _SAME_KEYPRESS_S:
            raise KeyboardInterrupt  # a second Ctrl-C: the user does not want to wait for the end of the step


def end_with_launcher() -> None:
    """Ask the system to send this process SIGTERM when the launcher that started it dies, for example by SIGKILL.

    Otherwise it would continue, although nothing passes on signals or its exit code, and the next attempt could not
    use the run directory. Does nothing for a process without a launcher.
    """
    launcher = os.environ.pop(LAUNCHER, "")
    if not launcher:
        return
    if ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0:
        log.warning("this system cannot notify the process when its launcher ends")
    if os.getppid() != int(launcher):  # it died before the request
        os.kill(os.getpid(), signal.SIGTERM)


def end_with_parent() -> None:
    """Ask the system to kill this process, a worker of multiprocessing, when the process that started it dies.

    A worker that is stuck in a read would stay otherwise. macOS has no such request: there a worker ends after its
    work.
    """
    import multiprocessing  # here, because commands that start no workers need not wait for it

    if request := getattr(ctypes.CDLL(None), "prctl", None):
        request(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():  # it died before the request
        os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def catch_signals(latch: SignalLatch | None = None, *, to_the_end: bool = False) -> Iterator[SignalLatch]:
    """Catch SIGTERM, SIGINT, SIGUSR1 and SIGUSR2 in the block; the earlier handlers are restored after it.

    The block looks at `latch.signal` between steps and ends when it is set. A second SIGINT raises KeyboardInterrupt
    at once. Nothing is caught outside of the main thread, where Python cannot install handlers.

    Args:
        latch: one that catches signals already; nothing changes then.
        to_the_end: the process ends after the block. Signals are ignored from there on, because they would change
            its exit code, which outcome.json contains already, while Python shuts down.
    """
    global _caught
    if latch is not None:
        yield latch
        return
    latch = SignalLatch()
    if threading.current_thread() is not threading.main_thread():
        log.debug("not in the main thread: signals are not caught")
        yield latch
        return
    earlier, _caught = {}, latch
    try:
        for number in SIGNALS:
            earlier[number] = signal.signal(number, latch._notice)
        yield latch
    finally:
        _caught = None
        for number, handler in earlier.items():
            # None: a handler that was not installed from Python and so cannot be put back from it.
            handler = signal.SIG_IGN if to_the_end else handler
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


class time_limit:
    """Raises `overdue()` in a block of Python that has computed for `limit_s`; Interrupted after a caught signal.

    The computing time of this process counts, so that a busy or suspended machine ends no block. To enter a block
    takes a few microseconds. Only one block at a time is limited. A block of another thread is limited if the main
    thread has entered one before, and runs Python now and then while it waits for that thread.
    """

    def __init__(self, limit_s: float, overdue: Callable[[], VizSageError]) -> None:
        self.thread, self.ticks, self.overdue = threading.get_ident(), math.ceil(limit_s / _TICK_S), overdue
        self.error: VizSageError | None = None

    def __enter__(self) -> None:
        global _limited, _ticking
        if not _ticking and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGVTALRM, _tick)
            signal.siginterrupt(signal.SIGVTALRM, False)
            _ticking = True  # in processes that are forked from this one, too
        if _limited is None and _ticking:
            _limited = self
            signal.setitimer(signal.ITIMER_VIRTUAL, _TICK_S, _TICK_S)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        global _limited
        if _limited is self:
            with _changing:
                _limited = None
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        if kind is _Overdue and self.error is not None:
            raise self.error from None


class _Overdue(BaseException):
    """Raised in another thread, where only a class can be raised."""


_caught: SignalLatch | None = None
_ticking = False
_limited: time_limit | None = None
_changing = threading.RLock()  # a tick may come while the main thread itself holds it


def _tick(_: int, __: FrameType | None) -> None:
    """Called in the main thread, between two of its instructions, whichever thread runs the block."""
    with _changing:
        if (block := _limited) is None:
            return
        block.ticks -= 1
        name = _caught.signal if _caught else None
        if name is None and block.ticks > 0:
            return
        block.error = block.overdue() if name is None else Interrupted(f"{name}: stopped while a prompt was made")
        if block.thread != threading.get_ident():
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(block.thread), ctypes.py_object(_Overdue))
            return
    raise block.error
