"""Kubernetes: building an overlay, sending a run's manifest, cancelling. Everything goes through kubectl."""

from __future__ import annotations

import difflib
import json
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
        return yaml.dump_all(self.documents, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)


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
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ConfigError(f"{overlay}: not what a Job looks like: {error!r}") from None


def submit(work: Work, sent: Manifest, namespace: str | None) -> tuple[Submission, str | None]:
    """Apply the manifest; return the submission, and what went wrong after the job was on its way.

    A copy of manifest and settings is kept below the run directory, as this host sees it, where that can be written.
    Raises ConfigError where the cluster refuses it, VizSageError where it does not answer; nothing is left there then.
    """
    if not shutil.which("kubectl"):
        raise ConfigError("kubectl is not here; install it, or add --dry-run")
    context = _context()
    kubectl = _kubectl(context, namespace)
    done = run([*kubectl, "apply", "-f", "-", "-o", "json"], sent.text)
    if done.returncode:
        own = Manifest(sent.name, [one for one in sent.documents if one["metadata"]["name"] == sent.name])
        run([*kubectl, "delete", "-f", "-", "--ignore-not-found", "--wait=false"], own.text)
        raise refusal("apply", done)
    applied = json.loads(done.stdout)
    objects = applied["items"] if applied["kind"] == "List" else [applied]
    [workload] = [one for one in objects if one["kind"].lower() == workload_kind(sent.documents)]
    namespace = workload["metadata"]["namespace"]
    problems = [_hand_over(_kubectl(context, namespace), workload, objects), *done.stderr.strip().splitlines()]
    path = work.folder / f"{sent.name}.yaml"
    try:
        write_text(path, sent.text)
        work.freeze()
    except (OSError, ConfigError):  # an output_dir that only the pods can see
        problems.append(f"{path}: this host keeps no copy of the manifest here")
    submission = Submission(
        job_id=sent.name,
        kind=work.command,
        scheduler="kubernetes",
        submitted=now(),
        run_dir=str(work.run_dir),
        log=f"{shlex.join(_kubectl(context, namespace))} logs -l {LABEL}={sent.name} --tail=-1",
        script=str(path),
        config=str(work.settings_file),
        context=context,
        namespace=namespace,
        resource=workload_kind(sent.documents),
    )
    return submission, "; ".join(filter(None, problems)) or None


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
    """What `kubectl get WORDS` says; None where the object is not there. Raises VizSageError without an answer."""
    done = run([*kubectl_for(submission), "get", *words, "-o", "json"])
    if done.returncode:
        if "(NotFound)" in done.stderr:  # the server's word; a context or a file that is not found is none on the job
            return None
        raise VizSageError(f"Kubernetes does not answer for job {submission.job_id}: {' '.join(done.stderr.split())}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def refusal(what: str, done: subprocess.CompletedProcess[str]) -> VizSageError:
    """The error for a kubectl that failed: the user's where the cluster said no, else unknown."""
    said = "; ".join(line.strip() for line in done.stderr.splitlines() if line.strip())
    silent = any(
        word in said
        for word in ("Unable to connect", "was refused", "imeout", "timed out", "no such host", "TLS handshake")
    )
    kind = VizSageError if silent else ConfigError
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


def _context() -> str:
    """The name of kubectl's current context; empty inside a pod, where there is none."""
    done = run(["kubectl", "config", "current-context"])
    return "" if done.returncode else done.stdout.strip()


def _kubectl(context: str, namespace: str | None) -> list[str]:
    where = ["--context", context] if context else []
    return ["kubectl", *where, *(["--namespace", namespace] if namespace else [])]


def run(command: list[str], given: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run kubectl, with `given` as its input; its failures are the caller's. Raises ConfigError without kubectl."""
    try:
        command = [*command, "--request-timeout=60s"]
        return subprocess.run(command, input=given, capture_output=True, text=True, timeout=_PATIENCE_S, check=False)
    except FileNotFoundError:
        raise ConfigError("kubectl is not here; install it, and give it access to the cluster") from None
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", f"timed out after {_PATIENCE_S} seconds")


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as blocks, and no anchors, which nobody reads."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _text)
