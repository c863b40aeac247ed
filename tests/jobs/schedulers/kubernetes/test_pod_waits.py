"""Why a job has no running pod, with the real kubectl and a small API server."""

from __future__ import annotations

import datetime
import shutil
from typing import Any

import pytest

from jobs.schedulers.kubernetes import pod_waits
from jobs.schedulers.kubernetes.job_states import ask
from jobs.submissions import Submission
from tests.jobs.api_server import ApiServer
from tests.jobs.schedulers.kubernetes.pod_objects import (
    JOB,
    RUNNING,
    add,
    add_pod,
    ended,
    failed_create,
    waiting,
)

pytestmark = [
    pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed"),
    pytest.mark.timeout(180),
]


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (
            {
                "conditions": [
                    {
                        "type": "PodScheduled",
                        "status": "False",
                        "reason": "Unschedulable",
                        "message": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.",
                    }
                ],
            },
            "Unschedulable: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu; it starts when a node has as much "
            "free, see kubectl describe nodes",
        ),
        (
            {"containerStatuses": [waiting("ImagePullBackOff", "Back-off pulling vizsage")]},
            "ImagePullBackOff: Back-off pulling vizsage; check --image, and that the nodes may pull it",
        ),
        (
            {"initContainerStatuses": [RUNNING | {"name": "data"}], "containerStatuses": [waiting("PodInitializing")]},
            "init container data runs first",
        ),
        ({}, "its containers are being made"),
    ],
)
def test_why_a_pod_waits(server: ApiServer, job: Submission, status: dict[str, Any], told: str) -> None:
    server.add_pod(JOB, "a", created="2026-01-01T00:00:00Z", phase="Pending", **status)
    assert ask(job)[:2] == ("pending", told)


def at(monkeypatch: pytest.MonkeyPatch, now: str) -> None:
    """The current time for the code that computes the age of an event."""

    class Clock(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:
            return datetime.datetime.fromisoformat(now)

    monkeypatch.setattr(pod_waits.datetime, "datetime", Clock)


def test_a_pod_that_gives_no_reason_has_events(
    server: ApiServer, job: Submission, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest warning counts, whichever way its reporter dates it."""
    at(monkeypatch, "2026-01-01T04:00:00+00:00")
    add_pod(server, "a", "Pending", waiting("ContainerCreating"))
    for name, pod, kind, reason, message, when in (
        ("1", "a", "Warning", "FailedMount", 'configmap "vizsage" not found', {"eventTime": "2026-01-01T00:02:00.5Z"}),
        ("2", "a", "Warning", "FailedMount", "old", {"lastTimestamp": "2026-01-01T00:01:00Z"}),
        ("3", "a", "Normal", "Pulled", "pulled", {"lastTimestamp": "2026-01-01T00:03:00Z"}),
        ("4", "x", "Warning", "FailedMount", "other", {"lastTimestamp": "2026-01-01T00:03:00Z"}),
        ("5", "a", "Warning", "FailedScheduling", "no GPU yet", {"lastTimestamp": "2026-01-01T00:03:00Z"}),
    ):
        of = {"kind": "Pod", "name": pod}
        add(server, "Event", name, involvedObject=of, type=kind, reason=reason, message=message, **when)
    assert ask(job)[:2] == ("pending", 'FailedMount 3 hours ago: configmap "vizsage" not found')


@pytest.mark.parametrize(
    ("now", "age"), [("00:02:07", "7 seconds"), ("00:04:59", "2 minutes"), ("06:00:00", "5 hours")]
)
def test_why_there_is_no_pod(
    server: ApiServer, job: Submission, monkeypatch: pytest.MonkeyPatch, now: str, age: str
) -> None:
    """An event stays for an hour, whatever was changed since then: its age is shown."""
    at(monkeypatch, f"2026-01-01T{now}+00:00")
    message = 'pods "x" is forbidden: exceeded quota: gpus'
    failed_create(server, "1", JOB, message, "2026-01-01T00:02:00Z")
    failed_create(server, "2", JOB, "old", "2026-01-01T00:01:00Z")
    remedy = "ask for less, or for a larger quota of the namespace"
    assert ask(job)[:2] == ("pending", f"FailedCreate {age} ago: {message}; {remedy}")


def test_a_pod_that_was_made_later_outdates_the_event(server: ApiServer, job: Submission) -> None:
    failed_create(server, "1", JOB, "exceeded quota: gpus", "2025-12-31T23:59:59Z")
    add_pod(server, "a", "Failed", ended(75))
    assert ask(job)[1].startswith("the next pod comes 10 s after the last one ended (")


def test_why_a_jobset_has_no_pod(server: ApiServer, job: Submission) -> None:
    jobset = Submission(**vars(job) | {"resource": "jobset"})
    add(server, "JobSet", JOB)
    server.objects["JobSet", JOB]["apiVersion"] = "jobset.x-k8s.io/v1alpha2"
    add(server, "Job", f"{JOB}-train-0", labels={"jobset.sigs.k8s.io/jobset-name": JOB})
    failed_create(server, "1", f"{JOB}-train-0", "exceeded quota: gpus", "2026-01-01T00:02:00Z")
    failed_create(server, "2", f"{JOB}-train-0", "old", "2026-01-01T00:01:00Z")
    failed_create(server, "3", "another", "other", "2026-01-01T00:03:00Z")
    state, detail, _ = ask(jobset)
    assert (state, detail.startswith("FailedCreate ")) == ("pending", True)
    assert ": exceeded quota: gpus" in detail
