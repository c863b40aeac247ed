"""A run's manifest: its name, what of an overlay is changed and what is not, and what is refused."""

from __future__ import annotations

import copy
import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.schedulers.kubernetes.apply import Manifest
from jobs.schedulers.kubernetes.manifest import Request, job_name, render
from jobs.spec import Evaluation, Work, load_work
from vizsage.config import load_config
from vizsage.errors import ConfigError

NAME = "vizsage-run-0a1b2c"


def overlay(kind: str = "Job", **spec: Any) -> list[dict[str, Any]]:
    """What kustomize gives, reduced to what matters here."""
    pod = {
        "containers": [
            {
                "name": "vizsage",
                "image": "vizsage:1",
                "args": ["train", "/etc/vizsage/config.yaml"],
                "env": [{"name": "HF_HOME", "value": "/workspace/outputs/.cache"}],
                "resources": {"limits": {"nvidia.com/gpu": 4, "memory": "8Gi"}},
                "volumeMounts": [
                    {"name": "config", "mountPath": "/etc/vizsage", "readOnly": True},
                    {"name": "data", "mountPath": "/workspace/data", "readOnly": True},
                    {"name": "outputs", "mountPath": "/workspace/outputs"},
                    {"name": "tmp", "mountPath": "/tmp"},
                ],
            }
        ],
        "initContainers": [{"name": "data", "image": "vizsage:1"}, {"name": "other", "image": "other:1"}],
        "volumes": [
            {"name": "config", "configMap": {"name": "settings"}},
            {"name": "data", "persistentVolumeClaim": {"claimName": "data"}},
            {"name": "outputs", "persistentVolumeClaim": {"claimName": "outputs"}},
            {"name": "tmp", "emptyDir": {}},
        ],
    }
    job = {"backoffLimit": 3, "template": {"metadata": {"labels": {"team": "vision"}}, "spec": pod}, **spec}
    documents: list[dict[str, Any]] = [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}, "data": {"config.yaml": "old"}},
        {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "outputs"}, "spec": {}},
    ]
    if kind == "Job":
        documents.append({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "train"}, "spec": job})
        return documents
    replicated = [
        {"name": "train", "template": {"spec": job}},
        {
            "name": "eval",
            "dependsOn": [{"name": "train", "status": "Complete"}],
            "template": {"spec": copy.deepcopy(job)},
        },
    ]
    success = {"operator": "All", "targetReplicatedJobs": ["eval"]}
    spec_of_set = {"successPolicy": success, "network": {"subdomain": "set"}, "replicatedJobs": replicated}
    documents.append({"apiVersion": "x", "kind": "JobSet", "metadata": {"name": "set"}, "spec": spec_of_set})
    return documents


def nodes_overlay() -> list[dict[str, Any]]:
    """Two pods that find each other through a Service."""
    documents = overlay(completionMode="Indexed", completions=2, parallelism=2)
    documents[2]["spec"]["backoffLimit"] = 6
    pod = documents[2]["spec"]["template"]["spec"]
    pod["subdomain"] = "train"
    pod["topologySpreadConstraints"] = [
        {"labelSelector": {"matchLabels": {"batch.kubernetes.io/job-name": "train", "a": "b"}}}
    ]
    pod["containers"][0]["env"] += [
        {"name": "NNODES", "value": "2"},
        {"name": "MASTER_ADDR", "value": "train-0.train"},
    ]
    service = {"kind": "Service", "metadata": {"name": "train"}, "spec": {"selector": {"job-name": "train"}}}
    return [*documents, service]


def work(tmp_path: Path, command: str = "train", **settings: Any) -> Work:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({"output_dir": "outputs/Run_1", "device": "cuda"} | settings))
    return load_work(command, path)


def workload(documents: list[dict[str, Any]]) -> dict[str, Any]:
    [found] = [one for one in documents if one["kind"] in ("Job", "JobSet")]
    return found


