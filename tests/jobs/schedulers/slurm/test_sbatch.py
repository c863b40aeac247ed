"""What reaches sbatch, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.submissions import find
from tests.jobs.command import SWEEP, TRAIN, printed, refused, run

Standin = Callable[[str, str], None]
ROOT = Path(__file__).parents[2]


def test_a_controller_that_is_silent_is_no_leave_for_a_second_job(
    scripts: Path, standin: Standin, capsys: pytest.CaptureFixture[str]
) -> None:
    printed(capsys, *TRAIN)
    standin("squeue", "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1")
    assert "Unable to contact slurm controller" in refused(capsys, *TRAIN, code=1)
    assert len(list(scripts.iterdir())) == 1


@pytest.mark.parametrize("source", ["profile", "SLURM_CLUSTERS"])
def test_a_job_on_another_cluster_is_asked_for_and_cancelled_there(
    scripts: Path,
    standin: Standin,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    source: str,
) -> None:
    (here / "many.yaml").write_text("clusters: gpu1,gpu2\n" if source == "profile" else "nodes: 1\n")
    monkeypatch.setenv(source, "gpu1,gpu2")
    standin(
        "sbatch",
        f'n=$((77 + $(ls {scripts} | wc -l))); cp "$1" "{scripts}/$n"; echo "Submitted batch job $n on cluster gpu2"',
    )
    for name, answer in {
        "squeue": "echo 'CLUSTER: gpu2'; [ -e forgotten ] || echo 'PENDING|Resources'",
        "sacct": "exit 1",
        "scancel": "exit 0",
        "scontrol": "echo 'MaxArraySize = 1'",
    }.items():
        standin(name, f'echo "{name} $@" >> "{here}/asked"; {answer}')
    assert run(*TRAIN, "--profile", "many.yaml", "--then-eval") == 0
    assert ("clusters: gpu1,gpu2, from SLURM_CLUSTERS" in capsys.readouterr().err) == (source == "SLURM_CLUSTERS")
    assert "#SBATCH --clusters=gpu1,gpu2\n" in (scripts / "77").read_text()
    # Another cluster does not know the job that it waits for.
    assert "#SBATCH --clusters=gpu2\n" in (scripts / "78").read_text()
    assert [job.cluster for job in find("run")] == ["gpu2", "gpu2"]
    monkeypatch.setenv("SLURM_CLUSTERS", "gpu9")
    assert "train job 77 on cluster gpu2: pending (Resources)" in printed(capsys, "status")
    printed(capsys, "cancel")
    (here / "forgotten").touch()
    assert "train job 77 on cluster gpu2: cancelled" in printed(capsys, "status")
    asked = (here / "asked").read_text().splitlines()
    assert {line.split()[0] for line in asked} == {"squeue", "sacct", "scancel"}
    assert all(line.split()[1:3] == ["-M", "gpu2"] for line in asked)
    (here / "asked").unlink()
    assert run(*SWEEP, "--profile", "many.yaml") == 2
    if source == "profile":
        assert (here / "asked").read_text() == "scontrol -M gpu1 show config\nscontrol -M gpu2 show config\n"


def test_what_slurm_refuses_is_told_in_its_words(
    scripts: Path, standin: Standin, capsys: pytest.CaptureFixture[str]
) -> None:
    standin("sbatch", "printf 'sbatch: error: invalid partition: gpu\\nsbatch: error: Batch job failed\\n' >&2; exit 1")
    assert "invalid partition: gpu" in refused(capsys, *TRAIN)
    assert "no run was submitted" in refused(capsys, "status")
    assert "invalid partition: gpu" in refused(capsys, *SWEEP)
    assert not Path("out").exists()
    # What was there before stays.
    Path("out/run/jobs").mkdir(parents=True)
    Path("out/run/jobs/7_0_log.out").touch()
    assert "invalid partition: gpu" in refused(capsys, *TRAIN)
    assert list(Path("out").rglob("*.*")) == [Path("out/run/jobs/7_0_log.out")]


def test_an_answer_without_a_job_takes_nothing_back(
    scripts: Path, standin: Standin, capsys: pytest.CaptureFixture[str]
) -> None:
    standin("sbatch", "echo 'Welcome to the cluster'")
    assert "names no job, see squeue" in refused(capsys, *TRAIN, code=1)
    assert list(Path("out/run/jobs").glob("settings-*.yaml"))  # which the job would read


def test_more_members_than_an_array_may_have(
    scripts: Path, standin: Standin, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    standin("scontrol", 'echo "Configuration data as of 2026"; echo "MaxArraySize            = 1"')
    assert "2 runs are more than a job array of this cluster may have: 1 (MaxArraySize)" in refused(capsys, *SWEEP)
    assert not (here / "out").exists()
    standin("scontrol", 'echo "MaxArraySize            = 2"')
    printed(capsys, *SWEEP)
