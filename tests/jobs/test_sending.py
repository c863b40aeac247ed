"""`python -m jobs submit` and `sweep`: what is sent, noted and printed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.submissions import find
from tests.jobs.command import EVAL, SWEEP, TRAIN, printed, refused, run

Standin = Callable[[str, str], None]
ROOT = Path(__file__).parents[2]


def test_a_job_is_sent_and_noted(scripts: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = here / "out" / "run" / "jobs"
    assert printed(capsys, *TRAIN, "lr=0.5").splitlines() == [
        "job 101",
        f"run directory {here}/out/run",
        f"log {folder}/101_0_log.out",
        f"follow it with: python -m jobs logs -f {here}/out/run",
    ]
    [job] = find(None)
    assert find("out/run") == [job]
    assert (job.job_id, job.kind, job.scheduler) == ("101", "train", "slurm")
    assert "lr: 0.5" in Path(job.config).read_text()
    assert (scripts / "101").read_text() == Path(job.script).read_text()
    assert job.config in Path(job.script).read_text()
    assert not [path for path in folder.glob(".submission*") if not path.is_symlink()]


def test_a_command_to_copy_is_quoted(scripts: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = printed(capsys, *TRAIN, "output_dir=out/my run")
    assert out.splitlines()[-1] == f"follow it with: python -m jobs logs -f '{here}/out/my run'"
    assert f"\nfollow it with: python -m jobs table '{here}/out/my sweep'\n" in printed(
        capsys, *SWEEP, "output_dir=out/my sweep"
    )


def test_the_evaluation_waits_for_the_training(scripts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = printed(capsys, *TRAIN, "--then-eval", "--nodes", "2", "--gpus-per-node", "4")
    assert "\nevaluation job 102 starts when job 101 has succeeded, log " in out
    training, evaluation = ((scripts / name).read_text().splitlines() for name in ("101", "102"))
    assert {"#SBATCH --nodes=2", "#SBATCH --gpus-per-node=4"} <= set(training)
    assert not [line for line in training if "dependency" in line]
    # One process, and never pending for ever where the training fails.
    assert {
        "#SBATCH --nodes=1",
        "#SBATCH --gpus-per-node=1",
        "#SBATCH --dependency=afterok:101",
        "#SBATCH --kill-on-invalid-dep=yes",
    } <= set(evaluation)
    assert [job.kind for job in find(None)] == ["train", "eval"]


def test_an_evaluation_is_told_what_is_asked_for(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--split", "val set", "--limit", "5", "--adapter", "out/lr=1e-4/ada", "lr=0.5", "--blind")
    script = printed(capsys, *EVAL, *words, "--dry-run")
    assert (
        f"""jobs.run eval "$settings" '--split=val set' --limit=5 --adapter={here}/out/lr=1e-4/ada --blind\n"""
        in script
    )
    assert printed(capsys, *EVAL, "--base", "--dry-run").count('jobs.run eval "$settings" --base\n') == 1
    assert printed(capsys, *EVAL, "--dry-run").count('jobs.run eval "$settings"\n') == 1


def test_submit_knows_every_option_of_an_evaluation() -> None:
    """But --fresh, which would begin again at every attempt."""

    def options(*words: str) -> set[str]:
        command = [sys.executable, "-m", *words, "--help"]
        return set(
            re.findall(
                r"(--[a-z-]+)", subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
            )
        )

    assert options("vizsage", "eval") - {"--fresh", "--debug"} <= options("jobs", "submit")
    assert not {"--split", "--blind"} & options("jobs", "sweep")


def test_a_path_may_begin_with_the_sign_of_a_home_folder(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    home = here / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    for name in ("run.yaml", "data"):
        (here / name).rename(home / name)
    (home / "mine.yaml").write_text("partition: gpu-mine")
    words = ("slurm", "eval", "~/run.yaml", "output_dir=~/out", "--profile", "~/mine.yaml", "--adapter", "~/ada")
    words += ("base_path=~/data",)
    script = printed(capsys, "submit", *words, "--dry-run")
    assert "--partition=gpu-mine" in script
    assert f"--adapter={home}/ada" in script
    assert f"{home}/out/jobs" in script
    assert "~" not in script
    for asking in ("status", "logs", "cancel"):
        assert f"{home}/out" in refused(capsys, asking, "~/out")
    assert f"{home}/none" in refused(capsys, "table", "~/none")
    assert [path.name for path in here.iterdir()] == ["home"]


@pytest.mark.parametrize("more", [(), ("--dry-run",)])
@pytest.mark.parametrize(
    "words",
    [
        (*TRAIN, "dataset=Nope"),
        (*EVAL, "dataset=Nope"),
        (*SWEEP[:4], "dataset=AQUA,Nope"),
        ("submit", "local", "train", "run.yaml", "dataset=Nope"),
        ("sweep", "local", "train", "run.yaml", "dataset=AQUA,Nope"),
    ],
)
def test_a_data_set_that_is_not_there_is_told_before_anything_is_sent(
    scripts: Path, here: Path, state_home: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], more: Any
) -> None:
    said = "jobs: error: data/Nope: no such folder; base_path and dataset name the folder that holds the splits\n"
    assert refused(capsys, *words, *more, code=3) == said
    assert sorted(path.name for path in here.iterdir()) == ["data", "run.yaml"]
    assert not [*scripts.iterdir(), *state_home.iterdir()]


def test_a_data_folder_that_cannot_be_seen_from_here_is_a_warning(
    scripts: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A login node need not mount it; and the pods of Kubernetes have a volume."""
    assert run(*SWEEP, "base_path=/nowhere/data") == 0
    told = capsys.readouterr()
    assert told.err == (
        "jobs: warning: base_path: /nowhere/data is no folder that can be seen from here, so the data was not looked "
        "for\n"
    )
    assert len(list(scripts.iterdir())) == 1


