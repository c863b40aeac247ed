"""SLURM: sending jobs through submitit, asking what became of them, cancelling."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from jobs.profile import Profile
from jobs.script import sbatch_parameters, script_text, task_command
from jobs.spec import Work
from jobs.submissions import Submission, now
from vizsage.errors import ConfigError, VizSageError, one_line

_WORDS = {
    "PENDING": "pending",
    "REQUEUED": "pending",
    "REQUEUE_HOLD": "pending",
    "SPECIAL_EXIT": "pending",
    "CONFIGURING": "running",
    "RUNNING": "running",
    "SUSPENDED": "running",
    "STOPPED": "running",
    "SIGNALING": "running",
    "RESIZING": "running",
    "STAGE_OUT": "ending",
    "COMPLETING": "ending",
    "COMPLETED": "completed",
    "CANCELLED": "cancelled",
    "TIMEOUT": "failed",
    "DEADLINE": "failed",
    "NODE_FAIL": "failed",
    "BOOT_FAIL": "failed",
    "OUT_OF_MEMORY": "failed",
    "FAILED": "failed",
    "PREEMPTED": "failed",
    "REVOKED": "failed",
}


def submit(works: Sequence[Work], profile: Profile, folder: Path, *, after: str | None = None) -> list[Submission]:
    """Send one job, or an array with one member for each of `works`. `folder` takes script and log.

    Raises ConfigError where SLURM is missing or refuses the job.
    """
    import submitit
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    if not (shutil.which("sbatch") and shutil.which("srun")):
        raise ConfigError("sbatch and srun are not here; submit from a login node of the cluster, or add --dry-run")
    _check_syntax(script_text(works, profile, folder, after=after))
    _forget_surroundings()
    for work in works:
        work.freeze()
    folder.mkdir(parents=True, exist_ok=True)
    executor = submitit.SlurmExecutor(folder)
    executor.update_parameters(**sbatch_parameters(works, profile, after=after))
    if len(works) > 1:
        executor.parameters["map_count"] = len(works)
    try:
        # Not `submit`: it would send a pickled function, which another Python or a container could not read.
        with contextlib.redirect_stderr(io.StringIO()):  # submitit prints sbatch's errors, which are told below
            job = executor._submit_command(task_command(works, profile))
    except (FailedJobError, FailedSubmissionError) as error:
        lines = [
            line.partition("sbatch: error:")[2].strip() for line in str(error).splitlines() if "sbatch: error" in line
        ]
        raise ConfigError(f"sbatch refused the job: {'; '.join(lines) or one_line(error)}") from None
    finally:
        for left in folder.glob(".submission_file_*.sh"):
            if not left.is_symlink():
                left.unlink()
    array = len(works) > 1
    return [
        Submission(
            job_id=f"{job.job_id}_{i}" if array else job.job_id,
            kind=work.command,
            scheduler="slurm",
            submitted=now(),
            run_dir=str(work.run_dir),
            log=str(folder / f"{job.job_id}{f'_{i}' if array else ''}_0_log.out"),
            script=str(folder / f"{job.job_id}_submission.sh"),
            config=str(work.settings_file),
        )
        for i, work in enumerate(works)
    ]


def ask(job_id: str) -> tuple[str, str] | None:
    """(state in this project's words, SLURM's own words), or None where SLURM does not know the job any more.

    sacct is asked first; it fails where the cluster keeps no accounts, and squeue remembers a job for some minutes.
    Raises VizSageError where SLURM does not answer: that is no word on the job.
    """
    line, _ = _first_line(["sacct", "-X", "-n", "-P", "-j", job_id, "-o", "State,Reason"])
    if not line:
        line, problem = _first_line(["squeue", "-h", "-t", "all", "-j", job_id, "-o", "%T|%r"])
        if problem and "Invalid job id" not in problem:
            raise VizSageError(f"SLURM does not answer for job {job_id}: {problem}")
        if not line:
            return None
    state, _, reason = line.partition("|")
    state = state.split()[0].rstrip("+")  # "CANCELLED by 1000"
    word = _WORDS.get(state, state.lower())
    # What a job that ended once waited for says nothing any more.
    return word, reason if word == "pending" and reason not in ("", "None") else state


def cancel(job_id: str) -> None:
    """SIGTERM to the job now, SIGKILL after the cluster's KillWait. Raises VizSageError where scancel fails."""
    try:
        subprocess.run(["scancel", job_id], check=True, capture_output=True, text=True, timeout=60)
    except FileNotFoundError:
        raise ConfigError("scancel is not here; cancel from a login node of the cluster") from None
    except subprocess.SubprocessError as error:
        raise VizSageError(f"scancel {job_id}: {getattr(error, 'stderr', None) or error}") from None


def _first_line(command: list[str]) -> tuple[str, str]:
    """The first line that a command prints, and what went wrong. A command that is not here knows no job."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except FileNotFoundError:
        return "", ""
    except subprocess.TimeoutExpired:
        return "", f"{command[0]} took more than a minute"
    if done.returncode:
        return "", " ".join(done.stderr.split()) or f"{command[0]} ended with exit code {done.returncode}"
    lines = done.stdout.strip().splitlines()
    return (lines[0].strip() if lines else ""), ""


def _forget_surroundings() -> None:
    """Take out of the environment what belongs to another job: submitted from inside one, a job would inherit it."""
    for name in list(os.environ):
        if (name.startswith("SLURM_") and name != "SLURM_CONF") or name == "SBATCH_EXPORT":
            del os.environ[name]


def _check_syntax(text: str) -> None:
    done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigError(f"setup: bash does not read the script: {' '.join(done.stderr.split())}; see --dry-run")
