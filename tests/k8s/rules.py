"""What a manifest is held to: Pod Security 'restricted', a linter's rules; and how it is rendered and taken apart."""

from __future__ import annotations

import functools
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

K8S = Path(__file__).parents[2] / "k8s"
FILES = sorted(K8S.glob("*.yaml"))
OVERLAYS = sorted(path.parent for path in K8S.glob("overlays/*/kustomization.yaml"))
VERSIONS = ["1.30", "1.31", "1.32", "1.33", "1.34", "1.35", "1.36"]


@functools.cache
def render(folder: Path) -> str:
    """What `kubectl apply -k FOLDER` would send."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed: the overlays are not rendered")
    done = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def documents(text: str) -> list[dict[str, Any]]:
    """The objects in YAML text of one or several documents."""
    return [document for document in yaml.safe_load_all(text) if document is not None]


def jobs(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The Jobs that a document makes: itself, or a JobSet's, under the names that JobSet gives them."""
    if document["kind"] == "Job":
        return [document]
    if document["kind"] != "JobSet":
        return []
    name = document["metadata"]["name"]
    return [
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {**replicated["template"].get("metadata", {}), "name": f"{name}-{replicated['name']}-0"},
            "spec": replicated["template"]["spec"],
        }
        for replicated in document["spec"]["replicatedJobs"]
    ]


def pod_templates(document: dict[str, Any]) -> list[dict[str, Any]]:
    """What the pods of a document are made from, metadata and spec."""
    if document["kind"] == "Pod":
        return [document]
    return [job["spec"]["template"] for job in jobs(document)]


