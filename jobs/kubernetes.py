"""Kubernetes: building an overlay, sending a run's manifest, cancelling. Everything goes through kubectl."""

from __future__ import annotations

import difflib
import functools
import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from jobs.manifest import LABEL, Document, Request, job_name, render, workload_kind
from jobs.spec import Work
from jobs.submissions import Submission, now
from vizsage.errors import ConfigError, VizSageError
from vizsage.files import write_text

OVERLAYS = Path("k8s/overlays")
_OWN_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
# Lines for kubectl's developers: E1124 12:00:00.000000 ...
_KLOG = re.compile(r"[EWI]\d{4} ")
_SILENCE = re.compile(
    r"unable to connect|refused|timeout|timed out|no such host|no route to host|unreachable|reset by peer|\bEOF\b|"
    r"TLS handshake|ServiceUnavailable|TooManyRequests|InternalError|getting credentials",
    re.IGNORECASE,
)
# kubectl itself gives up after a minute.
_PATIENCE_S = 90


@dataclass(frozen=True)
class Manifest:
    """What is applied for one run, under the name that all its objects share."""

    name: str
    documents: list[Document]

    @property
    def text(self) -> str:
        """As YAML."""
        return _yaml(self.documents)

    @property
    def text_without_secrets(self) -> str:
        """As YAML to be kept or shown: an overlay may make a Secret."""
        kept = [
            {key: value for key, value in one.items() if one["kind"] != "Secret" or key not in ("data", "stringData")}
            for one in self.documents
        ]
        return _yaml(kept)


def overlay_for(name: str | None, request: Request) -> Path:
    """The folder of the overlay NAME of k8s/overlays, or of one given by its path.

    None: the one that fits the nodes and GPUs asked for. Raises ConfigError where there is none.
    """
    if name is None:
        name = "single-gpu"
        if (request.gpus_per_node or 1) > 1:
            name = "multi-gpu"
        if (request.nodes or 1) > 1:
            name = "multi-node"
    folder = Path(name) if "/" in name or name == "." else OVERLAYS / name
    if not any((folder / file).exists() for file in ("kustomization.yaml", "kustomization.yml", "Kustomization")):
        there = sorted(path.parent.name for path in OVERLAYS.glob("*/kustomization.yaml"))
        near = difflib.get_close_matches(name, there, n=1, cutoff=0.6)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ConfigError(f"{folder}: no such overlay; {hint}there are {', '.join(there) or 'none'}, or name a folder")
    return folder


def build(overlay: Path) -> list[Document]:
    """The documents of an overlay, as kustomize puts them together. Raises ConfigError where it cannot."""
    if shutil.which("kubectl"):
        command = ["kubectl", "kustomize", str(overlay)]
    elif shutil.which("kustomize"):
        command = ["kustomize", "build", str(overlay)]
    else:
        raise ConfigError("kubectl is not here; it builds the overlay and sends the job")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigError(f"{overlay}: {' '.join(done.stderr.split())}")
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def manifest(overlay: Path, documents: Sequence[Document], work: Work, request: Request, *labels: str) -> Manifest:
    """The manifest of `work`, with a name that `labels` can be recognised in. Raises ConfigError."""
    name = job_name(*labels)
    try:
        return Manifest(name, render(documents, work, name, request))
    except ConfigError as error:
        raise ConfigError(f"{overlay}: {error}") from None
    except (LookupError, ArithmeticError, TypeError, AttributeError, ValueError) as error:
        raise ConfigError(f"{overlay}: not what a Job looks like: {error!r}") from None


def submission_of(work: Work, sent: Manifest, namespace: str | None) -> Submission:
    """What is noted of the manifest: where it goes, and how it is found again there.

    Raises ConfigError where kubectl is missing.
    """
    if not shutil.which("kubectl"):
        raise ConfigError("kubectl is not here; install it, or add --dry-run")
    context = _config("current-context")
    own = next((one["metadata"].get("namespace") for one in sent.documents if one["metadata"]["name"] == sent.name), "")
    if not namespace and not own:
        here = _config("view", "--minify", "-o", "jsonpath={..namespace}") if context else _namespace_of_this_pod()
        namespace = here or "default"
    namespace = namespace or own
    return Submission(
        job_id=sent.name,
        kind=work.command,
        scheduler="kubernetes",
        submitted=now(),
        run_dir=str(work.run_dir),
        log=f"{shlex.join(_kubectl(context, namespace))} logs -l {LABEL}={sent.name} --tail=-1",
        script=str(work.folder / f"{sent.name}.yaml"),
        config=str(work.settings_file),
        context=context,
        namespace=namespace,
        resource=workload_kind(sent.documents),
        server=_server(context),
    )


def submit(work: Work, sent: Manifest, submission: Submission) -> list[str]:
    """Apply the manifest; return what went wrong after the job was on its way.

    A copy of manifest and settings is kept below the run directory, as this host sees it, where that can be written.
    Raises ConfigError where the cluster refuses it, VizSageError where it does not answer; nothing is left there
    then, or the message says what may be.
    """
    kubectl = kubectl_for(submission)
    if (asked := run([*kubectl, "get", "--raw", "/version"])).returncode:  # nothing can have been sent yet
        raise refusal("get --raw /version", asked)
    done = run([*kubectl, "apply", "-f", "-", "-o", "json"], sent.text)
    if done.returncode:
        error = refusal("apply", done)
        own = Manifest(sent.name, [one for one in sent.documents if one["metadata"]["name"] == sent.name])
        if run([*kubectl, "delete", "-f", "-", "--ignore-not-found", "--wait=false"], own.text).returncode:
            raise Unclear(f"{error}; job {sent.name} may be there all the same, see python -m jobs status")
        raise error
    applied = json.loads(done.stdout)
    objects = applied["items"] if applied["kind"] == "List" else [applied]
    [workload] = [one for one in objects if one["kind"].lower() == submission.resource]
    problems = [_hand_over(kubectl, workload, objects), *done.stderr.strip().splitlines()]
    try:
        write_text(Path(submission.script), sent.text_without_secrets)
        work.freeze()
    except (OSError, ConfigError):  # an output_dir that only the pods can see
        problems.append(f"{submission.script}: this host keeps no copy of the manifest here")
    return [problem for problem in problems if problem]


