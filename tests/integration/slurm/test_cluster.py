"""The cluster itself: it runs what it is sent, and keeps no accounts."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.integration.slurm.cluster import Cluster

pytestmark = pytest.mark.slurm


def test_two_nodes_with_gpus_run_a_job(cluster: Cluster, tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = [
        "sbatch",
        "--parsable",
        "-N2",
        "--gpus-per-node=1",
        "-o",
        str(log),
        "--wrap",
        "srun printenv SLURMD_NODENAME",
    ]
    sent = subprocess.run(command, capture_output=True, text=True, check=True)
    assert cluster.wait_for(sent.stdout.strip(), timeout_s=60) == "COMPLETED"
    assert sorted(log.read_text().split()) == ["n1", "n2"]


def test_there_is_no_accounting(cluster: Cluster) -> None:
    """The other tests here depend on it when they show that no sacct is needed."""
    asked = subprocess.run(["sacct", "-n", "-X"], capture_output=True, text=True, check=False)
    assert asked.returncode != 0
    assert "accounting storage is disabled" in asked.stderr