def pod_specs(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The specifications of the pods that a document makes."""
    return [template["spec"] for template in pod_templates(document)]


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    """All containers of a pod, those that prepare it included."""
    return [one for kind in ("initContainers", "containers", "ephemeralContainers") for one in pod.get(kind) or []]


# --- Pod Security Standards, 'baseline' and 'restricted', as kubernetes.io/docs/concepts/security has them, for pods of
# Linux. The annotations that older versions knew are not looked at.


EACH = "{containers}."  # of all three kinds


class Field(NamedTuple):
    """Values that a field may have. `[*]` goes through a list; None means a field that is missing."""

    control: str
    paths: tuple[str, ...]
    allowed: Callable[[Any], bool]


def _anywhere(field: str) -> tuple[str, ...]:
    return (f"securityContext.{field}", f"{EACH}securityContext.{field}")


def _only(*values: Any) -> Callable[[Any], bool]:
    return lambda value: any(value is one or (value == one and type(value) is type(one)) for one in values)


_CAPABILITIES = (
    "AUDIT_WRITE CHOWN DAC_OVERRIDE FOWNER FSETID KILL MKNOD NET_BIND_SERVICE SETFCAP SETGID SETPCAP SETUID SYS_CHROOT"
)
_SYSCTLS = (
    "kernel.shm_rmid_forced net.ipv4.ip_local_port_range net.ipv4.ip_unprivileged_port_start net.ipv4.tcp_syncookies "
    "net.ipv4.ping_group_range net.ipv4.ip_local_reserved_ports net.ipv4.tcp_keepalive_time net.ipv4.tcp_fin_timeout "
    "net.ipv4.tcp_keepalive_intvl net.ipv4.tcp_keepalive_probes net.ipv4.tcp_rmem net.ipv4.tcp_wmem"
)
_VOLUMES = "configMap csi downwardAPI emptyDir ephemeral persistentVolumeClaim projected secret"
_HOOKS = ("livenessProbe", "readinessProbe", "startupProbe", "lifecycle.postStart", "lifecycle.preStop")

BASELINE = [
    Field("HostProcess", _anywhere("windowsOptions.hostProcess"), _only(None, False)),
    Field("Host Namespaces", ("hostNetwork", "hostPID", "hostIPC"), _only(None, False)),
    Field("Privileged Containers", (f"{EACH}securityContext.privileged",), _only(None, False)),
    Field("Capabilities", (f"{EACH}securityContext.capabilities.add[*]",), _only(None, *_CAPABILITIES.split())),
    Field("HostPath Volumes", ("volumes[*].hostPath",), _only(None)),
    Field("Host Ports", (f"{EACH}ports[*].hostPort",), _only(None, 0)),
    Field(
        "Host Probes / Lifecycle Hooks",
        tuple(f"{EACH}{hook}.{kind}.host" for hook in _HOOKS for kind in ("httpGet", "tcpSocket")),
        _only(None, ""),
    ),
    Field("AppArmor", _anywhere("appArmorProfile.type"), _only(None, "RuntimeDefault", "Localhost")),
    Field(
        "SELinux type",
        _anywhere("seLinuxOptions.type"),
        _only(None, "", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"),
    ),
    Field("SELinux user", _anywhere("seLinuxOptions.user"), _only(None, "")),
    Field("SELinux role", _anywhere("seLinuxOptions.role"), _only(None, "")),
    Field("/proc Mount Type", (f"{EACH}securityContext.procMount",), _only(None, "Default")),
    Field("Seccomp", _anywhere("seccompProfile.type"), _only(None, "RuntimeDefault", "Localhost")),
    Field("Sysctls", ("securityContext.sysctls[*].name",), _only(None, *_SYSCTLS.split())),
]
RESTRICTED = [
    Field("Volume Types", ("volumes[*]",), lambda volume: volume is None or set(volume) <= {"name", *_VOLUMES.split()}),
    Field("Privilege Escalation", (f"{EACH}securityContext.allowPrivilegeEscalation",), _only(False)),
    Field("Running as Non-root", ("{containers or pod}.securityContext.runAsNonRoot",), _only(True)),
    Field("Running as Non-root user", _anywhere("runAsUser"), lambda value: value != 0),
    Field(
        "Seccomp, named",
        ("{containers or pod}.securityContext.seccompProfile.type",),
        _only("RuntimeDefault", "Localhost"),
    ),
    Field("Capabilities dropped", (f"{EACH}securityContext.capabilities.drop",), lambda drop: "ALL" in (drop or [])),
    Field("Capabilities added", (f"{EACH}securityContext.capabilities.add[*]",), _only(None, "NET_BIND_SERVICE")),
]


def violations(pod: dict[str, Any]) -> list[str]:
    """What 'restricted' forbids in a pod's specification: `Control: field is value`, or nothing."""
    return [
        f"{field.control}: {place} is {value!r}"
        for field in (*BASELINE, *RESTRICTED)
        for path in field.paths
        for place, value in _values(pod, path)
        if not field.allowed(value)
    ]


def _values(pod: dict[str, Any], path: str) -> Iterator[tuple[str, Any]]:
    scope, dot, rest = path.partition("}.")
    if not dot:
        yield from _down(pod, path, "")
        return
    for container in containers(pod):
        for place, value in _down(container, rest, f"{container.get('name')}."):
            if value is None and "or pod" in scope:
                yield from _down(pod, rest, "")
            else:
                yield place, value


def _down(node: Any, path: str, place: str) -> Iterator[tuple[str, Any]]:
    name, _, rest = path.partition(".")
    many, name = name.endswith("[*]"), name.removesuffix("[*]")
    found = (node or {}).get(name)
    for index, value in enumerate((found or []) if many else [found]):
        here = f"{place}{name}" + (f"[{index}]" if many else "")
        if rest:
            yield from _down(value, rest, f"{here}.")
        else:
            yield here, value


# --- What kube-linter would report, as far as this project wants it.

Pod = Container = dict[str, Any]


def _at(node: Any, path: str) -> Any:
    return next(_down(node, path, ""))[1]


def _own_or_pods(pod: Pod, one: Container, name: str) -> Any:
    own = _at(one, f"securityContext.{name}")
    return _at(pod, f"securityContext.{name}") if own is None else own


def _tagged(image: str) -> bool:
    return ":" in image.split("/")[-1] and not image.endswith(":latest")


def _no_token(one: Container) -> bool:
    secret = ("TOKEN", "KEY", "SECRET", "PASSWORD")
    return not any(word in variable["name"] for variable in one.get("env", []) for word in secret)


def _limited(pod: Pod) -> bool:
    return all(_at(volume, "emptyDir.sizeLimit") for volume in pod.get("volumes", []) if "emptyDir" in volume)


LINT: dict[str, Callable[[Pod, Container], bool]] = {  # whether a container and its pod are in order
    "a tag, and not latest": lambda pod, one: _tagged(one["image"]),
    "CPU requested": lambda pod, one: _at(one, "resources.requests.cpu") is not None,
    "memory requested": lambda pod, one: _at(one, "resources.requests.memory") is not None,
    "memory limited": lambda pod, one: _at(one, "resources.limits.memory") is not None,
    "read-only root": lambda pod, one: _at(one, "securityContext.readOnlyRootFilesystem") is True,
    "no service account token": lambda pod, one: pod.get("automountServiceAccountToken") is False,
    "no links to Services": lambda pod, one: pod.get("enableServiceLinks") is False,
    "a user other than root": lambda pod, one: (_own_or_pods(pod, one, "runAsUser") or 0) > 0,
    "a group other than root": lambda pod, one: (_own_or_pods(pod, one, "runAsGroup") or 0) > 0,
    "no token in a variable": lambda pod, one: _no_token(one),
    "folders in memory or on the node are limited": lambda pod, one: _limited(pod),
}


def lint(pod: dict[str, Any]) -> list[str]:
    """The rules of LINT that a pod breaks, each with the container's name."""
    return [f"{one['name']}: {rule}" for one in containers(pod) for rule, holds in LINT.items() if not holds(pod, one)]
