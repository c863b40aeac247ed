"""The rules reject what they are there to reject: each is broken once."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from tests.k8s.rules import BASELINE, LINT, RESTRICTED, lint, pod_specs, violations

SOUND: dict[str, Any] = {
    "automountServiceAccountToken": False,
    "enableServiceLinks": False,
    "securityContext": {
        "runAsNonRoot": True,
        "runAsUser": 10001,
        "runAsGroup": 10001,
        "seccompProfile": {"type": "RuntimeDefault"},
    },
    "containers": [
        {
            "name": "one",
            "image": "registry.example.com:5000/one:1.0",
            "resources": {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"memory": "1Gi"}},
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            },
        }
    ],
    "volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}}],
}

# What replaces a container's or the pod's fields to break each control.
BROKEN: list[tuple[str, str, dict[str, Any]]] = [
    ("HostProcess", "pod", {"securityContext": {"windowsOptions": {"hostProcess": True}}}),
    ("HostProcess", "container", {"securityContext": {"windowsOptions": {"hostProcess": True}}}),
    ("Host Namespaces", "pod", {"hostNetwork": True}),
    ("Host Namespaces", "pod", {"hostPID": True}),
    ("Host Namespaces", "pod", {"hostIPC": True}),
    ("Privileged Containers", "container", {"securityContext": {"privileged": True}}),
    ("Capabilities", "container", {"securityContext": {"capabilities": {"add": ["SYS_ADMIN"]}}}),
    ("HostPath Volumes", "pod", {"volumes": [{"name": "root", "hostPath": {"path": "/"}}]}),
    ("Host Ports", "container", {"ports": [{"containerPort": 80, "hostPort": 80}]}),
    ("Host Probes / Lifecycle Hooks", "container", {"livenessProbe": {"httpGet": {"host": "10.0.0.1", "port": 1}}}),
    ("Host Probes / Lifecycle Hooks", "container", {"lifecycle": {"preStop": {"tcpSocket": {"host": "10.0.0.1"}}}}),
    ("AppArmor", "pod", {"securityContext": {"appArmorProfile": {"type": "Unconfined"}}}),
    ("SELinux type", "container", {"securityContext": {"seLinuxOptions": {"type": "spc_t"}}}),
    ("SELinux user", "pod", {"securityContext": {"seLinuxOptions": {"user": "root"}}}),
    ("SELinux role", "pod", {"securityContext": {"seLinuxOptions": {"role": "sysadm_r"}}}),
    ("/proc Mount Type", "container", {"securityContext": {"procMount": "Unmasked"}}),
    ("Seccomp", "container", {"securityContext": {"seccompProfile": {"type": "Unconfined"}}}),
    ("Sysctls", "pod", {"securityContext": {"sysctls": [{"name": "kernel.msgmax", "value": "65536"}]}}),
    ("Volume Types", "pod", {"volumes": [{"name": "share", "nfs": {"server": "files", "path": "/"}}]}),
    ("Privilege Escalation", "container", {"securityContext": {"allowPrivilegeEscalation": True}}),
    ("Privilege Escalation", "container", {"securityContext": {"allowPrivilegeEscalation": None}}),
    ("Running as Non-root", "pod", {"securityContext": {"runAsNonRoot": None}}),
    ("Running as Non-root", "container", {"securityContext": {"runAsNonRoot": False}}),
    ("Running as Non-root user", "pod", {"securityContext": {"runAsUser": 0}}),
    ("Running as Non-root user", "container", {"securityContext": {"runAsUser": 0}}),
    ("Seccomp, named", "pod", {"securityContext": {"seccompProfile": None}}),
    ("Capabilities dropped", "container", {"securityContext": {"capabilities": {"drop": ["NET_RAW"]}}}),
    ("Capabilities dropped", "container", {"securityContext": {"capabilities": None}}),
    ("Capabilities added", "container", {"securityContext": {"capabilities": {"add": ["CHOWN"], "drop": ["ALL"]}}}),
]
CARELESS: list[tuple[str, str, dict[str, Any]]] = [
    ("a tag, and not latest", "container", {"image": "registry.example.com:5000/one"}),
    ("a tag, and not latest", "container", {"image": "one:latest"}),
    ("CPU requested", "container", {"resources": {"requests": None}}),
    ("memory requested", "container", {"resources": {"requests": {"memory": None}}}),
    ("memory limited", "container", {"resources": {"limits": {"memory": None}}}),
    ("read-only root", "container", {"securityContext": {"readOnlyRootFilesystem": False}}),
    ("no service account token", "pod", {"automountServiceAccountToken": None}),
    ("no links to Services", "pod", {"enableServiceLinks": None}),
    ("a user other than root", "container", {"securityContext": {"runAsUser": 0}}),
    ("a user other than root", "pod", {"securityContext": {"runAsUser": None}}),
    ("a group other than root", "pod", {"securityContext": {"runAsGroup": None}}),
    ("no token in a variable", "container", {"env": [{"name": "HF_TOKEN", "value": "hf_x"}]}),
    ("folders in memory or on the node are limited", "pod", {"volumes": [{"name": "tmp", "emptyDir": {}}]}),
]


def laid_over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """`below` with the values of `above`; None takes a field away."""
    merged = copy.deepcopy(below)
    for name, value in above.items():
        if value is None:
            merged.pop(name, None)
        elif isinstance(value, dict) and isinstance(merged.get(name), dict):
            merged[name] = laid_over(merged[name], value)
        else:
            merged[name] = value
    return merged


def broken(where: str, change: dict[str, Any], kind: str = "containers") -> dict[str, Any]:
    """SOUND with a change, in its own fields or in a container of a kind."""
    if where == "pod":
        return laid_over(SOUND, change)
    changed = laid_over(SOUND["containers"][0], change)
    return {**SOUND, kind: [changed]}


def test_a_sound_pod_is_accepted() -> None:
    assert violations(SOUND) == []
    assert lint(SOUND) == []


@pytest.mark.parametrize(("control", "where", "change"), BROKEN)
def test_each_control_rejects_a_pod_that_breaks_it(control: str, where: str, change: dict[str, Any]) -> None:
    assert control in {problem.split(": ")[0] for problem in violations(broken(where, change))}


@pytest.mark.parametrize("kind", ["initContainers", "ephemeralContainers"])
@pytest.mark.parametrize(("control", "change"), [(name, change) for name, where, change in BROKEN if where != "pod"])
def test_containers_of_every_kind_are_looked_at(control: str, change: dict[str, Any], kind: str) -> None:
    pod = broken("container", change, kind)
    assert len(pod["containers"]) == 1
    assert control in {problem.split(": ")[0] for problem in violations(pod)}


def test_what_the_pod_does_not_say_each_container_may() -> None:
    pod = laid_over(SOUND, {"securityContext": {"runAsNonRoot": None, "seccompProfile": None}})
    pod["containers"][0]["securityContext"] |= {"runAsNonRoot": True, "seccompProfile": {"type": "Localhost"}}
    assert violations(pod) == []
    pod["initContainers"] = SOUND["containers"]
    assert len(violations(pod)) == 2


def test_every_control_is_broken_once() -> None:
    assert {field.control for field in (*BASELINE, *RESTRICTED)} == {name for name, _, _ in BROKEN}
    assert set(LINT) == {name for name, _, _ in CARELESS}


@pytest.mark.parametrize(("rule", "where", "change"), CARELESS)
def test_each_lint_rule_rejects_a_pod_that_breaks_it(rule: str, where: str, change: dict[str, Any]) -> None:
    assert f"one: {rule}" in lint(broken(where, change))


def test_pods_of_a_job_set_are_found() -> None:
    job = {"spec": {"template": {"spec": SOUND}}}
    job_set = {
        "kind": "JobSet",
        "metadata": {"name": "s"},
        "spec": {"replicatedJobs": [{"name": "a", "template": job}]},
    }
    assert pod_specs(job_set) == [SOUND]
    assert pod_specs({"kind": "Job", "metadata": {}, **job}) == [SOUND]
    assert pod_specs({"kind": "ConfigMap", "metadata": {}}) == []
