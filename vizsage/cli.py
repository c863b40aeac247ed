"""`vizsage COMMAND`: parse the arguments, call the library, turn every error into one line and an exit code.

Until the command is known, only the standard library is imported: `vizsage --help` must be fast. Settings, schema,
answers and tables go to stdout, because scripts read them; everything else goes to stderr.
"""

from __future__ import annotations

import argparse
import codecs
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from vizsage.contract import EXIT_DONE, EXIT_KEYBOARD, EXIT_REPEATS, EXIT_UNKNOWN, EXIT_USAGE
from vizsage.errors import (
    ConfigError,
    Interrupted,
    VizSageError,
    is_disk_full,
    is_out_of_memory,
    missing_package,
    printable,
    printable_json,
    quoted,
)
from vizsage.interruption import end_with_launcher
from vizsage.log_output import set_up_logging
from vizsage.parser import parse
from vizsage.startup import end_of_process
from vizsage.streams import escape_what_is_not_encodable, keep_streams

if TYPE_CHECKING:
    from vizsage.config import Config

log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code (docs/reference/exit-codes.md)."""
    escape_what_is_not_encodable()
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        options = parse(arguments)
    except ModuleNotFoundError as error:  # a message on an unknown option compares it with the settings
        return _fail(error, *_unforeseen(error))
    options.own_process = argv is None  # the process ends with the command
    if options.own_process:
        keep_streams(product=options.command in _STDOUT_IS_PRODUCT)
        end_with_launcher()
    set_up_logging(debug=options.debug)
    try:
        return _run(options)
    finally:
        if options.own_process:
            end_of_process()


def _run(options: argparse.Namespace) -> int:
    """Run a command and return its exit code; an error becomes one line on stderr."""
    try:
        _COMMANDS[options.command](options)
        sys.stdout.flush()
    except Interrupted as error:
        return _fail(error, str(error), error.exit_code, kind="interrupted")
    except VizSageError as error:
        return _fail(error, str(error), error.exit_code)
    except KeyboardInterrupt as error:
        return _fail(error, "nothing was left half-written", EXIT_KEYBOARD, kind="interrupted")
    except BrokenPipeError:
        # The reader of stdout (head, a pager) has ended. Without this, Python flushes into the closed pipe at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_UNKNOWN
    except Exception as error:  # noqa: BLE001 -- an unforeseen error needs an exit code, too
        return _fail(error, *_unforeseen(error))
    return EXIT_DONE


# --- commands --------------------------------------------------------------------------------------------------------


def _train(options: argparse.Namespace) -> None:
    config = _config(options)
    from vizsage.interruption import catch_signals

    # Before torch and others are imported: that takes seconds, and a signal meanwhile must not be lost.
    with catch_signals(to_the_end=options.own_process) as latch:
        from vizsage.api import train

        train(config, latch=latch)


def _eval(options: argparse.Namespace) -> None:
    config = _config(options)
    from vizsage.interruption import catch_signals

    with catch_signals(to_the_end=options.own_process) as latch:
        from rich.console import Console

        from vizsage.api import evaluate

        evaluate(
            config,
            split=options.split,
            limit=options.limit,
            base=options.base,
            adapter=options.adapter,
            blind=options.blind,
            fresh=options.fresh,
            other_data=options.other_data,
            console=Console(),
            latch=latch,
        )


def _score(options: argparse.Namespace) -> None:
    from vizsage.evaluation.score import score_file

    rescored = score_file(options.predictions, mode=options.mode)
    if options.json:
        _print_json(rescored.scores.content())
        return
    from rich.console import Console

    from vizsage.evaluation.results_table import score_tables

    console = Console()
    for table in score_tables(rescored.scores, rescored.conditions):
        console.print(table)


def _report(options: argparse.Namespace) -> None:
    from vizsage.evaluation.report.report_file import evaluation_folders, write_report
    from vizsage.evaluation.report.several_runs import words_of_command, write_comparison

    runs, overrides = words_of_command([*options.runs, *options.overrides])
    images = not options.no_images
    if len(runs) > 1:
        page = write_comparison(runs, overrides, split=options.split, images=images, output=options.output)
        print(printable(str(page)))
        return
    if not runs:
        raise ConfigError("report: name a RUN before key=value")
    if options.output is not None:
        raise ConfigError("report: --output is for several runs; the report of one is written beside its results")
    for folder in evaluation_folders(runs[0], options.split):
        print(printable(str(write_report(folder, overrides, images=images))))


def _check(options: argparse.Namespace) -> None:
    config = _config(options)
    from rich.console import Console

    from vizsage.check import check

    check(config, console=Console(), decode=not options.fast)


def _predict(options: argparse.Namespace) -> None:
    config = _config(options)
    from vizsage.api import predict

    answer = predict(
        config,
        options.image,
        options.question,
        description=options.description,
        base=options.base,
        adapter=options.adapter,
    )
    print(printable(str(answer.text), lines=True))


def _config_command(options: argparse.Namespace) -> None:
    from vizsage.config import config_to_yaml

    if options.schema:
        import json

        from vizsage.config import Config
        from vizsage.contract.schemas import json_schema

        schema = Config.model_json_schema() if options.schema == "settings" else json_schema(options.schema)
        print(json.dumps(schema, indent=2, ensure_ascii=False))
    elif options.config is None:
        raise ConfigError("config: name a YAML file of settings, or ask for --schema")
    else:
        whole = codecs.lookup(sys.stdout.encoding or "utf-8").name == "utf-8"
        print(config_to_yaml(_config(options), ascii_only=not whole), end="")


def _compare(options: argparse.Namespace) -> None:
    from rich.console import Console

    if options.leaks is not None:
        from vizsage.evaluation.comparison.leak_check import check_leaks, show_leaks

        found = check_leaks(options.runs, options.leaks, split=options.split)
        _print_json(found.as_dict()) if options.json else show_leaks(Console(), found)
        return
    from vizsage.evaluation.comparison.compare import compare
    from vizsage.evaluation.comparison.compare_table import show

    comparison = compare(options.runs, split=options.split, metric=options.metric)
    _print_json(comparison) if options.json else show(Console(), comparison)


def _demo(options: argparse.Namespace) -> None:
    from vizsage.demo.drawn_data import write_demo

    counts = write_demo(options.folder, seed=options.seed)
    for split, numbers in counts.items():
        log.info("%s: %s", split, ", ".join(f"{number} {what.replace('_', ' ')}" for what, number in numbers.items()))
    log.info("%s: the demo data set is written", options.folder)


def _completion(options: argparse.Namespace) -> None:
    from vizsage.completion import script

    print(script(options.shell), end="")


def _print_json(value: Mapping[str, object]) -> None:
    import json

    print(printable_json(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)))


def _config(options: argparse.Namespace) -> Config:
    from vizsage.config import load_config

    return load_config(options.config, options.overrides)


_COMMANDS = {
    "train": _train,
    "eval": _eval,
    "score": _score,
    "report": _report,
    "check": _check,
    "predict": _predict,
    "config": _config_command,
    "compare": _compare,
    "demo": _demo,
    "completion": _completion,
}
# The other commands write files; what they print is a log.
_STDOUT_IS_PRODUCT = ("score", "check", "predict", "config", "compare", "completion")


# --- messages --------------------------------------------------------------------------------------------------------


def _fail(error: BaseException, message: str, exit_code: int, *, kind: str = "error") -> int:
    log.debug("where it happened", exc_info=error)
    print(f"vizsage: {kind}: {printable(' '.join(message.split()))}", file=sys.stderr)
    return exit_code


def _unforeseen(error: Exception) -> tuple[str, int]:
    """One line and the exit code for an error of no class of this project."""
    if is_disk_full(error):
        where = getattr(error, "filename", None) or "a file of the run"
        return f"{where}: the disk is full; nothing written earlier was lost. Free space and run the command again", 1
    if is_out_of_memory(error):
        return "out of GPU memory; lower batch_size, eval_batch_size, max_seq_length or resize_px", EXIT_REPEATS
    if isinstance(error, ModuleNotFoundError) and (missing := missing_package(error)):
        return str(missing), missing.exit_code
    if isinstance(error, UnicodeEncodeError) and codecs.lookup(sys.getfilesystemencoding()).name != "utf-8":
        return (
            f"{quoted(error.object)} cannot be written in this locale's encoding, {sys.getfilesystemencoding()}; set "
            "PYTHONUTF8=1, or LC_ALL to a locale of UTF-8",
            EXIT_USAGE,
        )
    text = " ".join(str(error).split())
    return f"unexpected {type(error).__name__}: {text[:500] or 'no message'}; --debug shows where", EXIT_UNKNOWN
