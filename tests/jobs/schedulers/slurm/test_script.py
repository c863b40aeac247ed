"""The batch script: its text, what it decides after the training, what it never contains, and that bash reads it."""

from __future__ import annotations

import difflib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs import cli
from jobs.schedulers.slurm import script
from jobs.schedulers.slurm.profile import Profile, load_profile
from jobs.schedulers.slurm.sbatch import submit
from jobs.schedulers.slurm.script import EPILOGUE, script_text
from jobs.spec import Work, load_work

Standin = Callable[[str, str], None]
ROOT = Path(__file__).parents[4]
GOLDEN = Path(__file__).parent / "golden"

# No mount covers the folder of a test, wherever that is.
PROFILES = {
    "none": """
        partition: gpu
        account: art
        qos: long
        constraint: a100&ib
        gpus_per_node: 2
        mem: 64G
        time: 2-00:00:00
        setup: [module load cuda, "ulimit -n 4096"]
        environment: {HF_HOME: /shared/hf, GREETING: "it's $HOME"}
        local_cache: /tmp/$USER/vizsage
    """,
    "apptainer": """
        gres: gpu:a100:4
        nodes: 2
        signal_delay_s: 120
        max_retries: 5
        setup: [module load apptainer]
        container: apptainer /images/v.sif
        mounts: ["/shared/hf:/cache:ro"]
        environment: {HF_HOME: /cache}
        srun_options: [--mpi=none]
    """,
    "pyxis": """
        gpus_per_node: 8
        mem: 0
        container: pyxis /images/v.sqsh
        mounts: ["/shared/data:/shared/data:ro", "/node-disk:/node-disk"]
        local_cache: /node-disk/$USER/vizsage
        srun_options: [--no-container-mount-home]
        python: /opt/bin/python
    """,
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder from which everything is submitted, with settings, profiles and two tokens in the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_API_KEY", "secret-one")
    monkeypatch.setenv("HF_TOKEN", "secret-two")
    (tmp_path / "data" / "AQUA").mkdir(parents=True)
    (tmp_path / "run.yaml").write_text("model_name: vizsage-tiny\noutput_dir: out/run\nbase_path: data\n")
    for name, text in PROFILES.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    return tmp_path


@pytest.fixture
def work(here: Path) -> Work:
    """A run whose folder has a name that the shell could mistake."""
    (here / "my settings.yaml").write_text("output_dir: 'a run/with $HOME'\nmodel_name: vizsage-tiny\n")
    return load_work("train", here / "my settings.yaml")


def bash(text: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script as SLURM would on the first host of job 7."""
    slurm = {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "1", "SLURM_NODEID": "0", "SLURM_CPUS_PER_TASK": "1"}
    given = os.environ | slurm | environment
    return subprocess.run(["bash", "-c", text], env=given, capture_output=True, text=True, check=False)


# --- the text --------------------------------------------------------------------------------------------------------


def without_places(text: str, here: Path) -> str:
    """The script with names for what differs from one machine to the next."""
    for place, name in ((sys.executable, "PYTHON"), (str(here), "HERE")):
        text = text.replace(shlex.quote(place), name).replace(place, name)
    return re.sub(r"settings-[0-9a-f]{12}", "settings-DIGEST", text)


COMMANDS = {
    "none": ("submit", "slurm", "train", "run.yaml", "--profile", "none.yaml", "--then-eval"),
    "apptainer": ("submit", "slurm", "train", "run.yaml", "--profile", "apptainer.yaml"),
    "pyxis": ("submit", "slurm", "train", "run.yaml", "--profile", "pyxis.yaml"),
    "sweep": ("sweep", "slurm", "train", "run.yaml", "lr=1e-4,2e-4", "--profile", "pyxis.yaml"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_script_is_as_agreed(here: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    """One script is kept whole, of the others what differs from it.

    VIZSAGE_WRITE_GOLDEN=1 writes both again: to be read before they are committed.
    """
    assert cli.main([*COMMANDS[name], "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "secret-" not in printed
    subprocess.run(["bash", "-n"], input=printed, text=True, check=True)
    found = without_places(printed, here)
    golden = GOLDEN / ("none.sh" if name == "none" else f"{name}.diff")
    if name != "none":
        agreed = ("#!" + (GOLDEN / "none.sh").read_text().split("#!")[1]).splitlines()  # without the evaluation
        found = "\n".join(difflib.unified_diff(agreed, found.splitlines(), "none.sh", f"{name}.sh", lineterm="")) + "\n"
    if os.environ.get("VIZSAGE_WRITE_GOLDEN") == "1":
        golden.write_text(found)
    difference = "\n".join(difflib.unified_diff(golden.read_text().splitlines(), found.splitlines(), lineterm=""))
    assert not difference


@pytest.mark.parametrize("name", COMMANDS)
def test_what_is_sent_is_what_a_dry_run_prints_and_no_file_holds_a_token(
    here: Path, standin: Standin, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    standin("srun", "exit 1")
    standin("sbatch", f'cat "${{@: -1}}" >> "{here}/sent"; echo >> "{here}/sent"; echo Submitted batch job 7')
    assert cli.main([*COMMANDS[name], "--dry-run"]) == 0
    dry = capsys.readouterr().out
    assert cli.main([*COMMANDS[name]]) == 0
    sent = (here / "sent").read_text()
    assert sent == dry.replace("afterok:JOBID", "afterok:7")
    files = [path for path in here.rglob("*") if path.is_file()]
    assert len(files) > 5
    assert not [path for path in files if b"secret-" in path.read_bytes()]


@pytest.mark.parametrize("kind", ["apptainer", "pyxis"])
def test_a_container_sees_the_adapter_of_an_evaluation(
    here: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    elsewhere = tmp_path_factory.mktemp("adapter")
    (here / "out" / "lr=1,r=4").mkdir(parents=True)  # a sweep's member: it is below what is mounted anyway
    command = ["submit", "slurm", "eval", "run.yaml", "--profile", f"{kind}.yaml", "--dry-run", "--adapter"]
    assert cli.main([*command, str(elsewhere)]) == 0
    assert f"{elsewhere}:{elsewhere}:ro" in capsys.readouterr().out
    assert cli.main([*command, "out/lr=1,r=4"]) == 0
    assert f"{here}/out/lr=1,r=4:" not in capsys.readouterr().out


def test_a_parameter_that_submitit_does_not_know_is_not_passed_over(
    work: Work, standin: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    def misspelt(*arguments: Any, **options: Any) -> dict[str, Any]:
        return script.sbatch_parameters(*arguments, **options) | {"gpu_per_node": 1}

    standin("srun", "exit 1")
    standin("sbatch", f"touch '{work.run_dir}/sent'")
    monkeypatch.setattr("jobs.schedulers.slurm.sbatch.sbatch_parameters", misspelt)
    with pytest.raises(ValueError, match="gpu_per_node"):
        submit([work], Profile(), work.folder)
    assert not (work.run_dir / "sent").exists()


def test_no_default_of_submitit_slips_in(work: Work) -> None:
    """It would ask for a wckey, five minutes, and a job that ends on USR1."""
    lines = [line for line in script_text([work], Profile(), work.folder).splitlines() if line.startswith("#SBATCH")]
    assert {line.split()[1].split("=")[0] for line in lines} == {
        *("--cpus-per-task", "--gpus-per-node", "--job-name", "--nodes", "--ntasks-per-node"),
        *("--open-mode", "--output", "--requeue", "--signal", "--time"),
    }


@pytest.mark.parametrize("kind", PROFILES)
def test_bash_reads_the_script_of_a_run_with_an_odd_name(work: Work, here: Path, kind: str) -> None:
    profile = load_profile(str(here / f"{kind}.yaml"), {})
    for works in ([work], [work, work]):
        subprocess.run(["bash", "-n"], input=script_text(works, profile, here), text=True, check=True)


@pytest.mark.parametrize("name", ["default", "bare", "apptainer", "pyxis"])
def test_shipped_profiles_make_scripts(work: Work, name: str, tmp_path: Path) -> None:
    text = script_text([work], load_profile(str(ROOT / "config" / "clusters" / f"{name}.yaml"), {}), tmp_path)
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)


@pytest.mark.parametrize("name", ["train.sbatch", "eval.sbatch"])
def test_bash_reads_the_scripts_by_hand(name: str) -> None:
    subprocess.run(["bash", "-n", str(ROOT / "slurm" / name)], check=True)


# --- what the task is ------------------------------------------------------------------------------------------------


@pytest.fixture
def task(work: Work, here: Path, standin: Standin) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the script of `work` with stand-ins that come to the command at once; `seen` takes what arrives there."""
    standin("srun", 'while [ "$1" != bash ]; do shift; done; exec "$@"')
    standin("apptainer", 'while [ "${1%python3}" = "$1" ]; do shift; done; exec "$@"')
    standin("scontrol", "echo n1 JobState=RUNNING")
    standin("sleep", "")
    standin("python3", f'echo "$PPID|$NODE_RANK|$MASTER_ADDR|$MASTER_PORT|$A|$*" > "{here}/seen"')
    work.folder.mkdir(parents=True)

    def run(profile: Profile) -> subprocess.CompletedProcess[str]:
        # exec: the shell that reads the script has the process id in the first line
        return bash(f"echo $$\n{script_text([work], profile, here)}", SLURM_JOB_ID="31007")

    return run


@pytest.mark.parametrize("kind", PROFILES)
def test_the_task_becomes_the_launcher(
    task: Callable[[Profile], subprocess.CompletedProcess[str]], work: Work, here: Path, kind: str
) -> None:
    """No shell is left between SLURM and jobs.run that would swallow signals, and the settings arrive whole."""
    changes = {
        "python": "python3",
        "local_cache": str(here / "cache"),
        "environment": {"A": "b  'c' $HOME"},
        "setup": (),
    }
    done = task(load_profile(str(here / f"{kind}.yaml"), changes))
    assert done.returncode == 0
    parent, rank, address, port, value, command = (here / "seen").read_text().strip().split("|")
    assert parent == done.stdout.splitlines()[0]
    assert (rank, port) == ("0", str(15000 + 31007 % 15000))
    assert address
    assert value == "b  'c' $HOME"
    assert command == f"-u -m jobs.run train {work.settings_file}"
    assert (here / "cache").is_dir()


def test_another_attempt_does_not_meet_at_the_same_port(
    task: Callable[[Profile], subprocess.CompletedProcess[str]], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program of the host may have it."""
    ports = []
    for count in ("0", "1", "2"):
        monkeypatch.setenv("SLURM_RESTART_COUNT", count)
        task(Profile(python="python3"))
        ports.append(int((here / "seen").read_text().split("|")[3]))
    assert ports == [15000 + (31007 + 1009 * count) % 15000 for count in range(3)]


def test_a_node_without_its_cache_folder_does_not_begin(
    task: Callable[[Profile], subprocess.CompletedProcess[str]], here: Path
) -> None:
    (here / "file").touch()
    done = task(Profile(python="python3", local_cache=str(here / "file" / "cache")))
    assert done.returncode not in (0, 2, 3, 4, 75)
    assert not (here / "seen").exists()


def test_every_member_of_an_array_has_its_own_settings_and_files(work: Work, here: Path, standin: Standin) -> None:
    other = Work("train", work.config.model_copy(update={"lr": 1e-3}), here / "other run")
    other.folder.mkdir(parents=True)
    standin("srun", f'echo "${{@: -1}}" > "{here}/seen"; exit 75')
    standin("scontrol", f'[ $1 = requeue ] && echo "$2" >> "{here}/requeued"; echo JobState=RUNNING')
    text = script_text([work, other], Profile(), here)
    assert "#SBATCH --array=0-1%2\n" in text
    done = bash(text, SLURM_JOB_ID="12", SLURM_ARRAY_JOB_ID="11", SLURM_ARRAY_TASK_ID="1", SLURM_RESTART_COUNT="2")
    assert done.returncode == 75
    assert done.stdout.startswith("=== attempt 3 of job 11_1 ")
    assert (here / "seen").read_text().strip() == str(other.settings_file)
    assert (other.folder / "11_1.end").read_text() == "75 RUNNING\n"
    assert (here / "requeued").read_text() == "11_1\n"


# --- what follows an exit code ---------------------------------------------------------------------------------------

DECISIONS = [
    # what SLURM calls the job, exit code of the task, failures before, requeued
    *((state, code, 0, False) for state in ("RUNNING", "COMPLETING", "") for code in (0, 2, 3, 4)),
    ("RUNNING", 75, 0, True),
    ("RUNNING", 75, 3, True),  # interruptions do not count
    ("COMPLETING", 75, 0, False),  # cancelled, or requeued by SLURM already
    ("CANCELLED", 75, 0, False),
    ("PENDING", 75, 0, False),
    ("", 75, 0, False),  # unknown
    ("RUNNING", 1, 0, True),
    ("RUNNING", 1, 1, True),
    ("RUNNING", 1, 2, True),
    ("RUNNING", 1, 3, False),  # the fourth failure: three retries were made
    ("RUNNING", 137, 2, True),
    ("RUNNING", 137, 3, False),
    ("COMPLETING", 1, 0, False),
    ("COMPLETING", 143, 0, False),
]
WAYS = ["python -m jobs", "train.sbatch", "eval.sbatch"]


class Decider:
    """One of the ways to send a job, after its task has ended; `requeues` counts the attempts to requeue job 7."""

    def __init__(self, way: str, folder: Path, standin: Standin) -> None:
        self.way, self.folder, self.standin = way, folder, standin
        (folder / "jobs").mkdir()
        self.counter = folder / ("jobs/7.failures" if way == WAYS[0] else "vizsage-7.failures")
        standin("sleep", "")

    def end(self, state: str, code: int, *, requeue: str = "exit 0") -> int:
        """End the task with `code` while SLURM calls the job `state` ("": does not answer); the script's exit code."""
        show = f'echo "JobId=7 JobState={state} Reason=None"' if state else "exit 1"
        self.standin("srun", f"exit {code}")
        self.standin("scontrol", f"[ $1 = requeue ] && {{ echo $2 >> '{self.folder}/requeues'; {requeue}; }}; {show}")
        if self.way == WAYS[0]:
            return bash(f"run_dir='{self.folder}'; id=7; max_retries=3\n(exit {code})\n{EPILOGUE}").returncode
        return bash((ROOT / "slurm" / self.way).read_text()).returncode

    @property
    def requeues(self) -> list[str]:
        path = self.folder / "requeues"
        return path.read_text().split() if path.exists() else []


@pytest.fixture(params=WAYS)
def decider(request: pytest.FixtureRequest, here: Path, standin: Standin) -> Decider:
    return Decider(request.param, here, standin)


@pytest.mark.parametrize(("state", "code", "failures", "requeued"), DECISIONS)
def test_what_follows_an_exit_code(decider: Decider, state: str, code: int, failures: int, requeued: bool) -> None:
    decider.counter.write_text(f"{failures}\n")
    assert decider.end(state, code) == code
    assert decider.requeues == ["7"] * requeued
    assert int(decider.counter.read_text()) == failures + (state == "RUNNING" and code in (1, 137))
    if decider.way == WAYS[0]:
        assert (decider.folder / "jobs" / "7.end").read_text() == f"{code} {state or 'UNKNOWN'}\n"


def test_three_retries_and_as_many_interruptions_as_it_takes(decider: Decider) -> None:
    """The counter begins without a file."""
    for code, requeues in ((75, 1), (1, 2), (75, 3), (137, 4), (75, 5), (9, 6), (75, 7), (1, 7)):
        assert decider.end("RUNNING", code) == code
        assert len(decider.requeues) == requeues


@pytest.mark.parametrize("code", [1, 75])
def test_a_controller_that_does_not_answer(decider: Decider, code: int) -> None:
    assert decider.end("RUNNING", code, requeue="exit 1") == code
    assert len(decider.requeues) == 4


def test_a_controller_that_answers_at_last(here: Path, standin: Standin) -> None:
    decider = Decider(WAYS[0], here, standin)
    assert decider.end("RUNNING", 75, requeue=f"[ $(wc -l < '{here}/requeues') = 3 ]; exit") == 75
    assert len(decider.requeues) == 3


def test_a_failure_that_cannot_be_counted_is_not_retried(decider: Decider) -> None:
    """On a full disk the count would stay where it is, and the retries would never end."""
    decider.counter.mkdir()
    assert decider.end("RUNNING", 1) == 1
    assert decider.requeues == []


@pytest.mark.parametrize(("codes", "code"), [(("1", "3"), 3), (("75", "1"), 1), (("137",), 1), ((), 1)])
def test_what_one_node_found_out_outweighs_how_the_others_broke_off(
    here: Path, standin: Standin, codes: tuple[str, ...], code: int
) -> None:
    decider = Decider(WAYS[0], here, standin)
    (here / "jobs" / "7.codes").mkdir()
    for node, found in enumerate(codes):
        (here / "jobs" / "7.codes" / str(node)).write_text(f"{found}\n")
    assert decider.end("RUNNING", 1) == code
    assert decider.requeues == ["7"] * (code != 3)


def test_a_state_that_is_told_late_counts(here: Path, standin: Standin) -> None:
    decider = Decider(WAYS[0], here, standin)
    standin("sleep", f"echo >> '{here}/slept'")
    decider.end(f"$([ $(wc -l < '{here}/slept') -ge 3 ] && echo RUNNING)", 75)
    assert decider.requeues == ["7"]


def test_a_job_that_is_cancelled_meanwhile_is_not_requeued(decider: Decider) -> None:
    """The first attempt to requeue it fails, and then it is no longer running."""
    cancel = f"touch '{decider.folder}/cancelled'; exit 1"
    state = f"$([ -e '{decider.folder}/cancelled' ] && echo COMPLETING || echo RUNNING)"
    assert decider.end(state, 75, requeue=cancel) == 75
    assert len(decider.requeues) == 1


def test_lines_of_a_profile_do_not_take_the_decision_away(here: Path, work: Work, standin: Standin) -> None:
    """set -e would end the script at the command's exit code."""
    work.folder.mkdir(parents=True)
    standin("srun", "exit 75")
    standin("sleep", "")
    standin("scontrol", f'[ $1 = requeue ] && echo "$2" >> "{here}/requeued"; echo JobState=RUNNING')
    (work.folder / "7.codes").mkdir()
    (work.folder / "7.codes" / "0").write_text("3\n")  # of an earlier attempt
    assert bash(script_text([work], Profile(setup=("set -euo pipefail",)), here)).returncode == 75
    assert (here / "requeued").read_text() == "7\n"