def test_overrides_may_stand_behind_options(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = printed(capsys, *TRAIN, "lr=0.5", "lora_r=4", "--time", "1-00", "--dry-run")
    assert printed(capsys, *TRAIN, "lr=0.5", "--dry-run", "--time", "1-00", "lora_r=4") == plain
    assert printed(capsys, *TRAIN, "lr=0.5", "--time", "1-00", "--dry-run") != plain


@pytest.mark.parametrize("state", ["PENDING", "RUNNING", "COMPLETING"])
def test_a_second_job_of_a_run_is_refused_while_the_first_is_active(
    scripts: Path, standin: Standin, capsys: pytest.CaptureFixture[str], state: str
) -> None:
    printed(capsys, *TRAIN)
    standin("squeue", f"echo '{state}|None'")
    assert "job 101 of this run is " in refused(capsys, *TRAIN)
    assert len(list(scripts.iterdir())) == 1
    assert "train job 101 of this run is " in refused(capsys, *EVAL)
    printed(capsys, *TRAIN, "output_dir=out/other")  # another run is something else


def test_the_same_submission_continues_a_run_that_ended(scripts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed(capsys, *TRAIN)
    assert printed(capsys, *TRAIN).startswith("job 102\n")
    assert [job.job_id for job in find(None)] == ["101", "102"]


def test_a_sweep_is_one_array_and_an_evaluation_for_each_member(
    scripts: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = printed(capsys, *SWEEP, "--then-eval")
    base = here / "out" / "run"
    assert out.splitlines()[:2] == [
        f"job 101_0 run directory {base}/lr=1e-4",
        f"job 101_1 run directory {base}/lr=2e-4",
    ]
    assert "#SBATCH --array=0-1" in (scripts / "101").read_text()
    assert "--dependency=afterok:101_0\n" in (scripts / "102").read_text()
    assert "--dependency=afterok:101_1\n" in (scripts / "103").read_text()
    noted = json.loads((base / "sweep.json").read_text())
    assert [(one["run_dir"], one["overrides"][0], one["job_id"]) for one in noted["runs"]] == [
        (f"{base}/lr=1e-4", "lr=1e-4", "101_0"),
        (f"{base}/lr=2e-4", "lr=2e-4", "101_1"),
    ]
    told = printed(capsys, "status", str(base)).splitlines()
    assert [line.split()[-1] for line in told if line.startswith("run directory ")] == [
        f"{base}/lr=1e-4",
        f"{base}/lr=2e-4",
    ]
    assert [line.partition(":")[0] for line in told if " job " in line] == [
        "train job 101_0",
        "eval job 102",
        "train job 101_1",
        "eval job 103",
    ]
    for job_id in ("101_0", "101_1"):
        training, _ = find(job_id)
        assert training.log == f"{base}/jobs/{job_id}_0_log.out"
        assert Path(training.config).exists()
        assert Path(training.script).read_text() == (scripts / "101").read_text()


def test_a_member_that_is_active_holds_the_sweep_back(
    scripts: Path, standin: Standin, capsys: pytest.CaptureFixture[str]
) -> None:
    printed(capsys, *SWEEP)
    standin("squeue", 'case "$*" in *101_1*) echo "RUNNING|None" ;; *) echo "COMPLETED|None" ;; esac')
    assert "job 101_1 of this run is running" in refused(capsys, *SWEEP)
    assert len(list(scripts.iterdir())) == 1


def test_one_refused_evaluation_does_not_hold_up_the_others(
    scripts: Path, standin: Standin, capsys: pytest.CaptureFixture[str]
) -> None:
    standin(
        "sbatch",
        f'n=$((101 + $(ls {scripts} | wc -l))); cp "${{@: -1}}" "{scripts}/$n"\n'
        "[ $n = 102 ] && { echo 'sbatch: error: too many jobs' >&2; exit 1; }\necho Submitted batch job $n",
    )
    assert run(*SWEEP, "--then-eval") == 2
    printed = capsys.readouterr()
    assert "too many jobs" in printed.err
    assert "lr=1e-4" in printed.err
    assert printed.err.count("\n") == 1
    assert "evaluation job 103 starts when job 101_1 has succeeded" in printed.out
