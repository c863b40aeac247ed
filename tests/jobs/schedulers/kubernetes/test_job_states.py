"""What is reported of states of a Job as a real control plane (Kubernetes 1.36.2, Kueue) has answered them.

recorded_states.json holds its Jobs, pods, Workloads and warnings, without the fields that are not read.
"""

from __future__ import annotations

import copy
import datetime
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.schedulers.kubernetes import job_states, pod_ends, pod_waits
from jobs.schedulers.scheduler import JobStatus
from jobs.status import state_of
from jobs.submissions import Submission
from tests.jobs.api_server import ApiServer

RECORDED = json.loads((Path(__file__).parent / "recorded_states.json").read_text(encoding="utf-8"))
JOB = "vizsage-train"

pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ApiServer]:
    server = ApiServer(tmp_path)
    monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig))
    monkeypatch.setenv("KUBECACHEDIR", str(tmp_path / "cache"))
    yield server
    server.stop()


@pytest.fixture
def job(tmp_path: Path) -> Submission:
    more = {"log": "", "script": "", "config": "", "context": "pool", "namespace": "vlm", "resource": "job"}
    begun = "2026-11-30T15:00:00+00:00"
    return Submission(JOB, "train", "kubernetes", begun, str(tmp_path / "run"), **more)


def load(server: ApiServer, state: str) -> None:
    """Put the objects of a recorded state there."""
    for one in copy.deepcopy(RECORDED[state]):
        one["metadata"].setdefault("labels", {})["vizsage/job"] = JOB
        server.objects[one["kind"], one["metadata"]["name"]] = one


def ask(job: Submission) -> JobStatus:
    found = job_states.ask(job)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("recorded", "state", "detail"),
    [
        ("done", "completed", "CompletionsReached"),
        ("running", "running", "on gpu-c"),
        ("config_error", "failed", "PodFailurePolicy, exit code 2"),
        ("failed_once", "running", "on gpu-a, attempt 2 of 4, before: exit code 1"),
        ("preempted", "pending", "its containers are being made, before: preempted"),
        (
            "oom_killed",
            "failed",
            "BackoffLimitExceeded, attempt 2 of 2, 2 x exit code 137 (OOMKilled), container vizsage needed "
            "more than its memory limit of 32Gi; raise resources.limits.memory in your overlay, or lower num_proc",
        ),
        (
            "evicted_volume",
            "failed",
            'BackoffLimitExceeded, attempt 2 of 2, 2 x Evicted, Usage of EmptyDir volume "tmp" exceeds the limit '
            '"10Gi"; raise sizeLimit of the volume tmp in your overlay',
        ),
        (
            "image_pull",
            "pending",
            'ImagePullBackOff: Back-off pulling image "vizsage:0.1.0": ErrImagePull: failed to pull and unpack image: '
            "not found; check --image, and that the nodes may pull it",
        ),
        (
            "unschedulable",
            "pending",
            "Unschedulable: 0/4 nodes are available: 4 Insufficient nvidia.com/gpu. no new claims to deallocate, "
            "preemption: 0/4 nodes are available: 4 Preemption is not helpful for scheduling; it starts when a node "
            "has as much free, see kubectl describe nodes",
        ),
        (
            "claim_missing",
            "pending",
            'Unschedulable: 0/4 nodes are available: persistentvolumeclaim "vizsage-data" not found. not found; '
            "k8s/pvc.yaml creates the claims",
        ),
        (
            "quota",
            "pending",
            'FailedCreate AGE ago: Error creating: pods "vizsage-train-8vrm4" is forbidden: exceeded '
            "quota: q, requested: "
            "requests.nvidia.com/gpu=1, used: requests.nvidia.com/gpu=0, limited: requests.nvidia.com/gpu=0; "
            "ask for less, or for a larger quota of the namespace",
        ),
        (
            "kueue_no_queue",
            "pending",
            "Suspended by Kueue: LocalQueue user-queue doesn't exist; kubectl get localqueues lists those of the "
            "namespace; the label kueue.x-k8s.io/queue-name of the overlay names one",
        ),
    ],
)
def test_recorded_states(server: ApiServer, job: Submission, recorded: str, state: str, detail: str) -> None:
    load(server, recorded)
    found = ask(job)
    assert found.state == state
    assert re.sub(r"\d+ \w+ ago", "AGE ago", found.detail) == detail


