"""SLURM: sending jobs through submitit."""

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
from jobs.slurm_queue import is_option
from jobs.spec import Work
from jobs.submissions import Submission, now
from vizsage.errors import ConfigError, one_line


def submit(works: Sequence[Work], profile: Profile, folder: Path, *, after: str | None = None) -> list[Submission]:
    """Send one job, or an array with one member for each of `works`. `folder` takes script and log.

    Raises ConfigError where SLURM is missing or refuses the job.
    """
    import submitit
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    if not (shutil.which("sbatch") and shutil.which("srun")):
        raise ConfigError("sbatch and srun are not here; submit from a login node of the cluster, or add --dry-run")
    _check_syntax(script_text(works, profile, folder, after=after))
    # submitit gives sbatch this process's environment, and sbatch gives it to the job.
    for name in filter(is_option, list(os.environ)):
        del os.environ[name]
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
            user=str(os.getuid()),
        )
        for i, work in enumerate(works)
    ]


def _check_syntax(text: str) -> None:
    done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigError(f"setup: bash does not read the script: {' '.join(done.stderr.split())}; see --dry-run")
