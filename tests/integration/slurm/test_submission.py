"""From a command to results, and from mistakes to a word on them."""

from __future__ import annotations

import json

import pytest

from tests.integration.run_files import ROOT
from tests.integration.slurm.cluster import Cluster
from tests.integration.slurm.user import SECRET, Job, User, read_job

pytestmark = pytest.mark.slurm


@pytest.fixture(scope="module")
def jobs(cluster: Cluster, user: User) -> dict[str, Job]:
    """All that is sent here, at once: the demo by make, a run whose data the node lacks, one that always crashes."""
    overrides = [
        f"base_path={user.data}",
        f"external_knowledge_path={user.data / 'semart.csv'}",
        f"output_dir={user.folder / 'demo'}",
        "name_trained_model=vizsage-adapter",
        *("max_steps=6", "batch_size=4", "val_samples=4", "num_proc=0"),
    ]
    profile = user.profile("plain", setup=["echo the token has ${#HF_TOKEN} characters"])
    arguments = [f"PROFILE={profile}", f"ARGS=--then-eval {' '.join(overrides)}"]
    demo = read_job(
        user.run("make", "-s", "submit-slurm", f"CONFIG={ROOT / 'config' / 'demo_config.yaml'}", *arguments)
    )
    # The folder exists where the job is submitted, and not on the node.
    away = user.folder / "away"
    away.symlink_to(user.data)
    bare_node = user.profile("bare-node", setup=[f"rm {away}"])
    return {
        "demo": demo,
        "no data": user.submit(user.config("no-data", base_path=str(away)), bare_node),
        "crash": user.submit(user.config("crash"), user.profile("crash", "crash 2"), "--then-eval"),
    }


def test_the_demo_submitted_by_make_trains_and_is_evaluated(cluster: Cluster, user: User, jobs: dict[str, Job]) -> None:
    job = jobs["demo"]
    assert cluster.wait_for(job.job_id) == "COMPLETED", job.text()
    assert job.run_dir == user.folder / "demo"
    assert job.outcome() == {"exit_code": 0, "reason": "done", "step": 6, "attempt": 1}
    assert job.adapter_sha256()
    assert job.evaluation_id
    assert cluster.wait_for(job.evaluation_id) == "COMPLETED"
    results = json.loads((job.run_dir / "evaluation_results" / "test" / "results.json").read_text())
    assert results["total_samples"] == 12
    assert user.jobs("status", job.job_id).count("completed") == 2
    assert "adapter saved in" in user.jobs("logs", job.job_id)
    assert "with external knowledge" in user.jobs("logs", job.run_dir)  # the run's latest
    # A token of the submitting user reaches the job and is in none of its files.
    assert f"the token has {len(SECRET)} characters" in job.text()
    files = [path for path in job.run_dir.rglob("*") if path.is_file()]
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]


def test_a_mistake_in_the_settings_sends_nothing(cluster: Cluster, user: User, jobs: dict[str, Job]) -> None:
    before = cluster.jobs()
    printed = user.jobs("submit", "slurm", "train", user.config("wrong"), "lora_r=many", code=2)
    assert "lora_r" in printed
    assert len(printed.splitlines()) == 1
    printed = user.jobs(
        "submit", "slurm", "train", user.config("wrong"), "--profile", user.profile("wrong", partitoin="main"), code=2
    )
    assert "partition" in printed
    assert cluster.jobs() == before
    assert not (user.folder / "wrong").exists()


def test_data_that_only_the_node_lacks_is_not_asked_for_again(
    cluster: Cluster, user: User, jobs: dict[str, Job]
) -> None:
    job = jobs["no data"]
    assert cluster.wait_for(job.job_id) == "FAILED", job.text()
    assert cluster.exit_code(job.job_id) == 3
    assert job.attempts_logged() == 1
    assert job.failures() == 0
    status = user.jobs("status", job.run_dir)
    assert "failed" in status
    assert str(user.folder / "away") in status


def test_a_run_that_always_crashes_is_given_up_and_status_says_why(
    cluster: Cluster, user: User, jobs: dict[str, Job]
) -> None:
    job = jobs["crash"]
    assert cluster.wait_for(job.job_id) == "FAILED", job.text()
    assert cluster.exit_code(job.job_id) == 1
    assert job.attempts_logged() == 4  # the first and three retries
    assert "given up" in job.text()
    status = user.jobs("status", job.run_dir)
    assert "failed" in status
    assert "an error that was not expected" in status
    # What would have followed is dropped, not left pending for ever.
    assert job.evaluation_id
    assert cluster.wait_for(job.evaluation_id) == "CANCELLED"
