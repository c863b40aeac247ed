"""`python -m jobs` on Kubernetes, with the real kubectl and a small API server that keeps what is applied."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs import cli
from jobs.schedulers.kubernetes.kubectl import refusal
from jobs.spec import load_work
from jobs.submissions import Submission, find
from tests.jobs.api_server import ApiServer
from tests.k8s.rules import documents, pod_templates, violations
from vizsage.config import load_config

ROOT = Path(__file__).parents[4]
TRAIN = ("submit", "kubernetes", "train", "My_Run.v2.yaml")
SWEEP = ("sweep", "kubernetes", "train", "My_Run.v2.yaml", "lr=1e-4,2e-4")

pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder from which everything is submitted, with settings for the run directory outputs/run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "k8s").symlink_to(ROOT / "k8s")
    (tmp_path / "My_Run.v2.yaml").write_text("model_name: vizsage-tiny\noutput_dir: outputs/run\n")
    return tmp_path


@pytest.fixture
def server(
    here: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ApiServer]:
    folder = tmp_path_factory.mktemp("server")
    server = ApiServer(folder)
    monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig))
    monkeypatch.setenv("KUBECACHEDIR", str(folder / "cache"))
    yield server
    server.stop()


def jobs(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    """What the command prints, and on stderr where it has to fail."""
    capsys.readouterr()
    found = cli.main(list(words))
    printed = capsys.readouterr()
    assert found == code, printed
    if code:
        assert printed.err.startswith("jobs: error: "), printed
        assert printed.err.count("\n") == 1, printed
        return printed.err
    return printed.out + printed.err


def submitted(capsys: pytest.CaptureFixture[str], *words: str) -> Submission:
    jobs(capsys, *(words or TRAIN))
    return find(None)[-1]


def ended(code: int, message: str = "") -> dict[str, Any]:
    return {"name": "vizsage", "state": {"terminated": {"exitCode": code, "message": message}}}


RUNNING = {"name": "vizsage", "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}


# --- submit ----------------------------------------------------------------------------------------------------------


def test_a_submission(server: ApiServer, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed = jobs(capsys, *TRAIN, "lr=1e-3")
    [name] = server.names("Job")
    assert name.startswith("vizsage-run-")  # as output_dir, whatever the file is called
    assert f"job {name}\n" in printed
    assert "follow it with: python -m jobs logs -f" in printed
    [job] = find("run")
    assert (job.job_id, job.kind, job.scheduler, job.namespace, job.context, job.resource) == (
        name, "train", "kubernetes", "vlm", "pool", "job",
    )  # fmt: skip
    assert documents(Path(job.script).read_text())[-1]["metadata"]["name"] == name
    settings = server.objects["ConfigMap", name]["data"]["config.yaml"]
    (here / "seen.yaml").write_text(settings)
    assert load_config(here / "seen.yaml") == load_config(Path(job.config))
    assert load_config(here / "seen.yaml").lr == 1e-3


def test_what_belongs_to_a_job_goes_with_it(server: ApiServer, capsys: pytest.CaptureFixture[str]) -> None:
    name = submitted(capsys, *TRAIN, "--nodes", "2").job_id
    for kind in ("ConfigMap", "Service"):
        [owner] = server.objects[kind, name]["metadata"]["ownerReferences"]
        assert owner == {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "name": name,
            "uid": server.objects["Job", name]["metadata"]["uid"],
        }


def test_a_second_submission_has_a_name_of_its_own(server: ApiServer, capsys: pytest.CaptureFixture[str]) -> None:
    first = submitted(capsys).job_id
    server.set_status("Job", first, conditions=[{"type": "Failed", "status": "True", "reason": "DeadlineExceeded"}])
    assert submitted(capsys).job_id != first
    assert len(server.names("Job")) == 2


def test_a_run_has_one_job_at_a_time(server: ApiServer, capsys: pytest.CaptureFixture[str]) -> None:
    name = submitted(capsys).job_id
    assert f"train job {name} of this run is pending" in jobs(capsys, *TRAIN, code=2)
    assert server.names("Job") == [name]


@pytest.mark.parametrize(
    ("words", "overlay"),
    [((), "single-gpu"), (("--nodes", "3"), "multi-node"), (("--gpus-per-node", "4"), "multi-gpu")],
)
@pytest.mark.usefixtures("here")
def test_the_overlay_that_fits(capsys: pytest.CaptureFixture[str], words: tuple[str, ...], overlay: str) -> None:
    def shape(*more: str) -> Any:
        text = jobs(capsys, *TRAIN, "--dry-run", *words, *more)
        spec = documents(text)[-1]["spec"] if documents(text)[-1]["kind"] == "Job" else documents(text)[1]["spec"]
        return spec.get("completions"), spec["template"]["spec"]["containers"][0]["resources"]

    assert shape() == shape("--overlay", overlay)


@pytest.mark.parametrize("overlay", ["single-gpu", "multi-gpu", "multi-node", "kueue", "jobset", "cpu-demo"])
@pytest.mark.usefixtures("here")
def test_a_dry_run_of_every_overlay_keeps_to_pod_security(capsys: pytest.CaptureFixture[str], overlay: str) -> None:
    found = documents(jobs(capsys, *TRAIN, "--overlay", overlay, "--dry-run", "--then-eval"))
    templates = [template for document in found for template in pod_templates(document)]
    assert len(templates) == (2 if overlay == "jobset" else 1)
    assert [violations(template["spec"]) for template in templates] == [[]] * len(templates)


def test_a_dry_run_writes_and_sends_nothing(server: ApiServer, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(here.rglob("*"))
    jobs(capsys, *TRAIN, "--dry-run")
    assert sorted(here.rglob("*")) == before
    assert [path for _, path in server.requests if not path.startswith("/version")] == []  # some kubectl ask that first


def test_a_jobset(server: ApiServer, capsys: pytest.CaptureFixture[str]) -> None:
    job = submitted(capsys, *TRAIN, "--overlay", "jobset", "--then-eval")
    assert job.resource == "jobset"
    replicated = server.objects["JobSet", job.job_id]["spec"]["replicatedJobs"]
    assert [one["name"] for one in replicated] == ["train", "eval"]
    server.set_status("JobSet", job.job_id, conditions=[{"type": "Completed", "status": "True", "reason": "AllJobs"}])
    assert "completed" in jobs(capsys, "status", "run")


def test_an_evaluation_by_itself(server: ApiServer, capsys: pytest.CaptureFixture[str]) -> None:
    job = submitted(capsys, "submit", "kubernetes", "eval", "My_Run.v2.yaml")
    container = server.objects["Job", job.job_id]["spec"]["template"]["spec"]["containers"][0]
    assert container["args"][0] == "eval"
    assert job.kind == "eval"


def test_what_the_cluster_refuses_leaves_nothing_behind(
    server: ApiServer, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.refusals["Job"] = "admission webhook denied the request: no GPUs for you"
    assert "no GPUs for you" in jobs(capsys, *TRAIN, "--nodes", "2", code=2)
    assert server.objects == {}
    assert not (here / "outputs").exists()


VIEW = {("GET", kind) for kind in ("ConfigMap", "Job")}
CONFIGMAPS = {("GET", "ConfigMap"), ("POST", "ConfigMap"), ("GET", "Job")}


@pytest.mark.parametrize(
    ("words", "cluster", "told"),
    [
        (("--namespace", "vlmm"), {}, ['namespaces "vlmm" not found', "name another with --namespace"]),
        ((), {"rights": VIEW}, ['cannot create resource "configmaps"', "this account lacks the right"]),
        ((), {"rights": set()}, ['cannot get resource "configmaps"', "this account lacks the right"]),
        (
            (),
            {"rights": CONFIGMAPS | {("DELETE", "ConfigMap")}},
            ['cannot create resource "jobs" in API group "batch" in the namespace "vlm"'],
        ),
        (
            ("--overlay", "jobset"),
            {"absent": {"JobSet"}},
            ['no matches for kind "JobSet"', "the cluster knows no JobSet", "--overlay"],
        ),
        ((), {"refusals": {"Job": (422, "Invalid", "spec.template: Required value")}}, ["spec.template: Required"]),
        (
            (),
            {"refusals": {"Job": (400, "", 'admission webhook "q" denied the request: refused, timeout')}},
            ["denied"],
        ),
    ],
)
def test_a_definite_refusal_locks_nothing(
    server: ApiServer,
    here: Path,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    cluster: dict[str, Any],
    told: list[str],
) -> None:
    for name, value in cluster.items():
        setattr(server, name, value)
    error = jobs(capsys, *TRAIN, *words, code=2)
    assert error.startswith(f"jobs: error: namespace {words[1] if '--namespace' in words else 'vlm'} of context pool: ")
    assert [part for part in told if part not in error] == []
    assert "may be there" not in error
    assert server.objects == {}
    assert not (here / "outputs").exists()
    assert "no run was submitted from" in jobs(capsys, "status", code=2)


def test_what_cannot_be_taken_back_is_named(server: ApiServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.rights = CONFIGMAPS
    error = jobs(capsys, *TRAIN, code=2)
    [(_, name)] = server.objects
    assert f"kubectl --context pool --namespace vlm delete configmap {name}" in error
    assert "no run was submitted from" in jobs(capsys, "status", code=2)


def test_a_job_that_may_not_be_seen_has_a_way_out(server: ApiServer, capsys: pytest.CaptureFixture[str]) -> None:
    job = submitted(capsys)
    server.rights = set()
    assert f"python -m jobs cancel --forget {job.job_id}" in jobs(capsys, *TRAIN, code=1)
    assert f"train job {job.job_id} counts as gone" in jobs(capsys, "cancel", "--forget", job.job_id)
    server.rights = None
    assert submitted(capsys).job_id != job.job_id


def test_a_job_whose_fate_is_unknown_is_noted(
    server: ApiServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cluster took the job, and then neither answered nor let it be deleted."""
    from jobs.schedulers.kubernetes import apply as kubernetes

    run = kubernetes.run

    def broken(command: list[str], given: str | None = None) -> Any:
        done = run(command, given) if "delete" not in command else None
        if done is None or ("apply" in command and given and "kind: Job" in given):
            return subprocess.CompletedProcess(command, 1, "", "Unable to connect to the server: EOF")
        return done

    monkeypatch.setattr(kubernetes, "run", broken)
    error = jobs(capsys, *TRAIN, code=1)
    assert "may exist nevertheless: python -m jobs status shows it when the cluster answers" in error
    assert "python -m jobs cancel --forget" in error
    monkeypatch.setattr(kubernetes, "run", run)
    [name] = server.names("Job")
    assert f"train job {name} of this run is pending" in jobs(capsys, *TRAIN, code=2)
    jobs(capsys, "cancel", name)


