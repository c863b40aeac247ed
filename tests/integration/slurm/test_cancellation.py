"""A run that is cancelled saves a checkpoint and waits for a later submission."""

from __future__ import annotations

import subprocess

import pytest

from tests.integration.run_files import adapter_sha256
from tests.integration.slurm.cluster import Cluster
from tests.integration.slurm.user import User

pytestmark = pytest.mark.slurm


def test_scancel_saves_a_checkpoint_and_a_later_submission_continues(cluster: Cluster, user: User) -> None:
    config, profile = user.config("cancelled"), user.profile("hold", "hold 5", partition="main")
    # Options that sbatch would take before those of the script.
    user.environment |= {"SBATCH_TIMELIMIT": "3", "SBATCH_PARTITION": "high"}
    user.environment |= {"SBATCH_NO_REQUEUE": "1", "SBATCH_ARRAY_INX": "0-2", "SRUN_CPUS_PER_TASK": "64"}
    job = user.submit(config, profile)
    job.wait_until_held()
    shown = subprocess.run(["scontrol", "show", "job", job.job_id], capture_output=True, text=True, check=True).stdout
    assert {"TimeLimit=00:30:00", "Partition=main", "Requeue=1"} <= set(shown.split())
    assert f"job {job.job_id}: running" in user.jobs("status")
    # Two jobs on one run directory: the second is refused.
    printed = user.jobs("submit", "slurm", "train", config, "--profile", profile, code=2)
    assert job.job_id in printed
    assert cluster.active() == [job.job_id]

    subprocess.run(["scancel", job.job_id], check=True)
    assert cluster.wait_for(job.job_id) == "CANCELLED"
    # Had the grace time been too short, the process would have been killed before it wrote this.
    assert job.outcome()["exit_code"] == 75, job.text()
    assert (job.run_dir / "checkpoint-5").is_dir()
    status = user.jobs("status", job.run_dir)
    assert f"job {job.job_id}: cancelled" in status
    assert "step 5" in status

    again = user.submit(config, profile)
    assert again.job_id != job.job_id
    reference = user.train_here(user.config("uninterrupted"))
    assert cluster.wait_for(again.job_id) == "COMPLETED", again.text()
    assert [attempt["resumed_from_step"] for attempt in again.attempts()] == [0, 5]
    assert again.adapter_sha256() == adapter_sha256(reference)
    assert "completed" in user.jobs("status", job.run_dir)
