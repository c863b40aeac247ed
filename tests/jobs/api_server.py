"""A small API server for kubectl: it keeps what is applied and shows it again. No admission, no controllers.

It follows the parts of the Kubernetes API that kubectl 1.32 asks for (aggregated discovery, OpenAPI v3 for field
validation, the verbs of a resource). A test sets statuses, and adds the pods that a controller would make.
"""

from __future__ import annotations

import copy
import json
import re
import sys
import threading
import uuid
from collections.abc import Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

Object = dict[str, Any]

_KINDS = {
    ("v1", "configmaps"): "ConfigMap",
    ("v1", "services"): "Service",
    ("v1", "pods"): "Pod",
    ("v1", "secrets"): "Secret",
    ("v1", "events"): "Event",
    ("v1", "persistentvolumeclaims"): "PersistentVolumeClaim",
    ("batch/v1", "jobs"): "Job",
    ("jobset.x-k8s.io/v1alpha2", "jobsets"): "JobSet",
    ("kueue.x-k8s.io/v1beta2", "workloads"): "Workload",
}
_VERBS = ["create", "delete", "get", "list", "patch", "update", "watch"]


class ApiServer:
    """Started at once; `objects` by (kind, name).

    `refusals`: kind -> (code, reason, message) with which a new one is refused; a message alone is a 403. `namespaces`:
    those that are there. `rights`: (method, kind) pairs that are allowed, None: all. `absent`: kinds that the cluster
    does not know.

    `logs`: POD or POD/CONTAINER -> text; a line may begin with its time, as the kubelet keeps it. `streams`: what the
    next requests that follow a pod's log get instead, piece by piece; a None breaks the connection. `failures`: end of
    a path -> (code, reason, message) with which the next requests there fail.
    """

    def __init__(self, folder: Path) -> None:
        self.objects: dict[tuple[str, str], Object] = {}
        self.refusals: dict[str, str | tuple[int, str, str]] = {}
        self.namespaces = {"vlm", "team-b"}
        self.rights: set[tuple[str, str]] | None = None
        self.absent: set[str] = set()
        self.logs: dict[str, str] = {}
        self.streams: dict[str, list[Iterable[str | None]]] = {}
        self.failures: dict[str, Iterator[tuple[int, str, str]]] = {}
        self.requests: list[tuple[str, str]] = []
        server = self

        class Handler(_Handler):
            api = server

        self._http = _Http(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        self.kubeconfig = folder / "kubeconfig"
        address = f"http://127.0.0.1:{self._http.server_port}"
        configuration = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "pool",
            "clusters": [{"name": "here", "cluster": {"server": address}}],
            "users": [{"name": "me", "user": {}}],
            "contexts": [{"name": "pool", "context": {"cluster": "here", "user": "me", "namespace": "vlm"}}],
        }
        self.kubeconfig.write_text(yaml.safe_dump(configuration))

    def stop(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def names(self, kind: str) -> list[str]:
        return [name for k, name in self.objects if k == kind]

    def set_status(self, kind: str, name: str, **status: Any) -> None:
        self.objects[kind, name]["status"] = status

    def add_pod(
        self, job: str, name: str, *, created: str, labels: dict[str, str] | None = None, **status: Any
    ) -> None:
        self.objects["Pod", name] = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": name,
                "namespace": "vlm",
                "uid": str(uuid.uuid4()),
                "creationTimestamp": created,
                "labels": {"vizsage/job": job, **(labels or {})},
            },
            "spec": {"nodeName": "node-7", "containers": [{"name": "vizsage"}]},
            "status": status,
        }


