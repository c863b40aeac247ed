"""Pods of the overlays train, are deleted, fail, and train together.

A few minutes on two cores: `make test-k8s` runs them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.integration import run_files
from tests.integration.kubernetes import manifest
from tests.integration.kubernetes.job import Controller, Job
from tests.integration.kubernetes.pod import Document, Namespace
from tests.integration.run_files import adapter_sha256, losses

pytestmark = pytest.mark.skipif(
    os.environ.get("VIZSAGE_KUBERNETES") != "1", reason="trains for minutes: run make test-k8s"
)

COMPLETE = ("Complete", "CompletionsReached")


class Run:
    """A Job in a separate namespace, and the run directory on its claim."""

    def __init__(self, documents: list[Document], folder: Path, controller: Controller, run_dir: str) -> None:
        self.namespace = Namespace(folder, documents)
        self.job = Job(manifest.job_of(documents), self.namespace, controller)
        [outputs] = [
            volume["persistentVolumeClaim"]["claimName"]
            for volume in self.job.spec["template"]["spec"]["volumes"]
            if volume["name"] == "outputs"
        ]
        self.run_dir = self.namespace.claim(outputs) / run_dir

    def exit_codes(self) -> list[int | None]:
        """Exit codes of the pods, in the order in which they were made."""
        return [pod.exit_code for pod in self.job.pods]

    def resumed_from(self) -> list[int]:
        """The step at which each attempt began."""
        return [attempt["resumed_from_step"] for attempt in run_files.attempts(self.run_dir)]

    def results(self) -> dict[str, Any]:
        """results.json of the test split."""
        path = self.run_dir / "evaluation_results" / "test" / "results.json"
        found: dict[str, Any] = json.loads(path.read_text())
        return found


@pytest.fixture(scope="module")
def controller() -> Iterator[Controller]:
    """What is still running at the end is ended."""
    controller = Controller()
    yield controller
    controller.stop()


@pytest.fixture(scope="module")
def demo(controller: Controller, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The demo, on one of the two cores while the other tests take the other."""
    documents = manifest.overlay("cpu-demo")
    manifest.share_the_host(documents)
    return Run(documents, tmp_path_factory.mktemp("cpu-demo"), controller, "demo")


@pytest.fixture(scope="module")
def start(
    controller: Controller, demo: Run, data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Run]:
    """Start a run of seconds from an overlay, a file, or what `submit` makes with some options."""

    def start_run(
        overlay: str = "single-gpu", mishap: str | None = None, submit: Sequence[str] = (), **changes: Any
    ) -> Run:
        folder = tmp_path_factory.mktemp(overlay)
        places = {"base_path": "data", "output_dir": "outputs/run"}
        settings = yaml.safe_dump(run_files.settings(**places | changes))
        if submit:
            config = folder / "run.yaml"
            config.write_text(settings)
            documents = manifest.submitted(config, *submit)
        else:
            documents = manifest.file(overlay) if overlay.endswith(".yaml") else manifest.overlay(overlay)
            manifest.set_config(documents, settings)
        manifest.share_the_host(documents)
        if mishap:
            manifest.add_mishap(documents, mishap)
        manifest.link_data(folder, data)
        return Run([*manifest.file("pvc.yaml"), *documents], folder, controller, "run")

    return start_run


@pytest.fixture(scope="module")
def reference(start: Callable[..., Run]) -> Run:
    """The run that nothing happens to, from the manifest to use by hand."""
    return start("train-job.yaml")


def test_a_deleted_and_an_evicted_pod_are_replaced_and_the_run_ends_the_same(
    start: Callable[..., Run], reference: Run
) -> None:
    deleted, evicted = (start(mishap="hold 5") for _ in range(2))
    for run in (deleted, evicted):
        run.job.wait_until(lambda run=run: run_files.held(run.run_dir))
    deleted.job.active[0].delete()
    evicted.job.active[0].evict()
    assert reference.job.wait() == COMPLETE, reference.job.log()
    assert run_files.outcome(reference.run_dir) == {"exit_code": 0, "reason": "done", "step": 9, "attempt": 1}
    for run in (deleted, evicted):
        assert run.job.wait() == COMPLETE, run.job.log()
        assert run.exit_codes() == [75, 0]
        assert run.job.failures == 0
        assert run.resumed_from() == [0, 5]
        assert adapter_sha256(run.run_dir) == adapter_sha256(reference.run_dir)


def test_nothing_is_written_elsewhere_than_on_volumes(reference: Run) -> None:
    """With a read-only root and read-only data it would fail, or log an error."""
    assert reference.job.wait() == COMPLETE, reference.job.log()
    said = reference.job.log()
    assert "Read-only file system" not in said
    assert "ermission denied" not in said
    [pod] = reference.job.pods
    assert not list((pod.folder / "volumes" / "tmp").iterdir())


