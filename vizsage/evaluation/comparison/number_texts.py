"""Numbers of a comparison as texts: letters of runs, percentage points, p-values."""

from __future__ import annotations

from collections.abc import Sequence
from string import ascii_uppercase

TESTS = {"mcnemar_exact": "McNemar p", "sign_exact": "sign test p"}
"""Titles of the exact tests by their name in a comparison."""


def letter(number: int) -> str:
    """A, B, ..., Z, R27, R28, ..."""
    return ascii_uppercase[number] if number < len(ascii_uppercase) else f"R{number + 1}"


def points(difference: float | None, digits: int = 2) -> str:
    """A difference of scores in percentage points with its sign, `+12.50`; a dash where there is none."""
    return "-" if difference is None else f"{100 * difference:+.{digits}f}"


def point_range(interval: Sequence[float] | None) -> str:
    """Both ends of an interval of a difference in percentage points; a dash where there is none."""
    return "-" if interval is None else " to ".join(f"{100 * end:+.1f}" for end in interval)


def p_value(p: float | None) -> str:
    """`0.012`, and `1.2e-05` for what would be 0.000; a dash where there is none."""
    if p is None:
        return "-"
    return f"{p:.3f}" if p >= 0.001 else f"{p:.1e}"
