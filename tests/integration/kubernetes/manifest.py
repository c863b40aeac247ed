"""Documents of the overlays, and the few changes that make them runs of seconds on this host."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import yaml

from tests.integration.kubernetes.image import CODE
from tests.integration.kubernetes.pod import Document
from tests.integration.run_files import MISHAPS, ROOT


def overlay(name: str) -> list[Document]:
    """What `kubectl kustomize` makes of an overlay."""
    command = ["kubectl", "kustomize", str(ROOT / "k8s" / "overlays" / name)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return documents(done.stdout)


def submitted(config: Path, *options: str) -> list[Document]:
    """What `python -m jobs submit kubernetes train` would send."""
    command = [sys.executable, "-m", "jobs", "submit", "kubernetes", "train", str(config), "--dry-run", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return documents(done.stdout)


def documents(text: str) -> list[Document]:
    """The documents of a manifest."""
    return [document for document in yaml.safe_load_all(text) if document]


def file(name: str) -> list[Document]:
    """The documents in a file of k8s/."""
    return documents((ROOT / "k8s" / name).read_text(encoding="utf-8"))


def job_of(manifest: list[Document]) -> Document:
    """The one Job of a manifest."""
    [job] = [document for document in manifest if document["kind"] == "Job"]
    return job


def set_config(manifest: list[Document], text: str) -> None:
    """Replace the settings of the run."""
    [config] = [document for document in manifest if document["kind"] == "ConfigMap"]
    config["data"]["config.yaml"] = text


def set_variables(manifest: list[Document], **values: str) -> None:
    """Set variables of the container; existing ones are replaced."""
    [container] = job_of(manifest)["spec"]["template"]["spec"]["containers"]
    others = [entry for entry in container.get("env", []) if entry["name"] not in values]
    container["env"] = [*others, *({"name": name, "value": value} for name, value in values.items())]


def add_mishap(manifest: list[Document], mishap: str) -> None:
    """Have something happen to the training: see mishaps/sitecustomize.py."""
    spec = job_of(manifest)["spec"]["template"]["spec"]
    spec["volumes"].append({"name": "mishaps", "hostPath": {"path": str(MISHAPS)}})
    mount = {"name": "mishaps", "mountPath": "/mishaps", "readOnly": True}
    spec["containers"][0]["volumeMounts"].append(mount)
    set_variables(manifest, PYTHONPATH=f"/mishaps:{CODE}", MISHAP=mishap)


def share_the_host(manifest: list[Document]) -> None:
    """One thread per process, and a free port of this host: pods here share the host's network."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    set_variables(manifest, OMP_NUM_THREADS="1", MASTER_PORT=port)


def link_data(folder: Path, data: Path) -> None:
    """Put a data set behind the claim for data of a namespace in `folder`."""
    (folder / "claims").mkdir(parents=True)
    (folder / "claims" / "vizsage-data").symlink_to(data)