def container(documents: list[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = workload(documents)["spec"]["template"]["spec"]["containers"][0]
    return found


def variables(documents: list[dict[str, Any]]) -> dict[str, str]:
    return {one["name"]: one["value"] for one in container(documents)["env"]}


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "begins"),
    [
        ("example_config", "vizsage-example-config-"),
        ("Llama-3.2-11B_AQUA.v2", "vizsage-llama-3-2-11b-aqua-v2-"),
        ("x" * 80, "vizsage-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxx-"),
        ("Größe/Übung", "vizsage-grosse-ubung-"),
        ("名画", "vizsage-minghua-"),
        ("ответ 1", "vizsage-otvet-1-"),
        ("--..--", "vizsage-"),
        ("", "vizsage-"),
        ("🎨", "vizsage-"),
    ],
)
def test_a_name_is_valid_recognisable_and_new(label: str, begins: str) -> None:
    names = {job_name(label) for _ in range(20)}
    assert len(names) == 20
    for name in names:
        assert name.startswith(begins)
        assert re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", name)
        assert "--" not in name
        # A pod of a JobSet bears it with indices and a random end, and all of that has to be a host's name.
        assert len(f"{name}-train-0-99-abcde") <= 63


def test_the_name_of_a_member_of_a_sweep_tells_both() -> None:
    name = job_name("My Config", "lr=1e-4,lora_r=16")
    assert name.startswith("vizsage-my-config-lr-1e-4-lora-r")
    assert len(job_name("x" * 80, "y" * 80)) <= 45
    assert re.fullmatch(r"vizsage-x+-y+-[0-9a-f]{6}", job_name("x" * 80, "y" * 80))


# --- what changes ----------------------------------------------------------------------------------------------------


def test_the_run_s_own_objects_are_renamed_and_shared_ones_are_not(tmp_path: Path) -> None:
    documents = render(overlay(), work(tmp_path), NAME)
    names = {one["kind"]: one["metadata"]["name"] for one in documents}
    assert names == {"ConfigMap": NAME, "PersistentVolumeClaim": "outputs", "Job": NAME}
    job = workload(documents)
    assert job["metadata"]["annotations"]["vizsage/run"] == "Run_1"
    pod = job["spec"]["template"]
    assert pod["metadata"]["labels"] == {
        "team": "vision",
        "vizsage/job": NAME,
        "app.kubernetes.io/component": "train",
    }
    assert pod["spec"]["volumes"][0]["configMap"]["name"] == NAME


def test_the_overlay_itself_stays_as_it_is(tmp_path: Path) -> None:
    documents = nodes_overlay()
    before = copy.deepcopy(documents)
    render(documents, work(tmp_path), NAME, Request(nodes=4, gpus_per_node=2, image="x:2", then_eval=True))
    assert documents == before


def test_the_settings_are_those_of_the_run(tmp_path: Path) -> None:
    one = work(tmp_path, instruction="Antworte kurz:\n- 'ja'\n- \"nein\"", lr=1e-4)
    text = Manifest(NAME, render(overlay(), one, NAME)).text
    [settings] = [document for document in yaml.safe_load_all(text) if document["kind"] == "ConfigMap"]
    (tmp_path / "seen.yaml").write_text(settings["data"]["config.yaml"])
    assert load_config(tmp_path / "seen.yaml") == one.config


def test_arguments_are_those_of_the_command(tmp_path: Path) -> None:
    assert container(render(overlay(), work(tmp_path), NAME))["args"] == ["train", "/etc/vizsage/config.yaml"]
    evaluation = render(overlay(), work(tmp_path, "eval"), NAME)
    assert container(evaluation)["args"] == ["eval", "/etc/vizsage/config.yaml"]
    assert workload(evaluation)["metadata"]["labels"]["app.kubernetes.io/component"] == "eval"
    both = render(overlay(), work(tmp_path), NAME, Request(then_eval=True))
    assert container(both)["args"] == ["train", "/etc/vizsage/config.yaml", "--then-eval"]


def test_nodes_find_each_other_under_the_new_name(tmp_path: Path) -> None:
    documents = render(nodes_overlay(), work(tmp_path), NAME, Request(nodes=4))
    job = workload(documents)["spec"]
    assert (job["completions"], job["parallelism"], job["backoffLimit"]) == (4, 4, 12)
    assert job["template"]["spec"]["subdomain"] == NAME
    assert variables(documents)["NNODES"] == "4"
    assert variables(documents)["MASTER_ADDR"] == f"{NAME}-0.{NAME}"
    [spread] = job["template"]["spec"]["topologySpreadConstraints"]
    assert spread["labelSelector"]["matchLabels"] == {"a": "b", "vizsage/job": NAME}
    [service] = [one for one in documents if one["kind"] == "Service"]
    assert service["metadata"]["name"] == NAME
    assert service["spec"]["selector"] == {"vizsage/job": NAME}