def test_a_job_is_noted_when_somebody_loses_patience(
    server: ApiServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def impatient(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("jobs.schedulers.kubernetes.apply._hand_over", impatient)
    assert cli.main([*TRAIN]) == 130
    capsys.readouterr()
    assert find(None)[-1].job_id == server.names("Job")[0]


def test_texts_that_look_like_numbers_stay_texts(server: ApiServer, capsys: pytest.CaptureFixture[str]) -> None:
    """kubectl's YAML reads 1e3 and y as a number and a switch where Python's writes them without quotes."""
    for name in ("1e3", "y", "0o17", "1_000", "2026-11-24", ".5"):
        job = submitted(capsys, *TRAIN, f"output_dir=outputs/{name}")
        assert server.objects["Job", job.job_id]["metadata"]["annotations"]["vizsage/run"] == name


def test_settings_of_a_job_cannot_change_under_it(server: ApiServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert server.objects["ConfigMap", submitted(capsys).job_id]["immutable"] is True


def test_a_secret_of_an_overlay_is_sent_and_not_kept(
    server: ApiServer, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "mine").mkdir()
    (here / "mine" / "kustomization.yaml").write_text(
        "resources: [../k8s/overlays/single-gpu]\n"
        "secretGenerator: [{name: vizsage-tokens, literals: [HF_TOKEN=hf_x]}]\n"
    )
    words = (*TRAIN, "--overlay", "./mine")
    assert "HF_TOKEN" not in jobs(capsys, *words, "--dry-run")
    job = submitted(capsys, *words)
    assert "HF_TOKEN" not in Path(job.script).read_text()
    [secret] = server.names("Secret")
    assert server.objects["Secret", secret]["data"] == {"HF_TOKEN": "aGZfeA=="}


def test_a_claim_of_the_overlay_outlives_a_refusal(server: ApiServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.refusals["Job"] = "no"
    jobs(capsys, *TRAIN, "--overlay", "cpu-demo", code=2)
    assert [kind for kind, _ in server.objects] == ["PersistentVolumeClaim"]


def test_the_namespace_is_kubectl_s_or_the_one_that_is_named(
    server: ApiServer, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jobs.schedulers.kubernetes import apply as kubernetes

    submitted(capsys)
    assert find(None)[-1].namespace == "vlm"
    jobs(capsys, *TRAIN, "output_dir=outputs/other", "--namespace", "team-b")
    assert find(None)[-1].namespace == "team-b"
    (tmp_path / "namespace").write_text("team-c\n")  # as in a pod, where there is no configuration
    monkeypatch.setattr(kubernetes, "_OWN_NAMESPACE", tmp_path / "namespace")
    monkeypatch.setattr(kubernetes, "config", lambda *_: "")
    work = load_work("train", Path("My_Run.v2.yaml"))
    job = [{"kind": "Job", "metadata": {"name": "x"}}]
    assert kubernetes.submission_of(work, kubernetes.Manifest("x", job), None).namespace == "team-c"
    job[0]["metadata"] = {"name": "x", "namespace": "of-the-overlay"}
    assert kubernetes.submission_of(work, kubernetes.Manifest("x", job), None).namespace == "of-the-overlay"


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ('Error from server (Forbidden): jobs.batch is forbidden: User "me" cannot create resource', 2),
        ("E1124 12:00:00.000000 memcache.go:265] x\nThe connection to the server x was refused", 1),
        ("error: error validating data: failed to download openapi: Get x/openapi/v2?timeout=1m0s: x509: unknown", 2),
        ("Error from server (ServiceUnavailable): the server is currently unable to handle the request", 1),
        ("Unable to connect to the server: getting credentials: exec: executable plugin not found", 1),
    ],
)
def test_whose_fault_it_was(said: str, code: int) -> None:
    error = refusal("apply", subprocess.CompletedProcess([], 1, "", said))
    assert error.exit_code == code
    assert "memcache" not in str(error)


def test_a_cluster_that_does_not_answer_is_no_mistake_of_the_user(
    server: ApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.stop()
    assert "refused" in jobs(capsys, *TRAIN, code=1)
    assert "no run was submitted from" in jobs(capsys, "status", code=2)


@pytest.mark.usefixtures("server")
def test_a_run_directory_that_this_host_cannot_write(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pods see their volume at a path that need not be there on a laptop."""
    (here / "file").write_text("")
    monkeypatch.setattr("jobs.schedulers.kubernetes.manifest._check_volumes", lambda *_: None)
    printed = jobs(capsys, *TRAIN, f"output_dir={here}/file/run")
    assert "keeps no copy" in printed
    name = find("run")[-1].job_id
    assert f"train job {name}: pending" in jobs(capsys, "status", name)
    assert "of this run is pending" in jobs(capsys, *TRAIN, f"output_dir={here}/file/run", code=2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--overlay", "singlegpu"), "did you mean 'single-gpu'?"),
        (("--overlay", "./nowhere"), "nowhere: no such overlay"),
        (("output_dir=results/run",), "is on no volume of the pod"),
        (("--overlay", "single-gpu", "--nodes", "2"), "--overlay multi-node"),
        (("--time", "soon"), "--time"),
        (("lr=fast",), "lr"),
        *(
            (("--image", image), f"--image: '{image}' is no name of an image")
            for image in (
                "REGISTRY/vizsage:0.2.0",
                "vizsage:",
                "registry.example.com/Team/vizsage",
                "a b",
                "x:1:2",
                "/x",
            )
        ),
    ],
)
@pytest.mark.usefixtures("here")
def test_mistakes_are_one_line(capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str) -> None:
    assert message in jobs(capsys, *TRAIN, "--dry-run", *words, code=2)


@pytest.mark.parametrize(
    "image",
    [
        "vizsage",
        "vizsage:0.2.0",
        "localhost:5000/vizsage:V2",
        "Registry.example.com/my-team/vi__z.sage:0.2.0_rc-1",
        "registry:5000/a/b/c",
        f"ghcr.io/team/vizsage:0.2.0@sha256:{'0a' * 32}",
    ],
)
@pytest.mark.usefixtures("here")
def test_names_of_images_are_taken(capsys: pytest.CaptureFixture[str], image: str) -> None:
    assert f"image: {image}\n" in jobs(capsys, *TRAIN, "--dry-run", "--image", image)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((*TRAIN, "--profile", "a100"), "--profile is for slurm"),
        (("submit", "slurm", "train", "My_Run.v2.yaml", "--overlay", "kueue"), "--overlay is for kubernetes"),
        ((*TRAIN, "--nodes", "0"), "--nodes"),
        ((*TRAIN, "--image", ""), "--image"),
        ((*TRAIN, "--gpus-per-node", "-1"), "--gpus-per-node"),
    ],
)
@pytest.mark.usefixtures("here")
def test_options_of_the_other_scheduler(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(list(words))
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.usefixtures("here")
def test_without_kubectl(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert "kubectl is not here" in jobs(capsys, *TRAIN, "--dry-run", code=2)


@pytest.mark.usefixtures("here")
def test_an_overlay_that_kustomize_cannot_build(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "mine").mkdir()
    (here / "mine" / "kustomization.yaml").write_text("resources: [missing.yaml]\n")
    assert "missing.yaml" in jobs(capsys, *TRAIN, "--overlay", "./mine", "--dry-run", code=2)


@pytest.mark.usefixtures("here")
def test_an_overlay_that_is_no_job(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "mine").mkdir()
    (here / "mine" / "kustomization.yaml").write_text("resources: [job.yaml]\n")
    (here / "mine" / "job.yaml").write_text("apiVersion: batch/v1\nkind: Job\nmetadata: {name: x}\nspec: {}\n")
    assert "not what a Job looks like" in jobs(capsys, *TRAIN, "--overlay", "./mine", "--dry-run", code=2)


# --- status ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "told"),
    [
        ({}, "pending (no pod yet)"),
        ({"conditions": [{"type": "Complete", "status": "True", "reason": "CompletionsReached"}]}, "completed"),
        ({"conditions": [{"type": "Complete", "status": "False"}]}, "pending"),
        ({"conditions": [{"type": "Suspended", "status": "True"}]}, "pending (Suspended, it waits for its turn)"),
        ({"conditions": [{"type": "FailureTarget", "status": "True"}]}, "ending"),
        (
            {"conditions": [{"type": "Failed", "status": "True", "reason": "DeadlineExceeded"}]},
            "failed (DeadlineExceeded)",
        ),
    ],
)
def test_states(server: ApiServer, capsys: pytest.CaptureFixture[str], status: dict[str, Any], told: str) -> None:
    job = submitted(capsys)
    server.set_status("Job", job.job_id, **status)
    assert f"train job {job.job_id}: {told}" in jobs(capsys, "status", "run")


def test_a_running_job_tells_its_node_and_its_failures(server: ApiServer, capsys: pytest.CaptureFixture[str]) -> None:
    name = submitted(capsys).job_id
    server.add_pod(name, "a", created="2026-01-01T00:00:00Z", phase="Failed", containerStatuses=[ended(1)])
    server.add_pod(name, "b", created="2026-01-01T00:01:00Z", phase="Running", containerStatuses=[RUNNING])
    assert f"train job {name}: running (on node-7, before: exit code 1)" in jobs(capsys, "status")


def test_the_step_is_read_off_the_log_where_the_outputs_are_elsewhere(
    server: ApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    name = submitted(capsys).job_id
    server.add_pod(name, "a", created="2026-01-01T00:00:00Z", phase="Failed", containerStatuses=[ended(75)])
    server.add_pod(name, "b", created="2026-01-01T00:01:00Z", phase="Running", containerStatuses=[RUNNING])
    server.logs |= {"a": "step 10/90: loss 3.1\n", "b": "step 20/90: loss 2.5\nstep 30/90: loss 2.1\nvalidation\n"}
    assert "  step 30\n" in jobs(capsys, "status")


def test_a_failed_job_tells_why(server: ApiServer, capsys: pytest.CaptureFixture[str]) -> None:
    name = submitted(capsys).job_id
    server.set_status("Job", name, conditions=[{"type": "Failed", "status": "True", "reason": "PodFailurePolicy"}])
    message = "vizsage: error: data/AQUA/train.json: no such file\nsomething after it\n"
    server.add_pod(name, "a", created="2026-01-01T00:00:00Z", phase="Failed", containerStatuses=[ended(3, message)])
    printed = jobs(capsys, "status", name)
    assert "failed (PodFailurePolicy, exit code 3)" in printed
    assert "last error: vizsage: error: data/AQUA/train.json: no such file\n" in printed


def test_the_cluster_of_the_submission_is_asked_whatever_kubectl_uses_now(
    server: ApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    submitted(capsys)
    configuration = yaml.safe_load(server.kubeconfig.read_text())
    configuration["contexts"].append({"name": "else", "context": {"cluster": "else", "user": "me"}})
    configuration["clusters"].append({"name": "else", "cluster": {"server": "http://127.0.0.1:9"}})
    configuration["current-context"] = "else"
    server.kubeconfig.write_text(yaml.safe_dump(configuration))
    assert "pending" in jobs(capsys, "status")


def test_a_context_that_is_gone_is_no_word_on_the_job(server: ApiServer, capsys: pytest.CaptureFixture[str]) -> None:
    submitted(capsys)
    configuration = yaml.safe_load(server.kubeconfig.read_text())
    configuration["contexts"][0]["name"] = configuration["current-context"] = "renamed"
    server.kubeconfig.write_text(yaml.safe_dump(configuration))
    assert "Kubernetes does not answer" in jobs(capsys, "status", code=1)
    assert "Kubernetes does not answer" in jobs(capsys, *TRAIN, code=1)


def test_another_cluster_of_the_same_name_is_no_word_on_the_job(
    server: ApiServer, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from jobs.schedulers.kubernetes import kubectl

    submitted(capsys)
    (tmp_path / "other").mkdir()
    other = ApiServer(tmp_path / "other")
    server.kubeconfig.write_text(other.kubeconfig.read_text())
    kubectl.server_of.cache_clear()
    assert "leads to http://127.0.0.1" in jobs(capsys, "status", code=1)
    assert "set KUBECONFIG" in jobs(capsys, *TRAIN, code=1)
    other.stop()


@pytest.mark.parametrize(
    "said",
    ["exec: executable gke-auth not found", "the server could not find the requested resource", "context not found"],
)
def test_what_else_is_not_found_is_no_word_on_the_job(
    server: ApiServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    submitted(capsys)
    monkeypatch.setattr(
        "jobs.schedulers.kubernetes.kubectl.run",
        lambda command, given=None: subprocess.CompletedProcess(command, 1, "", f"error: {said}"),
    )
    monkeypatch.setattr("jobs.schedulers.kubernetes.kubectl.server_of", lambda context: find(None)[-1].server)
    assert said in jobs(capsys, "status", code=1)


def test_no_answer_is_no_word_on_the_job(server: ApiServer, capsys: pytest.CaptureFixture[str]) -> None:
    submitted(capsys)
    server.stop()
    assert "Kubernetes does not answer" in jobs(capsys, "status", code=1)
    assert "Kubernetes does not answer" in jobs(capsys, *TRAIN, code=1)


@pytest.mark.parametrize(
    ("exit_code", "told"), [(None, "unknown (Kubernetes has forgotten the job"), (0, "completed"), (75, "interrupted")]
)
def test_a_job_that_was_removed(
    server: ApiServer, here: Path, capsys: pytest.CaptureFixture[str], exit_code: int | None, told: str
) -> None:
    job = submitted(capsys)
    del server.objects["Job", job.job_id]
    if exit_code is not None:  # the outputs are where this host sees them, too
        (here / "outputs/run/outcome.json").write_text(
            json.dumps({"exit_code": exit_code, "reason": "", "step": 7, "attempt": 1})
        )
    assert told in jobs(capsys, "status")


# --- cancel, logs, sweep, table --------------------------------------------------------------------------------------


def test_a_cancelled_job_ends_before_it_is_gone(server: ApiServer, capsys: pytest.CaptureFixture[str]) -> None:
    name = submitted(capsys).job_id
    assert f"train job {name} is cancelled" in jobs(capsys, "cancel", "run")
    assert "ending" in jobs(capsys, "status")
    assert "is ending" in jobs(capsys, *TRAIN, code=2)  # its pods still write
    del server.objects["Job", name]
    assert "cancelled (by python -m jobs cancel)" in jobs(capsys, "status")
    assert "no job of this run is waiting or running" in jobs(capsys, "cancel", "run", code=2)
    jobs(capsys, *TRAIN)


def test_the_logs_of_all_attempts(server: ApiServer, capfd: pytest.CaptureFixture[str]) -> None:
    cli.main([*TRAIN])
    name = find(None)[-1].job_id
    server.add_pod(name, "late", created="2026-01-01T00:01:00Z", phase="Succeeded", containerStatuses=[ended(0)])
    server.add_pod(name, "early", created="2026-01-01T00:00:00Z", phase="Failed", containerStatuses=[ended(75)])
    server.logs |= {"early": "step 1\n", "late": "step 2\n"}
    capfd.readouterr()
    assert cli.main(["logs", "run"]) == 0
    assert capfd.readouterr().out == "=== pod early\nstep 1\n=== pod late\nstep 2\n"


def test_a_sweep_is_a_job_for_each_run(server: ApiServer, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed = jobs(capsys, *SWEEP, "--then-eval")
    names = server.names("Job")
    assert len(names) == 2
    for name, value in zip(names, ("1e-4", "2e-4"), strict=True):
        assert name.startswith(f"vizsage-run-lr-{value}-")
        assert f"job {name} run directory {here / 'outputs/run' / f'lr={value}'}" in printed
        settings = yaml.safe_load(server.objects["ConfigMap", name]["data"]["config.yaml"])
        assert (settings["lr"], settings["output_dir"]) == (float(value), f"outputs/run/lr={value}")
    sweep = json.loads((here / "outputs/run/sweep.json").read_text())
    assert [run["job_id"] for run in sweep["runs"]] == names
    server.set_status("Job", names[0], conditions=[{"type": "Complete", "status": "True"}])
    status = jobs(capsys, "status", "outputs/run")
    assert [line for line in status.splitlines() if line.startswith("run directory ")] == [
        f"run directory {here / 'outputs/run' / f'lr={value}'}" for value in ("1e-4", "2e-4")
    ]
    assert f"train job {names[0]}: completed" in status
    assert f"train job {names[1]}: pending" in status
    table = jobs(capsys, "table", "outputs/run")
    for told in ("lr=1e-4", "lr=2e-4", "completed", "pending"):
        assert told in table
    jobs(capsys, "cancel", "outputs/run")
    assert [("deletionTimestamp" in server.objects["Job", name]["metadata"]) for name in names] == [False, True]


def test_a_sweep_that_breaks_off_tells_what_was_sent(
    server: ApiServer, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from jobs.schedulers.kubernetes import apply as kubernetes

    submit = kubernetes.submit

    def submit_once(*words: Any) -> Any:
        found = submit(*words)
        server.refusals["Job"] = "quota"
        return found

    monkeypatch.setattr(kubernetes, "submit", submit_once)
    assert "1 of 2 jobs were sent, this one not" in jobs(capsys, *SWEEP, code=2)
    assert len(json.loads((here / "outputs/run/sweep.json").read_text())["runs"]) == 1
    [first] = server.names("ConfigMap")
    monkeypatch.setattr(kubernetes, "submit", submit)
    server.refusals.clear()
    assert f"job {first} run directory {here / 'outputs/run/lr=1e-4'}: pending already" in jobs(capsys, *SWEEP)
    assert len(server.names("Job")) == 2
    sweep = json.loads((here / "outputs/run/sweep.json").read_text())
    assert [run["job_id"] for run in sweep["runs"]] == server.names("Job")


@pytest.mark.usefixtures("here")
def test_a_dry_sweep_prints_all_its_jobs(capsys: pytest.CaptureFixture[str]) -> None:
    text = jobs(capsys, *SWEEP, "--dry-run")
    assert [one["kind"] for one in documents(text)] == ["ConfigMap", "Job"] * 2
