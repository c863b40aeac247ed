"""The command line of `python -m jobs`: its commands, their options, and which of them exclude each other."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NoReturn

from jobs.schedulers.registry import SCHEDULERS, schedulers
from jobs.schedulers.scheduler import Option, path_or_name
from jobs.terminal import INSTALLED, program
from vizsage.completion import Completer, complete, folders, is_asked, paths
from vizsage.errors import printable
from vizsage.hints import examples, parse_with_overrides

EPILOG = """\
Every command shows examples with --help. Exit codes are those of vizsage, see
vizsage --help. Completion for bash, zsh and fish: vizsage completion --help
"""
# Those with {name} are given for each scheduler.
EXAMPLES = {
    "submit": """
        vizsage-jobs submit {name} train my.yaml {example}
        vizsage-jobs submit {name} eval outputs/run --blind
    """,
    "status": """
        vizsage-jobs status  # of the latest run that was sent from this project
        vizsage-jobs status outputs/run
    """,
    "logs": """
        vizsage-jobs logs -f  # of the latest run; Ctrl-C ends the printing only
        vizsage-jobs logs 4711  # of one job
    """,
    "cancel": """
        vizsage-jobs cancel outputs/run
        vizsage-jobs cancel --forget 4711  # its cluster is gone for good
    """,
    "sweep": """
        vizsage-jobs sweep {name} train my.yaml lr=1e-4,2e-4 lora_r=8,16
    """,
    "table": """
        vizsage-jobs table outputs  # its runs, with the settings that differ
    """,
}

# Options that only an evaluation has.
_EVALUATION = ("split", "limit", "base", "adapter", "blind", "other_data")


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options, `command` among them. Exits with code 2 and one line on stderr where they are wrong."""
    parser = _parser()
    if is_asked():
        complete(parser, _completers())
    options = parse_with_overrides(parser, arguments, _settings)
    if scheduler := getattr(options, "scheduler", None):
        _check_own_options(parser, options, scheduler)
        _check_numbers(parser, options)
    if options.command == "submit":
        _check_evaluation(parser, options)
    return options


def _completers() -> dict[str, Completer]:
    """What completes the arguments that `vizsage` does not have."""
    from jobs.submissions import of_project

    def runs(start: str) -> Iterator[str]:
        yield from folders(start)
        yield from dict.fromkeys(Path(one.run_dir).name for one in reversed(of_project()))

    def of(option: Option) -> Completer:
        return lambda start: [*option.names(), *paths(start)]

    return {"RUN": runs} | {option.key.upper(): of(option) for option in _own_options()}


def _check_numbers(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Exit where a number is out of range, whatever the scheduler."""
    if options.nodes is not None and options.nodes < 1:
        parser.error(f"--nodes: expected 1 or more, found {options.nodes}")
    if options.gpus_per_node is not None and options.gpus_per_node < 0:
        parser.error(f"--gpus-per-node: expected 0 or more, found {options.gpus_per_node}")


def _check_own_options(parser: argparse.ArgumentParser, options: argparse.Namespace, scheduler: str) -> None:
    """Exit where an option is of another scheduler, or its value is not valid."""
    for option, owners in _own_options().items():
        value = getattr(options, option.key)
        if value is None:
            continue
        if scheduler not in owners:
            parser.error(f"{option.name} is for {' and '.join(owners)}")
        if option.expected is not None and not option.is_valid(value):
            parser.error(f"{option.name}: expected {option.expected}")


def _own_options() -> dict[Option, list[str]]:
    """The options that only some schedulers have, each with the names of these schedulers."""
    found: dict[Option, list[str]] = {}
    for scheduler in schedulers():
        for option in scheduler.options:
            found.setdefault(option, []).append(scheduler.name)
    return found


def _check_evaluation(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Exit where `vizsage eval` would refuse the options after hours in a queue, or a training does not have them."""
    given = [name for name in _EVALUATION if getattr(options, name) not in (None, False)]
    if given and options.kind != "eval":
        parser.error(f"--{given[0].replace('_', '-')} is for eval")
    if options.limit is not None and options.limit < 1:
        parser.error(f"--limit: expected a number of samples of 1 or more, found {options.limit}")
    if options.base and options.adapter is not None:
        parser.error("--base and --adapter: the base model is evaluated without an adapter; leave one out")


class _Parser(argparse.ArgumentParser):
    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)
        self.register("type", Path, lambda text: Path(path_or_name(text)))

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"jobs: error: {printable(' '.join(message.split()))}; see {self.prog} --help\n")


