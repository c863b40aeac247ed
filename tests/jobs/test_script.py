"""The batch script: what it decides after the training, what it never contains, and that bash reads it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from jobs.profile import Profile, load_profile
from jobs.script import EPILOGUE, script_text
from jobs.spec import Work, load_work

ROOT = Path(__file__).parents[2]
DECISIONS = [
    # what SLURM calls the job, exit code of the task, failures before, requeued
    ("RUNNING", 0, 0, False),
    ("RUNNING", 2, 0, False),
    ("RUNNING", 3, 0, False),
    ("RUNNING", 4, 0, False),
    ("RUNNING", 75, 0, True),
    ("RUNNING", 75, 3, True),  # interruptions do not count
    ("COMPLETING", 75, 0, False),  # cancelled, or requeued by SLURM already
    ("COMPLETING", 1, 0, False),
    ("RUNNING", 1, 0, True),
    ("RUNNING", 137, 2, True),
    ("RUNNING", 1, 3, False),  # the fourth failure: three retries were made
]


def standin(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)


def run_block(block: str, folder: Path, state: str, code: int, *, scontrol_fails: bool = False) -> tuple[bool, int]:
    """Whether the job was requeued, and the script's exit code."""
    programs = folder / "programs"
    programs.mkdir()
    requeue = "exit 1" if scontrol_fails else f'echo "$2" > {folder}/requeued'
    show = f"echo JobId=7 JobState={state} Reason=None"
    standin(programs, "scontrol", f"if [ $1 = requeue ]; then {requeue}; else {show}; fi")
    standin(programs, "srun", f"exit {code}")
    standin(programs, "sleep", "")
    done = subprocess.run(
        ["bash", "-c", block],
        cwd=folder,
        env={"PATH": f"{programs}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    return (folder / "requeued").exists(), done.returncode


@pytest.mark.parametrize(("state", "code", "failures", "requeued"), DECISIONS)
@pytest.mark.parametrize("by_hand", [False, True])
def test_what_follows_an_exit_code(
    tmp_path: Path, state: str, code: int, failures: int, requeued: bool, by_hand: bool
) -> None:
    (tmp_path / "jobs").mkdir()
    counter = tmp_path / ("vizsage-7.failures" if by_hand else "jobs/7.failures")
    counter.write_text(f"{failures}\n")
    block = (
        (ROOT / "slurm" / "train.sbatch").read_text()
        if by_hand
        else f"run_dir={tmp_path}; id=7; max_retries=3\n(exit {code})\n{EPILOGUE}"
    )
    assert run_block(block, tmp_path, state, code) == (requeued, code)
    counts = state == "RUNNING" and code in (1, 137)
    assert int(counter.read_text()) == failures + counts


def test_a_failure_that_cannot_be_counted_is_not_retried(tmp_path: Path) -> None:
    """On a full disk the count would stay where it is, and the retries would never end."""
    block = f"run_dir={tmp_path}/missing; id=7; max_retries=3\n(exit 1)\n{EPILOGUE}"
    assert run_block(block, tmp_path, "RUNNING", 1) == (False, 1)


def test_a_controller_that_does_not_answer(tmp_path: Path) -> None:
    (tmp_path / "jobs").mkdir()
    block = f"run_dir={tmp_path}; id=7; max_retries=3\n(exit 75)\n{EPILOGUE}"
    assert run_block(block, tmp_path, "RUNNING", 75, scontrol_fails=True) == (False, 75)


def test_both_scripts_by_hand_decide_alike() -> None:
    def decision(name: str) -> str:
        text = (ROOT / "slurm" / name).read_text()
        lines = text[text.index("\nid=") :].splitlines()
        return "\n".join(line.partition(" #")[0].rstrip() for line in lines if not line.startswith("#"))

    assert decision("train.sbatch") == decision("eval.sbatch")


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Work:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my settings.yaml").write_text("output_dir: 'a run/with $HOME'\nmodel_name: vizsage-tiny\n")
    return load_work("train", tmp_path / "my settings.yaml")


PROFILES = {
    "none": Profile(),
    "apptainer": Profile(container="apptainer /images/v.sif", mounts=("/data:/data:ro",), gres="gpu:a100:2"),
    "pyxis": Profile(container="pyxis /images/v.sqsh", gpus_per_node=2, local_cache="/scratch/$USER"),
}


@pytest.mark.parametrize("kind", PROFILES)
def test_bash_reads_the_script_and_no_token_is_in_it(
    work: Work, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "secret-one")
    monkeypatch.setenv("HF_TOKEN", "secret-two")
    for works in ([work], [work, work]):
        text = script_text(works, PROFILES[kind], tmp_path)
        subprocess.run(["bash", "-n"], input=text, text=True, check=True)
        assert "secret-" not in text
        assert "USR2@600" in text


@pytest.mark.parametrize("kind", PROFILES)
def test_the_task_becomes_the_launcher(work: Work, kind: str, tmp_path: Path) -> None:
    """Run for real with stand-ins: no shell is left between SLURM and jobs.run, and the settings arrive whole."""
    programs = tmp_path / "programs"
    programs.mkdir()
    standin(programs, "srun", 'while [ "$1" != bash ]; do shift; done; exec "$@"')
    standin(programs, "apptainer", 'while [ "${1%python3}" = "$1" ]; do shift; done; exec "$@"')
    standin(programs, "scontrol", "echo n1")
    standin(programs, "python3", f'echo "$PPID|$NODE_RANK|$MASTER_ADDR|$MASTER_PORT|$*" > "{tmp_path}/seen"')
    profile = PROFILES[kind].model_copy(
        update={"python": "python3", "local_cache": str(tmp_path / "cache"), "environment": {"A": "b c"}}
    )
    work.folder.mkdir(parents=True)
    script = subprocess.Popen(
        ["bash", "-c", script_text([work], profile, tmp_path)],
        env={
            "PATH": f"{programs}:{os.environ['PATH']}",
            "SLURM_JOB_ID": "31007",
            "SLURM_JOB_NUM_NODES": "1",
            "SLURM_NODEID": "0",
        },
    )
    assert script.wait() == 0
    parent, rank, address, port, command = (tmp_path / "seen").read_text().strip().split("|")
    assert int(parent) == script.pid
    assert (rank, port) == ("0", str(15000 + 31007 % 15000))
    assert address
    assert command == f"-u -m jobs.run train {work.settings_file}"


def test_every_member_of_an_array_has_its_own_settings(work: Work, tmp_path: Path) -> None:
    other = Work("train", work.config.model_copy(update={"lr": 1e-3}), tmp_path / "other")
    text = script_text([work, other], Profile(), tmp_path)
    assert "--array=0-1" in text
    for member in (work, other):
        assert str(member.settings_file) in text


@pytest.mark.parametrize("name", ["default", "bare", "apptainer", "pyxis"])
def test_shipped_profiles_make_scripts(work: Work, name: str, tmp_path: Path) -> None:
    text = script_text([work], load_profile(str(ROOT / "config" / "clusters" / f"{name}.yaml"), {}), tmp_path)
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)


@pytest.mark.parametrize("name", ["train.sbatch", "eval.sbatch"])
def test_bash_reads_the_scripts_by_hand(name: str) -> None:
    subprocess.run(["bash", "-n", str(ROOT / "slurm" / name)], check=True)
