"""A real training on this machine's queue: cancelled, continued by the same submission, then evaluated."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.integration.run_files import MISHAPS, adapter_sha256
from tests.integration.slurm.user import User, read_job
from tests.jobs.schedulers.local.machine import supervisors, until


@pytest.fixture
def user(tmp_path: Path, data: Path) -> Iterator[User]:
    """A user whose trainings wait after their fifth step, once, for a signal."""
    found = User(tmp_path, data)
    found.environment |= {"PYTHONPATH": str(MISHAPS), "MISHAP": "hold 5", "CUDA_VISIBLE_DEVICES": ""}
    yield found
    for process in supervisors(tmp_path / "state"):
        for each in [*process.children(recursive=True), process]:
            each.send_signal(signal.SIGKILL)
    psutil.wait_procs(supervisors(tmp_path / "state"), timeout=10)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_cancelled_job_saves_a_checkpoint_and_the_same_submission_continues_it(user: User) -> None:
    """Although its supervisor was killed: what is known of the job then comes from the real launcher."""
    config = user.config("cancelled")
    job = read_job(user.jobs("submit", "local", "train", config, "--then-eval"))
    job.wait_until_held()
    [supervisor] = supervisors(user.folder / "state")
    supervisor.send_signal(signal.SIGKILL)
    until(lambda: "its supervisor is gone" in user.jobs("status", job.run_dir))
    user.jobs("cancel", job.run_dir)
    until(lambda: f"train job {job.job_id}: cancelled" in user.jobs("status", job.run_dir), timeout_s=300)
    assert job.outcome()["exit_code"] == 75, job.text()
    assert (job.run_dir / "checkpoint-5").is_dir()
    status = user.jobs("status", job.run_dir)
    assert f"train job {job.job_id}: cancelled (by python -m jobs cancel)\n  step 5" in status
    assert f"eval job {job.evaluation_id}: cancelled" in status

    again = read_job(user.jobs("submit", "local", "train", config, "--then-eval"))
    reference = User(user.folder, user.data).train_here(user.config("uninterrupted"))
    until(lambda: not supervisors(user.folder / "state"), timeout_s=500)
    assert [attempt["resumed_from_step"] for attempt in again.attempts()] == [0, 5], again.text()
    assert again.adapter_sha256() == adapter_sha256(reference)
    results = json.loads((again.run_dir / "evaluation_results" / "test" / "results.json").read_text())
    assert results["total_samples"] == 12
    status = user.jobs("status", again.run_dir)
    assert f"train job {again.job_id}: completed" in status
    assert f"eval job {again.evaluation_id}: completed" in status
