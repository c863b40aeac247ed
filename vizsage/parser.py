"""The command line of `vizsage`: commands and their options. Needs the standard library only."""

from __future__ import annotations

import argparse
import os
import textwrap
from collections.abc import Collection
from pathlib import Path
from typing import Any, NoReturn

from vizsage import __version__
from vizsage.completion import PROGRAMS, SHELLS, complete, is_asked
from vizsage.contract.schemas import MODELS
from vizsage.errors import CALLED_AS, printable
from vizsage.files import expanded
from vizsage.hints import examples, parse_with_overrides

EPILOG = """\
Every command takes key=value after CONFIG, for any setting:
  vizsage train my.yaml lr=1e-4 epochs=2
Every command shows examples with --help. Batch jobs: vizsage-jobs --help, or
python -m jobs --help.

exit codes: 0 done, or already done; 2 wrong command or configuration;
3 unusable data or checkpoint; 4 failed in a way that will repeat;
75 interrupted, the same command continues; other: unknown.
"""
SETTINGS = """

settings: vizsage config --schema settings prints all of them with their
descriptions; docs/reference/settings.md has the same as a table."""
EXAMPLES = {
    "train": """
        vizsage train my.yaml
        vizsage train my.yaml lr=1e-4 epochs=2 output_dir=outputs/second
        vizsage train outputs/second  # continue it with its own settings
    """,
    "eval": """
        vizsage eval my.yaml
        vizsage eval my.yaml --base  # the base model, to compare with
        vizsage eval outputs/run --split val --limit 100
        vizsage eval outputs/run --blind  # what needs no image to be answered
    """,
    "score": """
        vizsage score outputs/run/evaluation_results/test/predictions.jsonl
        vizsage score predictions.jsonl --light --json
    """,
    "report": """
        vizsage report outputs/run
        vizsage report outputs/run --split val base_path=/data/elsewhere
        vizsage report outputs/first outputs/second  # one page for both
    """,
    "check": """
        vizsage check my.yaml
        vizsage check my.yaml --fast dataset=VQA
    """,
    "predict": """
        vizsage predict outputs/run --image a.jpg --question "Who painted this?"
        vizsage predict my.yaml --base --image a.jpg --question "How many boats?"
    """,
    "config": """
        vizsage config my.yaml lr=1e-4  # all settings of a run, as YAML
        vizsage config --schema > schema.json  # for the completion of an editor
        vizsage config --schema results
    """,
    "compare": """
        vizsage compare outputs/first outputs/second
        vizsage compare outputs/run other/run --split val --metric token_f1
        vizsage compare outputs/first outputs/second outputs/third --json
        vizsage compare outputs/first --leaks outputs/first  # trained on which?
    """,
    "demo": """
        vizsage demo data
    """,
    "completion": """
        eval "$(vizsage completion bash)"  # now; for later, add it to ~/.bashrc
        eval "$(vizsage completion zsh)"  # in ~/.zshrc, after compinit
        vizsage completion fish > ~/.config/fish/completions/vizsage.fish
    """,
}


class _Parser(argparse.ArgumentParser):
    """A parser with errors of one line, as all errors of this program, and without abbreviated options."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)
        self.register("type", Path, _path)

    def error(self, message: str) -> NoReturn:
        program = os.environ.get(CALLED_AS) or self.prog
        self.exit(2, f"vizsage: error: {printable(' '.join(message.split()))}; see {program} --help\n")


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options of one command, and its name as `command`.

    Raises:
        SystemExit: after --help, or after one line on stderr if the arguments are wrong.
    """
    parser = _parser()
    if is_asked():
        complete(parser, {"METRIC": lambda _: _metrics(), "SPLIT": lambda _: ("train", "val", "test")})
    return parse_with_overrides(parser, arguments, _settings, debug=False)


def _settings() -> Collection[str]:
    from vizsage.config import Config

    return Config.model_fields


def _metrics() -> Collection[str]:
    from vizsage.scoring.registry import METRICS

    return METRICS


