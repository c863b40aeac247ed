"""What `python -m jobs submit` and `sweep` do: runs become jobs, are sent to a scheduler and noted."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.schedulers.registry import scheduler_named
from jobs.schedulers.scheduler import Job, JobOptions, Scheduler
from jobs.terminal import program, say, show, warn
from vizsage.contract import SWEEP
from vizsage.errors import ConfigError, VizSageError

if TYPE_CHECKING:
    from jobs.spec import Evaluation, Work
    from jobs.status import JobState
    from jobs.submissions import Submission
    from jobs.sweep import Member


def send_run(options: argparse.Namespace) -> None:
    """Send one run, or show what would be sent. Raises VizSageError."""
    from jobs.spec import load_work

    if options.kind == "eval" and options.then_eval:
        raise ConfigError("--then-eval follows a training; an evaluation is submitted separately")
    scheduler = scheduler_named(options.scheduler)
    work = load_work(options.kind, options.config, options.overrides, _evaluation(options, scheduler))
    jobs = scheduler.prepare([work], _job_options(options, scheduler, work))
    _check_data(scheduler, [work])
    if options.dry_run:
        show(scheduler.render(jobs))
        return
    _refuse_second_job(work.run_dir)
    first: Submission | None = None
    for job in jobs:
        try:
            [sent] = _send(scheduler, job, first)
        except ConfigError as error:
            if first is None:
                raise
            raise ConfigError(f"job {first.job_id} was sent, its evaluation not: {error}") from None
        if first is None:
            first = sent
            _report(sent)
        else:
            say(f"evaluation job {sent.job_id} starts when job {first.job_id} has succeeded, log {sent.log}")


def send_sweep(options: argparse.Namespace) -> None:
    """Send every combination of the values in the overrides, one run each, or show what would be sent.

    Where the scheduler takes each run as a separate job, runs that are active are left out, so that a sweep that was
    sent in part can be sent again for the others. Raises VizSageError.
    """
    from jobs.spec import work
    from jobs.sweep import members

    found = members(options.config, options.overrides)
    works = [work("train", member.config) for member in found]
    scheduler = scheduler_named(options.scheduler)
    jobs = scheduler.prepare(works, _job_options(options, scheduler, works[0]))
    _check_data(scheduler, works)
    if options.dry_run:
        show(scheduler.render(jobs))
        return
    sent = _send_trainings(options, scheduler, [job for job in jobs if job.after is None], found)
    refused = []
    for job in jobs:
        if job.after is None or (training := sent.get(job.after.run_dir)) is None:
            continue
        try:
            [evaluation] = _send(scheduler, job, training)
        except ConfigError as error:  # the trainings are sent; so are the evaluations that can be
            refused.append(f"evaluation of {training.run_dir}: {error}")
        else:
            say(f"evaluation job {evaluation.job_id} starts when job {training.job_id} has succeeded")
    say(f"follow it with: {program()} table {shlex.quote(str(works[0].run_dir.parent))}")
    if refused:
        raise ConfigError("; ".join(refused))


def _send_trainings(
    options: argparse.Namespace, scheduler: Scheduler[Any], jobs: Sequence[Job[Any]], found: Sequence[Member]
) -> dict[Path, Submission]:
    """Send the trainings of a sweep and write sweep.json; what was sent, by run directory."""
    for job in jobs:
        for one in job.works if len(job.works) > 1 else ():  # sent as one, so none of them can be left out
            _refuse_second_job(one.run_dir)
    sent: dict[Path, Submission] = {}
    job_ids: list[str] = []
    try:
        for job in jobs:
            run_dir = job.works[0].run_dir
            if len(job.works) == 1 and (active := _active_job(run_dir)):
                say(f"job {active.submission.job_id} run directory {run_dir}: {active.state} already")
                job_ids.append(active.submission.job_id)
                continue
            for work, submission in zip(job.works, _send(scheduler, job), strict=True):
                sent[work.run_dir] = submission
                job_ids.append(submission.job_id)
                say(f"job {submission.job_id} run directory {submission.run_dir}")
    except VizSageError as error:
        if not job_ids:
            raise
        raise type(error)(
            f"{len(sent)} of {len(jobs)} jobs were sent, this one not: {error}; the same sweep sends the others"
        ) from None
    finally:
        if job_ids:
            _note_sweep(options, found, job_ids)
    return sent


def _send(scheduler: Scheduler[Any], job: Job[Any], after: Submission | None = None) -> list[Submission]:
    """Send a job and note it. Raises VizSageError."""
    from jobs.submissions import note

    submissions = scheduler.submit(job, after)
    for one in submissions:
        warn(note(one))
    return submissions


def _note_sweep(options: argparse.Namespace, found: Sequence[Member], job_ids: Sequence[str]) -> None:
    """Write sweep.json beside the folders of the runs: which overrides made which."""
    from vizsage.files import write_json

    runs = [
        {"run_dir": str(member.config.output_dir.absolute()), "overrides": list(member.overrides), "job_id": job_id}
        for member, job_id in zip(found, job_ids, strict=False)  # where not all could be sent, the first ones were
    ]
    path = found[0].config.output_dir.absolute().parent / SWEEP
    try:
        write_json(path, {"schema_version": 1, "config": str(options.config.absolute()), "runs": runs})
    except OSError as error:
        warn(f"{path}: cannot be written: {error.strerror}")


def _report(sent: Submission) -> None:
    say(f"job {sent.job_id}")
    say(f"run directory {sent.run_dir}")
    say(f"log {sent.log}")
    say(f"follow it with: {program()} logs -f {shlex.quote(str(sent.run_dir))}")


def _check_data(scheduler: Scheduler[Any], works: Sequence[Work]) -> None:
    """Raise DataError where jobs would not find their data set."""
    from jobs.spec import check_data

    for problem in check_data(works) if scheduler.shares_files else ():
        warn(problem)


def _job_options(options: argparse.Namespace, scheduler: Scheduler[Any], first: Work) -> JobOptions:
    is_sweep = options.command == "sweep"
    run_dir = first.run_dir.parent if is_sweep else first.run_dir
    return JobOptions(
        label=run_dir.name,
        nodes=options.nodes,
        gpus_per_node=options.gpus_per_node,
        time=options.time,
        then_eval=options.then_eval,
        is_sweep=is_sweep,
        own={option.key: getattr(options, option.key) for option in scheduler.options},
    )


def _evaluation(options: argparse.Namespace, scheduler: Scheduler[Any]) -> Evaluation:
    from jobs.spec import Evaluation

    adapter = options.adapter
    if adapter is not None and scheduler.shares_files:
        adapter = adapter.absolute()  # elsewhere, relative paths begin at another folder
    return Evaluation(options.split, options.limit, options.base, adapter, options.blind, options.other_data)


def _active_job(run_dir: Path) -> JobState | None:
    from jobs.status import state_of
    from jobs.submissions import of_run

    return next((found for one in of_run(run_dir) if (found := state_of(one)).active), None)


def _refuse_second_job(run_dir: Path) -> None:
    if found := _active_job(run_dir):
        one = found.submission
        raise ConfigError(
            f"{run_dir}: {one.kind} job {one.job_id} of this run is {found.state}; cancel it ({program()} "
            f"cancel {one.job_id}; with --forget if the job is gone), wait for it, or name another output_dir"
        )
