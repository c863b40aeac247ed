"""An evaluation on two nodes, interrupted on the way, gives what one process gives."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integration.slurm.cluster import Cluster
from tests.integration.slurm.user import Job, User
from vizsage.json_lines import read_jsonl

pytestmark = pytest.mark.slurm

SPLIT = Path("evaluation_results") / "val-base"
OPTIONS = ("--base", "--split", "val")


def results(folder: Path) -> dict[str, Any]:
    """results.json without what differs from run to run."""
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())
    own = ("finished", "throughput", "processes")
    return {key: value for key, value in found.items() if key not in own} | {
        "settings": {key: value for key, value in found["settings"].items() if key != "output_dir"}
    }


def answers(job: Job) -> list[list[str]]:
    """The keys in each file of answers: one for each process of each attempt that came to answer."""
    return [[row["key"] for row in read_jsonl(path)] for path in sorted((job.run_dir / SPLIT / "answers").iterdir())]


def test_two_nodes_evaluate_stop_together_and_continue_as_one_process(cluster: Cluster, user: User) -> None:
    config = user.config("evaluated", eval_batch_size=1)
    job = user.submit(config, user.profile("answer", "answer 2"), "--nodes", "2", *OPTIONS, kind="eval")
    job.wait_until_held(processes=2)
    subprocess.run(["scontrol", "requeue", job.job_id], check=True)
    assert cluster.wait_for(job.job_id) == "COMPLETED", job.text()
    assert job.attempts_logged() == 2
    assert "SIGTERM" in job.text()
    assert job.failures() == 0
    # Both nodes answered before and after, and no sample was answered again.
    kept = answers(job)
    assert sorted(map(len, kept)) == [2, 2, 4, 4]
    assert len({key for keys in kept for key in keys}) == 12
    alone = user.config("evaluated-here", eval_batch_size=1)
    user.run(sys.executable, "-m", "vizsage", "eval", alone, *OPTIONS)
    here = user.folder / "evaluated-here" / SPLIT
    assert (job.run_dir / SPLIT / "predictions.jsonl").read_bytes() == (here / "predictions.jsonl").read_bytes()
    assert results(job.run_dir / SPLIT) == results(here)
    assert json.loads((job.run_dir / SPLIT / "results.json").read_text())["processes"] == 2
    assert f"eval job {job.job_id}: completed" in user.jobs("status", job.run_dir)
