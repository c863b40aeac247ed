"""Signals that ask a run to stop: noticed at once, acted on when the current step or batch is finished."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

log = logging.getLogger(__name__)

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


@contextmanager
def catch_signals() -> Iterator[SignalLatch]:
    """Catch SIGTERM, SIGINT, SIGUSR1 and SIGUSR2 in the block; the handlers from before are put back after it.

    The block looks at `latch.signal` between steps and leaves when it is set. A second SIGINT raises KeyboardInterrupt
    at once. Outside of the main thread, where Python cannot install handlers, nothing is caught.
    """
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
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
