"""What `python -m jobs cancel` does."""

from __future__ import annotations

import dataclasses

from jobs.schedulers.registry import scheduler_named
from jobs.status import CANCELLED, state_of
from jobs.submissions import Submission, find_to_cancel, note, now, whose
from jobs.terminal import say, warn
from vizsage.errors import ConfigError, VizSageError
from vizsage.files import write_text


def cancel_jobs(target: str | None) -> None:
    """Cancel the jobs of `target`, see `find_to_cancel`. Raises VizSageError."""
    jobs = find_to_cancel(target)
    said = whose(target, jobs[-1])
    active = [one for one in {one.job_id: one for one in jobs}.values() if state_of(one).can_be_cancelled]
    if not active:
        raise ConfigError(f"{jobs[-1].run_dir}: no job of this run is waiting or running")
    for one in reversed(active):  # first the evaluation that waits for a training, which would start in between
        scheduler_named(one.scheduler).cancel(one)
        try:
            write_text(one.folder / f"{one.job_id}{CANCELLED}", "")
        except OSError as error:
            warn(f"{one.folder}: cannot be written: {error.strerror}")
        if said:
            say(f"run directory {one.run_dir}{said}")
            said = ""
        say(f"{one.kind} job {one.job_id} is cancelled; a running one saves a checkpoint first")
    say("the same submission continues the run")


def forget_jobs(target: str | None) -> None:
    """Note of each job of `target` that is active, or whose scheduler does not answer, that it is not asked any more.

    Raises VizSageError.
    """
    jobs = find_to_cancel(target)
    said = whose(target, jobs[-1])
    forgotten: list[Submission] = []
    for one in reversed(jobs):
        try:
            if not state_of(one).can_be_cancelled:  # another job may have its id by now
                continue
            scheduler_named(one.scheduler).cancel(one)
        except VizSageError as error:
            warn(str(error))
        warn(note(dataclasses.replace(one, given_up=now())))
        forgotten.append(one)
    if not forgotten:
        raise ConfigError(f"{jobs[-1].run_dir}: no job of this run is waiting or running")
    say(f"run directory {jobs[-1].run_dir}{said}")
    for one in forgotten:
        say(f"{one.kind} job {one.job_id} counts as gone; where it still runs, its lock on the run directory holds")
