"""The cluster keeps no accounts, here as in all other tests of this folder. Then it has forgotten the jobs as well."""

from __future__ import annotations

import subprocess

import pytest

from tests.integration.slurm.cluster import Cluster
from tests.integration.slurm.user import User

pytestmark = pytest.mark.slurm


def test_status_of_jobs_that_slurm_has_forgotten(cluster: Cluster, user: User) -> None:
    assert subprocess.run(["sacct", "-X"], capture_output=True, check=False).returncode != 0
    away = user.folder / "away"
    away.symlink_to(user.data)
    plain = user.profile("plain")
    jobs = {
        "failed": user.submit(user.config("failed", base_path=str(away)), user.profile("bare", setup=[f"rm {away}"])),
        "cancelled": user.submit(user.config("cancelled"), user.profile("hold", "hold 2")),
        "completed": user.submit(user.config("completed", max_steps=2), plain, "--then-eval"),
    }
    jobs["cancelled"].wait_until_held()
    assert jobs["cancelled"].job_id in user.jobs("cancel", "cancelled")
    for state, job in jobs.items():
        assert cluster.wait_for(job.job_id) == state.upper(), job.text()
        assert f"job {job.job_id}: {state}" in user.jobs("status", job.job_id)
    evaluation = jobs["completed"].evaluation_id
    assert evaluation
    assert cluster.wait_for(evaluation) == "COMPLETED"

    cluster.forget()
    for state, job in jobs.items():
        assert cluster.state(job.job_id) == "FORGOTTEN"
        assert f"job {job.job_id}: {state}" in user.jobs("status", job.run_dir)
    assert f"job {evaluation}: completed" in user.jobs("status", "completed")
    # A forgotten job does not block the next one; another job with its id does not either.
    held = subprocess.run(
        ["sbatch", "--parsable", "--hold", "-o", "/dev/null", "--wrap", "true"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    noted = jobs["cancelled"].run_dir / "jobs" / "submissions.jsonl"
    noted.write_text(noted.read_text().replace(f'"job_id": "{jobs["cancelled"].job_id}"', f'"job_id": "{held}"'))
    assert cluster.state(held) == "PENDING"
    assert f"job {held}: interrupted" in user.jobs("status", jobs["cancelled"].run_dir)
    again = user.submit(user.config("cancelled"), plain)
    assert cluster.wait_for(again.job_id) == "COMPLETED", again.text()
    subprocess.run(["scancel", held], check=True)
