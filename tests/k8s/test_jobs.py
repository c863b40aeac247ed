"""What the Jobs do: when they try again, how several nodes find each other, and that nothing changes unnoticed."""

from __future__ import annotations

import copy
import os
import re
from pathlib import Path
from typing import Any

import pytest

from tests.k8s.rules import K8S, OVERLAYS, documents, jobs, render
from tests.k8s.test_manifests import ids, one, read

GOLDEN = Path(__file__).parent / "golden"
DISRUPTED = "disrupted"
END = int | str | None  # of a pod: its exit code, or DISRUPTED


def environment(job: dict[str, Any]) -> dict[str, str]:
    """The variables of a Job's container."""
    return {entry["name"]: entry["value"] for entry in job["spec"]["template"]["spec"]["containers"][0]["env"]}


def pod(job: dict[str, Any]) -> dict[str, Any]:
    """A copy of the specification of a Job's pods."""
    return copy.deepcopy(job["spec"]["template"]["spec"])


def failure_rule(job: dict[str, Any], end: END) -> tuple[str, int | None]:
    """The action of podFailurePolicy for a pod that ends so, and the rule's index; Count where none matches."""
    for index, rule in enumerate(job["spec"]["podFailurePolicy"]["rules"]):
        conditions = {(condition["type"], condition["status"]) for condition in rule.get("onPodConditions", [])}
        codes = rule.get("onExitCodes", {"values": []})
        assert codes.get("operator", "In") == "In"
        assert codes.get("containerName", "vizsage") == "vizsage"
        if (end == DISRUPTED and ("DisruptionTarget", "True") in conditions) or end in codes["values"]:
            return rule["action"], index
    return "Count", None


PLAIN = [path for path in [K8S / "train-job.yaml", K8S / "eval-job.yaml", *OVERLAYS] if path.name != "jobset"]


@pytest.mark.parametrize("source", PLAIN, ids=ids)
@pytest.mark.parametrize(
    ("end", "action"),
    [
        (DISRUPTED, "Ignore"),
        (2, "FailJob"),
        (3, "FailJob"),
        (4, "FailJob"),
        (75, "Ignore"),
        (1, "Count"),
        (137, "Count"),
    ],
)
def test_how_a_job_answers_the_end_of_a_pod(source: Path, end: END, action: str) -> None:
    job = one(source, "Job")
    assert failure_rule(job, end)[0] == action
    if action == "Ignore" and end == DISRUPTED:
        assert failure_rule(job, end)[1] == 0  # whatever code the pod ends with, too


@pytest.mark.parametrize("source", [*PLAIN, K8S / "overlays" / "jobset"], ids=ids)
def test_every_job_is_bounded_and_never_has_two_pods_for_one(source: Path) -> None:
    for document in read(source):
        for job in jobs(document):
            assert job["spec"]["podReplacementPolicy"] == "Failed"
            assert job["spec"]["activeDeadlineSeconds"] > 0
            assert document["spec"]["ttlSecondsAfterFinished"] > 0
            assert pod(job)["restartPolicy"] == "Never"
            assert pod(job)["terminationGracePeriodSeconds"] >= 60
            shm = next(volume["emptyDir"] for volume in pod(job)["volumes"] if volume["name"] == "shm")
            assert shm["medium"] == "Memory"
            assert pod(job)["securityContext"]["fsGroupChangePolicy"] == "OnRootMismatch"
    if document["kind"] == "Job":
        assert document["spec"]["backoffLimit"] == 3 * document["spec"].get("completions", 1)


@pytest.mark.parametrize("source", [*PLAIN, K8S / "overlays" / "jobset"], ids=ids)
def test_data_is_never_written_and_caches_are_writable(source: Path) -> None:
    for job in (job for document in read(source) for job in jobs(document)):
        container = pod(job)["containers"][0]
        mounts = {mount["mountPath"]: mount.get("readOnly", False) for mount in container["volumeMounts"]}
        assert mounts == {
            "/etc/vizsage": True,
            "/workspace/data": True,
            "/workspace/outputs": False,
            "/home/vizsage": False,
            "/tmp": False,
            "/dev/shm": False,
        }
        assert environment(job)["HF_HOME"].startswith("/workspace/outputs/")
        assert container["command"] == ["tini", "--", "python", "-m", "jobs.run"]


