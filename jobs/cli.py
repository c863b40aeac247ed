"""`python -m jobs COMMAND`: send fine-tuning runs to a cluster, follow them, cancel them.

Results are printed to stdout, and an error as one line to stderr. Exit codes are those of `vizsage`.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jobs.parser import parse
from jobs.terminal import Warnings, fail, say
from vizsage.contract import EXIT_DONE, EXIT_KEYBOARD, EXIT_UNKNOWN
from vizsage.errors import VizSageError, missing_package, printable
from vizsage.streams import escape_what_is_not_encodable, keep_streams

if TYPE_CHECKING:
    from jobs.submissions import Submission


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    escape_what_is_not_encodable()
    logging.basicConfig(handlers=[Warnings()], level=logging.WARNING)
    try:
        options = parse(list(sys.argv[1:] if argv is None else argv))
        if argv is None:  # for other commands, a closed stdout is no failure: the job was sent
            keep_streams(product=options.command in ("status", "logs", "table") or getattr(options, "dry_run", False))
        _COMMANDS[options.command](options)
        sys.stdout.flush()
    except VizSageError as error:
        fail(error)
        return error.exit_code
    except ModuleNotFoundError as error:
        if (missing := missing_package(error)) is None:
            raise
        fail(missing)
        return missing.exit_code
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

    newest = {one.kind: one for one in jobs}  # a later job of a kind replaces an earlier one
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
    from jobs.schedulers.registry import scheduler_named
    from jobs.submissions import find, whose

    jobs = find(options.target)
    jobs = [one for one in jobs if one.job_id == options.target] or jobs  # the id of a job selects its log
    said = whose(options.target, jobs[-1])

    def tell_whose() -> None:
        if said:  # not on stdout, where the log is
            sys.stderr.write(printable(f"jobs: run directory {jobs[-1].run_dir}{said}\n", lines=True))

    scheduler_named(jobs[-1].scheduler).logs(jobs, options.follow, tell_whose)


def _cancel(options: argparse.Namespace) -> None:
    from jobs.cancelling import cancel_jobs, forget_jobs

    (forget_jobs if options.forget else cancel_jobs)(options.target)


def _table(options: argparse.Namespace) -> None:
    from rich.console import Console

    from jobs.runs_table import problems, render, runs_below
    from jobs.status import state_of_run

    runs = runs_below(options.folder, state_of=state_of_run)
    console = Console()
    if not console.is_terminal and not os.environ.get("COLUMNS", "").isdigit():
        console = Console(width=200)  # a file or a pipe has no width, and the default would wrap numbers
    console.print(render(runs))
    for problem in problems(runs):
        say(problem)


_COMMANDS = {
    "submit": _submit,
    "status": _status,
    "logs": _logs,
    "cancel": _cancel,
    "sweep": _sweep,
    "table": _table,
}
