"""The manifest of one run on Kubernetes: a pure function of an overlay's documents and of the work.

An overlay (k8s/overlays) contains what a cluster needs. Its Job or JobSet gets a new name, the settings of the run, and
the requested numbers of nodes and GPUs.
"""

from __future__ import annotations

import copy
import posixpath
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.schedulers.kubernetes.manifest_secrets import refuse_in_manifest
from jobs.schedulers.kubernetes.resources import set_gpus
from jobs.spec import Work
from vizsage.config import config_to_yaml
from vizsage.errors import ConfigError

Document = dict[str, Any]

CONTAINER = "vizsage"
_SETTINGS = "config"
# The label of all objects of one submission, by which its pods are found, also those of a JobSet.
LABEL = "vizsage/job"
# Kubernetes appends indices and random characters to a name, and the result may have 63 characters: the name of a
# JobSet's pod is NAME-train-0-NN-xxxxx.
_LONGEST_NAME = 45
_COMPONENT = "app.kubernetes.io/component"
_WORKLOADS = ("Job", "JobSet")
_QUEUE = "kueue.x-k8s.io/queue-name"


@dataclass(frozen=True)
class Request:
    """What the command line asks for; None: as in the overlay.

    Attributes:
        time_s: seconds that a Job may take with all its attempts; 0: no limit.
    """

    nodes: int | None = None
    gpus_per_node: int | None = None
    image: str | None = None
    time_s: int | None = None
    then_eval: bool = False


def job_name(*labels: str) -> str:
    """A new name made of `labels`: vizsage-llama-3-2-11b-aqua-1f09c3.

    It is a valid name for every kind of object (an RFC 1035 label, as Services need) whatever script the labels are in.
    It is different each time, because the template of a Job that exists cannot be changed.
    """
    from anyascii import anyascii

    room = (_LONGEST_NAME - len("vizsage--") - 6 - (len(labels) - 1)) // len(labels)
    slugs = [re.sub(r"[^a-z0-9]+", "-", anyascii(label).lower()).strip("-")[:room].strip("-") for label in labels]
    return "-".join(["vizsage", *filter(None, slugs), secrets.token_hex(3)])


def render(overlay: Sequence[Document], work: Work, name: str, request: Request = Request()) -> list[Document]:
    """The documents to apply for `work` under `name`.

    Raises:
        ConfigError: the overlay is not one of a VizSage job, cannot provide what is requested, or has no volume for a
            path in the settings.
    """
    if request.then_eval and not work.config.resume:
        raise ConfigError(
            "--then-eval with resume: false: an interrupted evaluation would start the training from the "
            "beginning; send the evaluation separately"
        )
    documents = copy.deepcopy(list(overlay))
    found = [document for document in documents if document.get("kind") in _WORKLOADS]
    if len(found) != 1:
        raise ConfigError(f"expected one Job or JobSet in the overlay, found {len(found)}")
    [workload] = found
    refuse_in_manifest(documents)
    # A queue admits a JobSet as a whole: with pods for both training and evaluation, it would not be admitted where the
    # training alone fills the quota.
    in_one_pod = workload["kind"] == "Job" or _QUEUE in workload["metadata"].get("labels", {})
    jobs = _jobs(workload, work.command, then_eval=request.then_eval and not in_one_pod)
    if work.command == "eval" and workload["kind"] == "JobSet" and (request.nodes or 1) > 1:
        _let_meet(_container(jobs["eval"]["template"]["spec"]))
    _rename(documents, workload, jobs, name)
    _set_settings(documents, work, name)
    for role, job in jobs.items():
        pod = job["template"]["spec"]
        container = _container(pod)
        _check_volumes(work, pod, container)
        _, settings, *more = container.get("args") or ["", "/etc/vizsage/config.yaml"]
        then_eval = ["--then-eval"] if request.then_eval and in_one_pod else []
        container["args"] = [role, settings, *more, *work.evaluation.words, *then_eval]
        nodes, gpus, one_gpu = request.nodes, request.gpus_per_node, False
        if role == "eval":  # one process, unless more are requested; always one after a training
            alone = work.command != "eval"
            nodes = 1 if alone or nodes is None else nodes
            one_gpu = alone or gpus is None
        if nodes is not None:
            _set_nodes(job, container, nodes)
        cores = set_gpus(pod, container, gpus, one=one_gpu, on_cpu=work.config.device == "cpu")
        if cores is not None:
            _set_variable(container, "OMP_NUM_THREADS", str(cores), only_if_there=True)
        if request.image is not None:
            for one in (*pod.get("initContainers", ()), *pod["containers"]):
                if one["image"] == container["image"] or one is container:
                    one["image"] = request.image
        if request.time_s:
            job["activeDeadlineSeconds"] = request.time_s
        elif request.time_s == 0:
            job.pop("activeDeadlineSeconds", None)
    workload["metadata"].setdefault("annotations", {})["vizsage/run"] = work.run_dir.name
    return documents


