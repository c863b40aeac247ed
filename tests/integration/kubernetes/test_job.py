"""What a Job becomes when its pods end, by the rules that the manifests set."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.kubernetes.job import Controller, Job
from tests.integration.kubernetes.manifest import overlay
from tests.integration.kubernetes.pod import Document, Namespace


@pytest.fixture(scope="module")
def policy() -> Document:
    """The part of the base Job that decides about failures."""
    [job] = [document for document in overlay("../base") if document["kind"] == "Job"]
    spec = job["spec"]
    return {name: spec[name] for name in ("backoffLimit", "podFailurePolicy", "podReplacementPolicy")}


class Shop:
    """Makes Jobs whose pods run a shell script with the outputs claim at /claim."""

    def __init__(self, folder: Path, policy: Document) -> None:
        self.policy = policy
        service = {"clusterIP": "None", "selector": {"app": "one"}}
        self.namespace = Namespace(
            folder,
            [
                {"kind": "PersistentVolumeClaim", "metadata": {"name": "outputs"}},
                {"kind": "Service", "metadata": {"name": "peers"}, "spec": service},
            ],
        )
        self.claim = self.namespace.claim("outputs")
        self.controller = Controller()

    def job(self, script: str, pod: Document | None = None, **spec: Any) -> Job:
        """One Job, in the folder that they share."""
        volumes = [{"name": "claim", "persistentVolumeClaim": {"claimName": "outputs"}}]
        mounts = [{"name": "claim", "mountPath": "/claim"}]
        container = {"name": "vizsage", "command": ["sh", "-c", script], "volumeMounts": mounts}
        inside = {"restartPolicy": "Never", "containers": [container], "volumes": volumes, **(pod or {})}
        template = {"metadata": {"labels": {"app": "one"}}, "spec": inside}
        document = {"metadata": {"name": "job"}, "spec": {"template": template, **self.policy, **spec}}
        return Job(document, self.namespace, self.controller)


@pytest.fixture
def shop(tmp_path: Path, policy: Document) -> Iterator[Shop]:
    """The folder of a test; what runs in it ends with the test."""
    shop = Shop(tmp_path, policy)
    yield shop
    shop.controller.stop()


# Each pod takes the next number.
COUNT = "n=$(ls /claim | wc -l); touch /claim/$n; "


@pytest.mark.parametrize("code", [2, 3, 4])
def test_an_exit_code_that_will_repeat_fails_the_job_at_once(shop: Shop, code: int) -> None:
    job = shop.job(f"exit {code}")
    assert job.wait() == ("Failed", "PodFailurePolicy")
    assert len(job.pods) == 1


def test_an_unknown_failure_is_retried_a_few_times(shop: Shop) -> None:
    job = shop.job("exit 1")
    assert job.wait() == ("Failed", "BackoffLimitExceeded")
    assert len(job.pods) == 4  # the first and three retries


def test_interruptions_are_not_counted(shop: Shop) -> None:
    job = shop.job(COUNT + "[ $n = 8 ] || exit 75")
    assert job.wait() == ("Complete", "CompletionsReached")
    assert (len(job.pods), job.failures) == (9, 0)


def test_a_container_that_succeeded_fits_no_rule_about_exit_codes(shop: Shop) -> None:
    rules = [{"action": "FailJob", "onExitCodes": {"operator": "NotIn", "values": [75]}}]
    before = {"name": "before", "command": ["true"]}
    job = shop.job("exit 75", {"initContainers": [before]}, podFailurePolicy={"rules": rules}, backoffLimit=0)
    assert job.wait() == ("Failed", "BackoffLimitExceeded")
    assert job.pods[0].exit_codes == {"before": 0, "vizsage": 75}


def test_disruptions_come_first_and_are_not_counted(shop: Shop) -> None:
    """Even one that ends with a code that would fail the Job."""
    job = shop.job('trap "exit 2" TERM; touch /claim/$HOSTNAME; sleep 60 & wait')
    for count in range(1, 6):
        job.wait_until(lambda count=count: len(list(shop.claim.iterdir())) == count)
        job.active[0].evict()
    job.wait_until(lambda: len(job.pods) == 6)
    assert [pod.exit_code for pod in job.pods[:5]] == [2] * 5
    assert job.failures == 0


def test_a_replacement_waits_for_the_last_process_of_the_old_pod(shop: Shop) -> None:
    script = """
        [ -e /claim/second ] && exec test ! -e /claim/busy
        trap "sleep 0.5; rm /claim/busy; exit 75" TERM
        touch /claim/second /claim/busy; sleep 60 & wait"""
    job = shop.job(script)
    job.wait_until((shop.claim / "busy").exists)
    job.active[0].delete()
    assert job.wait() == ("Complete", "CompletionsReached")
    assert [pod.exit_code for pod in job.pods] == [75, 0]


def test_indexed_pods_have_their_numbers_names_and_peers(shop: Shop) -> None:
    script = "echo $JOB_COMPLETION_INDEX $HOSTNAME; getent hosts job-1.peers; [ $JOB_COMPLETION_INDEX = 0 ] || exit 75"
    spec = {"completionMode": "Indexed", "completions": 2, "parallelism": 2}
    job = shop.job(script, {"subdomain": "peers"}, **spec)
    job.wait_until(lambda: len(job.pods) > 3)
    # Only the one that failed has followers.
    assert [pod.name.split("-")[1] for pod in job.pods][:4] == ["0", "1", "1", "1"]
    assert job.pods[0].log().split() == ["0", "job-0", "127.0.0.1", "job-1.peers"]
    assert job.pods[1].log().split()[:2] == ["1", "job-1"]


def test_when_one_index_fails_the_job_the_others_are_ended(shop: Shop) -> None:
    script = '[ $JOB_COMPLETION_INDEX = 1 ] && exit 3; trap "exit 75" TERM; sleep 60 & wait'
    job = shop.job(script, completionMode="Indexed", completions=2, parallelism=2)
    assert job.wait() == ("Failed", "PodFailurePolicy")
    assert sorted(pod.exit_code or 0 for pod in job.pods) in ([3, 75], [3, 143])
    assert not job.active
