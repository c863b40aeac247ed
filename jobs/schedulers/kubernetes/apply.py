"""Building an overlay, applying the manifest of a run, and cancelling, all with kubectl."""

from __future__ import annotations

import difflib
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

from jobs.schedulers.kubernetes.kubectl import config, forget, is_refusal, kubectl, kubectl_for, refusal, run, server_of
from jobs.schedulers.kubernetes.manifest import LABEL, Document, Request, job_name, render, workload_kind
from jobs.spec import Work
from jobs.submissions import Submission, now
from jobs.terminal import program
from vizsage.errors import ConfigError, VizSageError
from vizsage.files import write_text

OVERLAYS = Path("k8s/overlays")
SHIPPED = Path(__file__).parent / "k8s" / "overlays"  # those of the package; in the repository a link to OVERLAYS
_KUSTOMIZATIONS = ("kustomization.yaml", "kustomization.yml", "Kustomization")
_OWN_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


@dataclass(frozen=True)
class Manifest:
    """What is applied for one run. All its own objects have `name`."""

    name: str
    documents: list[Document]

    @property
    def text(self) -> str:
        """As YAML."""
        return _yaml(self.documents)

    @property
    def text_without_secrets(self) -> str:
        """As YAML that may be kept or shown: without the content of Secrets, which an overlay may generate."""
        kept = [
            {key: value for key, value in one.items() if one["kind"] != "Secret" or key not in ("data", "stringData")}
            for one in self.documents
        ]
        return _yaml(kept)


@dataclass(frozen=True)
class Shipment:
    """A manifest and where it is to go; None: the namespace of the overlay, or the one that kubectl uses."""

    manifest: Manifest
    namespace: str | None


