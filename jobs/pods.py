"""What Kubernetes tells of a job and its pods: the state in this project's words, the reasons, the logs."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from jobs.kubernetes import get, kubectl_for, refusal, run
from jobs.manifest import CONTAINER, LABEL
from jobs.submissions import Submission
from vizsage.errors import VizSageError

Pod = dict[str, Any]

# A Job says Complete or Failed, a JobSet Completed or Failed; the two before are said while the last pods still end.
_CONDITIONS = {
    "Complete": "completed",
    "Completed": "completed",
    "Failed": "failed",
    "FailureTarget": "ending",
    "SuccessCriteriaMet": "ending",
    "Suspended": "pending",
}
_LOOK_AGAIN_S = 3.0


def ask(submission: Submission) -> tuple[str, str] | None:
    """(state in this project's words, detail), or None where Kubernetes does not know the job any more.

    Raises VizSageError where it does not answer: that is no word on the job.
    """
    job = get(submission, submission.resource, submission.job_id)
    if job is None:
        return None
    if "deletionTimestamp" in job["metadata"]:
        return "ending", "cancelled; its pods save a checkpoint and end"
    said = {one["type"]: one for one in job.get("status", {}).get("conditions", ()) if one["status"] == "True"}
    for condition, state in _CONDITIONS.items():
        if condition in said:
            detail = [said[condition].get("reason") or condition]
            if state == "failed":
                detail += _failures(_pods(submission))
            elif state == "pending":
                detail.append("it waits for its turn")
            return state, ", ".join(detail)
    pods = _pods(submission)
    failures = _failures(pods)
    active = [pod for pod in pods if pod["status"].get("phase") in ("Pending", "Running")]
    running = [pod for pod in active if _runs(pod)]
    if running and len(running) == len(active):
        places = sorted({pod["spec"].get("nodeName", "") for pod in running})
        return "running", ", ".join([f"on {', '.join(places)}", *failures])
    reasons = dict.fromkeys(reason for pod in active if (reason := _waits_for(pod)))
    detail = [*reasons] if active else [*_refused_pods(submission, job)]
    return "pending", ", ".join([*(detail or ["no pod yet"]), *failures])


def last_words(submission: Submission) -> str:
    """The end of the log of the newest pod that failed, as its status keeps it. Empty where there is none."""
    ended = [state for pod in _pods(submission) if (state := _ended(pod)) and state["exitCode"]]
    return str(ended[-1].get("message", "")) if ended else ""


def step(submission: Submission) -> int | None:
    """The last optimizer step in the log of the newest pod; None where none was logged or no log is left."""
    began = [pod["metadata"]["name"] for pod in _pods(submission) if _began(pod)]
    if not began:
        return None
    done = run([*kubectl_for(submission), "logs", began[-1], "--container", CONTAINER, "--tail=500"])
    found = re.findall(r"\bstep (\d+)/\d+: ", done.stdout)
    return int(found[-1]) if found else None


def print_logs(submission: Submission, follow: bool) -> None:
    """The logs of all pods of the job to stdout, in their order; those of pods that run together, line by line.

    With `follow`, go on with the pods that take their place until the job has ended. Raises VizSageError where there
    is nothing to print.
    """
    printed: set[str] = set()
    while True:
        state = ask(submission)
        pods = [pod for pod in _pods(submission) if _began(pod) and pod["metadata"]["uid"] not in printed]
        _print_together(submission, pods, follow)
        printed |= {pod["metadata"]["uid"] for pod in pods}
        if not follow and not printed:
            detail = f"{state[0]}: {state[1]}" if state else "Kubernetes does not know it any more"
            raise VizSageError(f"job {submission.job_id} has no log: {detail}")
        if not follow or state is None or state[0] in ("completed", "failed"):
            return
        if not pods:
            time.sleep(_LOOK_AGAIN_S)


def _print_together(submission: Submission, pods: list[Pod], follow: bool) -> None:
    """One kubectl a pod: of the pods that have ended one after the other, of the running ones all at once."""
    reading = []
    for pod in pods:
        name = pod["metadata"]["name"]
        more = ["--prefix"] if "batch.kubernetes.io/job-completion-index" in pod["metadata"].get("labels", {}) else []
        if follow and _runs(pod):
            more.append("--follow")
        print_line(f"=== pod {name}")
        command = [*kubectl_for(submission), "logs", name, "--all-containers", *more]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        if "--follow" in more:
            reading.append(process)
        else:
            _end(process)
    for process in reading:
        _end(process)


def print_line(text: str) -> None:
    """To stdout, at once: other processes write there, too."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _end(process: subprocess.Popen[str]) -> None:
    try:
        _, errors = process.communicate()
    except BaseException:
        process.kill()
        raise
    if process.returncode and errors:  # a pod that was removed meanwhile has nothing more to tell
        raise refusal("logs", subprocess.CompletedProcess(process.args, process.returncode, "", errors))


def _pods(submission: Submission) -> list[Pod]:
    """The pods of the job that are still there, oldest first."""
    found = get(submission, "pods", "-l", f"{LABEL}={submission.job_id}") or {"items": []}
    pods: list[Pod] = found["items"]
    return sorted(pods, key=lambda pod: (pod["metadata"].get("creationTimestamp", ""), pod["metadata"]["name"]))


def _containers(pod: Pod) -> Iterator[dict[str, Any]]:
    """The states of its containers, init containers first."""
    for key in ("initContainerStatuses", "containerStatuses"):
        yield from pod["status"].get(key, ())


def _began(pod: Pod) -> bool:
    """Whether there may be a log."""
    return any("running" in one["state"] or "terminated" in one["state"] for one in _containers(pod))


def _runs(pod: Pod) -> bool:
    return pod["status"].get("phase") == "Running" and "deletionTimestamp" not in pod["metadata"]


def _ended(pod: Pod) -> dict[str, Any] | None:
    """How its first container that failed, or else the training, has ended."""
    states = [one["state"]["terminated"] for one in _containers(pod) if "terminated" in one.get("state", {})]
    failed = [state for state in states if state["exitCode"]]
    return (failed or states or [None])[0]


def _failures(pods: list[Pod]) -> list[str]:
    """`exit codes 1, 1 of 2 pods`; nothing where no pod failed."""
    codes = [str(state["exitCode"]) for pod in pods if (state := _ended(pod)) and state["exitCode"]]
    lost = [str(pod["status"]["reason"]) for pod in pods if pod["status"].get("reason") and not _ended(pod)]
    found = [f"exit code{'s' if len(codes) > 1 else ''} {', '.join(codes)}"] if codes else []
    return found + ([f"pods lost: {', '.join(lost)}"] if lost else [])


def _waits_for(pod: Pod) -> str | None:
    """Why a pod does not run yet: what the scheduler misses, or what a container waits for."""
    if "deletionTimestamp" in pod["metadata"]:
        return f"pod {pod['metadata']['name']} ends first"
    for one in _containers(pod):
        waiting = one.get("state", {}).get("waiting", {})
        if waiting.get("reason") not in (None, "PodInitializing", "ContainerCreating"):
            return f"{waiting['reason']}: {_short(waiting.get('message', one.get('image', '')))}"
    for condition in pod["status"].get("conditions", ()):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return f"{condition.get('reason', 'not scheduled')}: {_short(condition.get('message', ''))}"
    started = any(one["name"] == CONTAINER and "running" in one.get("state", {}) for one in _containers(pod))
    return None if started else "its containers are being made"


def _refused_pods(submission: Submission, job: dict[str, Any]) -> list[str]:
    """Why there is no pod: a quota, a policy of the namespace."""
    chosen = f"reason=FailedCreate,involvedObject.kind={job['kind']},involvedObject.name={submission.job_id}"
    events = (get(submission, "events", "--field-selector", chosen) or {"items": []})["items"]
    return [_short(event.get("message", "")) for event in events[-1:]]


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 300 else f"{line[:297]}..."