def test_without_a_word_on_nodes_the_overlay_decides(tmp_path: Path) -> None:
    documents = render(nodes_overlay(), work(tmp_path), NAME)
    assert workload(documents)["spec"]["completions"] == 2
    assert variables(documents)["NNODES"] == "2"


def test_an_evaluation_is_told_what_is_asked_for(tmp_path: Path) -> None:
    asked = Evaluation("val", 5, adapter=Path("outputs/a b"), blind=True, other_data=True)
    one = dataclasses.replace(work(tmp_path, "eval"), evaluation=asked)
    words = ["--split=val", "--limit=5", "--adapter=outputs/a b", "--blind", "--other-data"]
    assert container(render(overlay(), one, NAME))["args"] == ["eval", "/etc/vizsage/config.yaml", *words]
    elsewhere = dataclasses.replace(one, evaluation=Evaluation(adapter=Path("/mine/adapter")))
    with pytest.raises(ConfigError, match="--adapter: /mine/adapter is on no volume"):
        render(overlay(), elsewhere, NAME)


@pytest.mark.parametrize(
    ("asked", "nodes", "gpus", "cores"),
    [
        (Request(nodes=4), 4, "1", "8"),
        (Request(gpus_per_node=2), 1, "2", "16"),
        (Request(nodes=3, gpus_per_node=8), 3, "8", "64"),
    ],
)
def test_an_evaluation_takes_the_nodes_and_gpus_that_are_asked_for(
    tmp_path: Path, asked: Request, nodes: int, gpus: str, cores: str
) -> None:
    given = nodes_overlay()
    given[2]["spec"]["template"]["spec"]["containers"][0]["resources"]["requests"] = {"cpu": "32"}
    given[2]["spec"]["template"]["spec"]["containers"][0]["env"].append({"name": "OMP_NUM_THREADS", "value": "8"})
    documents = render(given, work(tmp_path, "eval"), NAME, asked)
    job = workload(documents)["spec"]
    assert (job["completions"], job["parallelism"], job["backoffLimit"]) == (nodes, nodes, 3 * nodes)
    found = variables(documents)
    assert (found["NNODES"], found["MASTER_ADDR"]) == (str(nodes), f"{NAME}-0.{NAME}")
    assert found["OMP_NUM_THREADS"] == "8"
    assert container(documents)["resources"]["requests"]["cpu"] == cores
    assert container(documents)["resources"]["limits"]["nvidia.com/gpu"] == gpus


def test_an_evaluation_takes_one_node_and_one_gpu_without_a_word(tmp_path: Path) -> None:
    documents = render(nodes_overlay(), work(tmp_path, "eval"), NAME)
    job = workload(documents)["spec"]
    assert (job["completions"], job["parallelism"], job["backoffLimit"]) == (1, 1, 3)
    assert variables(documents)["NNODES"] == "1"
    assert container(documents)["resources"]["limits"]["nvidia.com/gpu"] == "1"


@pytest.mark.parametrize(
    ("device", "gpus", "limits"),
    [
        ("cuda", None, {"memory": "8Gi", "nvidia.com/gpu": "4"}),
        ("cuda", 2, {"memory": "4Gi", "nvidia.com/gpu": "2"}),
        ("cuda", 0, {"memory": "8Gi"}),
        ("cpu", None, {"memory": "8Gi"}),
        ("cpu", 1, {"memory": "2Gi", "nvidia.com/gpu": "1"}),
    ],
)
def test_gpus(tmp_path: Path, device: str, gpus: int | None, limits: dict[str, str]) -> None:
    documents = render(overlay(), work(tmp_path, device=device), NAME, Request(gpus_per_node=gpus))
    assert container(documents)["resources"]["limits"] == limits


def test_memory_of_a_gpu_is_no_number_of_gpus(tmp_path: Path) -> None:
    documents = overlay()
    container(documents)["resources"]["limits"] = {"nvidia.com/gpu": 4, "nvidia.com/gpumem": 3000}
    rendered = render(documents, work(tmp_path, "eval"), NAME)
    assert container(rendered)["resources"]["limits"] == {"nvidia.com/gpu": "1", "nvidia.com/gpumem": "3000"}


