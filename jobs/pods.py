"""What Kubernetes tells of a job and its pods: the state in this project's words, and the reasons."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from jobs.kubectl import get, kubectl_for, run
from jobs.manifest import CONTAINER, LABEL
from jobs.submissions import Submission
from vizsage.errors import TELLING, VizSageError

Pod = dict[str, Any]

INDEX = "batch.kubernetes.io/job-completion-index"
# A Job says Complete or Failed, a JobSet Completed or Failed; the two before are said while the last pods still end.
_CONDITIONS = {
    "Complete": "completed",
    "Completed": "completed",
    "Failed": "failed",
    "FailureTarget": "ending",
    "SuccessCriteriaMet": "ending",
    "Suspended": "pending",
}
# Pods of one job mostly wait for the same thing, and each question takes a moment.
_ASKED_PODS = 3


def ask(submission: Submission) -> tuple[str, str] | None:
    """(state in this project's words, detail), or None where Kubernetes does not know the job any more.

    Raises VizSageError where it does not answer: that is no word on the job. What it does not tell of the pods, for
    want of rights, is missing in the detail.
    """
    job = get(submission, submission.resource, submission.job_id)
    if job is None:
        return None
    if "deletionTimestamp" in job["metadata"]:
        return "ending", "cancelled; its pods save a checkpoint and end"
    try:
        pods = pods_of(submission)
    except VizSageError:
        state, *detail = _said(job) or ("running" if _ready(job) else "pending",)
        return state, ", ".join([*detail, "its pods cannot be listed"])
    failures = _failures(pods)
    if said := _said(job):
        state, reason = said
        return state, ", ".join([reason, *(failures if state == "failed" else [])])
    active = [pod for pod in pods if pod["status"].get("phase") in ("Pending", "Running")]
    running = [pod for pod in active if _runs(pod)]
    if running and len(running) == len(active):
        places = sorted({pod["spec"].get("nodeName", "") for pod in running})
        return "running", ", ".join([f"on {', '.join(places)}", *failures])
    detail = _waits(submission, active) if active else _refused_pods(submission, job)
    return "pending", ", ".join([*(detail or ["no pod yet"]), *failures])


def has_ended(submission: Submission) -> bool:
    """Whether it makes no more pods: completed, failed or gone. Raises VizSageError without an answer."""
    job = get(submission, submission.resource, submission.job_id)
    return job is None or (_said(job) or ("",))[0] in ("completed", "failed")


def last_words(submission: Submission) -> str:
    """The end of the log of the pod whose failure is the cause, as its status keeps it. Empty where there is none.

    That is one with an exit code that names a cause, or else the first that failed of the newest attempt: the others
    lost it as a peer.
    """
    try:
        failed = [state for pod in pods_of(submission) if (state := _ended(pod)) and state["exitCode"]]
    except VizSageError:
        return ""
    if not failed:
        return ""
    failed.sort(key=_finished)
    if telling := [state for state in failed if state["exitCode"] in TELLING]:
        return str(telling[-1].get("message", ""))
    # What failed while the newest one ran is of the same attempt; times are in UTC, so their texts can be compared.
    began = failed[-1].get("startedAt") or ""
    cause = next(state for state in failed if state is failed[-1] or _finished(state) >= began)
    return str(cause.get("message", ""))


def step(submission: Submission) -> int | None:
    """The last optimizer step in the log of the newest first node; None where none was logged or no log is left."""
    try:
        pods = pods_of(submission)
    except VizSageError:
        return None
    began = [pod for pod in pods if started(pod, CONTAINER) and pod["metadata"]["labels"].get(INDEX, "0") == "0"]
    for pod in began[: -_ASKED_PODS - 1 : -1]:  # a pod that has just begun, or evaluates, logs no step
        name = pod["metadata"]["name"]
        done = run([*kubectl_for(submission), "logs", name, "--container", CONTAINER, "--tail=500"])
        if found := re.findall(r"\bstep (\d+)/\d+: ", done.stdout):
            return int(found[-1])
    return None


def pods_of(submission: Submission) -> list[Pod]:
    """The pods of the job that are still there, oldest first. Raises VizSageError where they cannot be listed."""
    found = get(submission, "pods", "-l", f"{LABEL}={submission.job_id}") or {"items": []}
    pods: list[Pod] = found["items"]
    return sorted(pods, key=lambda pod: (pod["metadata"].get("creationTimestamp", ""), pod["metadata"]["name"]))


def started(pod: Pod, container: str) -> bool:
    """Whether the container runs or has ended: before that it has no log."""
    states = [one.get("state", {}) for one in _containers(pod) if one["name"] == container]
    return any("running" in state or "terminated" in state for state in states)


def over(pod: Pod, container: str) -> bool:
    """Whether the container writes no more. Containers are never started again, other pods take their place."""
    states = [one.get("state", {}) for one in _containers(pod) if one["name"] == container]
    return pod["status"].get("phase") in ("Succeeded", "Failed") or any("terminated" in state for state in states)


def failed_before(pod: Pod) -> str | None:
    """The init container for whose failure the pod cannot begin."""
    for one in pod["status"].get("initContainerStatuses", ()):
        if one.get("state", {}).get("terminated", {}).get("exitCode"):
            return str(one["name"])
    return None


# --- what a pod's status tells ---------------------------------------------------------------------------------------


def _containers(pod: Pod) -> Iterator[dict[str, Any]]:
    """The statuses of its containers, init containers first."""
    for key in ("initContainerStatuses", "containerStatuses"):
        yield from pod["status"].get(key, ())


def _runs(pod: Pod) -> bool:
    return pod["status"].get("phase") == "Running" and "deletionTimestamp" not in pod["metadata"]


def _ended(pod: Pod) -> dict[str, Any] | None:
    """How its first container that failed, or else the training, has ended."""
    states = [one["state"]["terminated"] for one in _containers(pod) if "terminated" in one.get("state", {})]
    failed = [state for state in states if state["exitCode"]]
    return (failed or states or [None])[0]


def _finished(state: dict[str, Any]) -> str:
    return str(state.get("finishedAt") or "")


def _failures(pods: list[Pod]) -> list[str]:
    """`exit codes 1, 137 (OOMKilled)`; nothing where no pod failed."""
    codes, lost = [], []
    for pod in pods:
        state, reason = _ended(pod), pod["status"].get("reason")  # such as Evicted
        if state and state["exitCode"]:
            reason = reason or state.get("reason")
            codes.append(f"{state['exitCode']}{f' ({reason})' if reason not in (None, 'Error') else ''}")
        elif reason and not state:
            lost.append(str(reason))
    found = [f"exit code{'s' if len(codes) > 1 else ''} {', '.join(codes)}"] if codes else []
    return found + ([f"pods lost: {', '.join(lost)}"] if lost else [])


# --- why there is no pod, or none that runs --------------------------------------------------------------------------


def _said(job: dict[str, Any]) -> tuple[str, str] | None:
    """State and reason from the conditions of a Job or JobSet; None where none of them tells."""
    said = {one["type"]: one for one in job.get("status", {}).get("conditions", ()) if one["status"] == "True"}
    for condition, state in _CONDITIONS.items():
        if condition in said:
            reason = said[condition].get("reason") or condition
            return state, f"{reason}, it waits for its turn" if state == "pending" else reason
    return None


def _ready(job: dict[str, Any]) -> bool:
    """Whether a Job or JobSet counts pods that are up."""
    status = job.get("status", {})
    return any(one.get("ready") for one in (status, *(status.get("replicatedJobsStatus") or ())))


def _waits(submission: Submission, pods: list[Pod]) -> list[str]:
    """Why the pods do not run yet, each reason once."""
    reasons: dict[str, None] = {}
    silent = []
    for pod in pods:
        if reason := _waits_for(pod):
            reasons[reason] = None
        elif not started(pod, CONTAINER):
            silent.append(pod)
    if not silent:
        return [*reasons]
    for pod in silent[:_ASKED_PODS]:
        chosen = f"involvedObject.kind=Pod,involvedObject.name={pod['metadata']['name']},type=Warning"
        # It was said before the pod got its node.
        events = [event for event in _events(submission, chosen) if event.get("reason") != "FailedScheduling"]
        if events:
            return [*reasons, _short(f"{events[-1].get('reason', 'Warning')}: {events[-1].get('message', '')}")]
    return [*reasons, "its containers are being made"]


def _waits_for(pod: Pod) -> str | None:
    """What its status tells: what the scheduler misses, what a container waits for, what comes first."""
    if "deletionTimestamp" in pod["metadata"]:
        return f"pod {pod['metadata']['name']} ends first"
    for one in _containers(pod):
        waiting = one.get("state", {}).get("waiting", {})
        if waiting.get("reason") not in (None, "PodInitializing", "ContainerCreating"):
            return f"{waiting['reason']}: {_short(waiting.get('message', one.get('image', '')))}"
    for condition in pod["status"].get("conditions", ()):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return f"{condition.get('reason', 'not scheduled')}: {_short(condition.get('message', ''))}"
    for one in pod["status"].get("initContainerStatuses", ()):
        if "running" in one.get("state", {}) and not started(pod, CONTAINER):
            return f"init container {one['name']} runs first"
    return None


def _refused_pods(submission: Submission, job: dict[str, Any]) -> list[str]:
    """Why there is no pod: a quota, a policy of the namespace. A JobSet's pods are made by Jobs of its own."""
    name, kind = submission.job_id, job["kind"]
    if kind == "Job":
        chosen = f"reason=FailedCreate,involvedObject.kind=Job,involvedObject.name={name}"
        events = _events(submission, chosen)
    else:
        events = _events(submission, f"involvedObject.kind={kind},involvedObject.name={name},type=Warning")
        try:
            found = get(submission, "jobs", "-l", f"jobset.sigs.k8s.io/jobset-name={name}") or {"items": []}
        except VizSageError:
            found = {"items": []}
        if children := {child["metadata"]["name"] for child in found["items"]}:
            of_jobs = _events(submission, "reason=FailedCreate,involvedObject.kind=Job")
            events += [event for event in of_jobs if event["involvedObject"]["name"] in children]
            events.sort(key=_time)
    return [_short(event.get("message", "")) for event in events[-1:]]


def _events(submission: Submission, chosen: str) -> list[dict[str, Any]]:
    """The events that the field selector chooses, newest last; none where they cannot be listed."""
    try:
        found = get(submission, "events", "--field-selector", chosen) or {"items": []}
    except VizSageError:
        return []
    return sorted(found["items"], key=_time)


def _time(event: dict[str, Any]) -> str:
    """When it was seen last: who reports it sets one or the other. Texts in UTC, which can be compared."""
    last = (event.get("series") or {}).get("lastObservedTime") or event.get("lastTimestamp") or event.get("eventTime")
    return str(last or event["metadata"].get("creationTimestamp") or "")


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 300 else f"{line[:297]}..."
