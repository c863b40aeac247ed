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
from typing import TYPE_CHECKING

from jobs.parser import parse
from jobs.terminal import Warnings, fail, say, warn
from vizsage.errors import EXIT_DONE, EXIT_UNKNOWN, ConfigError, VizSageError, printable
from vizsage.streams import escape_what_is_not_encodable, keep_streams

if TYPE_CHECKING:
    from jobs.submissions import Submission

EXIT_KEYBOARD = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    escape_what_is_not_encodable()
    logging.basicConfig(handlers=[Warnings()], level=logging.WARNING)
    try:
        options = parse(list(sys.argv[1:] if argv is None else argv))
        if argv is None:  # what was sent is sent, whether or not that can be told
            keep_streams(product=options.command in ("status", "logs", "table") or getattr(options, "dry_run", False))
        _COMMANDS[options.command](options)
        sys.stdout.flush()
    except VizSageError as error:
        fail(error)
        return error.exit_code
    except KeyboardInterrupt:
        return EXIT_KEYBOARD
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_UNKNOWN
    return EXIT_DONE


# --- commands --------------------------------------------------------------------------------------------------------


def _submit(options: argparse.Namespace) -> None:
    from jobs.sending import send_run

    send_run(options)


def _sweep(options: argparse.Namespace) -> None:
    from jobs.sending import send_sweep

    send_sweep(options)


def _status(options: argparse.Namespace) -> None:
    from jobs.submissions import find, of_sweep

    for jobs in of_sweep(options.target) or [find(options.target)]:
        _print_status(options, jobs)


def _print_status(options: argparse.Namespace, jobs: Sequence[Submission]) -> None:
    from jobs.status import state_of
    from jobs.submissions import whose

    newest = {one.kind: one for one in jobs}  # a later job of a kind takes the place of an earlier one
    say(f"run directory {jobs[-1].run_dir}{whose(options.target, jobs[-1])}")
    for one in sorted(newest.values(), key=lambda one: one.kind != "train"):
        found = state_of(one)
        where = f" on cluster {one.cluster}" if one.cluster else ""
        say(f"{one.kind} job {one.job_id}{where}: {found.state}{f' ({found.detail})' if found.detail else ''}")
        if found.step is not None and one.kind == "train":
            say(f"  step {found.step}")
        if found.error:
            say(f"  last error: {found.error}")
        say(f"  log {one.log}")


def _logs(options: argparse.Namespace) -> None:
    from jobs.schedulers.kubernetes.pod_logs import for_terminal, print_logs
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
    from jobs.schedulers.kubernetes import apply as kubernetes
    from jobs.schedulers.slurm import slurm_queue
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
            warn(f"{one.folder}: cannot be written: {error.strerror}")
        if said:
            say(f"run directory {one.run_dir}{said}")
            said = ""
        say(f"{one.kind} job {one.job_id} is cancelled; a running one saves a checkpoint first")
    say("the same submission continues the run")


def _forget(jobs: Sequence[Submission], said: str) -> None:
    """Note of each job that is active, or of which no scheduler tells, that its scheduler is not asked any more."""
    from jobs.schedulers.kubernetes import apply as kubernetes
    from jobs.schedulers.slurm import slurm_queue
    from jobs.status import state_of
    from jobs.submissions import note, now

    forgotten: list[Submission] = []
    for one in reversed(jobs):
        try:
            if not state_of(one).active:  # its id may be another job's by now
                continue
            kubernetes.cancel(one) if one.scheduler == "kubernetes" else slurm_queue.cancel(one)
        except VizSageError as error:
            warn(str(error))
        warn(note(dataclasses.replace(one, given_up=now())))
        forgotten.append(one)
    if not forgotten:
        raise ConfigError(f"{jobs[-1].run_dir}: no job of this run is waiting or running")
    say(f"run directory {jobs[-1].run_dir}{said}")
    for one in forgotten:
        say(f"{one.kind} job {one.job_id} counts as gone; where it still runs, its lock on the run directory holds")


def _table(options: argparse.Namespace) -> None:
    from rich.console import Console

    from jobs.runs_table import render, runs_below
    from jobs.status import state_of_run

    runs = runs_below(options.folder, state_of=state_of_run)
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)  # a file or a pipe has no width of its own; a narrow one would fold numbers
    console.print(render(runs))


_COMMANDS = {
    "submit": _submit,
    "status": _status,
    "logs": _logs,
    "cancel": _cancel,
    "sweep": _sweep,
    "table": _table,
}
