"""The scripts for each kind of container, and one run through a stand-in for Apptainer."""

from __future__ import annotations

import difflib
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integration.run_files import ROOT, adapter_sha256
from tests.integration.slurm.cluster import Cluster
from tests.integration.slurm.user import User

pytestmark = pytest.mark.slurm

HERE = Path(__file__).parent
# Between them they use every line that a profile can put into a script.
KINDS: dict[str, dict[str, Any]] = {
    "none": {"gpus_per_node": 2, "nodes": 2, "constraint": "n1|n2", "setup": ["ulimit -n 65536"]},
    "apptainer": {
        "container": "apptainer /images/vizsage.sif",
        "gres": "gpu:2",
        "partition": "main",
        "mounts": ["/scratch:/scratch", "/models:/models:ro"],
        "environment": {"HF_HUB_OFFLINE": "1", "GREETING": "it's $HOME"},
    },
    "pyxis": {
        "container": "pyxis /images/vizsage.sqsh",
        "gpus_per_node": 1,
        "mounts": ["/scratch:/scratch"],
        "local_cache": "/tmp/$USER/vizsage",
        "srun_options": ["--no-container-mount-home"],
        "max_retries": 1,
    },
}


def without_places(script: str, user: User) -> str:
    """The script with names for what differs from one machine to the next."""
    places = {sys.executable: "PYTHON", str(ROOT): "ROOT", str(user.folder): "USER", str(user.data): "DATA"}
    for place in sorted(places, key=len, reverse=True):
        script = script.replace(place, places[place])
    return re.sub(r"settings-[0-9a-f]{12}", "settings-DIGEST", script)


@pytest.mark.parametrize("kind", KINDS)
def test_the_script_is_as_agreed_and_slurm_accepts_it(kind: str, cluster: Cluster, user: User) -> None:
    """VIZSAGE_WRITE_GOLDEN=1 writes the golden files again: read the difference before you commit it."""
    config = user.config("golden", device="auto")
    before = cluster.jobs()
    printed = user.jobs(
        *("submit", "slurm", "train", config, "--profile", user.profile(kind, **KINDS[kind]), "--dry-run")
    )
    golden = HERE / "golden" / f"{kind}.sbatch"
    found = without_places(printed, user)
    if os.environ.get("VIZSAGE_WRITE_GOLDEN") == "1":
        golden.write_text(found)
    difference = "\n".join(difflib.unified_diff(golden.read_text().splitlines(), found.splitlines(), lineterm=""))
    assert not difference
    script = user.folder / f"{kind}.sbatch"
    script.write_text(printed)
    tried = subprocess.run(["sbatch", "--test-only", script], capture_output=True, text=True, check=False)
    assert tried.returncode == 0, tried.stderr
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    assert cluster.jobs() == before
    assert not (user.folder / "golden").exists()


def test_a_run_in_a_container_is_interrupted_and_continues(cluster: Cluster, user: User) -> None:
    """The stand-in checks image, mounts and command, hides SLURM from the command, and becomes it."""
    image, mounted = user.folder / "vizsage.sif", user.folder / "mounted"
    image.touch()
    profile = user.profile(
        "contained",
        "hold 5",
        container=f"apptainer {image}",
        setup=[f'export PATH={HERE / "standins"}:{Path(sys.executable).parent}:"$PATH" MOUNTED={mounted}'],
    )
    job = user.submit(user.config("contained"), profile)
    job.wait_until_held()
    subprocess.run(["scontrol", "requeue", job.job_id], check=True)
    reference = user.train_here(user.config("uninterrupted"))
    assert cluster.wait_for(job.job_id) == "COMPLETED", job.text()
    assert [attempt["resumed_from_step"] for attempt in job.attempts()] == [0, 5]
    assert job.adapter_sha256() == adapter_sha256(reference)
    assert mounted.read_text().splitlines() == [
        f"{ROOT}:{ROOT}",
        f"{job.run_dir}:{job.run_dir}",
        f"{user.data}:{user.data}:ro",
    ]
