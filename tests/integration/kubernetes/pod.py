"""A pod of a manifest, run as processes of this host, as a kubelet runs it as containers.

Bubblewrap gives each container its own file system, process ids and user. The network is the host's. What a
manifest asks for and this cannot do is refused, so that no test passes on a feature that is not there; requests and
limits, and what only a scheduler reads, are left out on purpose.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from tests.integration.kubernetes import image

Document = dict[str, Any]

_BWRAP = shutil.which("bwrap") or "bwrap"
_CONTAINER_FIELDS = frozenset(
    "name image imagePullPolicy command args env envFrom resources volumeMounts workingDir securityContext ports "
    "terminationMessagePolicy terminationMessagePath".split()
)
_VOLUME_KINDS = ("configMap", "secret", "emptyDir", "persistentVolumeClaim", "hostPath")
_DEFAULT_GRACE_S = 30
_UNITS = {"": 1, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "k": 10**3, "M": 10**6, "G": 10**9, "m": 1e-3}


def missing_programs() -> str:
    """Why no pod can run here, or nothing."""
    if missing := [name for name in ("bwrap", "tini", "kubectl") if shutil.which(name) is None]:
        return f"needs {', '.join(missing)}: as root, make test-k8s installs bubblewrap and tini with apt-get"
    command = [_BWRAP, "--unshare-user", "--unshare-pid", "--ro-bind", "/", "/", "--proc", "/proc", "true"]
    tried = subprocess.run(command, capture_output=True, text=True, check=False)
    return f"bubblewrap cannot work on this host: {tried.stderr.strip()}" if tried.returncode else ""


class Namespace:
    """The objects that pods refer to, and the folders behind the claims, which outlive pods."""

    def __init__(self, folder: Path, documents: list[Document]) -> None:
        self.folder = folder
        self._objects: dict[tuple[str, str], Document] = {}
        for document in documents:
            self.apply(document)

    def apply(self, document: Document) -> None:
        """Store an object; it replaces one of the same kind and name."""
        kind, name = document["kind"], document["metadata"]["name"]
        self._objects[kind, name] = document
        if kind == "PersistentVolumeClaim":
            self.claim(name).mkdir(parents=True, exist_ok=True)

    def claim(self, name: str) -> Path:
        """The folder behind a claim."""
        return self.folder / "claims" / name

    def get(self, kind: str, name: str, optional: bool = False) -> Document | None:
        """An object; None where an optional one is missing. Raises LookupError: such a pod would never start."""
        found = self._objects.get((kind, name))
        if found is None and not optional:
            raise LookupError(f"there is no {kind} {name!r}: the pod would wait for it for ever")
        return found

    def values(self, kind: str, reference: Document) -> dict[str, str]:
        """Keys and values of the ConfigMap or Secret that a reference names."""
        found = self.get(kind, reference.get("secretName") or reference["name"], reference.get("optional", False))
        if found is None:
            return {}
        if "data" in found and kind == "Secret":
            raise NotImplementedError("a Secret with data; write stringData")
        return dict(found.get("stringData" if kind == "Secret" else "data") or {})

    def addresses(self, pod: Document, hostnames: list[str]) -> list[str]:
        """What the cluster's DNS knows of pods with these host names and the subdomain of `pod`."""
        service = self._objects.get(("Service", pod["spec"].get("subdomain", "")))
        if service is None or service["spec"].get("clusterIP") != "None":
            return []
        if not service["spec"]["selector"].items() <= pod["metadata"].get("labels", {}).items():
            return []
        subdomain = service["metadata"]["name"]
        domains = (subdomain, f"{subdomain}.default.svc", f"{subdomain}.default.svc.cluster.local")
        return [f"{host}.{domain}" for host in hostnames for domain in domains]


