"""Pods need bubblewrap and tini; the tests name what is missing."""

from __future__ import annotations

import pytest

from tests.integration.kubernetes.pod import missing_programs


@pytest.fixture(scope="session", autouse=True)
def _programs() -> None:
    if reason := missing_programs():
        pytest.skip(reason)
