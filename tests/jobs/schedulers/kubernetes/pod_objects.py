"""Jobs and pods as the API server of the tests holds them."""

from __future__ import annotations

from typing import Any

from jobs.schedulers.kubernetes.pods import INDEX
from tests.jobs.api_server import ApiServer

JOB = "vizsage-run-1"
RUNNING = {"name": "vizsage", "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}
COMPLETE = [{"type": "Complete", "status": "True", "reason": "CompletionsReached"}]
FORBIDDEN = (403, "Forbidden", "me cannot list them")


def ended(code: int, message: str = "", began: str = "00:00:00", end: str = "00:01:00") -> dict[str, Any]:
    times = {"startedAt": f"2026-01-01T{began}Z", "finishedAt": f"2026-01-01T{end}Z"}
    return {"name": "vizsage", "state": {"terminated": {"exitCode": code, "message": message, **times}}}


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    return {"name": "vizsage", "state": {"waiting": {"reason": reason, "message": message}}}


def add(server: ApiServer, kind: str, name: str, **more: Any) -> None:
    labels = more.pop("labels", {})
    version = "v1" if kind == "Event" else "batch/v1"
    metadata = {"name": name, "namespace": "vlm", "uid": name, "labels": labels}
    more = more if kind == "Event" else {"spec": {}, **more}
    server.objects[kind, name] = {"apiVersion": version, "kind": kind, "metadata": metadata, **more}


def add_pod(server: ApiServer, name: str, phase: str, *containers: dict[str, Any], node: int | None = None) -> None:
    """Pods are made in the order of their names."""
    labels = {} if node is None else {INDEX: str(node)}
    created = f"2026-01-01T00:00:{ord(name) - ord('a'):02}Z"
    server.add_pod(JOB, name, created=created, labels=labels, phase=phase, containerStatuses=[*containers])


def complete(server: ApiServer, *pods: str) -> None:
    """The pods have succeeded, and the job with them."""
    for pod in pods:
        server.set_status("Pod", pod, phase="Succeeded", containerStatuses=[ended(0)])
    server.set_status("Job", JOB, conditions=COMPLETE)


def failed_create(server: ApiServer, event: str, of: str, message: str, when: str) -> None:
    involved = {"kind": "Job", "name": of}
    add(server, "Event", event, involvedObject=involved, reason="FailedCreate", message=message, lastTimestamp=when)