def test_progress_is_no_error(server: ApiServer, job: Submission) -> None:
    """The end of a killed container's log, as its status keeps it, shows how far it got."""
    load(server, "oom_killed")
    pod = server.objects["Pod", "vizsage-train-c9992"]
    pod["status"]["containerStatuses"][0]["state"]["terminated"]["message"] = "step 10/90: loss 3\nstep 20/90: loss 2\n"
    found = state_of(job)
    assert (found.state, found.error) == ("failed", None)


def test_the_error_of_an_earlier_attempt_is_told_while_the_next_one_runs(server: ApiServer, job: Submission) -> None:
    load(server, "failed_once")
    pod = server.objects["Pod", "vizsage-train-2gjzv"]
    pod["status"]["containerStatuses"][0]["state"]["terminated"]["message"] = "step 1/9: loss 3\nOSError: [Errno 5] x\n"
    found = state_of(job)
    assert (found.state, found.error) == ("running", "OSError: [Errno 5] x")


# --- how pods end ----------------------------------------------------------------------------------------------------


def pod(code: int | None = None, why: str = "Error", words: str = "", **status: Any) -> dict[str, Any]:
    """One that failed; its container with an exit code, where it got as far."""
    state = {"terminated": {"exitCode": code, "reason": why, "message": words}}
    statuses = [] if code is None else [{"name": "vizsage", "state": state}]
    return {"metadata": {"name": "a"}, "status": {"phase": "Failed", "containerStatuses": statuses, **status}}


def taken(by: str, code: int | None = 75, **status: Any) -> dict[str, Any]:
    """One that the cluster took away."""
    return pod(code, conditions=[{"type": "DisruptionTarget", "status": "True", "reason": by}], **status)


@pytest.mark.parametrize(
    ("ended", "told"),
    [
        ([pod(1), pod(139), pod(1)], "2 x exit code 1, exit code 139 (SIGSEGV)"),
        ([pod(75)], "exit code 75 (interrupted)"),
        ([taken("PreemptionByScheduler"), taken("PreemptionByScheduler", 1)], "2 x preempted"),
        ([taken("EvictionByEvictionAPI"), taken("DeletionByTaintManager", None)], "drained, lost with its node"),
        ([taken("Novelty")], "taken away (Novelty)"),
        (
            [pod(128, "StartError", 'exec: "tini": executable file not found in $PATH')],
            'exit code 128 (StartError), exec: "tini": executable file not found in $PATH; the image does not fit the '
            "overlay's command: check --image",
        ),
        (
            [taken("TerminationByKubelet", 137, reason="Evicted", message="The node was low on resource: memory. x")],
            "ended by its node, The node was low on resource: memory. x; request as much memory as it uses, "
            "resources.requests of your overlay",
        ),
        (
            [
                pod(
                    reason="Evicted",
                    message="Pod ephemeral local storage usage exceeds the total limit of containers 1Gi. ",
                )
            ],
            "Evicted, Pod ephemeral local storage usage exceeds the total limit of containers 1Gi; raise "
            "resources.limits.ephemeral-storage in your overlay",
        ),
        ([pod(0)], ""),
    ],
)
def test_how_pods_ended(ended: list[dict[str, Any]], told: str) -> None:
    found = ", ".join(pod_ends.failures({"kind": "Job", "spec": {}}, ended, failed=True))
    assert found == told


@pytest.mark.parametrize(
    ("job", "failed", "told"),
    [
        ({"kind": "Job", "spec": {"backoffLimit": 3}, "status": {}}, False, []),
        ({"kind": "Job", "spec": {"backoffLimit": 3}, "status": {"failed": 1}}, False, ["attempt 2 of 4"]),
        ({"kind": "Job", "spec": {"backoffLimit": 3}, "status": {"failed": 4}}, True, ["attempt 4 of 4"]),
        (
            {"kind": "Job", "spec": {"backoffLimit": 6, "completions": 2}, "status": {"failed": 2}},
            False,
            ["2 failed pods, of which 6 are replaced"],
        ),
        (
            {
                "kind": "JobSet",
                "spec": {"failurePolicy": {"maxRestarts": 3}},
                "status": {"restarts": 5, "restartsCountTowardsMax": 1},
            },
            False,
            ["attempt 2 of 4"],
        ),
    ],
)
def test_which_attempt_it_is(job: dict[str, Any], failed: bool, told: list[str]) -> None:
    assert pod_ends.failures(job, [], failed=failed) == told