def test_threads_are_the_cores_of_a_process(tmp_path: Path) -> None:
    documents = overlay()
    container(documents)["resources"]["requests"] = {"cpu": 30}  # 7.5 for each of 4
    container(documents)["env"].append({"name": "OMP_NUM_THREADS", "value": "6"})
    assert variables(render(documents, work(tmp_path), NAME))["OMP_NUM_THREADS"] == "6"
    rendered = render(documents, work(tmp_path), NAME, Request(gpus_per_node=8))
    assert (variables(rendered)["OMP_NUM_THREADS"], container(rendered)["resources"]["requests"]) == (
        "7",
        {"cpu": "60"},
    )


@pytest.mark.parametrize(
    "key", ["amd.com/gpu", "gpu.intel.com/i915", "nvidia.com/mig-3g.20gb", "nvidia.com/gpu.shared"]
)
def test_gpus_of_other_makes(tmp_path: Path, key: str) -> None:
    documents = overlay()
    container(documents)["resources"]["limits"] = {key: 1}
    rendered = render(documents, work(tmp_path), NAME, Request(gpus_per_node=2))
    assert container(rendered)["resources"]["limits"] == {key: "2"}


@pytest.mark.parametrize(
    ("had", "asked", "given", "grown"),
    [
        (1, 8, {"cpu": "8", "memory": "64Gi"}, {"cpu": "64", "memory": "512Gi"}),
        (4, 1, {"cpu": 30, "memory": "129Gi"}, {"cpu": "7500m", "memory": "33024Mi"}),
        (3, 1, {"cpu": "1", "memory": "1Gi"}, {"cpu": "334m", "memory": "357913942"}),
        (2, 4, {"cpu": "500m", "memory": "1.5G"}, {"cpu": "1000m", "memory": "3G"}),
        (4, 4, {"cpu": "0.25", "memory": "1Gi"}, {"cpu": "0.25", "memory": "1Gi"}),
        (0, 2, {"cpu": "0.25", "memory": 1048576}, {"cpu": "500m", "memory": "2097152"}),
    ],
)
def test_cores_and_memory_grow_with_the_gpus(
    tmp_path: Path, had: int, asked: int, given: dict[str, Any], grown: dict[str, str]
) -> None:
    documents = overlay()
    gpus = {"nvidia.com/gpu": had} if had else {}
    container(documents)["resources"] = {"requests": given, "limits": {"memory": given["memory"], **gpus}}
    container(documents)["volumeMounts"].append({"name": "shm", "mountPath": "/dev/shm"})
    pod = workload(documents)["spec"]["template"]["spec"]
    pod["volumes"].append({"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": given["memory"]}})
    rendered = render(documents, work(tmp_path), NAME, Request(gpus_per_node=asked))
    limits = {"memory": grown["memory"], "nvidia.com/gpu": str(asked)}
    assert container(rendered)["resources"] == {"requests": grown, "limits": limits}
    folders = {one["name"]: one.get("emptyDir") for one in workload(rendered)["spec"]["template"]["spec"]["volumes"]}
    assert str(folders["shm"]["sizeLimit"]) == grown["memory"]
    assert folders["tmp"] == {}


@pytest.mark.parametrize(
    ("resources", "message"),
    [
        ({"claims": [{"name": "gpu"}]}, "by the resource claim gpu; set their number in that claim"),
        ({"limits": {"habana.ai/gaudi": 1}}, "asks for habana.ai/gaudi, which is not known as a GPU"),
        ({"limits": {"amd.com/gpu": 1, "nvidia.com/gpu": 1}}, "amd.com/gpu and nvidia.com/gpu; keep one of them"),
        ({"requests": {"memory": "a lot"}}, "resources.requests.memory: expected an amount"),
    ],
)
def test_gpus_that_cannot_be_counted(tmp_path: Path, resources: dict[str, Any], message: str) -> None:
    documents = overlay()
    container(documents)["resources"] = copy.deepcopy(resources)
    assert container(render(documents, work(tmp_path), NAME))["resources"].keys() == resources.keys()
    with pytest.raises(ConfigError, match=re.escape(message)):
        render(documents, work(tmp_path), NAME, Request(gpus_per_node=2))


def test_gpus_where_the_overlay_has_none(tmp_path: Path) -> None:
    documents = overlay()
    del container(documents)["resources"]
    assert container(render(documents, work(tmp_path), NAME))["resources"] == {}
    rendered = render(documents, work(tmp_path), NAME, Request(gpus_per_node=2))
    assert container(rendered)["resources"]["limits"] == {"nvidia.com/gpu": "2"}