class Pod:
    """One pod, from its start to the end of its last process. `poll` must be called now and then: it does the work."""

    def __init__(self, document: Document, namespace: Namespace, hosts: list[str] | None = None) -> None:
        self.metadata, self.spec = document["metadata"], document["spec"]
        self.name: str = self.metadata["name"]
        self.folder = namespace.folder / "pods" / self.name
        self.conditions: dict[str, str] = {}
        self.exit_codes: dict[str, int] = {}
        self.phase = "Pending"
        self._namespace = namespace
        self._hosts = hosts or []
        containers = [*self.spec.get("initContainers", []), *self.spec["containers"]]
        if len(self.spec["containers"]) != 1:
            raise NotImplementedError(f"{self.name}: one container is what this can run")
        if unknown := {field for container in containers for field in container} - _CONTAINER_FIELDS:
            raise NotImplementedError(f"{self.name}: {', '.join(sorted(unknown))}")
        self._waiting = containers
        self._process: subprocess.Popen[bytes] | None = None
        self._pid = 0
        self._current = ""
        self._killed_at: float | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing of the pod runs any more."""
        return self.phase in ("Succeeded", "Failed")

    @property
    def exit_code(self) -> int | None:
        """Exit code of the container, None as long as there is none."""
        return self.exit_codes.get(self.spec["containers"][0]["name"])

    def log(self, container: str | None = None) -> str:
        """What a container, by default the pod's, has printed."""
        path = self.folder / f"{container or self.spec['containers'][0]['name']}.log"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def poll(self) -> str:
        """Start what is next, kill what has had its grace period, and return the phase."""
        if self.ended:
            return self.phase
        if self._process is None:
            if self._killed_at is not None:  # between two containers
                self.phase = "Failed"
            else:
                self._start(self._waiting.pop(0))
            return self.phase
        code = self._process.poll()
        if code is None:
            if self._killed_at is not None and time.monotonic() >= self._killed_at:
                self._signal(signal.SIGKILL)
            return self.phase
        if (said := self.log(self._current)).startswith("bwrap: "):
            raise RuntimeError(f"{self.name}: container {self._current} cannot be started: {said}")
        self._process = None
        self.exit_codes[self._current] = code
        if code or not self._waiting:
            self.phase = "Failed" if code else "Succeeded"
        return self.phase

    def delete(self) -> None:
        """SIGTERM for the container's first process; what is left after the grace period is killed."""
        if not self.ended and self._killed_at is None:
            grace_s = self.spec.get("terminationGracePeriodSeconds", _DEFAULT_GRACE_S)
            self._killed_at = time.monotonic() + grace_s
            self._signal(signal.SIGTERM)

    def evict(self) -> None:
        """Delete the pod as the eviction API does, which records that in a condition."""
        self.conditions["DisruptionTarget"] = "True"
        self.delete()

    def kill(self) -> None:
        """End everything now, as the loss of a machine does."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, number)

    # --- a container ------------------------------------------------------------------------------------------------

    def _start(self, container: Document) -> None:
        given = self._given(container)
        hostname = self.spec.get("hostname", self.name)
        environment = image.environment() | {"HOSTNAME": hostname} | given
        entrypoint, cmd = image.commands()
        command = container.get("command", entrypoint)
        # A command of the manifest puts both of the image's aside.
        arguments = container.get("args", [] if "command" in container else cmd)
        words = [_expanded(word, given) for word in [*command, *arguments]]
        self.folder.mkdir(parents=True, exist_ok=True)
        image.write_etc(self.folder / "etc", hostname, self._hosts)
        reader, writer = os.pipe()
        isolation = self._isolation(container, hostname)
        with (self.folder / f"{container['name']}.log").open("ab") as log:
            self._process = subprocess.Popen(
                [_BWRAP, *isolation, "--info-fd", str(writer), "--", *words],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, pass_fds=(writer,),
            )  # fmt: skip
        os.close(writer)
        with os.fdopen(reader) as told:
            said = told.read()
        self._pid = json.loads(said)["child-pid"] if said else self._process.pid
        self._current, self.phase = container["name"], "Running"

    def _isolation(self, container: Document, hostname: str) -> list[str]:
        context = self.spec.get("securityContext", {}) | container.get("securityContext", {})
        user, group = context.get("runAsUser", image.USER[0]), context.get("runAsGroup", image.USER[1])
        return [
            *("--unshare-user", "--uid", str(user), "--gid", str(group)),
            *("--unshare-pid", "--as-pid-1", "--unshare-ipc", "--unshare-uts", "--hostname", hostname),
            *("--die-with-parent", "--new-session"),
            *image.file_system(self.folder / "etc"),
            *self._mounts(container),
            *("--remount-ro", "/dev"),
            *(("--remount-ro", "/") if context.get("readOnlyRootFilesystem") else ()),
            *("--chdir", container.get("workingDir", image.WORKDIR)),
        ]

    def _mounts(self, container: Document) -> list[str]:
        volumes = {volume["name"]: volume for volume in self.spec.get("volumes", [])}
        mounts = sorted(container.get("volumeMounts", []), key=lambda mount: mount["mountPath"])
        arguments = []
        if "/dev/shm" not in [mount["mountPath"] for mount in mounts]:
            arguments += ["--size", str(64 * 2**20), "--tmpfs", "/dev/shm"]  # what container runtimes give
        for mount in mounts:
            volume = volumes[mount["name"]]
            memory = volume.get("emptyDir", {}).get("medium") == "Memory"
            if memory:
                size = volume["emptyDir"].get("sizeLimit")
                arguments += ["--size", str(int(_quantity(size)))] if size else []
                arguments += ["--tmpfs", mount["mountPath"]]
                continue
            source, read_only = self._source(volume)
            if sub_path := mount.get("subPath"):
                source /= sub_path
                if not source.exists() and not read_only:
                    source.mkdir(parents=True)
            read_only = read_only or mount.get("readOnly", False)
            arguments += ["--ro-bind" if read_only else "--bind", str(source), mount["mountPath"]]
        return arguments

    def _source(self, volume: Document) -> tuple[Path, bool]:
        """The folder behind a volume, and whether it can only be read."""
        name = volume["name"]
        [kind] = [key for key in volume if key != "name"]
        if kind not in _VOLUME_KINDS:
            raise NotImplementedError(f"{self.name}: volume {name} of kind {kind}")
        what = volume[kind]
        if kind == "hostPath":
            return Path(what["path"]), False
        if kind == "persistentVolumeClaim":
            self._namespace.get("PersistentVolumeClaim", what["claimName"])
            return self._namespace.claim(what["claimName"]), what.get("readOnly", False)
        folder = self.folder / "volumes" / name
        folder.mkdir(parents=True, exist_ok=True)
        if kind == "emptyDir":
            return folder, False
        values = self._namespace.values("ConfigMap" if kind == "configMap" else "Secret", what)
        items = what.get("items") or [{"key": key, "path": key} for key in values]
        for item in items:
            (folder / item["path"]).write_text(values[item["key"]], encoding="utf-8")
        return folder, True

    # --- its environment --------------------------------------------------------------------------------------------

    def _given(self, container: Document) -> dict[str, str]:
        """Variables of the manifest, the only ones that $(NAME) knows."""
        given: dict[str, str] = {}
        for source in container.get("envFrom", []):
            for key, kind in (("configMapRef", "ConfigMap"), ("secretRef", "Secret")):
                if key in source:
                    values = self._namespace.values(kind, source[key])
                    given |= {source.get("prefix", "") + name: value for name, value in values.items()}
        for entry in container.get("env", []):
            value = self._value(entry, container)
            if value is not None:
                given[entry["name"]] = _expanded(value, given)
        return given

    def _value(self, entry: Document, container: Document) -> str | None:
        """The value of an entry of env; None where an optional key is missing."""
        if "valueFrom" not in entry:
            return str(entry.get("value", ""))
        [(kind, what)] = entry["valueFrom"].items()
        if kind in ("configMapKeyRef", "secretKeyRef"):
            values = self._namespace.values("ConfigMap" if kind == "configMapKeyRef" else "Secret", what)
            if what["key"] not in values and not what.get("optional"):
                raise LookupError(f"{self.name}: {what['name']} has no key {what['key']!r}")
            return values.get(what["key"])
        if kind == "fieldRef":
            return self._field(what["fieldPath"])
        if kind == "resourceFieldRef":
            group, resource = what["resource"].split(".")
            amount = _quantity(container["resources"][group][resource]) / _quantity(what.get("divisor", "1"))
            return str(-int(-amount // 1))  # rounded up
        raise NotImplementedError(f"{self.name}: {kind}")

    def _field(self, path: str) -> str:
        if found := re.fullmatch(r"metadata\.(labels|annotations)\['([^']+)'\]", path):
            return str(self.metadata.get(found[1], {}).get(found[2], ""))
        fields = {"metadata.name": self.name, "metadata.namespace": "default", "spec.nodeName": "node"}
        return fields[path]


def _expanded(text: str, environment: dict[str, str]) -> str:
    """`$(NAME)` replaced where the name is known, `$$` made one dollar; all else unchanged."""

    def replacement(found: re.Match[str]) -> str:
        return "$" if found[0] == "$$" else environment.get(found[1], found[0])

    return re.sub(r"\$\$|\$\(([A-Za-z_.-][\w.-]*)\)", replacement, text)


def _quantity(text: Any) -> float:
    """A Kubernetes quantity as a number: 500m, 2, 1Gi."""
    found = re.fullmatch(r"([\d.]+)([A-Za-z]*)", str(text))
    if found is None:
        raise ValueError(f"{text!r} is no quantity")
    return float(found[1]) * _UNITS[found[2]]
