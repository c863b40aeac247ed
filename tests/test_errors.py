"""What errors of libraries become in a message."""

from __future__ import annotations

import pytest

from vizsage.errors import ConfigError, Interrupted, VizSageError, error_of, one_line


def test_an_error_is_one_short_line_that_says_something() -> None:
    assert one_line(ValueError("two\n  lines")) == "two lines"
    assert one_line(ValueError("x" * 1000)) == "x" * 300
    assert one_line(TimeoutError()) == "TimeoutError"


@pytest.mark.parametrize(("code", "kind"), [(2, ConfigError), (75, Interrupted), (1, VizSageError), (9, VizSageError)])
def test_an_error_that_another_process_reports_has_the_same_class(code: int, kind: type[VizSageError]) -> None:
    error = error_of(code, "out: broken")
    assert (type(error), error.exit_code, str(error)) == (kind, code, "out: broken")
