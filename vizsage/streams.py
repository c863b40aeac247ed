"""stdout and stderr that cannot be written, or whose encoding lacks characters.

A log that cannot be written never ends a run. A command whose result goes to stdout and cannot be written has failed.
"""

from __future__ import annotations

import codecs
import io
import json
import os
import sys
from typing import Any, TextIO

from vizsage.errors import VizSageError


class _Stream:
    """A stream whose failures are ignored or, if the result of the command (`product`) goes there, end the command."""

    def __init__(self, stream: TextIO, *, product: bool) -> None:
        self._stream, self._product, self._failed = stream, product, False

    def write(self, text: str) -> int:
        """Write `text`, or lose it."""
        try:
            return self._stream.write(text)
        except OSError as error:
            self._lost(error)
            return len(text)

    def flush(self) -> None:
        """Write what is held back, or lose it. Python itself calls this at its end, and must not fail then."""
        if self._product and self._failed:
            return
        try:
            self._stream.flush()
        except OSError as error:
            self._lost(error)

    def writelines(self, lines: list[str]) -> None:
        """Write all of `lines`, or lose them."""
        self.write("".join(lines))

    def _lost(self, error: OSError) -> None:
        if not self._product:
            return
        self._failed = True
        if isinstance(error, BrokenPipeError):  # the reader has ended
            raise error
        raise VizSageError(f"stdout: what was asked for cannot be written there: {error.strerror}") from error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def escape_what_is_not_encodable() -> None:
    r"""Write characters that the encoding of stdout or stderr lacks, and half surrogate pairs, as \uXXXX.

    Python would end the command instead, after its results were written, and its own `backslashreplace` would write
    \xXX, which JSON does not have.
    """
    codecs.register_error("vizsage.escape", _escape)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # not where it was closed, or replaced by the caller
            stream.reconfigure(errors="vizsage.escape")


def _escape(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


def keep_streams(*, product: bool) -> None:
    """Let this process continue when its log cannot be written: the disk is full, the reader gone, the stream closed.

    Args:
        product: the result of the command goes to stdout; the command fails if that cannot be written.
    """
    # In this order, so that a file of the run is never opened under the number of a stream that was closed: whatever
    # a library prints there would go into that file. Nothing can be written to what is opened for reading.
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDONLY), mode, errors="backslashreplace"))
    sys.stdout = _Stream(sys.stdout, product=product)
    sys.stderr = _Stream(sys.stderr, product=False)
