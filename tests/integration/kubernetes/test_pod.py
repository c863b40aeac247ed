"""What a kubelet promises to a container, kept by the processes that replace it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integration.kubernetes.pod import Document, Namespace, Pod

Run = Callable[..., Pod]


def document(kind: str, name: str, **content: Any) -> Document:
    """An object of a manifest."""
    return {"kind": kind, "metadata": {"name": name}, **content}


@pytest.fixture
def namespace(tmp_path: Path) -> Namespace:
    """Two claims, a ConfigMap, a Secret."""
    claims = [document("PersistentVolumeClaim", name) for name in ("data", "outputs")]
    settings = document("ConfigMap", "settings", data={"config.yaml": "lr: 1\n", "COLOUR": "blue"})
    tokens = document("Secret", "tokens", stringData={"TOKEN": "hf_secret", "COLOUR": "red"})
    return Namespace(tmp_path, [*claims, settings, tokens])


def pod(namespace: Namespace, script: str, name: str = "pod", spec: Document | None = None, **container: Any) -> Pod:
    """A pod with one container that runs a shell script."""
    one = {"name": "main", "command": ["sh", "-c", script], **container}
    metadata = {"name": name, "labels": {"app": "one"}, "annotations": {"number": "7"}}
    return Pod({"metadata": metadata, "spec": {"containers": [one], **(spec or {})}}, namespace)


def ended(one: Pod, timeout_s: float = 20) -> Pod:
    """The pod after its end."""
    end = time.monotonic() + timeout_s
    while one.poll() not in ("Succeeded", "Failed"):
        assert time.monotonic() < end, one.log()
        time.sleep(0.02)
    return one


def started(one: Pod, said: str = "ready", timeout_s: float = 20) -> Pod:
    """The pod after it has printed a word."""
    end = time.monotonic() + timeout_s
    while said not in one.log():
        assert not one.ended, one.log()
        assert time.monotonic() < end, one.log()
        one.poll()
        time.sleep(0.02)
    return one


def test_the_environment_is_what_image_and_manifest_say(namespace: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OF_THE_HOST", "1")
    env = [
        {"name": "FIRST", "value": "a"},
        {"name": "SECOND", "value": "$(FIRST)b $(TOKEN) $(MISSING) $$(FIRST) $5"},
        {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "NUMBER", "valueFrom": {"fieldRef": {"fieldPath": "metadata.annotations['number']"}}},
        {"name": "KEY", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "COLOUR"}}},
        {"name": "NONE", "valueFrom": {"secretKeyRef": {"name": "tokens", "key": "none", "optional": True}}},
        {"name": "CORES", "valueFrom": {"resourceFieldRef": {"resource": "requests.cpu"}}},
        {"name": "MIB", "valueFrom": {"resourceFieldRef": {"resource": "requests.memory", "divisor": "1Mi"}}},
    ]
    sources = [
        {"configMapRef": {"name": "settings"}},
        {"secretRef": {"name": "tokens"}},
        {"secretRef": {"name": "nowhere", "optional": True}},
    ]
    resources = {"requests": {"cpu": "1500m", "memory": "2Gi"}}
    one = ended(pod(namespace, "env", env=env, envFrom=sources, resources=resources))
    found = dict(line.split("=", 1) for line in one.log().splitlines() if "=" in line)
    assert found["SECOND"] == "ab hf_secret $(MISSING) $(FIRST) $5"
    assert (found["POD"], found["NUMBER"], found["KEY"], found["COLOUR"]) == ("pod", "7", "blue", "red")
    assert (found["CORES"], found["MIB"], found["HOSTNAME"]) == ("2", "2048", "pod")
    assert found["PATH"].startswith("/opt/vizsage/bin:")
    assert found["HOME"] == "/home/vizsage"
    assert not {"NONE", "OF_THE_HOST", "VIRTUAL_ENV"} & found.keys()


def test_command_arguments_user_folder_and_first_process(namespace: Namespace) -> None:
    # A dollar is doubled; variables of the image are unknown to the kubelet, which replaces the others.
    script = 'echo "$1 $(id -u):$(id -g) $PWD $$$$ $(hostname)"; id -un'
    spec = {"securityContext": {"runAsUser": 10001, "runAsGroup": 20000}}
    words: Document = {"command": ["sh", "-c", script, "sh"], "args": ["$(HOME)/$(WHAT)"]}
    one = pod(namespace, "", spec=spec, env=[{"name": "WHAT", "value": "it"}], **words)
    assert ended(one).log() == "$(HOME)/it 10001:20000 /workspace 1 pod\nvizsage\n"


def test_without_a_command_the_image_says_what_runs(namespace: Namespace) -> None:
    one = pod(namespace, "")
    del one.spec["containers"][0]["command"]
    assert "usage: python -m jobs.run" in ended(one).log()
    assert one.exit_code == 0


def test_volumes_and_what_can_be_written(namespace: Namespace) -> None:
    spec = {
        "volumes": [
            {"name": "config", "configMap": {"name": "settings"}},
            {"name": "data", "persistentVolumeClaim": {"claimName": "data", "readOnly": True}},
            {"name": "outputs", "persistentVolumeClaim": {"claimName": "outputs"}},
            {"name": "tmp", "emptyDir": {}},
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "8Mi"}},
        ],
    }
    mounts = [
        {"name": "config", "mountPath": "/etc/vizsage"},  # read-only even so
        {"name": "data", "mountPath": "/workspace/data"},
        {"name": "outputs", "mountPath": "/workspace/outputs"},
        {"name": "outputs", "mountPath": "/cache", "subPath": "of/caches"},
        {"name": "tmp", "mountPath": "/tmp"},
        {"name": "shm", "mountPath": "/dev/shm"},
    ]
    (namespace.claim("data") / "one").write_text("1")
    places = "/x /etc/x /etc/vizsage/x /workspace/data/x /workspace/x /home/vizsage/x /opt/vizsage/x /var/tmp/x /usr/x"
    script = f"""
        cat /etc/vizsage/config.yaml /workspace/data/one; ls /tmp
        for place in {places} /dev/x /workspace/outputs/x /cache/y /tmp/x /dev/shm/x; do
            touch $place 2>/dev/null && echo " $place"; done
        df -m --output=size /dev/shm | tail -1"""
    context = {"readOnlyRootFilesystem": True}
    for name in ("first", "second"):  # an emptyDir is empty for each pod
        one = ended(pod(namespace, script, name, spec, volumeMounts=mounts, securityContext=context))
        assert one.log().split() == ["lr:", "1", "1", "/workspace/outputs/x", "/cache/y", "/tmp/x", "/dev/shm/x", "8"]
    assert (namespace.claim("outputs") / "of" / "caches" / "y").exists()
    # And without the setting the root can be written.
    assert ended(pod(namespace, "touch /x", "third")).exit_code == 0


def test_init_containers_run_one_after_the_other_and_share_volumes(namespace: Namespace) -> None:
    mount = [{"name": "both", "mountPath": "/both"}]
    first = {"name": "a", "command": ["sh", "-c", "sleep 0.2; echo a >> /both/said"], "volumeMounts": mount}
    second = {"name": "b", "command": ["sh", "-c", "echo b >> /both/said; test -e /both/wanted"]}
    second["volumeMounts"] = mount
    spec = {"initContainers": [first, second], "volumes": [{"name": "both", "emptyDir": {}}]}
    failed = ended(pod(namespace, "true", "failed", spec, volumeMounts=mount))
    assert (failed.phase, failed.exit_code) == ("Failed", None)
    assert failed.exit_codes.keys() == {"a", "b"}
    first["command"][2] += "; touch /both/wanted"
    done = ended(pod(namespace, "cat /both/said; exit 3", "done", spec, volumeMounts=mount))
    assert (done.log(), done.exit_codes) == ("a\nb\n", {"a": 0, "b": 0, "main": 3})


def test_a_deleted_pod_gets_its_grace_period_and_not_more(namespace: Namespace) -> None:
    # The shell waits for its child and hears the signal; the other one is deaf.
    polite = started(pod(namespace, 'trap "echo asked; exit 75" TERM; echo ready; sleep 60 & wait', "polite"))
    script = 'trap "" TERM; (trap "" TERM; while true; do date +%N > /tmp/alive; sleep 0.02; done) & echo ready; wait'
    spec = {"terminationGracePeriodSeconds": 1, "volumes": [{"name": "tmp", "emptyDir": {}}]}
    mounts = [{"name": "tmp", "mountPath": "/tmp"}]
    deaf = started(pod(namespace, script, "deaf", spec, volumeMounts=mounts))
    for one in (polite, deaf):
        one.delete()
    assert ended(polite).exit_code == 75
    assert "asked" in polite.log()
    assert deaf.poll() == "Running"
    assert ended(deaf).exit_code == 137
    alive = deaf.folder / "volumes" / "tmp" / "alive"
    before = alive.read_text()
    time.sleep(0.2)
    assert alive.read_text() == before  # its child is gone as well


def test_an_eviction_is_told_from_a_deletion(namespace: Namespace) -> None:
    one = started(pod(namespace, "echo ready; exec tini -- sleep 60"))
    one.evict()
    assert ended(one).exit_code == 143
    assert one.conditions == {"DisruptionTarget": "True"}


@pytest.mark.parametrize(
    ("container", "spec", "said"),
    [
        ({"livenessProbe": {}}, {}, "livenessProbe"),
        ({"volumeMounts": [{"name": "v", "mountPath": "/v"}]}, {"volumes": [{"name": "v", "nfs": {}}]}, "nfs"),
        ({"envFrom": [{"configMapRef": {"name": "nowhere"}}]}, {}, "nowhere"),
        ({"command": ["no-such-program"]}, {}, "no-such-program"),
    ],
)
def test_what_would_never_start_or_is_not_done_here_is_an_error(
    namespace: Namespace, container: Document, spec: Document, said: str
) -> None:
    with pytest.raises((NotImplementedError, LookupError, RuntimeError), match=said):
        ended(pod(namespace, "true", spec=spec, **container))
