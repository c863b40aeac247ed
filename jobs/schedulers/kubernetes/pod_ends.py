"""How the pods of a job have ended: the number of the attempt, every way once, and the remedy."""

from __future__ import annotations

import re
import signal
from collections import Counter
from collections.abc import Sequence
from typing import Any

from jobs.schedulers.kubernetes.pods import Pod, disruption, end_of, short
from vizsage.contract import EXIT_INTERRUPTED

# Why the cluster removed a pod. Such pods are replaced, and do not count as failures.
_DISRUPTIONS = {
    "PreemptionByScheduler": "preempted",
    "EvictionByEvictionAPI": "drained",
    "TerminationByKubelet": "ended by its node",
    "DeletionByTaintManager": "lost with its node",
    "DeletionByPodGC": "lost with its node",
}
# Messages in a pod's status, and the remedy for each.
_REMEDIES = (
    (r'EmptyDir volume "(\S+)"', "raise sizeLimit of the volume {} in your overlay"),
    (r"(?:local storage usage|ephemeral storage limit)", "raise resources.limits.ephemeral-storage in your overlay"),
    (r"low on resource: ([\w-]+)", "request as much {} as it uses, resources.requests of your overlay"),
)
# The pauses of the Job controller before it replaces a pod.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 10, 600


def failures(job: dict[str, Any], pods: Sequence[Pod], *, failed: bool) -> list[str]:
    """`attempt 2 of 4`, `exit code 137 (OOMKilled)` and the remedy; empty where no pod failed or was removed.

    Args:
        job: the Job or JobSet.
        pods: its pods, oldest first.
        failed: whether the whole job has failed.
    """
    ways = Counter(way for pod in pods if (way := _way(pod)))
    causes = [cause for pod in pods if _way(pod) and (cause := _cause(pod))]
    said = ", ".join(f"{times} x {way}" if times > 1 else way for way, times in ways.items())
    return [*_attempt(job, failed), *filter(None, [said if failed or not said else f"before: {said}"]), *causes[-1:]]


def pause(pods: Sequence[Pod]) -> list[str]:
    """How long a Job waits before it creates the next pod; empty where no pod has failed."""
    ended = sum(pod["status"].get("phase") == "Failed" for pod in pods)
    if not ended:
        return []
    pause_s = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** min(ended - 1, 10))
    rule = f"{_FIRST_PAUSE_S} s, doubled by each pod that failed or was taken away, at most {_LONGEST_PAUSE_S} s"
    return [f"the next pod comes {pause_s} s after the last one ended ({rule})"]


def _attempt(job: dict[str, Any], failed: bool) -> list[str]:
    """`attempt 2 of 4`, by the failures that count; empty before the first of them."""
    spec, status = job["spec"], job.get("status", {})
    if job["kind"] == "JobSet":
        counted = status.get("restartsCountTowardsMax", 0)
        allowed = spec.get("failurePolicy", {}).get("maxRestarts", 0)
        return [f"attempt {counted + 1} of {allowed + 1}"] if counted else []
    counted, allowed = status.get("failed", 0), spec.get("backoffLimit", 6)
    if not counted or any(one.get("reason") == "PodFailurePolicy" for one in status.get("conditions", ())):
        return []
    if spec.get("completions", 1) > 1:  # when one pod fails, its peers fail too
        return [f"{counted} failed pods, of which {allowed} are replaced"]
    return [f"attempt {min(counted + (not failed), allowed + 1)} of {allowed + 1}"]


def _way(pod: Pod) -> str | None:
    """How the pod ended, in a few words; None: it runs or has succeeded."""
    if (reason := disruption(pod)) is not None:
        return _DISRUPTIONS.get(reason, f"taken away ({reason})")
    end, reason = end_of(pod), pod["status"].get("reason")  # such as Evicted
    code = end["exitCode"] if end else 0
    if reason and (code or not end):
        return str(reason)
    if not end or not code:
        return None
    reason = end.get("reason")
    if code == EXIT_INTERRUPTED:
        reason = "interrupted"
    elif reason in (None, "Error"):
        reason = _signal(code)
    return f"exit code {code}{f' ({reason})' if reason else ''}"


def _signal(code: int) -> str | None:
    """The name of the signal of a container's exit code."""
    try:
        return signal.Signals(code - 128).name
    except ValueError:
        return None


def _cause(pod: Pod) -> str | None:
    """Why the system ended the pod or could not start it, and the remedy; None where it gives no reason."""
    if message := pod["status"].get("message"):
        said = short(str(message)).rstrip(". ")
        for pattern, remedy in _REMEDIES:
            if found := re.search(pattern, said):
                return f"{said}; {remedy.format(*found.groups())}"
        return said
    end = end_of(pod)
    if not end or not end["exitCode"]:
        return None
    if end.get("reason") == "OOMKilled":
        limit = _memory_limit(pod, end["container"])
        said = f"container {end['container']} needed more than its memory limit{f' of {limit}' if limit else ''}"
        return f"{said}; raise resources.limits.memory in your overlay, or lower num_proc"
    if end.get("reason") in ("StartError", "ContainerCannotRun"):
        said = short(str(end.get("message") or "its command could not be started"))
        return f"{said}; the image does not fit the overlay's command: check --image"
    return None


def _memory_limit(pod: Pod, container: str) -> str | None:
    spec = pod.get("spec", {})
    for one in (*spec.get("initContainers", ()), *spec.get("containers", ())):
        if one["name"] == container:
            limit = one.get("resources", {}).get("limits", {}).get("memory")
            return None if limit is None else str(limit)
    return None
