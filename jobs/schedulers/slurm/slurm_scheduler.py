"""SLURM as a scheduler of `python -m jobs`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.schedulers.scheduler import Job, JobOptions, JobStatus, Option, Scheduler, path_or_name

if TYPE_CHECKING:
    from jobs.schedulers.slurm.profile import Profile
    from jobs.spec import Work
    from jobs.submissions import Submission


def _profiles() -> list[str]:
    from jobs.schedulers.slurm.profile import profile_names

    return profile_names()


class Slurm(Scheduler["Profile"]):
    """Batch scripts, sent with sbatch. A sweep is one job array; an evaluation waits for its training."""

    name = "slurm"
    title = "SLURM"
    options = (
        Option(
            "--profile",
            "NAME",
            "config/clusters/NAME.yaml, or a file (default: default)",
            convert=path_or_name,
            names=_profiles,
        ),
    )
    example = "--profile my_cluster --then-eval"
    time_limit = "of one attempt"
    timed_out = "TIMEOUT"
    own_lines = r"srun:|slurmstepd|Terminated"
    pattern_characters = "%\\"

    def prepare(self, works: Sequence[Work], options: JobOptions) -> list[Job[Profile]]:
        """See Scheduler."""
        from jobs.schedulers.slurm.profile_changes import for_eval, profile_of
        from jobs.spec import work

        profile = profile_of(options, on_cpu=works[0].config.device == "cpu")
        if works[0].command == "eval":
            profile = for_eval(profile, options.nodes, options.gpus_per_node)
        jobs = [Job(tuple(works), profile)]
        if options.then_eval:
            jobs += [Job((work("eval", one.config),), for_eval(profile), after=one) for one in works]
        return jobs

    def render(self, jobs: Sequence[Job[Profile]]) -> str:
        """See Scheduler."""
        from jobs.schedulers.slurm.script import script_text

        trainings = jobs[0].works

        def earlier(job: Job[Profile]) -> str | None:
            if job.after is None:
                return None
            return f"JOBID_{trainings.index(job.after)}" if len(trainings) > 1 else "JOBID"

        scripts = (script_text(job.works, job.prepared, _folder(job), after=earlier(job)) for job in jobs)
        return "".join(f"{script}\n" for script in scripts)

    def submit(self, job: Job[Profile], after: Submission | None = None) -> list[Submission]:
        """See Scheduler."""
        from jobs.schedulers.slurm.sbatch import submit

        return submit(job.works, job.prepared, _folder(job), after=after)

    def ask(self, submission: Submission) -> JobStatus | None:
        """See Scheduler."""
        from jobs.schedulers.slurm.slurm_queue import ask

        found = ask(submission)
        return found and JobStatus(*found)

    def cancel(self, submission: Submission) -> None:
        """See Scheduler."""
        from jobs.schedulers.slurm.slurm_queue import cancel

        cancel(submission)

    def logs(self, submissions: Sequence[Submission], follow: bool, begin: Callable[[], None]) -> None:
        """See Scheduler. One log per node, those of the others after the first node's."""
        from jobs.log_files import newest_begun, print_files

        chosen = newest_begun(submissions, follow)
        log = Path(chosen.log)
        in_array = "_" in chosen.job_id
        others = [] if in_array else sorted(log.parent.glob(f"{chosen.job_id}_[1-9]*_log.out"))
        begin()
        print_files([log, *others], follow)


def _folder(job: Job[Profile]) -> Path:
    """Where the script and the log of a job are: in its run directory, or in that of the sweep."""
    from jobs.spec import FOLDER

    return job.works[0].folder if len(job.works) == 1 else job.works[0].run_dir.parent / FOLDER
