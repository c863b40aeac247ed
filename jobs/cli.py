"""`python -m jobs COMMAND`: send fine-tuning runs to a cluster, follow them, cancel them.

What scripts may read goes to stdout, errors as one line to stderr, with the exit codes of `vizsage`.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from vizsage.errors import EXIT_DONE, EXIT_UNKNOWN, ConfigError, VizSageError

EXIT_KEYBOARD = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    try:
        options = _parse(list(sys.argv[1:] if argv is None else argv))
        options.run(options)
        sys.stdout.flush()
    except VizSageError as error:
        print(f"jobs: error: {' '.join(str(error).split())}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return EXIT_KEYBOARD
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_UNKNOWN
    return EXIT_DONE


# --- commands --------------------------------------------------------------------------------------------------------


def _submit(options: argparse.Namespace) -> None:
    from jobs import slurm
    from jobs.script import script_text
    from jobs.spec import load_work, work
    from jobs.submissions import note

    training = load_work(options.kind, options.config, options.overrides)
    profile = _profile(options, training.config)
    chain = [(training, profile)]
    if options.then_eval:
        if options.kind != "train":
            raise ConfigError("--then-eval follows a training; an evaluation is submitted by itself")
        chain.append((work("eval", training.config), _for_eval(profile)))
    elif options.kind == "eval":
        chain = [(training, _for_eval(profile))]
    if options.dry_run:
        for i, (one, resources) in enumerate(chain):
            print(script_text([one], resources, one.folder, after="JOBID" if i else None))
        return
    _refuse_second_job(training.run_dir)
    after = None
    for one, resources in chain:
        try:
            [sent] = slurm.submit([one], resources, one.folder, after=after)
        except ConfigError as error:
            raise (
                error if after is None else ConfigError(f"job {after} was sent, its evaluation not: {error}")
            ) from None
        _warn(note(sent))
        if after is None:
            _report(sent.job_id, sent.run_dir, sent.log)
        else:
            print(f"evaluation job {sent.job_id} starts when job {after} has succeeded, log {sent.log}")
        after = sent.job_id


def _sweep(options: argparse.Namespace) -> None:
    from jobs import slurm
    from jobs.script import script_text
    from jobs.spec import FOLDER, work
    from jobs.submissions import note
    from jobs.sweep import members
    from vizsage.files import write_json

    found = members(options.config, options.overrides)
    works = [work("train", member.config) for member in found]
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
        print(f"job {one.job_id} run directory {one.run_dir}")
    runs = [
        {"run_dir": one.run_dir, "overrides": list(member.overrides), "job_id": one.job_id}
        for one, member in zip(sent, found, strict=True)
    ]
    write_json(base / "sweep.json", {"schema_version": 1, "config": str(options.config.absolute()), "runs": runs})
    refused = []
    for one, training in zip(sent, works, strict=True) if options.then_eval else ():
        evaluation = work("eval", training.config)
        try:
            [then] = slurm.submit([evaluation], _for_eval(profile), evaluation.folder, after=one.job_id)
        except ConfigError as error:  # the trainings are on their way, and so shall the other evaluations be
            refused.append(f"evaluation of {one.run_dir}: {error}")
            continue
        _warn(note(then))
        print(f"evaluation job {then.job_id} starts when job {one.job_id} has succeeded")
    print(f"follow it with: python -m jobs table {base}")
    if refused:
        raise ConfigError("; ".join(refused))


def _status(options: argparse.Namespace) -> None:
    from jobs.status import state_of
    from jobs.submissions import find

    jobs = find(options.target)
    newest = {one.kind: one for one in jobs}  # a later job of a kind takes the place of an earlier one
    print(f"run directory {jobs[-1].run_dir}")
    for one in sorted(newest.values(), key=lambda one: one.kind != "train"):
        found = state_of(one)
        print(f"{one.kind} job {one.job_id}: {found.state}{f' ({found.detail})' if found.detail else ''}")
        if found.step is not None and one.kind == "train":
            print(f"  step {found.step}")
        if found.error:
            print(f"  last error: {found.error}")
        print(f"  log {one.log}")


def _logs(options: argparse.Namespace) -> None:
    from jobs.submissions import find

    jobs = find(options.target)
    jobs = [one for one in jobs if one.job_id == options.target] or jobs  # a job's id asks for that job's log
    started = [one for one in jobs if Path(one.log).exists()]
    if not started and not options.follow:
        raise ConfigError(f"{jobs[-1].log}: not there yet; job {jobs[-1].job_id} has not begun")
    chosen = (started or jobs)[-1]
    # One log a node; the others come after the first node's.
    others = sorted(Path(chosen.log).parent.glob(f"{chosen.job_id}_[1-9]*_log.out")) if "_" not in chosen.job_id else []
    sys.stdout.flush()
    follow = ["-F"] if options.follow else []
    os.execvp("tail", ["tail", "-n", "+1", *follow, chosen.log, *map(str, others)])


def _cancel(options: argparse.Namespace) -> None:
    from jobs import slurm
    from jobs.status import CANCELLED, state_of
    from jobs.submissions import find_to_cancel
    from vizsage.files import write_text

    jobs = find_to_cancel(options.target)
    active = [one for one in {one.job_id: one for one in jobs}.values() if state_of(one).active]
    if not active:
        raise ConfigError(f"{jobs[-1].run_dir}: no job of this run is waiting or running")
    for one in reversed(active):  # what waits for the training first, so that it cannot start in between
        slurm.cancel(one.job_id)
        write_text(one.folder / f"{one.job_id}{CANCELLED}", "")
        print(f"{one.kind} job {one.job_id} is cancelled; a running one saves a checkpoint first")
    print("the same submission continues the run")


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
    print(f"job {job_id}")
    print(f"run directory {run_dir}")
    print(f"log {log}")
    print(f"follow it with: python -m jobs logs -f {run_dir}")


def _profile(options: argparse.Namespace, config: Any) -> Any:
    from jobs.profile import load_profile

    given = {"nodes": options.nodes, "gpus_per_node": options.gpus_per_node, "time": options.time}
    changes = {key: value for key, value in given.items() if value is not None}
    if options.gpus_per_node is not None:
        changes["gres"] = None
    elif config.device == "cpu":
        changes |= {"gpus_per_node": 0, "gres": None}  # nobody wants to wait for GPUs that stay idle
    return load_profile(options.profile, changes)


def _for_eval(profile: Any) -> Any:
    """An evaluation takes one process."""
    one_gpu = re.sub(r"\b(gpu(?::[^,:]+)?):\d+", r"\1:1", profile.gres) if profile.gres else None
    return profile.model_copy(update={"nodes": 1, "gpus_per_node": min(1, profile.gpus_per_node), "gres": one_gpu})


def _refuse_second_job(run_dir: Path) -> None:
    from jobs.status import state_of
    from jobs.submissions import of_run

    for one in of_run(run_dir):
        found = state_of(one)
        if found.active:
            raise ConfigError(
                f"{run_dir}: {one.kind} job {one.job_id} of this run is {found.state}; cancel it (python -m jobs "
                f"cancel {one.job_id}), wait for it, or name another output_dir"
            )


def _warn(problem: str | None) -> None:
    if problem:
        print(f"jobs: warning: the job is sent, but {problem}", file=sys.stderr)


# --- the command line ------------------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"jobs: error: {' '.join(message.split())}; see {self.prog} --help\n")


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    # argparse gives a list of positionals only one place; overrides after an option come back as unknown.
    unknown = [word for word in rest if word.startswith("-") or not hasattr(options, "overrides")]
    if unknown:
        parser.error(f"unrecognised arguments: {' '.join(unknown)}")
    if rest:
        options.overrides = [*options.overrides, *rest]
    return options


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m jobs", description="Send fine-tuning runs to a cluster and follow them.")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def sending(name: str, run: Any, summary: str, kinds: tuple[str, ...]) -> None:
        added = commands.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        added.set_defaults(run=run)
        added.add_argument("scheduler", choices=("slurm",), help="where to")
        added.add_argument("kind", choices=kinds, help="what to run")
        added.add_argument("config", metavar="CONFIG", type=Path, help="a YAML file")
        added.add_argument("overrides", metavar="key=value", nargs="*", help="lay this over a setting of the file")
        added.add_argument("--profile", metavar="NAME", help="config/clusters/NAME.yaml, or a file (default: default)")
        added.add_argument("--nodes", type=int, metavar="N", help="nodes, one launcher each")
        added.add_argument("--gpus-per-node", type=int, metavar="N", help="GPUs of each node, one process each")
        added.add_argument("--time", metavar="T", help="time limit in SLURM's forms, such as 12:00:00 or 2-00")
        added.add_argument("--then-eval", action="store_true", help="evaluate when the training has succeeded")
        added.add_argument("--dry-run", action="store_true", help="print the script, send nothing")

    def asking(name: str, run: Any, summary: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        added.set_defaults(run=run)
        added.add_argument(
            "target", metavar="RUN", nargs="?", help="run directory, its name, or a job id (default: the latest run)"
        )
        return added

    sending("submit", _submit, "send one run", ("train", "eval"))
    asking("status", _status, "how a run's jobs stand")
    logs = asking("logs", _logs, "print a run's log")
    logs.add_argument("-f", "--follow", action="store_true", help="go on printing until Ctrl-C")
    asking("cancel", _cancel, "stop a run's jobs; a checkpoint is saved first")
    sending("sweep", _sweep, "send every combination of comma-separated values as one job array", ("train",))
    table = commands.add_parser("table", help="one line for each run below a folder")
    table.set_defaults(run=_table)
    table.add_argument("folder", metavar="DIR", type=Path, help="folder of the runs")
    return parser
