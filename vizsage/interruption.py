"""Signals that ask a run to stop: noticed at once, acted on when the current step or batch is finished."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from vizsage.errors import LAUNCHER

log = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1
SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2") if hasattr(signal, name))
# One Ctrl-C may arrive twice: from the terminal and, forwarded, from the launcher of the processes.
_SAME_KEYPRESS_S = 1.0


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
            raise KeyboardInterrupt  # who presses Ctrl-C again does not want to wait for the step to finish


def end_with_launcher() -> None:
    """Have this process told to stop, by SIGTERM, when the launcher that started it dies, by SIGKILL for example.

    Without that, it would go on with nobody to pass a signal or its exit code on, and keep the run directory from the
    next attempt. Does nothing for a process without a launcher.
    """
    launcher = os.environ.pop(LAUNCHER, "")
    if not launcher:
        return
    import ctypes

    if ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0:
        log.warning("the system does not tell this process of its launcher's death")
    if os.getppid() != int(launcher):  # it died before that
        os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def catch_signals(latch: SignalLatch | None = None, *, to_the_end: bool = False) -> Iterator[SignalLatch]:
    """Catch SIGTERM, SIGINT, SIGUSR1 and SIGUSR2 in the block; the handlers from before are put back after it.

    The block looks at `latch.signal` between steps and leaves when it is set. A second SIGINT raises KeyboardInterrupt
    at once. Outside of the main thread, where Python cannot install handlers, nothing is caught.

    Args:
        latch: one that catches signals already: nothing changes then.
        to_the_end: the process ends after the block, and signals are ignored from there on: it has said how it ended,
            and must not end otherwise while Python shuts down.
    """
    if latch is not None:
        yield latch
        return
    latch = SignalLatch()
    if threading.current_thread() is not threading.main_thread():
        log.debug("not in the main thread: signals are not caught")
        yield latch
        return
    earlier = {}
    try:
        for number in SIGNALS:
            earlier[number] = signal.signal(number, latch._notice)
        yield latch
    finally:
        for number, handler in earlier.items():
            # None: a handler that was not installed from Python and so cannot be put back from it.
            handler = signal.SIG_IGN if to_the_end else handler
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
