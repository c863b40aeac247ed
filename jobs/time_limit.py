"""A time limit as --time and cluster profiles write it."""

from __future__ import annotations

import re

# The number of parts decides what they are.
_TIMES = (
    r"(?P<minutes>\d+)",
    r"(?P<minutes>\d+):(?P<seconds>\d+)",
    r"(?P<hours>\d+):(?P<minutes>\d+):(?P<seconds>\d+)",
    r"(?P<days>\d+)-(?P<hours>\d+)",
    r"(?P<days>\d+)-(?P<hours>\d+):(?P<minutes>\d+)",
    r"(?P<days>\d+)-(?P<hours>\d+):(?P<minutes>\d+):(?P<seconds>\d+)",
)
_UNIT_S = {"days": 86400, "hours": 3600, "minutes": 60, "seconds": 1}
_UNLIMITED = ("UNLIMITED", "INFINITE")


def seconds(text: str) -> int | None:
    """Seconds of a time limit: whole minutes, rounded up; None for no limit. Raises ValueError."""
    if text.upper() in _UNLIMITED:
        return None
    for form in _TIMES:
        if found := re.fullmatch(form, text, re.ASCII):
            seconds = sum(int(number) * _UNIT_S[unit] for unit, number in found.groupdict().items())
            return -(-seconds // 60) * 60 or None
    raise ValueError("expected MM, MM:SS, HH:MM:SS, D-HH, D-HH:MM, D-HH:MM:SS or UNLIMITED")
