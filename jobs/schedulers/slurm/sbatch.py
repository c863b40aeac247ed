"""Sending jobs to SLURM through submitit."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from jobs.schedulers.slurm.profile import Profile
from jobs.schedulers.slurm.script import sbatch_parameters, script_text, task_command
from jobs.schedulers.slurm.slurm_queue import is_option, largest_array
from jobs.spec import Work
from jobs.submissions import Submission, now
from vizsage.errors import ConfigError, VizSageError, one_line


def submit(
    works: Sequence[Work], profile: Profile, folder: Path, *, after: Submission | None = None
) -> list[Submission]:
    """Send one job, or an array with one member per work.

    Args:
        works: what to run.
        profile: the resources.
        folder: where script and log are written.
        after: the job whose success this one waits for. It is sent to the same cluster, because clusters do not know
            each other's jobs.

    Raises:
        ConfigError: SLURM is missing or refuses the job; no file of it is left.
        VizSageError: it is not known whether SLURM has the job.
    """
    if not (shutil.which("sbatch") and shutil.which("srun")):
        raise ConfigError("sbatch and srun are not here; submit from a login node of the cluster, or add --dry-run")
    if after and after.cluster:
        profile = profile.model_copy(update={"clusters": after.cluster})
    earlier = after.job_id if after else None
    _check_syntax(script_text(works, profile, folder, after=earlier))
    if len(works) > 1 and (most := largest_array(profile.clusters)) is not None and len(works) > most:
        raise ConfigError(
            f"{len(works)} runs are more than a job array of this cluster may have: {most} (MaxArraySize); split the "
            "sweep"
        )
    # submitit passes this process's environment to sbatch, which would take them as options and pass them to the job.
    for name in filter(is_option, list(os.environ)):
        del os.environ[name]
    with _nothing_left_of_a_refusal(works, folder):
        job_id, cluster = _send(works, profile, folder, earlier)
    array = len(works) > 1
    return [
        Submission(
            job_id=f"{job_id}_{i}" if array else job_id,
            kind=work.command,
            scheduler="slurm",
            submitted=now(),
            run_dir=str(work.run_dir),
            log=str(folder / f"{job_id}{f'_{i}' if array else ''}_0_log.out"),
            script=str(folder / f"{job_id}_submission.sh"),
            config=str(work.settings_file),
            user=str(os.getuid()),
            cluster=cluster,
        )
        for i, work in enumerate(works)
    ]


def _send(works: Sequence[Work], profile: Profile, folder: Path, after: str | None) -> tuple[str, str]:
    """Write the files that the job reads and send it. Returns its id and, if sbatch names one, its cluster.

    Raises ConfigError where sbatch refuses it, VizSageError where its answer names no job.
    """
    import submitit
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    cluster = ""

    class ClusterExecutor(submitit.SlurmExecutor):
        """Keeps the name of the cluster, which submitit drops."""

        @staticmethod
        def _get_job_id_from_submission_command(string: bytes | str) -> str:
            nonlocal cluster
            text = string if isinstance(string, str) else string.decode()
            if found := re.search(r"job \d+ on cluster (\S+)", text):
                cluster = found[1]
            return str(submitit.SlurmExecutor._get_job_id_from_submission_command(text))

    for work in works:
        work.freeze()
    folder.mkdir(parents=True, exist_ok=True)
    executor = ClusterExecutor(folder)
    executor.update_parameters(**sbatch_parameters(works, profile, after=after))
    if len(works) > 1:
        executor.parameters["map_count"] = len(works)
    try:
        # Not `submit`, which sends a pickled function: another Python, or one in a container, could not load it.
        with contextlib.redirect_stderr(io.StringIO()):  # submitit also prints the text of its exception
            return str(executor._submit_command(task_command(works, profile)).job_id), cluster
    except FailedSubmissionError as error:  # no file is deleted: the job may exist and need them
        raise VizSageError(f"sbatch was called, and its answer names no job, see squeue: {one_line(error)}") from None
    except FailedJobError as error:
        lines = [
            line.partition("sbatch: error:")[2].strip() for line in str(error).splitlines() if "sbatch: error" in line
        ]
        raise ConfigError(f"sbatch refused the job: {'; '.join(lines) or one_line(error)}") from None
    finally:
        for left in folder.glob(".submission_file_*.sh"):
            if not left.is_symlink():
                left.unlink()


@contextlib.contextmanager
def _nothing_left_of_a_refusal(works: Sequence[Work], folder: Path) -> Iterator[None]:
    """If the job is refused, delete the files and folders that were created for it."""
    files = [work.settings_file for work in works if not work.settings_file.exists()]
    folders = {path for start in (folder, *(one.folder for one in works)) for path in (start, *start.parents)}
    made = [path for path in sorted(folders, reverse=True) if not path.exists()]
    try:
        yield
    except ConfigError:
        for file in files:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                file.unlink()
        for path in made:  # subfolders first
            with contextlib.suppress(OSError):  # not empty: it has files of others
                path.rmdir()
        raise


def _check_syntax(text: str) -> None:
    done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigError(f"setup: bash does not read the script: {' '.join(done.stderr.split())}; see --dry-run")