def _parser() -> argparse.ArgumentParser:
    common = _Parser(add_help=False)
    # SUPPRESS, because the default of a subparser would overwrite the --debug of `vizsage --debug train`.
    common.add_argument(
        "--debug",
        action="store_true",
        default=argparse.SUPPRESS,
        help="show tracebacks and what libraries report",
    )
    parser = _Parser(
        prog="vizsage",
        description="Fine-tune and evaluate vision-language models with LoRA.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[common],
    )
    parser.add_argument("--version", action="version", version=f"vizsage {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command", required=True)

    def command(name: str, summary: str) -> argparse.ArgumentParser:
        description = textwrap.fill(f"{summary[0].upper()}{summary[1:]}.", 78)
        return commands.add_parser(
            name,
            help=summary,
            description=description,
            epilog=examples(EXAMPLES[name]) + SETTINGS * (name == "train"),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            parents=[common],
        )

    def settings(command: argparse.ArgumentParser, *, optional: bool = False) -> None:
        command.add_argument(
            "config",
            metavar="CONFIG",
            type=Path,
            nargs="?" if optional else None,
            help="a YAML file, or the output_dir of a run",
        )
        command.add_argument(  # without a default, messages of argparse call it required
            "overrides", metavar="key=value", nargs="*", default=[], help="replace a setting of the file"
        )

    def model(command: argparse.ArgumentParser) -> None:
        which = command.add_mutually_exclusive_group()
        which.add_argument("--base", action="store_true", help="the base model, without an adapter")
        which.add_argument("--adapter", type=Path, metavar="DIR", help="this adapter instead of the run's own")

    train = command("train", "fine-tune with the settings in CONFIG; the same command continues an interrupted run")
    train.description = textwrap.fill(
        "Fine-tune with the settings in CONFIG; the same command continues an interrupted run. A higher max_steps or "
        "epochs continues a finished one; longer_schedule says with which learning rate. init_adapter=DIR begins a new "
        "run from the weights of an adapter. See docs/how-to/train-longer.md.",
        78,
    )
    settings(train)

    evaluation = command("eval", "answer the questions of a split and score the answers; it continues, too")
    settings(evaluation)
    evaluation.add_argument("--split", default="test", help="train, val, test or another file's name (default: test)")
    evaluation.add_argument("--limit", type=_count, metavar="N", help="only the first N samples")
    model(evaluation)
    evaluation.add_argument("--blind", action="store_true", help="the same questions with the images withheld")
    evaluation.add_argument("--fresh", action="store_true", help="move earlier answers aside and answer all again")
    evaluation.add_argument(
        "--other-data",
        action="store_true",
        help="CONFIG names another data set than the run in output_dir; the results go to <dataset>-<split>",
    )

    score = command("score", "score a file of predictions, also of another tool; needs no model and no GPU")
    score.add_argument(
        "predictions", metavar="PREDICTIONS", type=Path, help="one JSON object per line; -: standard input"
    )
    score.add_argument("--json", action="store_true", help="print the scores as in results.json instead of tables")
    mode = score.add_mutually_exclusive_group()
    modes = {
        "rigorous": ("rigorous", "exact match character by character"),
        "light": ("light", "exact match that ignores case, white space and Unicode form"),
        "no-rigorous": ("squad", "SQuAD's exact match (default: that of results.json beside the file, else this)"),
    }
    for option, (name, summary) in modes.items():
        mode.add_argument(f"--{option}", dest="mode", action="store_const", const=name, help=summary)

    report = command(
        "report",
        "write report.html of an evaluation again, or one page of several runs: scores, curves, errors, images",
    )
    report.add_argument(
        "runs",
        metavar="RUN",
        nargs="+",
        help="an output_dir, or one folder of its evaluation_results; several: one page that compares them, for which "
        "a RUN may also be a file of predictions",
    )
    # Words of this kind are taken from the runs: argparse gives a list of any length all words.
    report.add_argument(
        "overrides", metavar="key=value", nargs="*", default=[], help="where the data is now: base_path=DIR"
    )
    report.add_argument(
        "--split",
        default="test",
        help="which split of an output_dir (default: test); with several runs also test-base, ...",
    )
    report.add_argument("--no-images", action="store_true", help="a small page without images")
    report.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="where the page of several runs is written (default: comparison.html in this folder)",
    )

    check = command("check", "find what would stop a run later, without loading the model")
    settings(check)
    check.add_argument("--fast", action="store_true", help="do not decode images and do not measure lengths")

    predict = command("predict", "answer one question about one image")
    settings(predict)
    predict.add_argument("--image", type=Path, required=True, metavar="FILE", help="the image")
    predict.add_argument("--question", required=True, metavar="TEXT", help="the question")
    predict.add_argument("--description", metavar="TEXT", help="external knowledge on the image")
    model(predict)

    config = command("config", "print the resolved settings")
    settings(config, optional=True)
    config.add_argument(
        "--schema",
        nargs="?",
        const="settings",
        choices=("settings", *MODELS),
        metavar="NAME",
        help="print a JSON Schema: of the settings, for editors (default: settings), or of a file that a run writes: "
        + ", ".join(MODELS),
    )

    compare = command("compare", "compare runs on the same samples, sample by sample")
    compare.add_argument(
        "runs", metavar="RUN", type=Path, nargs="+", help="an output_dir, an evaluation's folder or file"
    )
    compare.add_argument("--split", default="test", help="which evaluation of an output_dir: test, val, test-base, ...")
    compare.add_argument("--metric", default="exact_match", help="exact_match (default) or another of results.json")
    compare.add_argument(
        "--leaks",
        type=Path,
        metavar="TRAIN_RUN",
        help="instead: what of the samples is in the training split of this output_dir, or run.json",
    )
    compare.add_argument("--json", action="store_true", help="print all of it as JSON")

    demo = command("demo", "write the demo data set: drawn paintings with questions")
    demo.add_argument("folder", metavar="DIR", type=Path, help="folder to write into")
    demo.add_argument("--seed", type=int, default=0, metavar="N", help="draw other paintings (default: 0)")

    completion = command("completion", f"print what makes a shell complete {' and '.join(PROGRAMS)}")
    completion.add_argument("shell", choices=SHELLS, help="the shell that you type in")
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number of samples of 1 or more, found {text!r}")
    return int(text)


def _path(text: str) -> Path:
    try:
        return Path(expanded(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
