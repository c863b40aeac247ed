"""The pods of a job: listing them, the statuses of their containers, and the errors in their logs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from jobs.schedulers.kubernetes.kubectl import get, kubectl_for, run
from jobs.schedulers.kubernetes.manifest import CONTAINER, LABEL
from jobs.submissions import Submission
from vizsage.contract import EXIT_INTERRUPTED, EXITS_WITH_CAUSE
from vizsage.errors import VizSageError

Pod = dict[str, Any]

INDEX = "batch.kubernetes.io/job-completion-index"
# The maximum number of pods that are asked: those of one job mostly report the same, and each request takes time.
ASKED_PODS = 3


def pods_of(submission: Submission) -> list[Pod]:
    """The pods of the job that still exist, oldest first. Raises VizSageError where they cannot be listed."""
    found = get(submission, "pods", "-l", f"{LABEL}={submission.job_id}") or {"items": []}
    pods: list[Pod] = found["items"]
    return sorted(pods, key=lambda pod: (pod["metadata"].get("creationTimestamp", ""), pod["metadata"]["name"]))


def containers(pod: Pod) -> Iterator[dict[str, Any]]:
    """The statuses of its containers, init containers first."""
    for key in ("initContainerStatuses", "containerStatuses"):
        yield from pod["status"].get(key, ())


def started(pod: Pod, container: str) -> bool:
    """Whether the container runs or has ended. Before that it has no log."""
    states = [one.get("state", {}) for one in containers(pod) if one["name"] == container]
    return any("running" in state or "terminated" in state for state in states)


def over(pod: Pod, container: str) -> bool:
    """Whether the container has ended for good. Containers are not restarted; other pods replace the pod."""
    states = [one.get("state", {}) for one in containers(pod) if one["name"] == container]
    return pod["status"].get("phase") in ("Succeeded", "Failed") or any("terminated" in state for state in states)


def failed_before(pod: Pod) -> str | None:
    """The name of the init container whose failure keeps the pod from starting; None where none failed."""
    for one in pod["status"].get("initContainerStatuses", ()):
        if one.get("state", {}).get("terminated", {}).get("exitCode"):
            return str(one["name"])
    return None


def end_of(pod: Pod) -> dict[str, Any] | None:
    """How its first failed container, or else its first ended one, ended, with the container's name."""
    ends = [
        {"container": one["name"], **one["state"]["terminated"]}
        for one in containers(pod)
        if "terminated" in one.get("state", {})
    ]
    failed = [end for end in ends if end["exitCode"]]
    return next(iter(failed or ends), None)


def disruption(pod: Pod) -> str | None:
    """Why the cluster removed the pod, for example PreemptionByScheduler; None: it did not."""
    for condition in pod["status"].get("conditions", ()):
        if condition["type"] == "DisruptionTarget" and condition["status"] == "True":
            return str(condition.get("reason", ""))
    return None


def last_words(pods: list[Pod]) -> str:
    """The end of the log of the pod whose failure is the cause, from its status. Empty where there is none.

    It is the newest pod with an exit code that names a cause, or else the first pod that failed in the newest attempt:
    the others failed because they lost it as a peer. Pods that were interrupted or removed did not fail.
    """
    ends = [(pod, end) for pod in pods if (end := end_of(pod)) and end["exitCode"]]
    failed = [end for pod, end in ends if disruption(pod) is None and end["exitCode"] != EXIT_INTERRUPTED]
    if not failed:
        return ""
    failed.sort(key=_finished)
    if telling := [end for end in failed if end["exitCode"] in EXITS_WITH_CAUSE]:
        return str(telling[-1].get("message", ""))
    # Pods that failed while the newest one ran are of the same attempt. Times are texts in UTC, which can be compared.
    began = failed[-1].get("startedAt") or ""
    cause = next(end for end in failed if end is failed[-1] or _finished(end) >= began)
    return str(cause.get("message", ""))


def step(submission: Submission) -> int | None:
    """The last optimizer step in the log of the newest pod of the first node; None where no log has one."""
    try:
        pods = pods_of(submission)
    except VizSageError:
        return None
    began = [pod for pod in pods if started(pod, CONTAINER) and pod["metadata"]["labels"].get(INDEX, "0") == "0"]
    for pod in began[: -ASKED_PODS - 1 : -1]:  # a pod that has just started, or that evaluates, logs no step
        name = pod["metadata"]["name"]
        done = run([*kubectl_for(submission), "logs", name, "--container", CONTAINER, "--tail=500"])
        if found := re.findall(r"\bstep (\d+)/\d+: ", done.stdout):
            return int(found[-1])
    return None


def short(text: str) -> str:
    """One line of at most 300 characters."""
    line = " ".join(text.split())
    return line if len(line) <= 300 else f"{line[:297]}..."


def _finished(end: dict[str, Any]) -> str:
    return str(end.get("finishedAt") or "")
