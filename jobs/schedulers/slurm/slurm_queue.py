"""The state of a SLURM job, and cancelling it.

squeue is asked first, because the controller knows every job that waits or runs; then sacct, for jobs that have ended.
"""

from __future__ import annotations

import datetime
import os
import re
import subprocess
from pathlib import Path

from jobs.submissions import Submission
from jobs.terminal import program
from vizsage.errors import ConfigError, VizSageError

ACTIVE = ("pending", "running", "ending")
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
# Variables with these prefixes are options of SLURM's commands, which override #SBATCH lines, or describe the job that
# this process runs in, which a new job would inherit.
_PREFIXES = ("SLURM_", "SBATCH_", "SRUN_", "SALLOC_", "SQUEUE_", "SACCT_", "SCANCEL_")
_REACH = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT")  # needed to reach the cluster
# munge refuses all messages between hosts whose clocks differ by more.
_SKEW = datetime.timedelta(minutes=5)


def is_option(variable: str) -> bool:
    """Whether SLURM's commands read the environment variable as an option, or as the job that they run in."""
    return variable.startswith(_PREFIXES) and variable not in _REACH


def ask(job: Submission) -> tuple[str, str] | None:
    """The state, as `JobStatus` has it, and SLURM's words for it; None where SLURM does not know the job any more.

    SLURM reuses job ids. A job of squeue counts only if its user and the folder of its script are those of this job, a
    job of sacct only if it was not submitted earlier. A job that is running for sacct and unknown to squeue has ended:
    the database is late, or has lost the end.

    Raises:
        VizSageError: squeue does not answer: the state of the job is unknown.
    """
    lines, problem = _lines(["squeue", *_at(job.cluster), "-h", "-t", "all", "-j", job.job_id, "-o", "%T|%r|%U|%o"])
    if problem and "Invalid job id" not in problem:
        raise VizSageError(
            f"SLURM does not answer for job {job.job_id}: {problem}; if its cluster is gone for good: "
            f"{program()} cancel --forget {job.job_id}"
        )
    for line in lines:
        state, reason, user, script = (line.split("|", 3) + [""] * 3)[:4]
        if _is_same(job, user, script):
            return _in_words(state, reason)
    since = datetime.datetime.fromisoformat(job.submitted).astimezone(datetime.timezone.utc) - _SKEW
    bounds = ["-S", f"{since:%Y-%m-%dT%H:%M:%S}", *(["-u", job.user] if job.user else [])]
    lines, _ = _lines(
        ["sacct", *_at(job.cluster), "-X", "-n", "-P", "-j", job.job_id, *bounds, "-o", "Submit,State,Reason"]
    )
    for line in lines:
        submitted, state, reason = (line.split("|", 2) + [""] * 2)[:3]
        word, detail = _in_words(state, reason)
        if word not in ACTIVE and re.match(r"\d", submitted) and submitted >= bounds[1]:
            return word, detail
    return None


def cancel(job: Submission) -> None:
    """Send SIGTERM to the job; SLURM sends SIGKILL after its KillWait. Raises VizSageError where scancel fails."""
    try:
        command = ["scancel", *_at(job.cluster), job.job_id]
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=60, env=_environment())
    except FileNotFoundError:
        raise ConfigError("scancel is not here; cancel from a login node of the cluster") from None
    except subprocess.SubprocessError as error:
        raise VizSageError(f"scancel {job.job_id}: {getattr(error, 'stderr', None) or error}") from None


def largest_array(clusters: str | None) -> int | None:
    """How many members a job array may have on every one of `clusters`; None where SLURM does not report it."""
    found = []
    for cluster in (clusters or "").split(","):
        lines, _ = _lines(["scontrol", *_at(cluster), "show", "config"])
        found += re.findall(r"^MaxArraySize\s*=\s*(\d+)", "\n".join(lines), re.MULTILINE)
    return min(map(int, found), default=None)


def _at(cluster: str) -> list[str]:
    return ["-M", cluster] if cluster else []


def _is_same(job: Submission, user: str, script: str) -> bool:
    """Whether user and script, as squeue prints them, can be those of this job. Empty ones can."""
    folders = [os.path.realpath(Path(path).parent) for path in (script, job.script) if path.startswith("/")]
    # "(null)" is a job that was sent without a file.
    return user in ("", job.user or user) and (not script or (len(folders) == 2 and folders[0] == folders[1]))


def _in_words(state: str, reason: str) -> tuple[str, str]:
    state = (state.split() or ["UNKNOWN"])[0].rstrip("+")  # "CANCELLED by 1000"
    word = _WORDS.get(state, state.lower())
    # For a job that does not wait any more, squeue still prints what it waited for.
    return word, reason if word == "pending" and reason not in ("", "None") else state


def _lines(command: list[str]) -> tuple[list[str], str]:
    """The lines that a command prints, and what went wrong. A command that is not installed prints none."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=_environment())
    except FileNotFoundError:
        return [], ""
    except subprocess.TimeoutExpired:
        return [], f"{command[0]} took more than a minute"
    if done.returncode:
        return [], " ".join(done.stderr.split()) or f"{command[0]} ended with exit code {done.returncode}"
    lines = [line.strip() for line in done.stdout.splitlines()]
    return [line for line in lines if line and not line.startswith("CLUSTER: ")], ""


def _environment() -> dict[str, str]:
    """The environment of this process without options of SLURM, and with UTC for times in input and output."""
    return {name: value for name, value in os.environ.items() if not is_option(name)} | {"TZ": "UTC"}
