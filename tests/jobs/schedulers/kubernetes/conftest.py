"""A small API server with a Job, for the tests of pods with the real kubectl."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.schedulers.kubernetes import pod_logs
from jobs.submissions import Submission
from tests.jobs.api_server import ApiServer
from tests.jobs.schedulers.kubernetes.pod_objects import (
    JOB,
    add,
)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ApiServer]:
    """With a Job of no pods yet."""
    server = ApiServer(tmp_path)
    monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig))
    monkeypatch.setenv("KUBECACHEDIR", str(tmp_path / "cache"))
    monkeypatch.setattr(pod_logs, "_LOOK_AGAIN_S", 0.2)
    add(server, "Job", JOB)
    yield server
    server.stop()


@pytest.fixture
def job(tmp_path: Path) -> Submission:
    return Submission(
        job_id=JOB,
        kind="train",
        scheduler="kubernetes",
        submitted="2026-01-01T00:00:00+00:00",
        run_dir=str(tmp_path / "run"),
        log="",
        script="",
        config="",
        context="pool",
        namespace="vlm",
        resource="job",
    )
