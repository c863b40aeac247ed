"""Whatever the cluster does to a run, it finishes with the adapter of a run that nothing happened to."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.integration.run_files import adapter_sha256, losses
from tests.integration.slurm.cluster import Cluster
from tests.integration.slurm.user import Job, User, training_pid

pytestmark = pytest.mark.slurm

EVENTS = ("requeue", "time limit", "preemption", "kill")


@pytest.fixture(scope="module")
def reference(user: User) -> Path:
    """Run directory of the run that nothing happens to."""
    return user.train_here(user.config("uninterrupted"))


@pytest.fixture(scope="module")
def interrupted(cluster: Cluster, user: User) -> dict[str, Job]:
    """A run for each event, all at once. Each waits after step 5 for what happens to it."""
    calm = user.profile("calm", "hold 5", constraint="n1")
    limited = user.profile("limited", "hold 5", constraint="n1", time="00:02:00", signal_delay_s=45)
    exposed = user.profile("exposed", "hold 5", constraint="n2")
    profiles = {"requeue": calm, "time limit": limited, "preemption": exposed, "kill": calm}
    jobs = {event: user.submit(user.config(event.replace(" ", "-")), profiles[event]) for event in EVENTS}
    for job in jobs.values():
        job.wait_until_held()
    subprocess.run(["scontrol", "requeue", jobs["requeue"].job_id], check=True)
    os.kill(training_pid(jobs["kill"].run_dir), signal.SIGKILL)
    # All of node n2 for a job of higher priority; the end of the time limit comes by itself.
    above = ["sbatch", "--partition=high", "--constraint=n2", "--exclusive", "--output=/dev/null", "--wrap", "sleep 3"]
    subprocess.run(above, check=True, capture_output=True)
    return jobs


@pytest.mark.parametrize("event", EVENTS)
def test_an_interrupted_run_ends_with_the_same_adapter(
    event: str, cluster: Cluster, user: User, interrupted: dict[str, Job], reference: Path
) -> None:
    job = interrupted[event]
    assert cluster.wait_for(job.job_id) == "COMPLETED", job.text()
    assert job.outcome()["exit_code"] == 0
    assert job.adapter_sha256() == adapter_sha256(reference)
    # It began again, under the same id and in the same log, from a checkpoint.
    attempts = job.attempts()
    assert len(attempts) == job.attempts_logged() >= 2, job.text()
    assert attempts[1]["resumed_from_step"] in ((3, 4) if event == "kill" else (5,)), attempts
    told = {"requeue": "SIGTERM", "time limit": "SIGUSR2", "preemption": "SIGTERM", "kill": "exit code 137: retry 1"}
    assert told[event] in job.text()
    assert job.failures() == (1 if event == "kill" else 0)
    assert "completed" in user.jobs("status", job.run_dir)


def test_two_nodes_train_as_one_process_and_stop_together(cluster: Cluster, user: User) -> None:
    """1 process x 2 x 2 samples per step = 2 nodes x 1 x 2, with an interruption in the middle."""
    config = user.config("two-nodes", lora_dropout=0.0, batch_size=1)
    job = user.submit(config, user.profile("hold", "hold 5"), "--nodes", "2")
    one = user.train_here(user.config("one", lora_dropout=0.0))
    job.wait_until_held(processes=2)
    subprocess.run(["scontrol", "requeue", job.job_id], check=True)
    assert cluster.wait_for(job.job_id) == "COMPLETED", job.text()
    assert [attempt["resumed_from_step"] for attempt in job.attempts()] == [0, 5]
    assert len(losses(one)) == 9
    assert losses(job.run_dir) == pytest.approx(losses(one), abs=1e-4)


def test_a_run_on_a_lost_node_goes_on(cluster: Cluster, user: User, reference: Path) -> None:
    job = user.submit(user.config("lost-node"), user.profile("lost", "hold 5"))
    job.wait_until_held()
    asked = subprocess.run(["squeue", "-h", "-j", job.job_id, "-o", "%N"], check=True, capture_output=True, text=True)
    # SLURM finds out by itself. A node that only an administrator calls lost would answer, and be back at once.
    with cluster.without(asked.stdout.strip()):
        assert cluster.wait_for(job.job_id) == "COMPLETED", job.text()
    assert job.adapter_sha256() == adapter_sha256(reference)
    assert (len(job.attempts()), job.failures()) == (2, 0)
