"""`python -m jobs submit` and `sweep`: what reaches SLURM, what is noted, what is said."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.submissions import find
from tests.jobs.command import EVAL, SWEEP, TRAIN, printed, refused, run

Standin = Callable[[str, str], None]
ROOT = Path(__file__).parents[2]


# --- sending ---------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        ((), {"gres": "gpu:a100:4"}),
        (("--gpus-per-node", "2"), {"gpus-per-node": "2"}),
        (("device=cpu",), {}),  # nobody wants to wait for GPUs that stay idle
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
    """But --fresh, which would begin anew at every attempt."""

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
    (here / "run.yaml").rename(home / "run.yaml")
    (home / "mine.yaml").write_text("partition: gpu-mine")
    words = ("slurm", "eval", "~/run.yaml", "output_dir=~/out", "--profile", "~/mine.yaml", "--adapter", "~/ada")
    script = printed(capsys, "submit", *words, "--dry-run")
    assert "--partition=gpu-mine" in script
    assert f"--adapter={home}/ada" in script
    assert f"{home}/out/jobs" in script
    assert "~" not in script
    for asking in ("status", "logs", "cancel"):
        assert f"{home}/out" in refused(capsys, asking, "~/out")
    assert f"{home}/none" in refused(capsys, "table", "~/none")
    assert [path.name for path in here.iterdir()] == ["home"]


def test_overrides_may_stand_behind_options(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = printed(capsys, *TRAIN, "lr=0.5", "lora_r=4", "--time", "1-00", "--dry-run")
    assert printed(capsys, *TRAIN, "lr=0.5", "--dry-run", "--time", "1-00", "lora_r=4") == plain
    assert printed(capsys, *TRAIN, "lr=0.5", "--time", "1-00", "--dry-run") != plain


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


def test_the_same_submission_continues_a_run_that_ended(scripts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed(capsys, *TRAIN)
    assert printed(capsys, *TRAIN).startswith("job 102\n")
    assert [job.job_id for job in find(None)] == ["101", "102"]


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


# --- a sweep ---------------------------------------------------------------------------------------------------------


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