@pytest.mark.parametrize(
    ("overlay", "gpus"),
    [("single-gpu", 1), ("multi-gpu", 4), ("multi-node", 1), ("kueue", 1), ("eval", 1), ("cpu-demo", 0)],
)
def test_gpus_and_the_cores_for_each(overlay: str, gpus: int) -> None:
    job = one(overlay, "Job")
    resources = pod(job)["containers"][0]["resources"]
    assert resources["limits"].get("nvidia.com/gpu") == (str(gpus) if gpus else None)
    assert ("tolerations" in pod(job)) == bool(gpus)
    cores = int(resources["requests"]["cpu"] if gpus else resources["limits"]["cpu"])
    assert int(environment(job)["OMP_NUM_THREADS"]) * max(gpus, 1) == cores
    if gpus:
        memory = {resources[part]["memory"] for part in ("requests", "limits")}
        shm = next(volume["emptyDir"]["sizeLimit"] for volume in pod(job)["volumes"] if volume["name"] == "shm")
        assert (cores, memory, shm) == (8 * gpus, {f"{64 * gpus}Gi"}, f"{8 * gpus}Gi")


def test_several_nodes_find_each_other() -> None:
    job, service = one("multi-node", "Job"), one("multi-node", "Service")
    name, subdomain = job["metadata"]["name"], pod(job)["subdomain"]
    variables = environment(job)
    assert job["spec"]["completionMode"] == "Indexed"
    assert {job["spec"]["completions"], job["spec"]["parallelism"], int(variables["NNODES"])} == {2}
    assert variables["MASTER_ADDR"] == f"{name}-0.{subdomain}"
    assert service["metadata"]["name"] == subdomain
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert str(service["spec"]["ports"][0]["port"]) == variables["MASTER_PORT"]
    assert job["spec"]["template"]["metadata"]["labels"].items() >= service["spec"]["selector"].items()


def test_kueue_adds_the_queue_and_nothing_else() -> None:
    kueue = one("kueue", "Job")
    assert kueue["metadata"]["labels"].pop("kueue.x-k8s.io/queue-name") == "user-queue"
    others = [document for document in read(K8S / "overlays" / "kueue") if document["kind"] != "Job"]
    assert [*others, kueue] == read(K8S / "overlays" / "single-gpu")