def overlay_for(name: str | None, request: Request) -> Path:
    """The folder of an overlay, of the project or else of the package.

    Args:
        name: NAME of k8s/overlays/NAME, or a path. None: the overlay for the requested nodes and GPUs.
        request: what the command line asks for.

    Raises:
        ConfigError: there is no such overlay.
    """
    if name is None:
        name = "single-gpu"
        if (request.gpus_per_node or 1) > 1:
            name = "multi-gpu"
        if (request.nodes or 1) > 1:
            name = "multi-node"
    folders = [Path(name)] if "/" in name or name == "." else [OVERLAYS / name, SHIPPED / name]
    for folder in folders:
        if any((folder / file).exists() for file in _KUSTOMIZATIONS):
            return folder
    there = overlay_names()
    near = difflib.get_close_matches(name, there, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ConfigError(f"{folders[0]}: no such overlay; {hint}there are {', '.join(there)}, or name a folder")


def overlay_names() -> list[str]:
    """The NAMEs of the overlays of the project and of the package."""
    return sorted({path.parent.name for root in (OVERLAYS, SHIPPED) for path in root.glob("*/kustomization.yaml")})


def build(overlay: Path) -> list[Document]:
    """The documents that kustomize builds from an overlay. Raises ConfigError where it fails."""
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
    """The manifest of `work`, with a name made of `labels`. Raises ConfigError."""
    name = job_name(*labels)
    try:
        return Manifest(name, render(documents, work, name, request))
    except ConfigError as error:
        raise ConfigError(f"{overlay}: {error}") from None
    except (LookupError, ArithmeticError, TypeError, AttributeError, ValueError) as error:
        raise ConfigError(f"{overlay}: not what a Job looks like: {error!r}") from None


def submission_of(work: Work, sent: Manifest, namespace: str | None) -> Submission:
    """The record of the job: the cluster and namespace that it is sent to, and its name there.

    Raises ConfigError where kubectl is missing.
    """
    if not shutil.which("kubectl"):
        raise ConfigError("kubectl is not here; install it, or add --dry-run")
    context = config("current-context")
    own = next((one["metadata"].get("namespace") for one in sent.documents if one["metadata"]["name"] == sent.name), "")
    if not namespace and not own:
        here = config("view", "--minify", "-o", "jsonpath={..namespace}") if context else _namespace_of_this_pod()
        namespace = here or "default"
    namespace = namespace or own
    return Submission(
        job_id=sent.name,
        kind=work.command,
        scheduler="kubernetes",
        submitted=now(),
        run_dir=str(work.run_dir),
        log=f"{shlex.join(kubectl(context, namespace))} logs -l {LABEL}={sent.name} --tail=-1",
        script=str(work.folder / f"{sent.name}.yaml"),
        config=str(work.settings_file),
        context=context,
        namespace=namespace,
        resource=workload_kind(sent.documents),
        server=server_of(context),
    )


def submit(work: Work, sent: Manifest, submission: Submission) -> list[str]:
    """Apply the manifest; return warnings about what went wrong although the job was sent.

    The Job or JobSet is sent last and separately, so that it is known whether the cluster has refused it. A copy of
    manifest and settings is kept in the run directory, if this host can write there.

    Raises:
        ConfigError: the cluster refuses it.
        VizSageError: the cluster does not answer. After either error nothing of the run is left there, or the message
            names what may be.
    """
    command = kubectl_for(submission)
    if (asked := run([*command, "get", "--raw", "/version"])).returncode:  # nothing was sent yet
        raise refusal("get --raw /version", asked)
    shared = [one for one in sent.documents if one["metadata"]["name"] != sent.name]
    own = [one for one in sent.documents if one["metadata"]["name"] == sent.name]
    own.sort(key=lambda one: one["kind"].lower() == submission.resource)
    taken: list[Document] = []
    problems: list[str | None] = []
    for documents in [shared, *([one] for one in own)]:
        if not documents:
            continue
        done = run([*command, "apply", "-f", "-", "-o", "json"], _yaml(documents))
        if done.returncode:
            maybe = [] if documents is shared or is_refusal(done) else documents
            raise _taken_back(submission, _explained(submission, done), [*taken, *maybe])
        if documents is not shared:
            taken.append(json.loads(done.stdout))
        problems += done.stderr.strip().splitlines()
    problems.append(_hand_over(command, taken))
    try:
        write_text(Path(submission.script), sent.text_without_secrets)
        work.freeze()
    except (OSError, ConfigError):  # an output_dir that exists only for the pods
        problems.append(f"{submission.script}: this host keeps no copy of the manifest here")
    return [problem for problem in problems if problem]


class Unclear(VizSageError):
    """The cluster did not answer; the job may exist or not."""


def cancel(submission: Submission) -> None:
    """Delete the job. Its pods get SIGTERM and save a checkpoint; until they have ended, its state is "ending".

    Raises ConfigError where there is no kubectl, VizSageError where the cluster does not do it.
    """
    command = ["delete", submission.resource, submission.job_id, "--cascade=foreground", "--wait=false"]
    done = run([*kubectl_for(submission), *command, "--ignore-not-found"])
    if done.returncode:
        raise refusal(f"delete {submission.job_id}", done)


def _explained(submission: Submission, done: subprocess.CompletedProcess[str]) -> VizSageError:
    """The error for an apply that failed, with the namespace and, for common reasons, the remedy."""
    error = refusal("apply", done)
    where = f"namespace {submission.namespace}" + (f" of context {submission.context}" if submission.context else "")
    if re.search(r'namespaces "\S+" not found', done.stderr):
        hint = "; name another with --namespace, or create it with kubectl create namespace"
    elif missing := re.search(r'no matches for kind "(\w+)"', done.stderr):
        hint = f"; the cluster knows no {missing[1]}: have it installed, or name another --overlay"
    elif re.search(r"\bcannot \w+ resource\b", done.stderr):
        hint = "; this account lacks the right: name another --namespace, or ask for it (kubectl auth can-i --list)"
    else:
        hint = ""
    return type(error)(f"{where}: {error}{hint}")


def _taken_back(submission: Submission, error: VizSageError, objects: Sequence[Document]) -> VizSageError:
    """Remove the objects of a run that was not sent completely. Returns the error for the user."""
    if not objects:
        return error
    command = [*kubectl_for(submission), "delete", "-f", "-", "--ignore-not-found", "--wait=false"]
    if not (done := run(command, _yaml(objects))).returncode:
        return error
    if any(one["kind"].lower() == submission.resource for one in objects):
        return Unclear(
            f"{error}; job {submission.job_id} may exist nevertheless: {program()} status shows it when the cluster "
            f"answers, {program()} cancel removes it; if it never answers again, {forget(submission)}"
        )
    kinds = ",".join(one["kind"].lower() for one in objects)
    by_hand = shlex.join([*kubectl_for(submission), "delete", kinds, submission.job_id])
    return type(error)(f"{error}; remove what it left behind with {by_hand} ({' '.join(done.stderr.split())})")


def _hand_over(command: list[str], objects: Sequence[Document]) -> str | None:
    """Make the job, the last of the objects, the owner of the others, so that they are deleted with it.

    Returns a warning where that fails.
    """
    *others, workload = objects
    owner = {
        "apiVersion": workload["apiVersion"],
        "kind": workload["kind"],
        "name": workload["metadata"]["name"],
        "uid": workload["metadata"]["uid"],
    }
    patch = json.dumps({"metadata": {"ownerReferences": [owner]}})
    for one in others:
        done = run([*command, "patch", one["kind"].lower(), owner["name"], "--type=merge", "-p", patch])
        if done.returncode:
            return f"{one['kind']} {owner['name']} will stay when the job is removed: {' '.join(done.stderr.split())}"
    return None


def _namespace_of_this_pod() -> str:
    """The namespace that kubectl uses inside a pod; empty outside of a cluster."""
    try:
        return _OWN_NAMESPACE.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _yaml(documents: Sequence[Document]) -> str:
    return yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as blocks, and no anchors, which are hard to read."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


# Texts that PyYAML writes without quotes and kubectl, which reads YAML 1.2 with parts of 1.1, would take for numbers or
# booleans.
_NOT_PLAIN = re.compile(r"[yYnN]|[-+.]?\d\S*")


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = "|" if "\n" in value else "'" if _NOT_PLAIN.fullmatch(value) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)
