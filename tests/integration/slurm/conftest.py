"""A SLURM cluster for all tests here, and a user who works with it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.slurm.cluster import Cluster, missing_programs
from tests.integration.slurm.user import User


def reason_to_skip() -> str | None:
    """Why there can be no cluster here, or None."""
    if os.environ.get("VIZSAGE_SLURM") != "1":
        return "needs a separate SLURM cluster: run make test-slurm"
    if os.geteuid() != 0:
        return "a SLURM cluster for tests needs root: slurmd does not start without it"
    if missing := missing_programs():
        return (
            f"a SLURM cluster for tests needs {', '.join(missing)}: as root, make test-slurm installs them with apt-get"
        )
    return None


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The cluster; SLURM_CONF leads every command of SLURM to it."""
    if reason := reason_to_skip():
        pytest.skip(reason)
    # Not in pytest's folders: the path of a socket has at most 107 characters.
    cluster = Cluster(Path(tempfile.mkdtemp(prefix="slurm-")) / "cluster")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("SLURM_", "SBATCH_", "SRUN_"))]:
            patch.delenv(name)
        patch.setenv("SLURM_CONF", str(cluster.configuration))
        cluster.start()
        try:
            yield cluster
        finally:
            cluster.stop()
            cluster.folder.parent.rmdir()


@pytest.fixture(scope="module")
def user(cluster: Cluster, data: Path, tmp_path_factory: pytest.TempPathFactory) -> User:
    """A user of the cluster."""
    return User(tmp_path_factory.mktemp("user"), data)
