"""`python -m jobs COMMAND`: send fine-tuning runs to a cluster, follow them, cancel them.

What scripts may read goes to stdout, errors as one line to stderr, with the exit codes of `vizsage`.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.parser import parse
from vizsage.errors import EXIT_DONE, EXIT_UNKNOWN, ConfigError, VizSageError, printable
from vizsage.streams import escape_what_is_not_encodable, keep_streams

if TYPE_CHECKING:
    from jobs.kubernetes import Manifest
    from jobs.spec import Work
    from jobs.status import JobState
    from jobs.submissions import Submission
    from jobs.sweep import Member

EXIT_KEYBOARD = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    escape_what_is_not_encodable()
    logging.basicConfig(handlers=[_Warnings()], level=logging.WARNING)
    try:
        options = parse(list(sys.argv[1:] if argv is None else argv))
        if argv is None:  # what was sent is sent, whether or not that can be told
            keep_streams(product=options.command in ("status", "logs", "table") or getattr(options, "dry_run", False))
        _COMMANDS[options.command](options)
        sys.stdout.flush()
    except VizSageError as error:
        print(f"jobs: error: {printable(' '.join(str(error).split()))}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return EXIT_KEYBOARD
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_UNKNOWN
    return EXIT_DONE


# --- commands --------------------------------------------------------------------------------------------------------


def _submit(options: argparse.Namespace) -> None:
    if options.kind == "eval" and options.then_eval:
        raise ConfigError("--then-eval follows a training; an evaluation is submitted by itself")
    if options.scheduler == "kubernetes":
        _submit_to_kubernetes(options)
    else:
        _submit_to_slurm(options)


def _submit_to_kubernetes(options: argparse.Namespace) -> None:
    from jobs.kubernetes import build, manifest, overlay_for
    from jobs.spec import load_work

    one = load_work(options.kind, options.config, options.overrides, _evaluation(options))
    request = _request(options)
    overlay = overlay_for(options.overlay, request)
    rendered = manifest(overlay, build(overlay), one, request, options.config.stem)
    if options.dry_run:
        print(rendered.text_without_secrets, end="")
        return
    _refuse_second_job(one.run_dir)
    sent = _send_to_kubernetes(options, one, rendered)
    _report(sent.job_id, sent.run_dir, sent.log)


def _send_to_kubernetes(options: argparse.Namespace, one: Work, rendered: Manifest) -> Submission:
    """Send it and note it, whatever happens in between."""
    from jobs.kubernetes import Unclear, submission_of, submit
    from jobs.submissions import note

    sent = submission_of(one, rendered, options.namespace)
    try:
        for problem in submit(one, rendered, sent):
            _warn(problem)
    except (Unclear, KeyboardInterrupt):
        note(sent)
        raise
    _warn(note(sent))
    return sent


def _submit_to_slurm(options: argparse.Namespace) -> None:
    from jobs import slurm
    from jobs.script import script_text
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
            print(script_text([one], resources, one.folder, after="JOBID" if i else None))
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
        _warn(note(sent))
        if after is None:
            _report(sent.job_id, sent.run_dir, sent.log)
        else:
            _say(f"evaluation job {sent.job_id} starts when job {after.job_id} has succeeded, log {sent.log}")
        after = sent


def _sweep(options: argparse.Namespace) -> None:
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
    from jobs.kubernetes import build, manifest, overlay_for

    request = _request(options)
    overlay = overlay_for(options.overlay, request)
    documents = build(overlay)
    rendered = [
        manifest(overlay, documents, training, request, options.config.stem, training.run_dir.name)
        for training in works
    ]
    if options.dry_run:
        print("---\n".join(one.text_without_secrets for one in rendered), end="")
        return
    job_ids: list[str] = []
    sent = 0
    try:
        for training, one in zip(works, rendered, strict=True):
            if active := _active_job(training.run_dir):  # a sweep that broke off is sent again for the others
                _say(f"job {active.submission.job_id} run directory {training.run_dir}: {active.state} already")
                job_ids.append(active.submission.job_id)
                continue
            job = _send_to_kubernetes(options, training, one)
            job_ids.append(job.job_id)
            sent += 1
            _say(f"job {job.job_id} run directory {job.run_dir}")
    except VizSageError as error:
        if not job_ids:
            raise
        raise type(error)(
            f"{sent} of {len(works)} jobs were sent, this one not: {error}; the same sweep sends the others"
        ) from None
    finally:
        if job_ids:
            _note_sweep(options, found, job_ids)
    _say(f"follow it with: python -m jobs table {works[0].run_dir.parent}")


def _sweep_on_slurm(options: argparse.Namespace, found: Sequence[Member], works: Sequence[Work]) -> None:
    from jobs import slurm
    from jobs.script import script_text
    from jobs.spec import FOLDER, work
    from jobs.submissions import note

    profile = _profile(options, found[0].config)
    base = works[0].run_dir.parent
    folder = base / FOLDER
    if options.dry_run:
        print(script_text(works, profile, folder))
        if options.then_eval:
            for i, training in enumerate(works):
                evaluation = work("eval", training.config)
                print(script_text([evaluation], _for_eval(profile), evaluation.folder, after=f"JOBID_{i}"))
        return
    for training in works:
        _refuse_second_job(training.run_dir)
    sent = slurm.submit(works, profile, folder)
    for one in sent:
        _warn(note(one))
        _say(f"job {one.job_id} run directory {one.run_dir}")
    _note_sweep(options, found, [one.job_id for one in sent])
    refused = []
    for one, training in zip(sent, works, strict=True) if options.then_eval else ():
        evaluation = work("eval", training.config)
        try:
            [then] = slurm.submit([evaluation], _for_eval(profile), evaluation.folder, after=one)
        except ConfigError as error:  # the trainings are on their way, and so shall the other evaluations be
            refused.append(f"evaluation of {one.run_dir}: {error}")
            continue
        _warn(note(then))
        _say(f"evaluation job {then.job_id} starts when job {one.job_id} has succeeded")
    _say(f"follow it with: python -m jobs table {base}")
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
        _warn(f"{path}: cannot be written: {error.strerror}")


def _status(options: argparse.Namespace) -> None:
    from jobs.submissions import find, of_sweep

    for jobs in of_sweep(options.target) or [find(options.target)]:
        _print_status(options, jobs)


def _print_status(options: argparse.Namespace, jobs: Sequence[Submission]) -> None:
    from jobs.status import state_of
    from jobs.submissions import whose

    newest = {one.kind: one for one in jobs}  # a later job of a kind takes the place of an earlier one
    _say(f"run directory {jobs[-1].run_dir}{whose(options.target, jobs[-1])}")
    for one in sorted(newest.values(), key=lambda one: one.kind != "train"):
        found = state_of(one)
        where = f" on cluster {one.cluster}" if one.cluster else ""
        _say(f"{one.kind} job {one.job_id}{where}: {found.state}{f' ({found.detail})' if found.detail else ''}")
        if found.step is not None and one.kind == "train":
            _say(f"  step {found.step}")
        if found.error:
            _say(f"  last error: {found.error}")
        _say(f"  log {one.log}")


def _logs(options: argparse.Namespace) -> None:
    from jobs.pod_logs import for_terminal, print_logs
    from jobs.submissions import find, whose

    jobs = find(options.target)
    jobs = [one for one in jobs if one.job_id == options.target] or jobs  # a job's id asks for that job's log
    said = whose(options.target, jobs[-1])
    note = f"jobs: run directory {jobs[-1].run_dir}{said}\n" if said else ""  # not on stdout, where the log is
    if jobs[-1].scheduler == "kubernetes":
        sys.stderr.write(printable(note, lines=True))
        print_logs(jobs[-1], options.follow)
        return
    started = [one for one in jobs if Path(one.log).exists()]
    if not started and not options.follow:
        raise ConfigError(f"{jobs[-1].log}: not there yet; job {jobs[-1].job_id} has not begun")
    chosen = (started or jobs)[-1]
    # One log a node; the others come after the first node's.
    others = sorted(Path(chosen.log).parent.glob(f"{chosen.job_id}_[1-9]*_log.out")) if "_" not in chosen.job_id else []
    sys.stderr.write(printable(note, lines=True))
    sys.stdout.flush()
    follow = ["-F"] if options.follow else []
    tail = ["tail", "-n", "+1", *follow, chosen.log, *map(str, others)]
    if not sys.stdout.isatty():
        os.execvp("tail", tail)
    with subprocess.Popen(tail, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for line in process.stdout:
            sys.stdout.buffer.write(for_terminal(line))
            sys.stdout.buffer.flush()
    if process.returncode:
        raise VizSageError(f"{chosen.log}: tail ended with exit code {process.returncode}")


def _cancel(options: argparse.Namespace) -> None:
    from jobs import kubernetes, slurm_queue
    from jobs.status import CANCELLED, state_of
    from jobs.submissions import find_to_cancel, whose
    from vizsage.files import write_text

    jobs = find_to_cancel(options.target)
    said = whose(options.target, jobs[-1])
    if options.forget:
        _forget(jobs, said)
        return
    active = [one for one in {one.job_id: one for one in jobs}.values() if state_of(one).active]
    if not active:
        raise ConfigError(f"{jobs[-1].run_dir}: no job of this run is waiting or running")
    for one in reversed(active):  # what waits for the training first, so that it cannot start in between
        if one.scheduler == "kubernetes":
            kubernetes.cancel(one)
        else:
            slurm_queue.cancel(one)
        try:
            write_text(one.folder / f"{one.job_id}{CANCELLED}", "")
        except OSError as error:
            _warn(f"{one.folder}: cannot be written: {error.strerror}")
        if said:
            _say(f"run directory {one.run_dir}{said}")
            said = ""
        _say(f"{one.kind} job {one.job_id} is cancelled; a running one saves a checkpoint first")
    _say("the same submission continues the run")


def _forget(jobs: Sequence[Submission], said: str) -> None:
    """Note of each job that is active, or of which no scheduler tells, that its scheduler is not asked any more."""
    from jobs import kubernetes, slurm_queue
    from jobs.status import state_of
    from jobs.submissions import note, now

    forgotten: list[Submission] = []
    for one in reversed(jobs):
        try:
            if not state_of(one).active:  # its id may be another job's by now
                continue
            kubernetes.cancel(one) if one.scheduler == "kubernetes" else slurm_queue.cancel(one)
        except VizSageError as error:
            _warn(str(error))
        _warn(note(dataclasses.replace(one, given_up=now())))
        forgotten.append(one)
    if not forgotten:
        raise ConfigError(f"{jobs[-1].run_dir}: no job of this run is waiting or running")
    _say(f"run directory {jobs[-1].run_dir}{said}")
    for one in forgotten:
        _say(f"{one.kind} job {one.job_id} counts as gone; where it still runs, its lock on the run directory holds")


def _table(options: argparse.Namespace) -> None:
    from rich.console import Console

    from jobs.status import state_of_run
    from jobs.table import render, runs_below

    runs = runs_below(options.folder, state_of=state_of_run)
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)  # a file or a pipe has no width of its own; a narrow one would fold numbers
    console.print(render(runs))


def _report(job_id: str, run_dir: str, log: str) -> None:
    _say(f"job {job_id}")
    _say(f"run directory {run_dir}")
    _say(f"log {log}")
    _say(f"follow it with: python -m jobs logs -f {run_dir}")


def _profile(options: argparse.Namespace, config: Any) -> Any:
    from jobs.profile import fill, load_profile, with_gpus

    given = {"nodes": options.nodes, "time": options.time}
    changes = {key: value for key, value in given.items() if value is not None}
    profile, remarks = fill(load_profile(options.profile, changes), os.environ)
    if options.gpus_per_node is not None:
        profile = with_gpus(profile, options.gpus_per_node)
    elif config.device == "cpu":
        profile = with_gpus(profile, 0)  # nobody wants to wait for GPUs that stay idle
    for remark in remarks:
        _warn(remark)
    return profile


def _request(options: argparse.Namespace) -> Any:
    from jobs.manifest import Request
    from jobs.profile import seconds

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
    from jobs.profile import with_gpus

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


def _warn(problem: str | None) -> None:
    if problem:
        print(f"jobs: warning: {printable(problem)}", file=sys.stderr)


class _Warnings(logging.Handler):
    """What modules report, as the other warnings."""

    def emit(self, record: logging.LogRecord) -> None:
        _warn(record.getMessage())


def _say(text: str) -> None:
    """A line for people and scripts: names and messages in it cannot control the terminal."""
    print(printable(text))


_COMMANDS = {
    "submit": _submit,
    "status": _status,
    "logs": _logs,
    "cancel": _cancel,
    "sweep": _sweep,
    "table": _table,
}
