"""What options, settings and the environment change in the profile of a job."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.jobs.command import EVAL, TRAIN, printed, refused, run

Standin = Callable[[str, str], None]
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        ((), {"gres": "gpu:a100:4"}),
        (("--gpus-per-node", "2"), {"gpus-per-node": "2"}),
        (("device=cpu",), {}),  # a CPU job must not wait for GPUs that it does not use
        (("device=cpu", "--gpus-per-node", "1"), {"gpus-per-node": "1"}),
        (("--gpus-per-node", "0"), {}),
    ],
)
def test_gpus_that_are_asked_for(
    here: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], asked: dict[str, str]
) -> None:
    (here / "big.yaml").write_text("gres: gpu:a100:4\n")
    script = printed(capsys, *TRAIN, "--profile", "big.yaml", *words, "--dry-run")
    lines = [
        line.removeprefix("#SBATCH --").split("=", 1) for line in script.splitlines() if line.startswith("#SBATCH")
    ]
    assert {key: value for key, value in (line for line in lines if len(line) == 2) if "g" in key[:2]} == asked


def test_an_evaluation_takes_one_gpu_of_the_kind_that_the_profile_names(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "big.yaml").write_text("gres: gpu:a100:4\nnodes: 3\n")
    script = printed(capsys, *EVAL, "--profile", "big.yaml", "--dry-run")
    assert "#SBATCH --gres=gpu:a100:1\n" in script
    assert "#SBATCH --nodes=1\n" in script


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        (("--nodes", "2"), {"nodes": "2", "gres": "gpu:a100:1"}),
        (("--gpus-per-node", "8"), {"nodes": "1", "gpus-per-node": "8"}),
        (("--nodes", "2", "--gpus-per-node", "2"), {"nodes": "2", "gpus-per-node": "2"}),
        (("--nodes", "2", "device=cpu"), {"nodes": "2"}),
    ],
)
def test_an_evaluation_takes_the_nodes_and_gpus_that_are_asked_for(
    here: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], asked: dict[str, str]
) -> None:
    (here / "big.yaml").write_text("gres: gpu:a100:4\nnodes: 3\n")
    script = printed(capsys, *EVAL, "--profile", "big.yaml", *words, "--dry-run")
    lines = dict(
        line.removeprefix("#SBATCH --").split("=", 1)
        for line in script.splitlines()
        if "SBATCH --" in line and "=" in line
    )
    assert {key: lines[key] for key in ("nodes", "gres", "gpus-per-node") if key in lines} == asked


@pytest.mark.parametrize(
    ("profile", "words", "asked"),
    [
        ("gpus_per_node: 1\nmem: 32G", ("train", "--gpus-per-node", "8"), ("64", "256G")),
        ("gpus_per_node: 1\nmem: 32G", ("eval", "--gpus-per-node", "4"), ("32", "128G")),
        ("gres: gpu:a100:4,shard:2\ncpus_per_task: 30\nmem: 100G", ("eval",), ("8", "25G")),
        ("gres: gpu:a100:4\ncpus_per_task: 30\nmem: 1000", ("train", "--gpus-per-node", "8"), ("60", "2000")),
        ("gres: gpu\nmem: 0", ("train", "--gpus-per-node", "2"), ("16", "0")),
        ("gpus_per_node: 4\nmem: 32G", ("train", "device=cpu"), ("8", "32G")),
        ("gpus_per_node: 0\nmem: 32G", ("train", "--gpus-per-node", "2"), ("8", "32G")),
        ("gpus_per_node: 0\nmem: 32G", ("eval",), ("8", "32G")),
    ],
)
def test_cores_and_memory_grow_with_the_gpus(
    here: Path, capsys: pytest.CaptureFixture[str], profile: str, words: tuple[str, ...], asked: tuple[str, str]
) -> None:
    (here / "big.yaml").write_text(f"{profile}\n")
    kind, *options = words
    script = printed(capsys, "submit", "slurm", kind, "run.yaml", "--profile", "big.yaml", *options, "--dry-run")
    lines = dict(re.findall(r"#SBATCH --([\w-]+)=(.*)", script))
    assert (lines["cpus-per-task"], lines["mem"]) == asked


def test_options_of_sbatch_in_the_environment_change_nothing_unseen(
    scripts: Path,
    standin: Standin,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (here / "mine.yaml").write_text("partition: main\nqos: long\n")
    standin("sbatch", f'env > "{here}/environment"; cp "$1" "{scripts}/101"; echo Submitted batch job 101')
    harmful = {"SBATCH_TIMELIMIT": "3", "SBATCH_NO_REQUEUE": "1", "SBATCH_ARRAY_INX": "0-2", "SBATCH_PARTITION": "high"}
    filling = {"SBATCH_ACCOUNT": "art", "SBATCH_RESERVATION": "course", "SBATCH_QOS": "long"}
    silent = {"SRUN_CONTAINER": "/x", "SLURM_ARRAY_TASK_ID": "7", "SBATCH_EXPORT": "NONE"}
    kept = {"SLURM_CONF": "/etc/slurm.conf", "WANDB_API_KEY": "k"}
    for name, value in (harmful | filling | silent | kept).items():
        monkeypatch.setenv(name, value)
    words = (*TRAIN, "--profile", "mine.yaml", "--time", "1:00:00")
    remarks = [
        "jobs: warning: account: art, from SBATCH_ACCOUNT in the environment",
        "jobs: warning: reservation: course, from SBATCH_RESERVATION in the environment",
        f"jobs: warning: {', '.join(sorted(harmful))} in the environment: not passed on to sbatch; profile and options "
        "decide",
    ]
    assert run(*words, "--dry-run") == 0
    dry = capsys.readouterr()
    assert dry.err.splitlines() == remarks
    asked = {line.removeprefix("#SBATCH --") for line in dry.out.splitlines() if line.startswith("#SBATCH")}
    assert {"partition=main", "qos=long", "account=art", "reservation=course", "time=1:00:00", "requeue"} <= asked
    assert run(*words) == 0
    assert capsys.readouterr().err.splitlines() == remarks
    assert f"{(scripts / '101').read_text()}\n" == dry.out
    passed_on = dict(line.partition("=")[::2] for line in (here / "environment").read_text().splitlines())
    assert {name: passed_on.get(name) for name in (*harmful, *filling, *silent, *kept)} == dict.fromkeys(
        (*harmful, *filling, *silent)
    ) | kept


def test_a_value_of_the_environment_that_no_profile_may_have(
    scripts: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SBATCH_ACCOUNT", "two words")
    assert "SBATCH_ACCOUNT in the environment: account: expected one word" in refused(capsys, *TRAIN)
