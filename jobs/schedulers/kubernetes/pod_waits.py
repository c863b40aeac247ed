"""Why a job has no running pod: its queue, quotas and policies, the scheduler, images, volumes."""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from typing import Any

from jobs.schedulers.kubernetes.kubectl import get
from jobs.schedulers.kubernetes.manifest import CONTAINER
from jobs.schedulers.kubernetes.pods import ASKED_PODS, Pod, containers, short, started
from jobs.submissions import Submission
from vizsage.errors import VizSageError

_WORKLOAD = "workloads.kueue.x-k8s.io"
# Reasons why a job waits, and the remedy for each.
_REMEDIES = (
    (
        r"LocalQueue \S+ doesn't exist",
        "kubectl get localqueues lists those of the namespace; the label kueue.x-k8s.io/queue-name of the overlay "
        "names one",
    ),
    (r"> maximum capacity", "the queue never has as much: ask for fewer GPUs or nodes, or for another queue"),
    (r'persistentvolumeclaim "\S+" not found', "k8s/pvc.yaml creates the claims"),
    (r"^(ErrImage\w+|ImagePullBackOff|InvalidImageName)", "check --image, and that the nodes may pull it"),
    (r"^CreateContainerConfigError.* not found", "the pod starts when that is there"),
    (r"\bInsufficient \S+", "it starts when a node has as much free, see kubectl describe nodes"),
    (r"exceeded quota", "ask for less, or for a larger quota of the namespace"),
)


def of_queue(submission: Submission, job: dict[str, Any]) -> str:
    """Why Kueue does not admit a suspended job."""
    try:
        found = get(submission, _WORKLOAD, "-l", f"kueue.x-k8s.io/job-uid={job['metadata']['uid']}") or {"items": []}
    except VizSageError:  # no Kueue, or no right to ask it
        found = {"items": []}
    workloads = sorted(found["items"], key=lambda one: str(one["metadata"].get("creationTimestamp", "")))
    if workloads and (said := _conditions(workloads[-1])):
        return _with_remedy(f"Suspended by Kueue: {said}")
    kind, name = (job["kind"], submission.job_id)
    if workloads:
        kind, name = "Workload", workloads[-1]["metadata"]["name"]
    warnings = _events(submission, f"involvedObject.kind={kind},involvedObject.name={name},type=Warning")
    return _with_remedy(f"Suspended, {_event(warnings[-1])}") if warnings else "Suspended, it waits for its turn"


def of_pods(submission: Submission, pods: Sequence[Pod]) -> list[str]:
    """Why the pods do not run yet, each reason once."""
    reasons: dict[str, None] = {}
    silent = []
    for pod in pods:
        if reason := _waits_for(pod):
            reasons[_with_remedy(reason)] = None
        elif not started(pod, CONTAINER):
            silent.append(pod)
    if not silent:
        return [*reasons]
    for pod in silent[:ASKED_PODS]:
        chosen = f"involvedObject.kind=Pod,involvedObject.name={pod['metadata']['name']},type=Warning"
        # FailedScheduling is from the time before the pod got its node.
        events = [event for event in _events(submission, chosen) if event.get("reason") != "FailedScheduling"]
        if events:
            return [*reasons, _event(events[-1])]
    return [*reasons, "its containers are being made"]


def of_creation(submission: Submission, job: dict[str, Any], pods: Sequence[Pod]) -> list[str]:
    """Why no pod was created after `pods`: a quota or a policy. The pods of a JobSet are created by its Jobs."""
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
    newest_pod = max((str(pod["metadata"].get("creationTimestamp", "")) for pod in pods), default="")
    events = [event for event in events if _time(event) >= newest_pod]  # older ones are solved: a pod was created since
    return [_with_remedy(_event(event)) for event in events[-1:]]


def _conditions(workload: dict[str, Any]) -> str:
    """Why a Workload waits, by its conditions; empty where they name no reason."""
    said = {one["type"]: one for one in workload.get("status", {}).get("conditions", ())}

    def message(condition: str, status: str) -> str:
        one = said.get(condition, {})
        return short(str(one.get("message") or one.get("reason", ""))) if one.get("status") == status else ""

    if not workload.get("spec", {}).get("active", True):
        return f"its Workload {workload['metadata']['name']} was deactivated; spec.active: true lets it go on"
    evicted, waiting = message("Evicted", "True"), message("QuotaReserved", "False")
    if not waiting:
        checks = workload.get("status", {}).get("admissionChecks", ())
        open_checks = [
            f"{one['name']}: {one.get('message') or one['state']}" for one in checks if one["state"] != "Ready"
        ]
        waiting = short("; ".join(open_checks)) or message("Admitted", "False")
    return "; ".join(filter(None, (evicted, waiting)))


def _waits_for(pod: Pod) -> str | None:
    """Why a pod waits, by its status: an unmet request, a waiting container, an init container; else None."""
    if "deletionTimestamp" in pod["metadata"]:
        return f"pod {pod['metadata']['name']} ends first"
    for one in containers(pod):
        waiting = one.get("state", {}).get("waiting", {})
        if waiting.get("reason") not in (None, "PodInitializing", "ContainerCreating"):
            return f"{waiting['reason']}: {short(waiting.get('message', one.get('image', '')))}"
    for condition in pod["status"].get("conditions", ()):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return f"{condition.get('reason', 'not scheduled')}: {short(condition.get('message', ''))}"
    for one in pod["status"].get("initContainerStatuses", ()):
        if "running" in one.get("state", {}) and not started(pod, CONTAINER):
            return f"init container {one['name']} runs first"
    return None


def _with_remedy(said: str) -> str:
    return next((f"{said.rstrip('. ')}; {remedy}" for pattern, remedy in _REMEDIES if re.search(pattern, said)), said)


def _events(submission: Submission, chosen: str) -> list[dict[str, Any]]:
    """The events of the field selector, newest last; empty where they cannot be listed."""
    try:
        found = get(submission, "events", "--field-selector", chosen) or {"items": []}
    except VizSageError:
        return []
    return sorted(found["items"], key=_time)


def _event(event: dict[str, Any]) -> str:
    """`FailedCreate 3 minutes ago: message`. The age is there because an old reason may not hold any more."""
    return f"{event.get('reason', 'Warning')}{_age(_time(event))}: {short(event.get('message', ''))}"


def _age(time: str) -> str:
    try:
        seen = datetime.datetime.fromisoformat(time.replace("Z", "+00:00"))
        age_s = int((datetime.datetime.now(datetime.timezone.utc) - seen).total_seconds())
    except (ValueError, TypeError):  # no time, or one without a zone
        return ""
    for unit, unit_s in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if age_s >= 2 * unit_s:
            return f" {age_s // unit_s} {unit} ago"
    return f" {max(age_s, 0)} seconds ago"


def _time(event: dict[str, Any]) -> str:
    """When it was seen last. Reporters set different fields. All are texts in UTC, which can be compared."""
    last = (event.get("series") or {}).get("lastObservedTime") or event.get("lastTimestamp") or event.get("eventTime")
    return str(last or event["metadata"].get("creationTimestamp") or "")
