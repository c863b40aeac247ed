"""What pods show of the state and the end of a job, with the real kubectl and a small API server."""

from __future__ import annotations

import itertools
import shutil
from typing import Any

import pytest

from jobs.schedulers.kubernetes.job_states import ask
from jobs.schedulers.kubernetes.pods import last_words, pods_of, step
from jobs.submissions import Submission
from tests.jobs.api_server import ApiServer
from tests.jobs.schedulers.kubernetes.pod_objects import (
    COMPLETE,
    FORBIDDEN,
    JOB,
    RUNNING,
    add_pod,
    ended,
)

pytestmark = [
    pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed"),
    pytest.mark.timeout(180),
]


@pytest.mark.parametrize(
    ("status", "told"),
    [
        ({"conditions": COMPLETE}, ("completed", "CompletionsReached, its pods cannot be listed")),
        ({"active": 1, "ready": 1}, ("running", "its pods cannot be listed")),
        ({"active": 1, "ready": 0}, ("pending", "its pods cannot be listed")),
    ],
)
def test_a_job_whose_pods_cannot_be_listed(
    server: ApiServer, job: Submission, status: dict[str, Any], told: tuple[str, str]
) -> None:
    add_pod(server, "a", "Failed", ended(1, "some words"))
    server.logs["a"] = "step 1/2: "
    assert (ask(job).words, step(job)) == ("some words", 1)
    server.set_status("Job", JOB, **status)
    server.failures["/pods"] = itertools.repeat(FORBIDDEN)
    assert ask(job)[:2] == told
    assert (ask(job).words, step(job)) == ("", None)


def test_a_job_whose_events_cannot_be_listed(server: ApiServer, job: Submission) -> None:
    server.failures["/events"] = itertools.repeat(FORBIDDEN)
    assert ask(job)[:2] == ("pending", "no pod yet")
    add_pod(server, "a", "Pending")
    assert ask(job)[:2] == ("pending", "its containers are being made")


@pytest.mark.parametrize(
    ("states", "told"),
    [
        # Two attempts one after the other: the newest.
        ([ended(1, "old", "00:00:00", "00:01:00"), ended(1, "new", "00:02:00", "00:03:00")], "new"),
        # Peers: the first that fell, and not the one that lost it.
        ([ended(137, "cause", "00:00:01", "00:01:00"), ended(1, "peer", "00:00:00", "00:01:09")], "cause"),
        ([ended(1, "peer", "00:00:00", "00:01:09"), ended(137, "cause", "00:00:01", "00:01:00")], "cause"),
        # Two attempts of two peers.
        (
            [
                ended(137, "old", "00:00:00", "00:01:00"),
                ended(1, "old peer", "00:00:00", "00:01:09"),
                ended(1, "peer", "00:02:00", "00:03:09"),
                ended(137, "cause", "00:02:00", "00:03:00"),
            ],
            "cause",
        ),
        # An exit code that names the cause, whenever it came.
        ([ended(1, "peer", end="00:01:00"), ended(3, "no data", end="00:01:01")], "no data"),
        ([ended(2, "config", end="00:01:00"), ended(75, "peer", end="00:01:01")], "config"),
        ([ended(0, "done")], ""),
    ],
)
def test_the_last_words_are_those_of_the_cause(
    server: ApiServer, job: Submission, states: list[dict[str, Any]], told: str
) -> None:
    for pod, state in zip("abcd", states, strict=False):
        add_pod(server, pod, "Failed", state)
    assert last_words(pods_of(job)) == told


def test_the_step_is_that_of_the_first_node(server: ApiServer, job: Submission) -> None:
    """The other nodes log none."""
    for node, pod in enumerate("abcd"):
        add_pod(server, pod, "Running", RUNNING, node=node)
    server.logs |= {"a": "step 10/90: loss 3.1\nstep 20/90: loss 2.5\nvalidation\n", **dict.fromkeys("bcd", "joined\n")}
    assert step(job) == 20


def test_why_the_system_ended_a_container(server: ApiServer, job: Submission) -> None:
    add_pod(server, "a", "Failed", ended(1))
    killed = ended(137)
    killed["state"]["terminated"]["reason"] = "OOMKilled"
    add_pod(server, "b", "Failed", killed)
    add_pod(server, "c", "Running", RUNNING)
    more = (
        "container vizsage needed more than its memory limit; raise resources.limits.memory in your overlay, or lower"
    )
    assert ask(job)[:2] == ("running", f"on node-7, before: exit code 1, exit code 137 (OOMKilled), {more} num_proc")
