"""This machine as a scheduler of `python -m jobs`."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.schedulers.scheduler import Job, JobOptions, JobStatus, Option, Scheduler

if TYPE_CHECKING:
    from jobs.schedulers.local.local_jobs import Resources
    from jobs.spec import Work
    from jobs.submissions import Submission


class Local(Scheduler["Resources"]):
    """One queue per user and machine. A sweep is a job per run; an evaluation waits for its training."""

    name = "local"
    title = "the queue of this machine"
    options = (
        Option(
            "--parallel",
            "N",
            "jobs that may run at a time while this one runs, each on its own GPUs (default: 1)",
            convert=int,
            expected="1 or more",
            is_valid=lambda number: number >= 1,
        ),
    )
    example = "--parallel 2"
    time_limit = "none, so it is refused"

    def prepare(self, works: Sequence[Work], options: JobOptions) -> list[Job[Resources]]:
        """See Scheduler."""
        from jobs.schedulers.local.local_jobs import resources
        from jobs.spec import work

        taken = resources(options, works[0].config.device, os.environ)
        jobs = [Job((one,), taken) for one in works]
        if options.then_eval:
            jobs += [Job((work("eval", one.config),), taken.for_evaluation(), after=one) for one in works]
        return jobs

    def render(self, jobs: Sequence[Job[Resources]]) -> str:
        """See Scheduler. The commands, one per line."""
        from jobs.schedulers.local.local_jobs import command_line

        return "".join(f"{command_line(work, job.prepared)}\n" for job in jobs for work in job.works)

    def submit(self, job: Job[Resources], after: Submission | None = None) -> list[Submission]:
        """See Scheduler."""
        from jobs.schedulers.local.local_jobs import submit

        return [submit(one, job.prepared, after) for one in job.works]

    def ask(self, submission: Submission) -> JobStatus | None:
        """See Scheduler."""
        from jobs.schedulers.local.local_states import ask

        return ask(submission)

    def cancel(self, submission: Submission) -> None:
        """See Scheduler."""
        from jobs.schedulers.local.local_states import cancel

        cancel(submission)

    def logs(self, submissions: Sequence[Submission], follow: bool, begin: Callable[[], None]) -> None:
        """See Scheduler."""
        from jobs.log_files import newest_begun, print_files

        chosen = newest_begun(submissions, follow)
        begin()
        print_files([Path(chosen.log)], follow)