@pytest.mark.parametrize(("ended", "pause_s"), [(1, 10), (2, 20), (3, 40), (7, 600), (40, 600)])
def test_how_long_the_next_pod_is_waited_for(ended: int, pause_s: int) -> None:
    """Those that were interrupted or preempted count here, though not for backoffLimit."""
    [told] = pod_ends.pause([taken("PreemptionByScheduler")] * ended)
    assert told.startswith(f"the next pod comes {pause_s} s after the last one ended (")


@pytest.mark.parametrize(
    ("recorded", "counted"), [("preempted", 0), ("failed_once", 1), ("evicted_volume", 2), ("oom_killed", 2)]
)
def test_what_counts_and_how_long_the_server_waits(recorded: str, counted: int) -> None:
    """What docs/how-to/kubernetes.md promises, and `status` of the next pod, is what a control plane did."""
    [job] = [one for one in RECORDED[recorded] if one["kind"] == "Job"]
    assert job["status"].get("failed", 0) == counted
    first, second = sorted(
        (one for one in RECORDED[recorded] if one["kind"] == "Pod"),
        key=lambda one: one["metadata"]["creationTimestamp"],
    )
    ended = first["status"]["containerStatuses"][0]["state"]["terminated"]["finishedAt"]
    times = [
        datetime.datetime.fromisoformat(at.replace("Z", "+00:00"))
        for at in (ended, second["metadata"]["creationTimestamp"])
    ]
    pause_s = (times[1] - times[0]).total_seconds()
    assert 10 <= pause_s <= 11
    assert pod_ends.pause([first])[0].startswith("the next pod comes 10 s after")
    page = Path(__file__).parents[4] / "docs" / "how-to" / "kubernetes.md"
    assert "10 s after the first one" in page.read_text(encoding="utf-8")


# --- why a queue of Kueue does not let it go -------------------------------------------------------------------------


QUOTA = (
    "couldn't assign flavors to pod set main: insufficient quota for nvidia.com/gpu in flavor default, previously "
    "considered podsets requests (0) + current podset request (8) > maximum capacity (4)"
)


@pytest.mark.parametrize(
    ("workload", "told"),
    [
        (
            {"status": {"conditions": [{"type": "QuotaReserved", "status": "False", "message": QUOTA}]}},
            f"Suspended by Kueue: {QUOTA}; the queue never has as much: ask for fewer GPUs or nodes, or for another "
            "queue",
        ),
        (
            {
                "status": {
                    "conditions": [
                        {"type": "QuotaReserved", "status": "False", "message": "waits for quota"},
                        {"type": "Evicted", "status": "True", "reason": "Preempted", "message": "Preempted for x"},
                    ]
                }
            },
            "Suspended by Kueue: Preempted for x; waits for quota",
        ),
        (
            {
                "status": {
                    "conditions": [{"type": "QuotaReserved", "status": "True", "message": "reserved"}],
                    "admissionChecks": [{"name": "nodes", "state": "Pending", "message": "being provisioned"}],
                }
            },
            "Suspended by Kueue: nodes: being provisioned",
        ),
        (
            {"spec": {"active": False}},
            "Suspended by Kueue: its Workload w was deactivated; spec.active: true lets it go on",
        ),
        ({}, "Suspended, FailedX: no LocalQueue"),
        (None, "Suspended, it waits for its turn"),
    ],
)
def test_why_a_queue_holds_it_back(
    job: Submission, monkeypatch: pytest.MonkeyPatch, workload: dict[str, Any] | None, told: str
) -> None:
    event = {"reason": "FailedX", "message": "no LocalQueue", "metadata": {}}

    def get(_: Submission, kind: str, *words: str) -> dict[str, Any]:
        if kind == "events":
            return {"items": [event] if any("kind=Workload,involvedObject.name=w," in word for word in words) else []}
        assert (kind, *words) == ("workloads.kueue.x-k8s.io", "-l", "kueue.x-k8s.io/job-uid=u")
        return {"items": [] if workload is None else [{"metadata": {"name": "w"}, **workload}]}

    monkeypatch.setattr(pod_waits, "get", get)
    assert pod_waits.of_queue(job, {"kind": "Job", "metadata": {"uid": "u"}}) == told
