"""Every file in k8s/ and every overlay: valid for Kubernetes, safe, and whole in itself."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.k8s.rules import FILES, K8S, OVERLAYS, VERSIONS, documents, jobs, lint, pod_specs, pod_templates, violations
from tests.k8s.rules import containers as containers_of
from tests.k8s.rules import render as kustomize
from vizsage.config import load_config

SOURCES = [*FILES, *OVERLAYS]
CUSTOM = {"JobSet"}  # of an operator: no schema of Kubernetes describes it
CONFIG = K8S.parent / "config"
PAGE = K8S.parent / "docs" / "how-to" / "kubernetes.md"


def read(source: Path) -> list[dict[str, Any]]:
    """The documents of a file, or of what an overlay gives."""
    return documents(kustomize(source) if source.is_dir() else source.read_text(encoding="utf-8"))


def one(source: Path | str, kind: str) -> dict[str, Any]:
    """The document of a kind, of which there is one; a name is an overlay's."""
    folder = K8S / "overlays" / source if isinstance(source, str) else source
    (found,) = (document for document in read(folder) if document["kind"] == kind)
    return found


def ids(path: Path) -> str:
    return path.name


def test_what_the_issue_names_is_there() -> None:
    names = {"train-job", "eval-job", "pvc", "secret.example", "networkpolicy"}
    assert names <= {path.stem for path in FILES}
    overlays = {"single-gpu", "multi-gpu", "multi-node", "kueue", "jobset", "cpu-demo"}
    assert overlays <= {path.name for path in OVERLAYS}
    assert not [path for path in K8S.rglob("*") if path.is_symlink()]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("source", SOURCES, ids=ids)
def test_the_strict_schemas_of_kubernetes_accept_it(source: Path, version: str) -> None:
    for document in read(source):
        # A JobSet's Jobs are looked at as such.
        for checked in jobs(document) if document["kind"] in CUSTOM else [document]:
            assert kubernetes_validate.validate(checked, version, strict=True) == version


def closed(schema: Any) -> Any:
    """A schema of a custom resource that refuses fields which it does not name; the server drops them silently."""
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: closed(value) for key, value in schema.items()}
    if isinstance(found.get("properties"), dict) and "type" in found and "additionalProperties" not in found:
        found["additionalProperties"] = found.get("x-kubernetes-preserve-unknown-fields", False)
    if found.pop("x-kubernetes-int-or-string", False):
        found = {"type": ["integer", "string"]}
    return found


def test_the_schema_of_jobset_accepts_the_overlay() -> None:
    path = K8S.parents[1] / "shared" / "data" / "kubernetes" / "crds" / "jobsets.json"
    if not path.is_file():
        pytest.skip("needs ../shared/data/kubernetes")
    (version,) = json.loads(path.read_text(encoding="utf-8"))["versions"]
    job_set = one("jobset", "JobSet")
    assert job_set["apiVersion"].endswith(f"/{version['name']}")
    schema = closed(version["schema"])
    jsonschema.validate(job_set, schema)
    job_set["spec"]["failurePolicy"]["maxRestart"] = 3
    with pytest.raises(jsonschema.ValidationError, match="maxRestart"):
        jsonschema.validate(job_set, schema)


def test_the_schemas_are_strict() -> None:
    job = one("single-gpu", "Job")
    job["spec"]["template"]["spec"]["containers"][0]["volumeMount"] = []
    with pytest.raises(kubernetes_validate.ValidationError, match="volumeMount"):
        kubernetes_validate.validate(job, VERSIONS[-1], strict=True)


@pytest.mark.parametrize("source", SOURCES, ids=ids)
def test_every_pod_is_restricted_and_in_order(source: Path) -> None:
    for document in read(source):
        for pod in pod_specs(document):
            assert violations(pod) == []
            assert lint(pod) == []


@pytest.mark.parametrize("source", SOURCES, ids=ids)
def test_a_second_apply_changes_nothing(source: Path) -> None:
    """The server keeps amounts as texts: a number would differ from them each time. A Job's settings cannot change."""
    for document in read(source):
        assert document["kind"] != "ConfigMap" or document["immutable"] is True
        for pod in pod_specs(document):
            given = [one["resources"].get(part, {}) for one in containers_of(pod) for part in ("requests", "limits")]
            given += [volume.get("emptyDir", {}) for volume in pod["volumes"]]
            assert [amount for some in given for amount in some.values() if not isinstance(amount, str)] == []


@pytest.mark.parametrize("source", SOURCES, ids=ids)
def test_the_image_is_of_this_version(source: Path) -> None:
    project = (K8S.parent / "pyproject.toml").read_text(encoding="utf-8")
    (version,) = re.findall(r'^version = "(.*)"$', project, flags=re.MULTILINE)
    for document in read(source):
        for pod in pod_specs(document):
            assert {container["image"] for container in containers_of(pod)} == {f"vizsage:{version}"}


