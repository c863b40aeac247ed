"""Starting and ending a process faster: no search for garbage while there can be none."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing() -> Iterator[None]:
    """Suspend garbage collection while libraries are imported.

    Importing torch, transformers and peft creates more than a million objects that stay, and each collection looks at
    all of them again: that takes a fifth of the time.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def end_of_process() -> None:
    """To be called when nothing but the end of the process follows: Python then does not search what is left."""
    gc.freeze()