def workload_kind(documents: Sequence[Document]) -> str:
    """The kind of the workload as kubectl takes it: job or jobset."""
    return next(str(document["kind"]).lower() for document in documents if document.get("kind") in _WORKLOADS)


def _jobs(workload: Document, command: str, *, then_eval: bool) -> dict[str, Document]:
    """The specs of its Jobs by command. Jobs of a JobSet for other commands are removed from it."""
    if workload["kind"] == "Job":
        return {command: workload["spec"]}
    wanted = [command, *(["eval"] if then_eval else [])]
    replicated = [one for one in workload["spec"]["replicatedJobs"] if one["name"] in wanted]
    if missing := set(wanted) - {one["name"] for one in replicated}:
        raise ConfigError(f"the JobSet of the overlay has no replicated job named {' or '.join(sorted(missing))}")
    workload["spec"]["replicatedJobs"] = replicated
    policy = workload["spec"].get("successPolicy", {})
    if "targetReplicatedJobs" in policy:
        policy["targetReplicatedJobs"] = wanted[-1:]
    for one in replicated:
        left = [other for other in one.pop("dependsOn", []) if other["name"] in wanted]
        if left:
            one["dependsOn"] = left
    return {one["name"]: one["template"]["spec"] for one in replicated}


def _rename(documents: Sequence[Document], workload: Document, jobs: Mapping[str, Document], name: str) -> None:
    """Give the run's own objects its name, and change all references to them.

    These are the Job or JobSet, the ConfigMap with the settings and the Service of the pods. Other objects of an
    overlay (claims, policies, more ConfigMaps) are shared by runs and are not changed.
    """
    pods = [job["template"]["spec"] for job in jobs.values()]
    old_name = workload["metadata"]["name"]
    old = {(workload["kind"], old_name)}
    old |= {("ConfigMap", _settings_name(pod)) for pod in pods} | {("Service", pod.get("subdomain")) for pod in pods}
    if workload["kind"] == "Job":
        workload["metadata"].setdefault("labels", {})[_COMPONENT] = next(iter(jobs))
    names = {(document["kind"], document["metadata"]["name"]) for document in documents}
    for document in documents:
        if (document["kind"], document["metadata"]["name"]) in old:
            document["metadata"]["name"] = name
            document["metadata"].setdefault("labels", {})[LABEL] = name
            if document["kind"] == "Service":
                document["spec"]["selector"] = {LABEL: name}
    for role, job in jobs.items():
        labels = job["template"].setdefault("metadata", {}).setdefault("labels", {})
        labels |= {LABEL: name, _COMPONENT: role}
        pod = job["template"]["spec"]
        for volume in pod.get("volumes", ()):
            if volume["name"] == _SETTINGS:
                volume["configMap"]["name"] = name
        for selector in _label_selectors(pod):
            for key in ("batch.kubernetes.io/job-name", "job-name", "jobset.sigs.k8s.io/jobset-name"):
                if key in selector:  # spread the pods of this run, not those of all runs
                    del selector[key]
                    selector[LABEL] = name
        host = f"{name}-0"
        if workload["kind"] == "JobSet":
            host = f"{name}-{role}-0-0"
            network = workload["spec"].get("network", {})
            if network.get("subdomain") == old_name:
                network["subdomain"] = name
        elif "subdomain" in pod:
            if ("Service", pod["subdomain"]) not in names:
                raise ConfigError(
                    f"the pods connect through the Service {pod['subdomain']}, which the overlay does not contain; "
                    "leave out its namePrefix and nameSuffix, the run gets a new name"
                )
            pod["subdomain"] = name
        subdomain = pod.get("subdomain") or workload["spec"].get("network", {}).get("subdomain") or name
        _set_variable(_container(pod), "MASTER_ADDR", f"{host}.{subdomain}", only_if_there=True)


def _container(pod: Document) -> Document:
    containers: list[Document] = pod["containers"]
    for container in containers:
        if container["name"] == CONTAINER:
            return container
    raise ConfigError(f"the pods of the overlay have no container named {CONTAINER}")


