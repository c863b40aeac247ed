"""The state of a Kubernetes job, with the reason."""

from __future__ import annotations

from typing import Any

from jobs.schedulers.kubernetes import pod_ends, pod_waits
from jobs.schedulers.kubernetes.kubectl import get
from jobs.schedulers.kubernetes.pods import Pod, last_words, pods_of
from jobs.schedulers.scheduler import JobStatus
from jobs.submissions import Submission
from vizsage.errors import VizSageError

# Complete is a Job's and Completed a JobSet's. FailureTarget and SuccessCriteriaMet hold while the last pods end.
_CONDITIONS = {
    "Complete": "completed",
    "Completed": "completed",
    "Failed": "failed",
    "FailureTarget": "ending",
    "SuccessCriteriaMet": "ending",
    "Suspended": "pending",
}


def ask(submission: Submission) -> JobStatus | None:
    """State and reason, or None where Kubernetes does not know the job any more.

    Without the right to list pods, the reasons in their statuses are missing.

    Raises:
        VizSageError: Kubernetes does not answer: the state of the job is unknown.
    """
    job = get(submission, submission.resource, submission.job_id)
    if job is None:
        return None
    if "deletionTimestamp" in job["metadata"]:
        return JobStatus("ending", "cancelled; its pods save a checkpoint and end")
    said = _said(job)
    try:
        pods = pods_of(submission)
    except VizSageError:
        state, *detail = said or ("running" if _ready(job) else "pending",)
        return JobStatus(state, ", ".join([*detail, "its pods cannot be listed"]))
    ends = pod_ends.failures(job, pods, failed=said is not None and said[0] == "failed")
    state, reasons = _state(submission, job, said, pods)
    if state == "completed":
        return JobStatus(state, ", ".join(reasons))
    return JobStatus(state, ", ".join([*reasons, *ends]), last_words(pods))


def has_ended(submission: Submission) -> bool:
    """Whether it creates no more pods: completed, failed or deleted. Raises VizSageError without an answer."""
    job = get(submission, submission.resource, submission.job_id)
    return job is None or (_said(job) or ("",))[0] in ("completed", "failed")


def _state(
    submission: Submission, job: dict[str, Any], said: tuple[str, str] | None, pods: list[Pod]
) -> tuple[str, list[str]]:
    """The state, and the reasons for it, except how earlier pods ended."""
    if said:
        state, reason = said
        return state, [pod_waits.of_queue(submission, job) if state == "pending" else reason]
    active = [pod for pod in pods if pod["status"].get("phase") in ("Pending", "Running")]
    running = [pod for pod in active if _runs(pod)]
    if running and len(running) == len(active):
        places = sorted({pod["spec"].get("nodeName", "") for pod in running})
        return "running", [f"on {', '.join(places)}"]
    if active:
        return "pending", pod_waits.of_pods(submission, active) or ["no pod yet"]
    waits = pod_waits.of_creation(submission, job, pods)
    if not waits and job["kind"] == "Job":  # a JobSet restarts at once
        waits = pod_ends.pause(pods)
    return "pending", waits or ["no pod yet"]


def _said(job: dict[str, Any]) -> tuple[str, str] | None:
    """State and reason from the conditions of a Job or JobSet; None where no condition decides."""
    said = {one["type"]: one for one in job.get("status", {}).get("conditions", ()) if one["status"] == "True"}
    for condition, state in _CONDITIONS.items():
        if condition in said:
            return state, str(said[condition].get("reason") or condition)
    return None


def _ready(job: dict[str, Any]) -> bool:
    """Whether a Job or JobSet counts pods that are ready."""
    status = job.get("status", {})
    return any(one.get("ready") for one in (status, *(status.get("replicatedJobsStatus") or ())))


def _runs(pod: Pod) -> bool:
    return pod["status"].get("phase") == "Running" and "deletionTimestamp" not in pod["metadata"]
