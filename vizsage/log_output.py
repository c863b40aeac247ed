"""Where logs of the command line go: what this library reports, and warnings and errors of others, to stderr."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from typing import TYPE_CHECKING, Any, TextIO

from vizsage.errors import printable


def set_up_logging(*, debug: bool) -> None:
    """Show what this library reports, and the warnings and errors of others, on stderr."""

    class Lines(logging.Formatter):
        def formatMessage(self, record: logging.LogRecord) -> str:
            text = printable(record.message, lines=not record.name.startswith("vizsage"))
            return text if record.levelno <= logging.INFO else f"vizsage: {record.levelname.lower()}: {text}"

        def formatException(self, ei: Any) -> str:
            return printable(super().formatException(ei), lines=True)

    handler = _Stderr()
    handler.setFormatter(Lines())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    main_process = os.environ.get("RANK", "0") == "0"  # set by torchrun; one process reports
    logging.getLogger("vizsage").setLevel(logging.DEBUG if debug else logging.INFO if main_process else logging.ERROR)
    # By default, OpenMP's threads use the CPU while they wait: on a shared CPU a step takes ten times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # otherwise trl reports the model and the hardware
    logging.captureWarnings(True)
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # bars of other libraries would fill a log file
    if not debug:
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("once", UserWarning)
        for name in ("TRANSFORMERS_VERBOSITY", "DATASETS_VERBOSITY", "HF_HUB_VERBOSITY"):
            os.environ.setdefault(name, "error")
        for name in "transformers datasets huggingface_hub urllib3 filelock PIL matplotlib torch bitsandbytes".split():
            logging.getLogger(name).setLevel(logging.ERROR)


if TYPE_CHECKING:
    StreamHandler = logging.StreamHandler[TextIO]
else:
    StreamHandler = logging.StreamHandler  # Python 3.10 cannot subscript it


class _Stderr(StreamHandler):
    """Writes to the current sys.stderr: a progress bar replaces it, to print lines above itself."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:
        """The current standard error."""
        return sys.stderr

    @stream.setter
    def stream(self, _: TextIO) -> None:
        raise AttributeError("always sys.stderr")
