"""Rewrite the commands and their options in a Markdown file from the parsers of the command lines.

Usage: python -m tools.commands_table docs/reference/commands.md

Each of the two lists is between two markers; the rest of the file is not changed. The texts are written here and not
by argparse, whose form depends on the release of Python.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

import jobs.parser
import jobs.run
import vizsage.parser
from tools.markdown import replace_between, rewrite_named_file

PARSERS = {"vizsage": vizsage.parser._parser, "python -m jobs": jobs.parser._parser}
END = "<!-- end of commands -->"


def main() -> int:
    """Rewrite the lists in the file that is named on the command line."""
    return rewrite_named_file(with_commands)


def with_commands(markdown: str) -> str:
    """`markdown` with the current commands between its markers. Raises ValueError if they are missing."""
    for program, parser in PARSERS.items():
        begin = f"<!-- commands of {program}: written by `make commands-table` from the parser -->"
        markdown = replace_between(markdown, begin, END, "\n".join(_commands(parser())) + "\n")
    begin = "<!-- usage of python -m jobs.run: written by `make commands-table` from jobs/run.py -->"
    usage = "".join(f"    {line}".rstrip() + "\n" for line in jobs.run.USAGE.splitlines())
    return replace_between(markdown, begin, END, f"\n{usage}\n")


def _commands(parser: argparse.ArgumentParser) -> Iterator[str]:
    """A section for each command."""
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    for command in commands.choices.values():
        actions = [
            one for one in command._actions if one.help != argparse.SUPPRESS and one.dest not in ("help", "debug")
        ]
        words = [command.prog, *(_usage(one) for one in actions if not one.option_strings)]
        options = ["[options]"] if any(one.option_strings and not one.required for one in actions) else []
        words += [f"{one.option_strings[0]} {_value(one)}" for one in actions if one.option_strings and one.required]
        yield from (
            "",
            f"### `{command.prog}`",
            "",
            " ".join(str(command.description).split()),
            "",
            f"    {' '.join(words + options)}",
            "",
        )
        examples = str(command.epilog).partition("examples:\n")[2].partition("\n\n")[0]
        yield from ("Examples:", "", *(f"  {line}" for line in examples.splitlines()), "")
        if actions:
            yield from ("| argument | meaning |", "|---|---|")
        for one in actions:
            name = f"{', '.join(one.option_strings)} {_value(one)}".strip()
            cells = (f"`{name}`", str(one.help).replace("<", r"\<"))  # a < would begin an HTML tag
            yield "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"
    yield ""


def _usage(action: argparse.Action) -> str:
    """A positional argument in the usage line."""
    name = _value(action)
    return {"?": f"[{name}]", "*": f"[{name} ...]", "+": f"{name} [{name} ...]"}.get(str(action.nargs), name)


def _value(action: argparse.Action) -> str:
    """The value of an argument; empty for a switch."""
    if action.nargs == 0:
        return ""
    if action.metavar is not None:
        name = str(action.metavar)
    else:
        name = "|".join(map(str, action.choices)) if action.choices else action.dest.upper()
    return f"[{name}]" if action.option_strings and action.nargs == "?" else name


if __name__ == "__main__":
    sys.exit(main())