class _Http(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Silent about a kubectl that has gone, as one that is killed."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    api: ApiServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *words: Any) -> None:
        pass

    def do_GET(self) -> None:
        path, query = self._where()
        if path in ("/api", "/apis"):
            self._answer(
                _discovery(path, self.api.absent),
                "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
            )
        elif path == "/openapi/v3":
            self._answer({"paths": {at: {"serverRelativeURL": f"/openapi/v3/{at}"} for at in _paths().values()}})
        elif path.startswith("/openapi/v3/"):
            self._answer(_open_api(path.removeprefix("/openapi/v3/")))
        elif failure := self._failure(path):
            self._fail(*failure)
        elif path == "/version":
            self._answer({"major": "1", "minor": "36", "gitVersion": "v1.36.0"})
        elif path == "/api/v1/namespaces/vlm":
            self._answer({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "vlm"}})
        elif path.endswith("/log"):
            self._log(path.split("/")[-2], {key: values[0] for key, values in query.items()})
        elif (found := self._resource(path)) is None:
            self._fail(404, "NotFound", f"{path} not found")
        elif self._may_not(path, found):
            pass
        elif found[1]:
            one = self.api.objects.get((found[0], found[1]))
            self._answer(one) if one else self._not_found(found)
        else:
            wanted = dict(pair.split("=") for pair in query.get("labelSelector", [""])[0].split(",") if pair)
            fields = dict(pair.split("=") for pair in query.get("fieldSelector", [""])[0].split(",") if pair)
            items = [
                one
                for (kind, _), one in self.api.objects.items()
                if kind == found[0]
                and wanted.items() <= one["metadata"].get("labels", {}).items()
                and all(str(_field(one, field)) == value for field, value in fields.items())
            ]
            self._answer({"apiVersion": "v1", "kind": f"{found[0]}List", "metadata": {}, "items": items})

    def do_POST(self) -> None:
        path, _ = self._where()
        found = self._resource(path)
        assert found is not None, path
        one = self._body()
        key = (found[0], one["metadata"]["name"])
        namespace = path.split("/namespaces/")[1].split("/")[0]
        if self._may_not(path, found):
            pass
        elif namespace not in self.api.namespaces:
            self._fail(404, "NotFound", f'namespaces "{namespace}" not found')
        elif refusal := self.api.refusals.get(found[0]):
            self._fail(*((403, "Forbidden", refusal) if isinstance(refusal, str) else refusal))
        elif key in self.api.objects:
            self._fail(409, "AlreadyExists", f'"{key[1]}" already exists')
        else:
            one["metadata"] |= {
                "namespace": namespace,
                "uid": str(uuid.uuid4()),
                "creationTimestamp": "2026-01-01T00:00:00Z",
            }
            self.api.objects[key] = one
            self._answer(one, code=201)

    def do_PATCH(self) -> None:
        path, _ = self._where()
        found = self._resource(path)
        assert found is not None, path
        change, one = self._body(), self.api.objects.get((found[0], found[1]))
        if one is None:
            return self._not_found(found)
        self.api.objects[found[0], found[1]] = merged = _merged(one, change)
        self._answer(merged)

    def do_DELETE(self) -> None:
        """With foreground propagation the object waits for its dependents: here, until the test removes it."""
        path, _ = self._where()
        found = self._resource(path)
        assert found is not None, path
        options, one = self._body(), self.api.objects.get((found[0], found[1]))
        if self._may_not(path, found):
            return
        if one is None:
            return self._not_found(found)
        if options.get("propagationPolicy") == "Foreground":
            one["metadata"]["deletionTimestamp"] = "2026-01-01T01:00:00Z"
        else:
            del self.api.objects[found[0], found[1]]
        self._answer(one)

    def _may_not(self, path: str, found: tuple[str, str]) -> bool:
        """Answer as the server does where the account lacks a right."""
        if self.api.rights is None or (self.command, found[0]) in self.api.rights:
            return False
        verb = {"GET": "get", "POST": "create", "DELETE": "delete"}[self.command]
        version, resource = next(at for at, kind in _KINDS.items() if kind == found[0])
        group = version.rpartition("/")[0]
        namespace = path.split("/namespaces/")[1].split("/")[0]
        what = f"{resource}.{group}".rstrip(".") + (f' "{found[1]}"' if found[1] else "")
        may_not = f'User "me" cannot {verb} resource "{resource}" in API group "{group}" in the namespace "{namespace}"'
        self._fail(403, "Forbidden", f"{what} is forbidden: {may_not}")
        return True

    def _failure(self, path: str) -> tuple[int, str, str] | None:
        return next((found for end, them in self.api.failures.items() if path.endswith(end) for found in them), None)

    def _log(self, pod: str, query: dict[str, str]) -> None:
        container = query.get("container", "vizsage")
        status = self.api.objects["Pod", pod]["status"]
        all_of_them = [*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())]
        state = next((one["state"] for one in all_of_them if one["name"] == container), {"waiting": {}})
        if "waiting" in state:
            reason = state["waiting"].get("reason", "ContainerCreating")
            message = f'container "{container}" in pod "{pod}" is waiting to start: {reason}'
            return self._fail(400, "BadRequest", message)
        if query.get("follow") == "true" and self.api.streams.get(pod):
            return self._stream(self.api.streams[pod].pop(0), query)
        text = self.api.logs.get(f"{pod}/{container}") or self.api.logs[pod]
        self._text("".join(_kept(line, query) for line in text.splitlines(keepends=True)))

    def _stream(self, pieces: Iterable[str | None], query: dict[str, str]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for piece in pieces:
                if piece is None:
                    self.close_connection = True
                    return
                if content := "".join(_kept(line, query) for line in piece.splitlines(keepends=True)).encode():
                    self.wfile.write(f"{len(content):x}\r\n".encode() + content + b"\r\n")
            self.wfile.write(b"0\r\n\r\n")
        except OSError:  # the client has ended
            self.close_connection = True

    def _where(self) -> tuple[str, dict[str, list[str]]]:
        parts = urlsplit(self.path)
        self.api.requests.append((self.command, self.path))
        return parts.path, parse_qs(parts.query)

    def _resource(self, path: str) -> tuple[str, str] | None:
        """(kind, name or nothing) of /apis/GROUP/VERSION/namespaces/NS/RESOURCE[/NAME]."""
        for (version, resource), kind in _KINDS.items():
            at = f"/{_paths()[version]}/namespaces/"
            if path.startswith(at):
                _, _, rest = path.removeprefix(at).partition("/")
                there, _, name = rest.partition("/")
                if there == resource:
                    return kind, name
        return None

    def _body(self) -> Any:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        return json.loads(content) if content else {}

    def _not_found(self, found: tuple[str, str]) -> None:
        self._fail(404, "NotFound", f'{found[0].lower()}s "{found[1]}" not found')

    def _fail(self, code: int, reason: str, message: str) -> None:
        status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": message}
        self._answer(status | {"code": code}, code=code)

    def _text(self, text: str) -> None:
        self._send(text.encode(), "text/plain", 200)

    def _answer(self, value: Any, content_type: str = "application/json", code: int = 200) -> None:
        self._send(json.dumps(value).encode(), content_type, code)

    def _send(self, content: bytes, content_type: str, code: int) -> None:
        self.send_response(code)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def _kept(line: str, query: dict[str, str]) -> str:
    """A line of a log as it is asked for: nothing where it is too old."""
    time, _, text = line.partition(" ")
    if not re.fullmatch(r"\d{4}-.+Z", time):
        time, text = "2026-01-01T00:00:00.000000000Z", line
    if time[:19] < query.get("sinceTime", "")[:19]:
        return ""
    return f"{time} {text}" if query.get("timestamps") == "true" else text


def _paths() -> dict[str, str]:
    return {version: "api/v1" if version == "v1" else f"apis/{version}" for version, _ in _KINDS}


def _discovery(path: str, absent: set[str]) -> Object:
    groups: dict[str, list[Object]] = {}
    for (version, resource), kind in _KINDS.items():
        group, _, number = version.rpartition("/")
        if (path == "/api") == (group == "") and kind not in absent:
            entry = {
                "resource": resource,
                "responseKind": {"group": group, "version": number, "kind": kind},
                "scope": "Namespaced",
                "singularResource": kind.lower(),
                "verbs": _VERBS,
            }
            groups.setdefault(group, []).append(entry)
    items = []
    for group, resources in groups.items():
        number = resources[0]["responseKind"]["version"]
        versions = [{"version": number, "resources": resources, "freshness": "Current"}]
        items.append({"metadata": {"name": group} if group else {}, "versions": versions})
    return {"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items}


def _open_api(at: str) -> Object:
    """Just enough to tell kubectl that the server itself validates fields."""
    version = next(version for version, path in _paths().items() if path == at)
    group, _, number = version.rpartition("/")
    paths = {}
    for (other, resource), kind in _KINDS.items():
        if other == version:
            patch = {
                "parameters": [{"name": "fieldValidation", "in": "query"}, {"name": "dryRun", "in": "query"}],
                "x-kubernetes-group-version-kind": {"group": group, "version": number, "kind": kind},
                "responses": {},
            }
            paths[f"/{at}/namespaces/{{namespace}}/{resource}/{{name}}"] = {"patch": patch}
    return {"openapi": "3.0.0", "info": {"title": "none", "version": "0"}, "paths": paths}


def _merged(one: Any, change: Any) -> Any:
    """A JSON merge patch (RFC 7396)."""
    if not isinstance(change, dict) or not isinstance(one, dict):
        return copy.deepcopy(change)
    found = copy.deepcopy(one)
    for key, value in change.items():
        if value is None:
            found.pop(key, None)
        else:
            found[key] = _merged(found.get(key, {}), value)
    return found


def _field(one: Object, path: str) -> Any:
    value: Any = one
    for part in path.split("."):
        value = value.get(part, {})
    return value
