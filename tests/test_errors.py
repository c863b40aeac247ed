"""What errors of libraries become in a message."""

from __future__ import annotations

from vizsage.errors import one_line


def test_an_error_is_one_short_line_that_says_something() -> None:
    assert one_line(ValueError("two\n  lines")) == "two lines"
    assert one_line(ValueError("x" * 1000)) == "x" * 300
    assert one_line(TimeoutError()) == "TimeoutError"
