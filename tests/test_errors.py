"""What errors of libraries become in a message."""

from __future__ import annotations

import pytest

from vizsage.errors import ConfigError, Interrupted, VizSageError, error_of, missing_package, one_line


def test_an_error_is_one_short_line_that_says_something() -> None:
    assert one_line(ValueError("two\n  lines")) == "two lines"
    assert one_line(ValueError("x" * 1000)) == "x" * 300
    assert one_line(TimeoutError()) == "TimeoutError"


@pytest.mark.parametrize(("code", "kind"), [(2, ConfigError), (75, Interrupted), (1, VizSageError), (9, VizSageError)])
def test_an_error_that_another_process_reports_has_the_same_class(code: int, kind: type[VizSageError]) -> None:
    error = error_of(code, "out: broken")
    assert (type(error), error.exit_code, str(error)) == (kind, code, "out: broken")


@pytest.mark.parametrize("name", [None, "vizsage.none", "jobs.none", "json.none", "pydantic.none", "_lzma"])
def test_only_a_package_that_is_not_there_is_a_missing_one(name: str | None) -> None:
    assert missing_package(ModuleNotFoundError("no", name=name)) is None
    found = missing_package(ModuleNotFoundError("no", name="nowhere_at_all.part"))
    assert "needs the package 'nowhere_at_all', which this Python" in str(found)