def _examples(command: str) -> str:
    lines = [
        line.format(name=one.name, example=one.example)
        for line in EXAMPLES[command].strip().splitlines()
        for one in (schedulers() if "{name}" in line else schedulers()[:1])
    ]
    return examples("\n".join(lines)).replace(INSTALLED, program())


def _settings() -> Collection[str]:
    from vizsage.config import Config

    return Config.model_fields


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=program(),
        description="Send fine-tuning runs to a cluster and follow them.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, dest="command")

    def command(name: str, summary: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name,
            help=summary,
            description=textwrap.fill(f"{summary[0].upper()}{summary[1:]}.", 78),
            epilog=_examples(name),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def sending(name: str, summary: str, kinds: tuple[str, ...]) -> None:
        added = command(name, summary)
        added.add_argument("scheduler", choices=tuple(SCHEDULERS), help="where to send it")
        added.add_argument("kind", choices=kinds, help="what to run")
        added.add_argument("config", metavar="CONFIG", type=Path, help="a YAML file, or a run directory")
        added.add_argument(  # without a default, argparse calls it required
            "overrides",
            metavar="key=value",
            nargs="*",
            default=[],
            help="replace a setting of the file",
        )
        one = "; an evaluation uses one by default" if "eval" in kinds else ""
        added.add_argument("--nodes", type=int, metavar="N", help=f"nodes, one launcher each{one}")
        added.add_argument("--gpus-per-node", type=int, metavar="N", help=f"GPUs of each node, one process each{one}")
        added.add_argument(
            "--time",
            metavar="T",
            help="time limit, such as 12:00:00, 2-00 or UNLIMITED; "
            + ", ".join(f"{one.name}: {one.time_limit}" for one in schedulers()),
        )
        added.add_argument("--then-eval", action="store_true", help="evaluate when the training has succeeded")
        added.add_argument("--dry-run", action="store_true", help="print the script or manifest, send nothing")
        if "eval" in kinds:
            of_eval(added.add_argument_group("eval", "passed to vizsage eval"))
        groups: dict[str, argparse._ArgumentGroup] = {}
        for option, owners in _own_options().items():
            title = " and ".join(owners)
            groups[title] = groups.get(title) or added.add_argument_group(title)
            groups[title].add_argument(option.name, metavar=option.metavar, type=option.convert, help=option.help)

    def of_eval(group: argparse._ArgumentGroup) -> None:
        group.add_argument("--split", help="train, val, test or another file's name (default: test)")
        group.add_argument("--limit", type=int, metavar="N", help="only the first N samples")
        group.add_argument("--base", action="store_true", help="the base model, without an adapter")
        group.add_argument("--adapter", type=Path, metavar="DIR", help="this adapter instead of the run's own")
        group.add_argument("--blind", action="store_true", help="the same questions without the images")
        group.add_argument("--other-data", action="store_true", help="another data set than that of the run")

    def asking(name: str, summary: str) -> argparse.ArgumentParser:
        added = command(name, summary)
        added.add_argument(
            "target",
            type=path_or_name,
            metavar="RUN",
            nargs="?",
            help="run directory, its name, or a job id; of a sweep its folder, except for logs (default: the latest "
            "run that was sent from this project)",
        )
        return added

    sending("submit", "send one run", ("train", "eval"))
    asking("status", "print the state of a run's jobs")
    logs = asking("logs", "print a run's log")
    logs.add_argument("-f", "--follow", action="store_true", help="print new lines until Ctrl-C")
    cancel = asking("cancel", "stop a run's jobs; a checkpoint is saved first")
    cancel.add_argument(
        "--forget",
        action="store_true",
        help="count the jobs as ended from now on, whatever the scheduler reports",
    )
    sending("sweep", "send every combination of comma-separated values", ("train",))
    table = command("table", "compare the runs below a folder: settings that differ, scores, states")
    table.add_argument("folder", metavar="DIR", type=Path, help="folder of the runs")
    return parser
