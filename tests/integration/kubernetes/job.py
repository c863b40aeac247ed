"""The part of Kubernetes' Job controller that decides what becomes of a Job when its pods end.

https://kubernetes.io/docs/concepts/workloads/controllers/job/ (completions, pod backoff failure policy, pod failure
policy, pod replacement policy). What the real one does besides and this does not: it waits 10, 20, 40 ... seconds
before a pod follows one that counted as failed, and obeys deadlines.
"""

from __future__ import annotations

import copy
import time
import uuid
from collections.abc import Callable
from typing import Any

from tests.integration.kubernetes.pod import Document, Namespace, Pod

INDEX = "batch.kubernetes.io/job-completion-index"
_DEFAULT_BACKOFF = 6


class Controller:
    """Drives Jobs: nothing happens to them except in `wait_until`."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []

    def wait_until(self, holds: Callable[[], bool], timeout_s: float = 540) -> None:
        """Wait until something holds. Raises TimeoutError with all that the Jobs' pods have printed."""
        end = time.monotonic() + timeout_s
        while not holds():
            if time.monotonic() > end:
                raise TimeoutError("\n".join(job.log() for job in self.jobs))
            for job in self.jobs:
                job.reconcile()
            time.sleep(0.05)

    def stop(self) -> None:
        """End all processes of all Jobs at once."""
        for job in self.jobs:
            for pod in job.active:
                pod.kill()
        while any(job.active for job in self.jobs):
            for job in self.jobs:
                for pod in job.active:
                    pod.delete()
                    pod.poll()
            time.sleep(0.02)


class Job:
    """A Job and its pods."""

    def __init__(self, document: Document, namespace: Namespace, controller: Controller) -> None:
        self.name: str = document["metadata"]["name"]
        self.spec: Document = document["spec"]
        self.pods: list[Pod] = []
        self.failures = 0
        self.condition: tuple[str, str] | None = None
        self._namespace = namespace
        self._controller = controller
        self._counted: set[str] = set()
        self._failing: str | None = None
        self._indexed = self.spec.get("completionMode", "NonIndexed") == "Indexed"
        self._completions = self.spec.get("completions", 1)
        self._done: set[int] = set()  # completion indexes; of a Job without them, numbers
        self._uid = str(uuid.uuid4())
        policy = "Failed" if "podFailurePolicy" in self.spec else "TerminatingOrFailed"
        if self.spec.get("podReplacementPolicy", policy) != "Failed":
            raise NotImplementedError("podReplacementPolicy other than Failed")
        if self.spec["template"]["spec"].get("restartPolicy") != "Never":
            raise NotImplementedError("restartPolicy other than Never")
        controller.jobs.append(self)

    @property
    def active(self) -> list[Pod]:
        """Pods of which something still runs."""
        return [pod for pod in self.pods if not pod.ended]

    def log(self) -> str:
        """What all pods have printed, for messages and for searching."""
        return "\n".join(f"--- {pod.name}: {pod.phase} {pod.exit_codes}\n{pod.log()}" for pod in self.pods)

    def wait(self, timeout_s: float = 540) -> tuple[str, str]:
        """Wait for the Job's end; its condition, Complete or Failed, and the reason. Raises TimeoutError."""
        self._controller.wait_until(lambda: self.condition is not None, timeout_s)
        assert self.condition is not None
        return self.condition

    def wait_until(self, holds: Callable[[], bool], timeout_s: float = 540) -> None:
        """Wait until something holds that must hold before the Job ends. Raises TimeoutError."""
        self._controller.wait_until(lambda: holds() or self.condition is not None, timeout_s)
        assert holds(), f"{self.name} has ended: {self.condition}\n{self.log()}"

    def reconcile(self) -> None:
        """Look at all pods once and do what follows."""
        if self.condition is not None:
            return
        for pod in self.pods:
            pod.poll()
            if pod.ended and pod.name not in self._counted:
                self._counted.add(pod.name)
                self._account(pod)
        if self._failing or len(self._done) == self._completions:
            for pod in self.active:
                pod.delete()
            if not self.active:
                self.condition = ("Failed", self._failing) if self._failing else ("Complete", "CompletionsReached")
            return
        # Replacement policy Failed: a pod that is being deleted keeps its place until nothing of it runs.
        taken = {_number(pod) for pod in self.active} | self._done
        for number in range(self._completions):
            if number not in taken and len(self.active) < self.spec.get("parallelism", 1):
                self.pods.append(self._pod(number))

    def _account(self, pod: Pod) -> None:
        if pod.phase == "Succeeded":
            self._done.add(_number(pod))
            return
        action = self._action(pod)
        if action == "FailJob":
            self._failing = self._failing or "PodFailurePolicy"
        elif action == "Count":
            self.failures += 1
            if self.failures > self.spec.get("backoffLimit", _DEFAULT_BACKOFF):
                self._failing = self._failing or "BackoffLimitExceeded"

    def _action(self, pod: Pod) -> str:
        """The action of the first rule that fits."""
        for rule in self.spec.get("podFailurePolicy", {}).get("rules", []):
            wanted = rule.get("onPodConditions", [])
            if any(pod.conditions.get(one["type"]) == one.get("status", "True") for one in wanted):
                return str(rule["action"])
            if (codes := rule.get("onExitCodes")) and any(
                (code in codes["values"]) == (codes["operator"] == "In")
                for name, code in pod.exit_codes.items()
                if code != 0 and codes.get("containerName", name) == name
            ):
                return str(rule["action"])
        return "Count"

    def _pod(self, number: int) -> Pod:
        template: dict[str, Any] = copy.deepcopy(self.spec["template"])
        metadata, spec = template.setdefault("metadata", {}), template["spec"]
        suffix = uuid.uuid4().hex[:5]
        labels = metadata.setdefault("labels", {})
        labels |= {"batch.kubernetes.io/job-name": self.name, "batch.kubernetes.io/controller-uid": self._uid}
        annotations = metadata.setdefault("annotations", {})
        annotations["number"] = str(number)
        metadata["name"] = f"{self.name}-{suffix}"
        hosts = []
        if self._indexed:
            metadata["name"] = f"{self.name}-{number}-{suffix}"
            annotations[INDEX] = labels[INDEX] = str(number)
            spec["hostname"] = f"{self.name}-{number}"
            index = {"name": "JOB_COMPLETION_INDEX", "value": str(number)}
            for container in [*spec.get("initContainers", []), *spec["containers"]]:
                container["env"] = [*container.get("env", []), index]
            hosts = self._namespace.addresses(template, [f"{self.name}-{i}" for i in range(self._completions)])
        return Pod(template, self._namespace, hosts)


def _number(pod: Pod) -> int:
    return int(pod.metadata["annotations"]["number"])
