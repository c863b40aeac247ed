"""The last error in the log of a job."""

from __future__ import annotations

import re
from pathlib import Path

from jobs.schedulers.registry import schedulers

_LOG_TAIL_BYTES = 1 << 16
# Words of other programs' errors, and the beginning of lines that have such a word and are none.
_ERROR = re.compile(
    r"error|exception|fatal|fail|abort|\bfault|killed|denied|refused|cannot|can't|unable|no such|not found|"
    r"not permitted|invalid|illegal|out of memory|no space|timed? ?out|core dumped|bad_alloc|panic",
    re.IGNORECASE,
)
_NO_ERROR = (r"===", r"step \d+", r"vizsage: (warning|info):")


def last_error(log: Path) -> str | None:
    """The last error in the file of a job's log, see `error_in`."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _LOG_TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return None
    return error_in(text)


def error_in(text: str) -> str | None:
    """The last error of the newest attempt in a log: a line of VizSage, or else one with a word such as "failed".

    None for a process that was killed: its last line is about progress.
    """
    attempt = text[text.rfind("=== attempt ") :] if "=== attempt " in text else text
    lines = [line.strip() for line in attempt.splitlines()]
    ours = [line for line in lines if line.startswith(("vizsage: error:", "jobs.run:"))]
    no_error = re.compile("|".join([*_NO_ERROR, *(one.own_lines for one in schedulers() if one.own_lines)]))
    found = ours or [line for line in lines if _ERROR.search(line) and not no_error.match(line)]
    return found[-1] if found else None