def _settings_name(pod: Document) -> str:
    for volume in pod.get("volumes", ()):
        if volume["name"] == _SETTINGS and "configMap" in volume:
            return str(volume["configMap"]["name"])
    raise ConfigError(f"the pods of the overlay have no volume named {_SETTINGS} from a ConfigMap")


def _set_settings(documents: Sequence[Document], work: Work, name: str) -> None:
    """Write the resolved settings into the ConfigMap that the container mounts."""
    for document in documents:
        if (document["kind"], document["metadata"]["name"]) == ("ConfigMap", name):
            document["data"] = {"config.yaml": config_to_yaml(work.config)}
            document["immutable"] = True  # otherwise a later pod could continue with other settings
            return
    raise ConfigError(f"the overlay has no ConfigMap for the volume named {_SETTINGS}")


def _set_nodes(job: Document, container: Document, nodes: int) -> None:
    if job.get("completionMode") != "Indexed":
        if nodes > 1:
            raise ConfigError(f"--nodes {nodes}: the overlay's Job is for one pod; take --overlay multi-node")
        return
    # When one pod fails, its peers fail too, and each counts: the limit is per pod.
    job["backoffLimit"] = job.get("backoffLimit", 6) * nodes // job["completions"]
    job["completions"] = job["parallelism"] = nodes
    _set_variable(container, "NNODES", str(nodes))


def _let_meet(container: Document) -> None:
    """Add the variables for a rendezvous of several pods, which an evaluation in one pod does not need."""
    there = {one["name"] for one in container.setdefault("env", [])}
    defaults = {"MASTER_ADDR": "", "MASTER_PORT": "29500"}
    container["env"] += [{"name": name, "value": value} for name, value in defaults.items() if name not in there]


def _set_variable(container: Document, variable: str, value: str, *, only_if_there: bool = False) -> None:
    for one in container.setdefault("env", []):
        if one["name"] == variable:
            one.pop("valueFrom", None)
            one["value"] = value
            return
    if not only_if_there:
        container["env"].append({"name": variable, "value": value})


def _check_volumes(work: Work, pod: Document, container: Document) -> None:
    """Raise ConfigError for a path in the settings that a pod cannot open, or that is deleted with the pod."""
    config = work.config
    volumes = {volume["name"]: volume for volume in pod.get("volumes", ())}
    mounts = {posixpath.normpath(mount["mountPath"]): mount for mount in container.get("volumeMounts", ())}
    folder = container.get("workingDir", "/workspace")
    written = {"output_dir": config.output_dir, "save_path": config.save_path}
    read = {key: getattr(config, key) for key in ("base_path", "external_knowledge_path", "init_adapter")}
    if config.model_name.startswith(("/", "./", "../")):
        read["model_name"] = config.model_name
    if work.evaluation.adapter is not None:
        read["--adapter"] = work.evaluation.adapter
    problems = []
    for key, path in (written | read).items():
        if path is None:
            continue
        inside = posixpath.normpath(posixpath.join(folder, str(path)))
        mount = next((mounts[place] for place in _upward(inside) if place in mounts), None)
        there = ", ".join(
            sorted(place for place, one in mounts.items() if "persistentVolumeClaim" in volumes[one["name"]])
        )
        if mount is None:
            problems.append(f"{key}: {inside} is on no volume of the pod; its volumes are at {there or 'no place'}")
        elif key in written and (
            mount.get("readOnly")
            or volumes[mount["name"]].get("persistentVolumeClaim", {}).get("readOnly")
            or volumes[mount["name"]].keys() & {"configMap", "secret", "projected", "downwardAPI"}
        ):
            problems.append(f"{key}: {inside} is on a volume that the pod cannot write")
        elif key in written and volumes[mount["name"]].keys() & {"emptyDir", "ephemeral"}:
            own = f"{key}: {inside} is on a volume that is deleted with the pod"
            problems.append(f"{own}; lasting are {there or 'none'}")
    if problems:
        raise ConfigError("; ".join(problems))


def _upward(path: str) -> Iterator[str]:
    """The path and the folders above it: /a/b, /a, /."""
    while path != "/":
        yield path
        path = posixpath.dirname(path)
    yield path


def _label_selectors(value: Any) -> Iterator[Document]:
    """All matchLabels in `value`, at any depth."""
    if isinstance(value, dict):
        for key, below in value.items():
            if key == "matchLabels":
                yield below
            else:
                yield from _label_selectors(below)
    elif isinstance(value, list):
        for below in value:
            yield from _label_selectors(below)
