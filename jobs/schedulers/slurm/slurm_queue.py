"""What SLURM tells of a job, and cancelling it. squeue comes first: the controller knows all that waits or runs."""

from __future__ import annotations

import datetime
import os
import re
import subprocess
from pathlib import Path

from jobs.submissions import Submission
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
# Every other variable with such a name is an option of a command, and sbatch obeys it before any #SBATCH line. Those of
# a job that surrounds this process would be inherited as well.
_PREFIXES = ("SLURM_", "SBATCH_", "SRUN_", "SALLOC_", "SQUEUE_", "SACCT_", "SCANCEL_")
_REACH = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT")  # where the cluster is, and who asks
# Where clocks are farther apart, munge refuses every message between these hosts.
_SKEW = datetime.timedelta(minutes=5)


def is_option(variable: str) -> bool:
    """Whether SLURM's commands take an environment variable of that name as an option, or as the job they run in."""
    return variable.startswith(_PREFIXES) and variable not in _REACH


def ask(job: Submission) -> tuple[str, str] | None:
    """(state in this project's words, SLURM's own words), or None where SLURM does not know the job any more.

    Job ids are given out again, so that squeue must name the user and the folder of the script, and sacct, which is
    asked for what has ended, a time of submission that is not earlier. A job that sacct calls running and squeue does
    not know has ended: the database lags, or has lost its end. Raises VizSageError where squeue does not answer: that
    is no word on the job.
    """
    lines, problem = _lines(["squeue", *_at(job.cluster), "-h", "-t", "all", "-j", job.job_id, "-o", "%T|%r|%U|%o"])
    if problem and "Invalid job id" not in problem:
        raise VizSageError(
            f"SLURM does not answer for job {job.job_id}: {problem}; if its cluster is gone for good: "
            f"python -m jobs cancel --forget {job.job_id}"
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
        word, told = _in_words(state, reason)
        if word not in ACTIVE and re.match(r"\d", submitted) and submitted >= bounds[1]:
            return word, told
    return None


def cancel(job: Submission) -> None:
    """SIGTERM to the job now, SIGKILL after the cluster's KillWait. Raises VizSageError where scancel fails."""
    try:
        command = ["scancel", *_at(job.cluster), job.job_id]
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=60, env=_environment())
    except FileNotFoundError:
        raise ConfigError("scancel is not here; cancel from a login node of the cluster") from None
    except subprocess.SubprocessError as error:
        raise VizSageError(f"scancel {job.job_id}: {getattr(error, 'stderr', None) or error}") from None


def largest_array(clusters: str | None) -> int | None:
    """How many members a job array may have on each of `clusters`; None where SLURM does not tell."""
    found = []
    for cluster in (clusters or "").split(","):
        lines, _ = _lines(["scontrol", *_at(cluster), "show", "config"])
        found += re.findall(r"^MaxArraySize\s*=\s*(\d+)", "\n".join(lines), re.MULTILINE)
    return min(map(int, found), default=None)


def _at(cluster: str) -> list[str]:
    return ["-M", cluster] if cluster else []


def _is_same(job: Submission, user: str, script: str) -> bool:
    """Whether user and script of squeue can be those of this job; where it tells none, nothing is against it."""
    folders = [os.path.realpath(Path(path).parent) for path in (script, job.script) if path.startswith("/")]
    # "(null)" is a job that was sent without a file.
    return user in ("", job.user or user) and (not script or (len(folders) == 2 and folders[0] == folders[1]))


def _in_words(state: str, reason: str) -> tuple[str, str]:
    state = (state.split() or ["UNKNOWN"])[0].rstrip("+")  # "CANCELLED by 1000"
    word = _WORDS.get(state, state.lower())
    # What a job that ended once waited for says nothing any more.
    return word, reason if word == "pending" and reason not in ("", "None") else state


def _lines(command: list[str]) -> tuple[list[str], str]:
    """The lines that a command prints, and what went wrong. A command that is not here knows no job."""
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
    """That of this process without options of SLURM; times are read and printed in UTC."""
    return {name: value for name, value in os.environ.items() if not is_option(name)} | {"TZ": "UTC"}