def test_another_image_for_all_that_had_the_old_one(tmp_path: Path) -> None:
    pod = workload(render(overlay(), work(tmp_path), NAME, Request(image="mine:2")))["spec"]["template"]["spec"]
    assert [one["image"] for one in (*pod["initContainers"], *pod["containers"])] == ["mine:2", "other:1", "mine:2"]


def test_more_arguments_of_an_overlay_are_kept(tmp_path: Path) -> None:
    documents = overlay()
    container(documents)["args"].append("use_wandb=true")
    rendered = render(documents, work(tmp_path), NAME, Request(then_eval=True))
    assert container(rendered)["args"] == ["train", "/etc/vizsage/config.yaml", "use_wandb=true", "--then-eval"]


def test_pods_that_meet_at_a_service_that_is_not_there(tmp_path: Path) -> None:
    """namePrefix and nameSuffix of kustomize rename the Service, and not the subdomain of the pods."""
    documents = nodes_overlay()
    documents[-1]["metadata"]["name"] = "mine-train"
    with pytest.raises(
        ConfigError, match="the Service train, which the overlay does not contain; leave out its namePrefix"
    ):
        render(documents, work(tmp_path), NAME)


def test_no_deadline(tmp_path: Path) -> None:
    documents = overlay(activeDeadlineSeconds=60)
    assert "activeDeadlineSeconds" not in workload(render(documents, work(tmp_path), NAME, Request(time_s=0)))["spec"]


def test_a_deadline(tmp_path: Path) -> None:
    assert "activeDeadlineSeconds" not in workload(render(overlay(), work(tmp_path), NAME))["spec"]
    job = workload(render(overlay(), work(tmp_path), NAME, Request(time_s=7200)))["spec"]
    assert job["activeDeadlineSeconds"] == 7200


# --- JobSets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limits", [{}, {"nvidia.com/gpu": 4}])
@pytest.mark.parametrize("command", ["eval", "train"])
def test_only_an_evaluation_by_itself_spreads_over_nodes_and_gpus_of_a_jobset(
    tmp_path: Path, command: str, limits: dict[str, int]
) -> None:
    documents = overlay("JobSet", completionMode="Indexed", completions=1, parallelism=1)
    for one in workload(documents)["spec"]["replicatedJobs"]:
        given = one["template"]["spec"]["template"]["spec"]["containers"][0]
        cores = 8 * limits.get("nvidia.com/gpu", 1)
        given["resources"] = {"requests": {"cpu": str(cores)}, "limits": dict(limits)}
        given["env"].append({"name": "OMP_NUM_THREADS", "value": "8"})
    asked = Request(nodes=3, gpus_per_node=2, then_eval=command == "train")
    found = workload(render(documents, work(tmp_path, command), NAME, asked))["spec"]["replicatedJobs"]
    job = found[-1]["template"]["spec"]
    nodes = 3 if command == "eval" else 1
    assert (found[-1]["name"], job["completions"], job["parallelism"]) == ("eval", nodes, nodes)
    one = job["template"]["spec"]["containers"][0]
    assert one["resources"]["limits"]["nvidia.com/gpu"] == ("2" if command == "eval" else "1")
    seen = {variable["name"]: variable["value"] for variable in one["env"]}
    meeting = {"MASTER_ADDR": f"{NAME}-eval-0-0.{NAME}", "MASTER_PORT": "29500"}
    assert {name: seen.get(name) for name in meeting} == (meeting if command == "eval" else dict.fromkeys(meeting))
    assert seen["NNODES"] == str(nodes)
    assert seen["OMP_NUM_THREADS"] == "8"
    assert one["resources"]["requests"]["cpu"] == ("16" if command == "eval" else "8")