@pytest.mark.parametrize("source", SOURCES, ids=ids)
def test_what_a_pod_names_exists(source: Path) -> None:
    """In the same file or overlay; claims and tokens also in the files that are applied once."""
    there = {(document["kind"], document["metadata"]["name"]) for document in read(source)}
    once = [K8S / "pvc.yaml", K8S / "secret.example.yaml"]
    shared = {(document["kind"], document["metadata"]["name"]) for path in once for document in read(path)}
    for document in read(source):
        for pod in pod_specs(document):
            assert {("ConfigMap", v["configMap"]["name"]) for v in pod["volumes"] if "configMap" in v} <= there
            claims = [v["persistentVolumeClaim"] for v in pod["volumes"] if "persistentVolumeClaim" in v]
            assert {("PersistentVolumeClaim", claim["claimName"]) for claim in claims} <= there | shared
            if subdomain := pod.get("subdomain"):
                assert ("Service", subdomain) in there
            volumes = {volume["name"] for volume in pod["volumes"]}
            for container in containers_of(pod):
                tokens = [entry["secretRef"] for entry in container.get("envFrom", [])]
                assert {("Secret", token["name"]) for token in tokens} <= shared
                assert all(token["optional"] for token in tokens)
                assert {mount["name"] for mount in container["volumeMounts"]} <= volumes


@pytest.mark.parametrize("source", SOURCES, ids=ids)
def test_labels_say_what_it_is(source: Path) -> None:
    policy = one(K8S / "networkpolicy.yaml", "NetworkPolicy")["spec"]["podSelector"]["matchLabels"]
    for document in read(source):
        assert document["metadata"]["labels"]["app.kubernetes.io/name"] == "vizsage"
        for template in pod_templates(document):
            assert template["metadata"]["labels"].items() >= policy.items()
            command = template["spec"]["containers"][0].get("args", ["files"])[0]
            assert template["metadata"]["labels"]["app.kubernetes.io/component"] == command


@pytest.mark.parametrize("source", [path for path in SOURCES if "job" in path.name or path.is_dir()], ids=ids)
def test_the_configuration_is_valid(source: Path, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(one(source, "ConfigMap")["data"]["config.yaml"], encoding="utf-8")
    config = load_config(file)
    paths = [config.output_dir, Path(config.base_path), Path(str(config.external_knowledge_path))]
    assert [path.parts[0] for path in paths] == ["outputs", "data", "data"]  # which the pod mounts
    example = "demo_config.yaml" if source.name == "cpu-demo" else "example_config.yaml"
    settings = yaml.safe_load((CONFIG / example).read_text(encoding="utf-8"))
    assert yaml.safe_load(file.read_text(encoding="utf-8")).items() <= settings.items()
    if source.name == "cpu-demo":
        assert config == load_config(CONFIG / example)


@pytest.mark.parametrize(("file", "overlay"), [("train-job.yaml", "single-gpu"), ("eval-job.yaml", "eval")])
def test_the_files_to_apply_are_what_the_overlays_give(file: str, overlay: str) -> None:
    assert read(K8S / file) == read(K8S / "overlays" / overlay)


def test_the_pod_that_evaluates_is_the_one_that_trains() -> None:
    train, evaluate = (one(K8S / f"{name}-job.yaml", "Job") for name in ("train", "eval"))
    pod = evaluate["spec"]["template"]["spec"]
    assert pod["containers"][0].pop("args") == ["eval", "/etc/vizsage/config.yaml"]
    pod["containers"][0]["args"] = ["train", "/etc/vizsage/config.yaml"]
    next(volume for volume in pod["volumes"] if volume["name"] == "config")["configMap"]["name"] = "vizsage-train"
    assert pod == train["spec"]["template"]["spec"]
    assert {**evaluate["spec"], "template": None} == {**train["spec"], "template": None}
    assert evaluate["metadata"]["name"] == "vizsage-eval"


def test_the_example_of_a_secret_holds_none() -> None:
    values = one(K8S / "secret.example.yaml", "Secret")["stringData"].values()
    assert all(value.startswith("REPLACE-ME-this-is-not-a-") for value in values)


@pytest.mark.parametrize("overlay", [path.name for path in OVERLAYS])
def test_an_overlay_of_ones_own(overlay: str, tmp_path: Path) -> None:
    """The one on the page, on top of each overlay: its registry and its node selector reach every pod."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    start = next(number for number, line in enumerate(lines) if "kind: Kustomization" in line) - 1
    block = []
    for line in lines[start:]:
        if line.strip() and not line.startswith("    "):
            break
        block.append(line[4:])
    shutil.copytree(K8S, tmp_path / "k8s")
    mine = tmp_path / "k8s" / "overlays" / "my-cluster"
    mine.mkdir()
    text = "\n".join(block)
    assert "../single-gpu" in text
    (mine / "kustomization.yaml").write_text(text.replace("../single-gpu", f"../{overlay}"), encoding="utf-8")
    rendered = documents(kustomize(mine))
    for pod in (pod for document in rendered for pod in pod_specs(document)):
        assert all(c["image"] == "registry.example.com/team/vizsage:0.2.0" for c in containers_of(pod))
    for job in (document for document in rendered if document["kind"] == "Job"):
        assert job["spec"]["template"]["spec"]["nodeSelector"] == {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}


def test_the_page_tells_commands_and_files_that_are_there() -> None:
    text = PAGE.read_text(encoding="utf-8")
    commands = re.findall(r"^    (?:.*/)?python -m jobs ([a-z]+)", text, re.MULTILINE)
    assert set(commands) == {"submit", "status", "logs", "cancel", "sweep", "table"}
    for path in re.findall(r"\bk8s/[\w./-]+", text):
        assert (K8S.parent / path).exists() or "my-cluster" in path or "NAME" in path, path
    assert set(re.findall(r"^\| `([a-z-]+)` \|", text, re.MULTILINE)) == {path.name for path in OVERLAYS}
