"""Completion of commands in bash, zsh and fish: what a shell offers when Tab is pressed.

`vizsage completion SHELL` prints a script for the shell. With it the shell runs the program itself, with a variable
that `is_asked` finds: instead of a command, the program then completes the line. Needs the standard library, unless a
shell asks.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

PROGRAMS = ("vizsage", "vizsage-jobs")
"""Those that one script completes."""
SHELLS = ("bash", "zsh", "fish")
SETTING = "key=value"
"""How parsers call the argument that overrides a setting."""

Completer = Callable[[str], Iterable[str]]
"""Gets the beginning of a word, and gives words, all of which need not begin with it. Of a mapping, the values explain
the words."""


def is_asked() -> bool:
    """Whether a shell asks for completions."""
    return "_ARGCOMPLETE" in os.environ


def script(shell: str) -> str:
    """What the shell has to run so that it completes PROGRAMS."""
    from argcomplete.shell_integration import shellcode

    return shellcode(PROGRAMS, shell=shell)


def complete(parser: argparse.ArgumentParser, more: Mapping[str, Completer]) -> NoReturn:
    """Answer the shell, and end the process.

    Options are offered behind a dash only, so that a list of files is not hidden among them.

    Args:
        parser: of the program.
        more: what completes an argument that only this program has, by the argument's name in capitals or by its
            `metavar`. One with choices is completed with these, any other with files.
    """
    from argcomplete.completers import BaseCompleter
    from argcomplete.finders import CompletionFinder

    completers: dict[str, Completer] = {
        **more,
        "CONFIG": lambda start: paths(start, (".yaml", ".yml")),
        "RUN": folders,
        "DIR": folders,
        "PREDICTIONS": lambda start: paths(start, (".jsonl", ".json")),
        SETTING: settings,
        **dict.fromkeys(("N", "T", "TEXT"), lambda start: ()),
    }

    class ByName(BaseCompleter):
        """Completes every argument without choices."""

        def __call__(self, *, prefix: str, action: argparse.Action, **_: Any) -> Iterable[str]:
            names = (action.dest.upper(), action.metavar)
            return next((one for name, one in completers.items() if name in names), paths)(prefix)

    class Finder(CompletionFinder):
        """Offers settings behind options, too, where argparse expects no further positional argument."""

        def collect_completions(
            self, active_parsers: list[argparse.ArgumentParser], parsed_args: argparse.Namespace, cword_prefix: str
        ) -> list[str]:
            found: list[str] = super().collect_completions(active_parsers, parsed_args, cword_prefix)
            waiting: list[argparse.Action] = getattr(active_parsers[-1], "active_actions", [])
            if not waiting and hasattr(parsed_args, "overrides") and not cword_prefix.startswith("-"):
                found += [word for word in settings(cword_prefix) if word.startswith(cword_prefix)]
            return found

    Finder()(parser, always_complete_options=False, default_completer=ByName())
    os._exit(0)  # argcomplete has ended the process already


def paths(start: str, endings: Collection[str] | None = None) -> Iterator[str]:
    """Folders, and files with one of the `endings` (None: all), whose path begins with `start`.

    Hidden ones are left out unless `start` names the beginning of a hidden one.
    """
    before = start[: start.rfind("/") + 1]
    try:
        entries = sorted(os.scandir(Path(before or ".").expanduser()), key=lambda entry: entry.name)
    except (OSError, RuntimeError, ValueError):  # no such folder, no home folder of that name
        return
    for entry in entries:
        name = start[len(before) :]
        if not entry.name.startswith(name) or (entry.name.startswith(".") and not name):
            continue
        if entry.is_dir():
            yield f"{before}{entry.name}/"
        elif endings is None or entry.name.endswith(tuple(endings)):
            yield f"{before}{entry.name}"


def folders(start: str) -> Iterator[str]:
    """Folders whose path begins with `start`."""
    return paths(start, ())


def settings(start: str) -> Mapping[str, str]:
    """The names of settings, each with its description; after the =, the values that it may have.

    Where these are not a few words, none; of a path, files.
    """
    from vizsage.config import Config

    key, equals, value = start.partition("=")
    if not equals:
        return {f"{name}=": field.description or "" for name, field in Config.model_fields.items()}
    schema = Config.model_json_schema()["properties"].get(key, {})
    return {f"{key}={word}": "" for word in _values(schema, value)}


def _values(schema: Mapping[str, Any], start: str) -> Iterator[str]:
    """The values that a part of a JSON Schema allows, as they are written on a command line."""
    for part in schema.get("anyOf", ()):
        yield from _values(part, start)
    yield from map(str, schema.get("enum", ()))
    if "const" in schema:
        yield str(schema["const"])
    if schema.get("format") == "path":
        yield from paths(start)
    if schema.get("type") == "boolean":
        yield from ("true", "false")
    if schema.get("type") == "null":
        yield "null"
    if schema.get("type") == "array":
        yield from (f"[{word}]" for word in _values(schema.get("items", {}), start))