@pytest.mark.parametrize(
    ("command", "then_eval", "roles"),
    [("train", False, ["train"]), ("train", True, ["train", "eval"]), ("eval", False, ["eval"])],
)
def test_a_jobset_has_the_jobs_that_are_asked_for(
    tmp_path: Path, command: str, then_eval: bool, roles: list[str]
) -> None:
    documents = render(overlay("JobSet"), work(tmp_path, command), NAME, Request(then_eval=then_eval))
    found = workload(documents)
    assert found["metadata"]["name"] == NAME
    assert found["spec"]["network"]["subdomain"] == NAME
    replicated = found["spec"]["replicatedJobs"]
    assert [one["name"] for one in replicated] == roles
    depends = [[other["name"] for other in one.get("dependsOn", [])] for one in replicated]
    assert depends == [[], ["train"]][: len(roles)]
    assert found["spec"]["successPolicy"]["targetReplicatedJobs"] == roles[-1:]
    for one in replicated:
        template = one["template"]["spec"]["template"]
        assert template["metadata"]["labels"]["vizsage/job"] == NAME
        assert template["spec"]["containers"][0]["args"] == [one["name"], "/etc/vizsage/config.yaml"]


def test_a_jobset_in_a_queue_evaluates_in_the_pods_of_the_training(tmp_path: Path) -> None:
    """Kueue would reserve quota for training and evaluation together, though one follows the other."""
    documents = overlay("JobSet")
    workload(documents)["metadata"]["labels"] = {"kueue.x-k8s.io/queue-name": "user-queue"}
    found = workload(render(documents, work(tmp_path), NAME, Request(then_eval=True)))["spec"]
    [train] = found["replicatedJobs"]
    assert train["name"] == "train"
    assert found["successPolicy"]["targetReplicatedJobs"] == ["train"]
    args = train["template"]["spec"]["template"]["spec"]["containers"][0]["args"]
    assert args == ["train", "/etc/vizsage/config.yaml", "--then-eval"]