def test_the_evaluation_job_finds_the_run_on_the_volume(reference: Run, controller: Controller) -> None:
    assert reference.job.wait() == COMPLETE, reference.job.log()
    documents = manifest.file("eval-job.yaml")
    settings = run_files.settings(base_path="data", output_dir="outputs/run")
    manifest.set_config(documents, yaml.safe_dump(settings))
    manifest.share_the_host(documents)
    for document in documents:
        reference.namespace.apply(document)
    job = Job(manifest.job_of(documents), reference.namespace, controller)
    assert job.wait() == COMPLETE, job.log()
    assert reference.results()["total_samples"] == 12


@pytest.fixture(scope="module")
def runs(start: Callable[..., Run]) -> dict[str, Run]:
    """Runs of which each takes one pod after the other, started at once."""
    return {
        "broken": start(lora_r="many"),
        "bare": start(base_path="outputs/nowhere"),
        "crash": start(mishap="crash 1"),
        "submitted": start("submitted", "hold 5", ["--overlay", "cpu-demo", "--then-eval"]),
    }


@pytest.mark.parametrize(("name", "code", "said"), [("broken", 2, "lora_r"), ("bare", 3, "outputs/nowhere")])
def test_a_mistake_fails_the_job_at_once(runs: dict[str, Run], name: str, code: int, said: str) -> None:
    run = runs[name]
    assert run.job.wait() == ("Failed", "PodFailurePolicy"), run.job.log()
    assert run.exit_codes() == [code]
    assert said in run.job.log()
    assert "Traceback" not in run.job.log()


def test_a_submitted_run_loses_its_pod_and_is_evaluated_at_the_end(runs: dict[str, Run]) -> None:
    """The overlay's pods draw the data again."""
    run = runs["submitted"]
    assert run.job.name.startswith("vizsage-run-")
    run.job.wait_until(lambda: run_files.held(run.run_dir))
    run.job.active[0].delete()
    assert run.job.wait() == COMPLETE, run.job.log()
    assert run.exit_codes() == [75, 0]
    assert run.resumed_from() == [0, 5]
    assert run.results()["total_samples"] == 138  # all of the test split that need no external knowledge


def test_an_unknown_failure_is_retried_a_few_times(runs: dict[str, Run]) -> None:
    run = runs["crash"]
    assert run.job.wait() == ("Failed", "BackoffLimitExceeded"), run.job.log()
    assert run.exit_codes() == [1] * 4
    assert "an error that was not expected" in run.job.log()


def test_two_pods_train_as_one_process_and_survive_the_end_of_one(start: Callable[..., Run]) -> None:
    """1 process x 2 x 2 samples per step = 2 pods x 1 x 2."""
    one = start(lora_dropout=0.0)
    half = {"lora_dropout": 0.0, "batch_size": 1}
    two = start("submitted", submit=["--nodes", "2", "--then-eval"], **half)
    deleted, killed = (start("multi-node", "hold 5 1", **half) for _ in range(2))
    for run in (deleted, killed):
        run.job.wait_until(lambda run=run: (run.run_dir / "held-1").exists())
        [pod] = [pod for pod in run.job.active if pod.spec["hostname"].endswith("-1")]
        pod.delete() if run is deleted else pod.kill()
    for run in (one, two, deleted, killed):
        assert run.job.wait() == COMPLETE, run.job.log()

    assert len(losses(one.run_dir)) == 9
    assert losses(two.run_dir) == pytest.approx(losses(one.run_dir), abs=1e-5)
    assert two.exit_codes() == [0, 0]
    # Only the first pod evaluates.
    assert ["exact match" in pod.log() for pod in two.job.pods] == [True, False]
    assert two.results()["total_samples"] == 12

    # The other pod has noticed, stopped at the same step, and been replaced as well.
    assert deleted.exit_codes() == [75, 75, 0, 0]
    assert deleted.resumed_from() == [0, 5]
    assert adapter_sha256(deleted.run_dir) == adapter_sha256(two.run_dir)
    assert 137 in killed.exit_codes()
    assert killed.resumed_from()[-1] in (3, 4)
    assert adapter_sha256(killed.run_dir) == adapter_sha256(two.run_dir)


def test_the_demo_for_a_cluster_without_gpus_trains_to_the_end(demo: Run) -> None:
    """Unchanged, to the last setting: the pod draws its data itself."""
    assert demo.job.wait() == COMPLETE, demo.job.log()
    assert demo.exit_codes() == [0]
    outcome = run_files.outcome(demo.run_dir)
    assert (outcome["exit_code"], outcome["reason"], outcome["attempt"]) == (0, "done", 1)
    delivered = demo.run_dir / "vizsage-tiny-demo"
    assert (delivered / "adapter_model.safetensors").stat().st_size > 0
    assert json.loads((delivered / "adapter_config.json").read_text())["r"] == 16