def test_the_demo_continues_in_a_new_pod() -> None:
    """The data is drawn again before the training, the outputs stay."""
    job, claim = one("cpu-demo", "Job"), one("cpu-demo", "PersistentVolumeClaim")
    (draws,) = pod(job)["initContainers"]
    assert draws["command"] == ["tini", "--", "vizsage", "demo", "data"]
    volumes = {volume["name"]: volume for volume in pod(job)["volumes"]}
    assert "emptyDir" in volumes["data"]
    assert {"name": "data", "mountPath": "/workspace/data"} in draws["volumeMounts"]
    assert volumes["outputs"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert claim["metadata"]["name"] != "vizsage-outputs"
    assert claim["spec"]["accessModes"] == ["ReadWriteOnce"]
    assert environment(job)["HF_HUB_OFFLINE"] == "1"


def set_action(job_set: dict[str, Any], replicated: str, end: END) -> str:
    """What a JobSet does when a pod of it ends so: the Job's reason and message, then the first rule that matches."""
    name = f"{job_set['metadata']['name']}-{replicated}-0"
    job = next(job for job in jobs(job_set) if job["metadata"]["name"] == name)
    action, index = failure_rule(job, end)
    assert action in ("FailJob", "Count")  # never Ignore: one pod would be replaced alone
    assert job["spec"]["backoffLimit"] == 0
    reason, message = "BackoffLimitExceeded", "Job has reached the specified backoff limit"
    if action == "FailJob":
        what = "has condition DisruptionTarget" if end == DISRUPTED else f"failed with exit code {end}"
        reason, message = (
            "PodFailurePolicy",
            f"Container vizsage for pod x/y {what} matching FailJob rule at index {index}",
        )
    for rule in job_set["spec"]["failurePolicy"]["rules"]:
        patterns = rule.get("onJobFailureMessagePatterns", [""])
        if reason in rule["onJobFailureReasons"] and any(re.search(pattern, message) for pattern in patterns):
            return str(rule["action"])
    return "RestartJobSet"


@pytest.mark.parametrize("replicated", ["train", "eval"])
@pytest.mark.parametrize(
    ("end", "action"),
    [
        (DISRUPTED, "RestartJobSetAndIgnoreMaxRestarts"),
        (75, "RestartJobSetAndIgnoreMaxRestarts"),
        (2, "FailJobSet"),
        (3, "FailJobSet"),
        (4, "FailJobSet"),
        (1, "RestartJobSet"),
        (137, "RestartJobSet"),
    ],
)
def test_how_a_job_set_answers_the_end_of_a_pod(replicated: str, end: END, action: str) -> None:
    assert set_action(one("jobset", "JobSet"), replicated, end) == action


def test_a_job_set_has_the_pods_of_the_other_overlays() -> None:
    job_set = one("jobset", "JobSet")
    train, evaluate = jobs(job_set)
    nodes, alone = one("multi-node", "Job"), one("eval", "Job")
    expected, found = pod(nodes), pod(train)
    assert expected.pop("subdomain") == "vizsage-train"  # a JobSet sets its own
    for entries in (expected["containers"][0], found["containers"][0]):
        entries["env"] = {entry["name"]: entry["value"] for entry in entries["env"]}
    assert found["containers"][0]["env"].pop("MASTER_ADDR") == (
        f"{train['metadata']['name']}-0.{job_set['spec']['network']['subdomain']}"
    )
    del expected["containers"][0]["env"]["MASTER_ADDR"]
    assert found == expected
    assert train["spec"]["template"]["metadata"] == nodes["spec"]["template"]["metadata"]
    expected, found = pod(alone), pod(evaluate)
    for volumes in (expected["volumes"], found["volumes"]):
        next(volume for volume in volumes if volume["name"] == "config")["configMap"]["name"] = "any"
    assert found == expected
    assert evaluate["spec"]["template"]["metadata"] == alone["spec"]["template"]["metadata"]


def test_a_job_set_trains_and_then_evaluates() -> None:
    spec = one("jobset", "JobSet")["spec"]
    train, evaluate = spec["replicatedJobs"]
    job = train["template"]["spec"]
    assert (train["name"], evaluate["name"]) == ("train", "eval")
    assert "dependsOn" not in train
    assert evaluate["dependsOn"] == [{"name": "train", "status": "Complete"}]
    nodes = environment({"spec": job})["NNODES"]
    assert (job["completionMode"], job["completions"], job["parallelism"]) == ("Indexed", int(nodes), int(nodes))
    assert spec["network"]["publishNotReadyAddresses"] is True
    # A Job that removes itself would be made again.
    assert not [job for job in (train, evaluate) if "ttlSecondsAfterFinished" in job["template"]["spec"]]
    assert [document["kind"] for document in read(K8S / "overlays" / "jobset")] == ["ConfigMap", "JobSet"]


@pytest.mark.parametrize("overlay", ["single-gpu", "multi-node", "jobset", "kueue"])
def test_nothing_changes_unnoticed(overlay: str) -> None:
    """VIZSAGE_WRITE_GOLDEN=1 writes the files again. Documents are compared: kustomize's versions write differently."""
    text, file = render(K8S / "overlays" / overlay), GOLDEN / f"{overlay}.yaml"
    if os.environ.get("VIZSAGE_WRITE_GOLDEN") == "1":
        GOLDEN.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
    assert documents(text) == documents(file.read_text(encoding="utf-8"))
