"""What `python -m jobs submit` and `sweep` ask for: one run or many, sent to SLURM or Kubernetes and noted."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.terminal import say, show, warn
from vizsage.errors import ConfigError, VizSageError

if TYPE_CHECKING:
    from jobs.schedulers.kubernetes.apply import Manifest
    from jobs.spec import Work
    from jobs.status import JobState
    from jobs.submissions import Submission
    from jobs.sweep import Member


def send_run(options: argparse.Namespace) -> None:
    """Send one run, or show what would be sent. Raises VizSageError."""
    if options.kind == "eval" and options.then_eval:
        raise ConfigError("--then-eval follows a training; an evaluation is submitted by itself")
    if options.scheduler == "kubernetes":
        _run_on_kubernetes(options)
    else:
        _run_on_slurm(options)


def _run_on_kubernetes(options: argparse.Namespace) -> None:
    from jobs.schedulers.kubernetes.apply import build, manifest, overlay_for
    from jobs.spec import load_work

    one = load_work(options.kind, options.config, options.overrides, _evaluation(options))
    request = _request(options)
    overlay = overlay_for(options.overlay, request)
    rendered = manifest(overlay, build(overlay), one, request, options.config.stem)
    if options.dry_run:
        show(rendered.text_without_secrets)
        return
    _refuse_second_job(one.run_dir)
    sent = _send_to_kubernetes(options, one, rendered)
    _report(sent.job_id, sent.run_dir, sent.log)


def _send_to_kubernetes(options: argparse.Namespace, one: Work, rendered: Manifest) -> Submission:
    """Send it and note it, whatever happens in between."""
    from jobs.schedulers.kubernetes.apply import Unclear, submission_of, submit
    from jobs.submissions import note

    sent = submission_of(one, rendered, options.namespace)
    try:
        for problem in submit(one, rendered, sent):
            warn(problem)
    except (Unclear, KeyboardInterrupt):
        note(sent)
        raise
    warn(note(sent))
    return sent


def _run_on_slurm(options: argparse.Namespace) -> None:
    from jobs.schedulers.slurm import sbatch as slurm
    from jobs.schedulers.slurm.script import script_text
    from jobs.spec import load_work, work
    from jobs.submissions import note

    first = load_work(options.kind, options.config, options.overrides, _evaluation(options))
    profile = _profile(options, first.config)
    chain = [(first, profile)]
    if options.then_eval:
        chain.append((work("eval", first.config), _for_eval(profile)))
    elif options.kind == "eval":
        chain = [(first, _for_eval(profile, options.nodes, options.gpus_per_node))]
    if options.dry_run:
        for i, (one, resources) in enumerate(chain):
            show(script_text([one], resources, one.folder, after="JOBID" if i else None) + "\n")
        return
    _refuse_second_job(first.run_dir)
    after: Submission | None = None
    for one, resources in chain:
        try:
            [sent] = slurm.submit([one], resources, one.folder, after=after)
        except ConfigError as error:
            raise (
                error if after is None else ConfigError(f"job {after.job_id} was sent, its evaluation not: {error}")
            ) from None
        warn(note(sent))
        if after is None:
            _report(sent.job_id, sent.run_dir, sent.log)
        else:
            say(f"evaluation job {sent.job_id} starts when job {after.job_id} has succeeded, log {sent.log}")
        after = sent


def send_sweep(options: argparse.Namespace) -> None:
    """Send every combination of the values in the overrides, a run each. Raises VizSageError."""
    from jobs.spec import work
    from jobs.sweep import members

    found = members(options.config, options.overrides)
    works = [work("train", member.config) for member in found]
    if options.scheduler == "kubernetes":
        _sweep_on_kubernetes(options, found, works)
    else:
        _sweep_on_slurm(options, found, works)


def _sweep_on_kubernetes(options: argparse.Namespace, found: Sequence[Member], works: Sequence[Work]) -> None:
    """A Job for each member: each has retries and an end of its own, and the scheduler sees to the order."""
    from jobs.schedulers.kubernetes.apply import build, manifest, overlay_for

    request = _request(options)
    overlay = overlay_for(options.overlay, request)
    documents = build(overlay)
    rendered = [
        manifest(overlay, documents, training, request, options.config.stem, training.run_dir.name)
        for training in works
    ]
    if options.dry_run:
        show("---\n".join(one.text_without_secrets for one in rendered))
        return
    job_ids: list[str] = []
    sent = 0
    try:
        for training, one in zip(works, rendered, strict=True):
            if active := _active_job(training.run_dir):  # a sweep that broke off is sent again for the others
                say(f"job {active.submission.job_id} run directory {training.run_dir}: {active.state} already")
                job_ids.append(active.submission.job_id)
                continue
            job = _send_to_kubernetes(options, training, one)
            job_ids.append(job.job_id)
            sent += 1
            say(f"job {job.job_id} run directory {job.run_dir}")
    except VizSageError as error:
        if not job_ids:
            raise
        raise type(error)(
            f"{sent} of {len(works)} jobs were sent, this one not: {error}; the same sweep sends the others"
        ) from None
    finally:
        if job_ids:
            _note_sweep(options, found, job_ids)
    say(f"follow it with: python -m jobs table {works[0].run_dir.parent}")


def _sweep_on_slurm(options: argparse.Namespace, found: Sequence[Member], works: Sequence[Work]) -> None:
    from jobs.schedulers.slurm import sbatch as slurm
    from jobs.schedulers.slurm.script import script_text
    from jobs.spec import FOLDER, work
    from jobs.submissions import note

    profile = _profile(options, found[0].config)
    base = works[0].run_dir.parent
    folder = base / FOLDER
    if options.dry_run:
        show(script_text(works, profile, folder) + "\n")
        if options.then_eval:
            for i, training in enumerate(works):
                evaluation = work("eval", training.config)
                show(script_text([evaluation], _for_eval(profile), evaluation.folder, after=f"JOBID_{i}") + "\n")
        return
    for training in works:
        _refuse_second_job(training.run_dir)
    sent = slurm.submit(works, profile, folder)
    for one in sent:
        warn(note(one))
        say(f"job {one.job_id} run directory {one.run_dir}")
    _note_sweep(options, found, [one.job_id for one in sent])
    refused = []
    for one, training in zip(sent, works, strict=True) if options.then_eval else ():
        evaluation = work("eval", training.config)
        try:
            [then] = slurm.submit([evaluation], _for_eval(profile), evaluation.folder, after=one)
        except ConfigError as error:  # the trainings are on their way, and so shall the other evaluations be
            refused.append(f"evaluation of {one.run_dir}: {error}")
            continue
        warn(note(then))
        say(f"evaluation job {then.job_id} starts when job {one.job_id} has succeeded")
    say(f"follow it with: python -m jobs table {base}")
    if refused:
        raise ConfigError("; ".join(refused))


def _note_sweep(options: argparse.Namespace, found: Sequence[Member], job_ids: Sequence[str]) -> None:
    """sweep.json beside the folders of the runs: which overrides made which."""
    from vizsage.files import write_json

    runs = [
        {"run_dir": str(member.config.output_dir.absolute()), "overrides": list(member.overrides), "job_id": job_id}
        for member, job_id in zip(found, job_ids, strict=False)  # of a sweep that broke off, those that were sent
    ]
    path = found[0].config.output_dir.absolute().parent / "sweep.json"
    try:
        write_json(path, {"schema_version": 1, "config": str(options.config.absolute()), "runs": runs})
    except OSError as error:
        warn(f"{path}: cannot be written: {error.strerror}")


def _report(job_id: str, run_dir: str, log: str) -> None:
    say(f"job {job_id}")
    say(f"run directory {run_dir}")
    say(f"log {log}")
    say(f"follow it with: python -m jobs logs -f {run_dir}")


def _profile(options: argparse.Namespace, config: Any) -> Any:
    from jobs.schedulers.slurm.profile import fill, load_profile, with_gpus

    given = {"nodes": options.nodes, "time": options.time}
    changes = {key: value for key, value in given.items() if value is not None}
    profile, remarks = fill(load_profile(options.profile, changes), os.environ)
    if options.gpus_per_node is not None:
        profile = with_gpus(profile, options.gpus_per_node)
    elif config.device == "cpu":
        profile = with_gpus(profile, 0)  # nobody wants to wait for GPUs that stay idle
    for remark in remarks:
        warn(remark)
    return profile


def _request(options: argparse.Namespace) -> Any:
    from jobs.schedulers.kubernetes.manifest import Request
    from jobs.schedulers.slurm.profile import seconds

    try:
        time_s = None if options.time is None else seconds(options.time) or 0
    except ValueError as error:
        raise ConfigError(f"--time: {error}, found {options.time!r}") from None
    return Request(options.nodes, options.gpus_per_node, options.image, time_s, options.then_eval)


def _evaluation(options: argparse.Namespace) -> Any:
    from jobs.spec import Evaluation

    adapter = options.adapter
    if adapter is not None and options.scheduler == "slurm":
        adapter = adapter.absolute()  # in a pod, relative paths begin elsewhere
    return Evaluation(options.split, options.limit, options.base, adapter, options.blind, options.other_data)


def _for_eval(profile: Any, nodes: int | None = None, gpus_per_node: int | None = None) -> Any:
    """An evaluation takes one process, however large the profile's trainings are, unless more are asked for."""
    from jobs.schedulers.slurm.profile import with_gpus

    if gpus_per_node is None and (profile.gres or profile.gpus_per_node):
        profile = with_gpus(profile, 1, of_a_kind=True)
    return profile if nodes is not None else profile.model_copy(update={"nodes": 1})


def _active_job(run_dir: Path) -> JobState | None:
    from jobs.status import state_of
    from jobs.submissions import of_run

    return next((found for one in of_run(run_dir) if (found := state_of(one)).active), None)


def _refuse_second_job(run_dir: Path) -> None:
    if found := _active_job(run_dir):
        one = found.submission
        raise ConfigError(
            f"{run_dir}: {one.kind} job {one.job_id} of this run is {found.state}; cancel it (python -m jobs "
            f"cancel {one.job_id}; with --forget if it is gone all the same), wait for it, or name another output_dir"
        )