class Unclear(VizSageError):
    """The cluster did not answer; the job may be there or not."""


def cancel(submission: Submission) -> None:
    """SIGTERM to its pods now; they save a checkpoint. The job is there, "ending", until they are gone.

    Raises ConfigError where there is no kubectl, VizSageError where the cluster does not do it.
    """
    command = ["delete", submission.resource, submission.job_id, "--cascade=foreground", "--wait=false"]
    done = run([*kubectl_for(submission), *command, "--ignore-not-found"])
    if done.returncode:
        raise refusal(f"delete {submission.job_id}", done)


def kubectl_for(submission: Submission) -> list[str]:
    """kubectl in the cluster and namespace that the job was sent to, wherever the user is by now."""
    return _kubectl(submission.context, submission.namespace)


def get(submission: Submission, *words: str) -> dict[str, Any] | None:
    """What `kubectl get KIND NAME` or `get KIND -l LABELS` says; None where the named object is not there.

    Raises VizSageError without an answer, and where the context now leads to another cluster.
    """
    if submission.server and (server := _server(submission.context)) != submission.server:
        raise VizSageError(
            f"Kubernetes does not answer for job {submission.job_id}: it was sent to {submission.server}, and the "
            f"context {submission.context!r} of kubectl leads to {server or 'no cluster'} now; set KUBECONFIG to the "
            "file that was used then, or, if that cluster is gone for good: "
            f"python -m jobs cancel --forget {submission.job_id}"
        )
    done = run([*kubectl_for(submission), "get", *words, "-o", "json"])
    if done.returncode:
        # Only the server's word on this very object; a plugin, a context or a path that is not found is none.
        names = "|".join(re.escape(name) for name in (words[1], submission.namespace))
        if len(words) == 2 and re.search(rf'\(NotFound\): \S+ "({names})" not found', done.stderr):
            return None
        raise VizSageError(f"Kubernetes does not answer for job {submission.job_id}: {' '.join(done.stderr.split())}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def refusal(what: str, done: subprocess.CompletedProcess[str]) -> VizSageError:
    """The error for a kubectl that failed: the user's where the cluster said no, else unknown."""
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    said = "; ".join(line for line in lines if not _KLOG.match(line)) or "; ".join(lines)
    kind = VizSageError if _SILENCE.search(re.sub(r"[?&]timeout=\S+", "", said)) else ConfigError
    return kind(f"kubectl {what}: {said or f'ended with exit code {done.returncode}'}")


def _hand_over(kubectl: list[str], workload: Document, objects: Sequence[Document]) -> str | None:
    """Make configuration and Service the job's: they go when it goes. Returns what could not be done."""
    owner = {
        "apiVersion": workload["apiVersion"],
        "kind": workload["kind"],
        "name": workload["metadata"]["name"],
        "uid": workload["metadata"]["uid"],
    }
    patch = json.dumps({"metadata": {"ownerReferences": [owner]}})
    for one in objects:
        if one["metadata"]["name"] == owner["name"] and one is not workload:
            done = run([*kubectl, "patch", one["kind"].lower(), owner["name"], "--type=merge", "-p", patch])
            if done.returncode:
                return (
                    f"{one['kind']} {owner['name']} will stay when the job is removed: {' '.join(done.stderr.split())}"
                )
    return None


def _config(*words: str) -> str:
    """What `kubectl config` says; empty inside a pod, where there is no configuration."""
    done = run(["kubectl", "config", *words])
    return "" if done.returncode else done.stdout.strip()


def _namespace_of_this_pod() -> str:
    """Where kubectl sends things from inside a cluster; empty elsewhere."""
    try:
        return _OWN_NAMESPACE.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


@functools.cache
def _server(context: str) -> str:
    """The address behind a context: many clusters have contexts of the same name."""
    where = ["--context", context] if context else []
    return _config("view", "--minify", *where, "-o", "jsonpath={.clusters[0].cluster.server}")


def _kubectl(context: str, namespace: str | None) -> list[str]:
    where = ["--context", context] if context else []
    return ["kubectl", *where, *(["--namespace", namespace] if namespace else [])]


def run(command: list[str], given: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run kubectl, with `given` as its input; its failures are the caller's. Raises ConfigError without kubectl."""
    try:
        command = [*command, "--request-timeout=60s"]
        # Never this terminal: a kubectl that asks for a password would wait unseen.
        given = given or ""
        return subprocess.run(command, input=given, capture_output=True, text=True, timeout=_PATIENCE_S, check=False)
    except FileNotFoundError:
        raise ConfigError("kubectl is not here; install it, and give it access to the cluster") from None
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", f"timed out after {_PATIENCE_S} seconds")


def _yaml(documents: Sequence[Document]) -> str:
    return yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as blocks, and no anchors, which nobody reads."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


# Texts that PyYAML writes plain and kubectl, which reads YAML 1.2 with some of 1.1, takes for numbers or switches.
_NOT_PLAIN = re.compile(r"[yYnN]|[-+.]?\d\S*")


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = "|" if "\n" in value else "'" if _NOT_PLAIN.fullmatch(value) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)