def test_the_nodes_of_a_jobset_meet_at_its_first_pod(tmp_path: Path) -> None:
    documents = overlay("JobSet")
    for one in workload(documents)["spec"]["replicatedJobs"]:
        one["template"]["spec"] |= {"completionMode": "Indexed", "completions": 2, "parallelism": 2}
        env = one["template"]["spec"]["template"]["spec"]["containers"][0]["env"]
        env.append({"name": "MASTER_ADDR", "value": "set-train-0-0.set"})
    rendered = workload(render(documents, work(tmp_path), NAME, Request(nodes=3, then_eval=True)))
    specs = [one["template"]["spec"] for one in rendered["spec"]["replicatedJobs"]]
    assert [spec["completions"] for spec in specs] == [3, 1]
    env = specs[0]["template"]["spec"]["containers"][0]["env"]
    assert {"name": "MASTER_ADDR", "value": f"{NAME}-train-0-0.{NAME}"} in env


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"output_dir": "results/run"}, "output_dir: /workspace/results/run is on no volume"),
        ({"output_dir": "/tmp/run"}, "output_dir: /tmp/run is on a volume that is deleted with the pod"),
        ({"output_dir": "data/run"}, "output_dir: /workspace/data/run is on a volume that the pod cannot write"),
        ({"output_dir": "outputs/../run"}, "output_dir: /workspace/run is on no volume"),
        ({"save_path": "/models"}, "save_path: /models is on no volume"),
        ({"base_path": "/data"}, "base_path: /data is on no volume of the pod; its volumes are at /workspace/data"),
        ({"external_knowledge_path": "semart.csv"}, "external_knowledge_path: /workspace/semart.csv"),
        ({"model_name": "/models/llama"}, "model_name: /models/llama"),
    ],
)
def test_paths_that_a_pod_would_not_find_or_would_lose(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        render(overlay(), work(tmp_path, **settings), NAME)


@pytest.mark.parametrize(
    ("volume", "message"),
    [
        ({"ephemeral": {}}, "deleted with the pod"),
        ({"persistentVolumeClaim": {"claimName": "x", "readOnly": True}}, "cannot write"),
        ({"secret": {"secretName": "x"}}, "cannot write"),
    ],
)
def test_volumes_for_outputs(tmp_path: Path, volume: dict[str, Any], message: str) -> None:
    documents = overlay()
    volumes = workload(documents)["spec"]["template"]["spec"]["volumes"]
    volumes[2] = {"name": "outputs", **volume}
    with pytest.raises(ConfigError, match=message):
        render(documents, work(tmp_path), NAME)


def test_a_mount_with_a_slash_behind(tmp_path: Path) -> None:
    documents = overlay()
    container(documents)["volumeMounts"][2]["mountPath"] = "/workspace/outputs/"
    render(documents, work(tmp_path), NAME)


def test_a_volume_at_an_outer_folder_covers_what_is_below(tmp_path: Path) -> None:
    documents = overlay()
    container(documents)["volumeMounts"][2]["mountPath"] = "/workspace"
    render(documents, work(tmp_path, output_dir="a/b/c", save_path="/workspace/models"), NAME)


@pytest.mark.parametrize("kind", ["Job", "JobSet"])
def test_an_evaluation_that_would_train_again(tmp_path: Path, kind: str) -> None:
    with pytest.raises(ConfigError, match="resume: false"):
        render(overlay(kind), work(tmp_path, resume=False), NAME, Request(then_eval=True))


def test_several_nodes_need_an_overlay_for_several(tmp_path: Path) -> None:
    render(overlay(), work(tmp_path), NAME, Request(nodes=1))
    with pytest.raises(ConfigError, match="--overlay multi-node"):
        render(overlay(), work(tmp_path), NAME, Request(nodes=2))


@pytest.mark.parametrize(
    ("drop", "message"),
    [
        ("Job", "one Job or JobSet in the overlay, found 0"),
        ("ConfigMap", "no ConfigMap for the volume named config"),
        ("volume", "no volume named config from a ConfigMap"),
        ("container", "no container named vizsage"),
        ("eval", "no replicated job named eval"),
    ],
)
def test_overlays_of_something_else(tmp_path: Path, drop: str, message: str) -> None:
    documents = overlay("JobSet" if drop == "eval" else "Job")
    if drop == "container":
        container(documents)["name"] = "main"
    elif drop == "volume":
        workload(documents)["spec"]["template"]["spec"]["volumes"].pop(0)
    elif drop == "eval":
        workload(documents)["spec"]["replicatedJobs"].pop()
    else:
        documents = [one for one in documents if one["kind"] != drop]
    with pytest.raises(ConfigError, match=message):
        render(documents, work(tmp_path), NAME, Request(then_eval=True))


def test_what_else_an_overlay_has_stays_as_it_is(tmp_path: Path) -> None:
    more = [
        {"kind": "ConfigMap", "metadata": {"name": "certificates"}, "data": {"ca.crt": "x"}},
        {"kind": "Service", "metadata": {"name": "metrics"}, "spec": {"selector": {"a": "b"}}},
    ]
    assert render([*overlay(), *more], work(tmp_path), NAME)[-2:] == more


@pytest.mark.parametrize("kind", ["Job", "JobSet"])
@pytest.mark.parametrize(
    ("key", "value", "where"),
    [
        ("env", [{"name": "GH_PAT", "value": "hunter2"}], "env of container vizsage: GH_PAT"),
        ("env", [{"name": "PROXY", "value": "http://me:hunter2@proxy"}], "env of container vizsage: PROXY"),
        ("args", ["bash", "-c", "true\nwandb login hunter2"], "args of container vizsage: wandb login"),
        ("command", ["hf", "auth", "login", "--token", "hunter2"], "command of container vizsage: --token"),
    ],
)
def test_a_secret_in_an_overlay_is_refused_and_not_repeated(
    tmp_path: Path, kind: str, key: str, value: Any, where: str
) -> None:
    one = work(tmp_path)
    documents = overlay(kind)
    job = documents[-1]["spec"] if kind == "Job" else documents[-1]["spec"]["replicatedJobs"][0]["template"]["spec"]
    [container] = job["template"]["spec"]["containers"]
    container[key] = value
    with pytest.raises(ConfigError, match=re.escape(f"{where}: looks like a secret")) as caught:
        render(documents, one, NAME)
    assert "hunter2" not in str(caught.value)
    documents[-1]["metadata"]["annotations"] = {"vizsage/not-secrets": f"A, {where.split(': ')[1]}"}
    render(documents, one, NAME)
    # A reference is none.
    del documents[-1]["metadata"]["annotations"]
    container |= {"command": [], "args": []}
    container["env"] = [{"name": "GH_PAT", "valueFrom": {"secretKeyRef": {"name": "tokens", "key": "GH_PAT"}}}]
    render(documents, one, NAME)


def test_a_secret_in_a_configmap_is_refused(tmp_path: Path) -> None:
    one, documents = work(tmp_path), overlay()
    documents[0]["data"]["HF_TOKEN"] = "hunter2"
    with pytest.raises(ConfigError, match="ConfigMap settings: data: HF_TOKEN: looks like a secret"):
        render(documents, one, NAME)
