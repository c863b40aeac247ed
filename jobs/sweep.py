"""A sweep: one run for each combination of the values that overrides list, `lr=1e-4,2e-4 lora_r=16,32`."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vizsage.config import Config, SettingsError, load_config
from vizsage.errors import ConfigError

# Other characters have a meaning in a shell, in a pattern for names of logs (%) or in a list of mounts (:).
_UNSAFE = re.compile(r"[^A-Za-z0-9._=,+-]+")
# A folder name has at most 255 bytes, of which names of jobs need some too.
_LONGEST_NAME = 120
_CLOSING = {"[": "]", "{": "}"}


@dataclass(frozen=True)
class Member:
    """One run of a sweep. The settings file with `overrides`, of which output_dir is the last, gives `config`."""

    run_dir: Path
    overrides: tuple[str, ...]
    config: Config


def combinations(overrides: Sequence[str]) -> list[tuple[str, ...]]:
    """Every combination of the listed values, the last override changing fastest; `key=value` texts in the order given.

    A comma separates values unless it is inside brackets, braces or quotes. Raises ConfigError for a repeated key, a
    repeated or empty value, and where no override has several values.
    """
    return list(itertools.product(*_choices(overrides)))


def run_name(swept: Sequence[str]) -> str:
    """The folder name of a member: its overrides that have several values, `lr=1e-4,lora_r=16`.

    Unsafe characters are replaced by `_`, and a long name is cut. A hash is then added, so that names stay different.
    """
    whole = ",".join(swept)
    safe = _UNSAFE.sub("_", whole)
    if safe == whole and len(whole) <= _LONGEST_NAME:
        return whole
    digest = hashlib.sha256(whole.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return f"{safe[: _LONGEST_NAME - 9]}-{digest}"


def members(config_path: Path, overrides: Sequence[str]) -> list[Member]:
    """The runs of a sweep, each with its own folder below output_dir, in the order of `combinations`.

    Raises:
        ConfigError: with the problems of all members; also where two of them would be the same run or would save
            their adapters in the same folder.
    """
    choices = _choices(overrides)
    swept = [index for index, texts in enumerate(choices) if len(texts) > 1]
    if any(_key(choices[index][0]) == "output_dir" for index in swept):
        raise ConfigError("output_dir: a sweep takes one and makes a folder for each of its runs below it")
    found: list[tuple[Config, Member]] = []
    problems: dict[str, list[str]] = {}
    for combination in itertools.product(*choices):
        try:
            config = load_config(config_path, combination)
        except SettingsError as error:  # a wrong value is wrong in many members; each clause is reported once
            for place, clauses in error.problems.items():
                told = problems.setdefault(place, [])
                told += [clause for clause in clauses if clause not in told]
            continue
        run_dir = config.output_dir / run_name([combination[index] for index in swept])
        others = tuple(text for text in combination if _key(text) != "output_dir")
        member = Member(run_dir, (*others, f"output_dir={run_dir}"), config.model_copy(update={"output_dir": run_dir}))
        found.append((config, member))
    if problems:
        raise SettingsError(problems)
    _check_apart(found)
    return [member for _, member in found]


def _choices(overrides: Sequence[str]) -> list[list[str]]:
    """The `key=value` texts of each override, one per value."""
    choices, keys = [], set()
    for override in overrides:
        key, equals, text = override.partition("=")
        key = key.strip()
        if not equals or not key:
            raise ConfigError(f"{override!r} is not an override; write key=value or key=value,value")
        if key in keys:
            raise ConfigError(f"{key}: given more than once; write all its values behind one {key}=")
        keys.add(key)
        choices.append([f"{key}={value}" for value in _values(key, text)])
    if all(len(texts) == 1 for texts in choices):
        raise ConfigError("a sweep needs an override with several values, such as lr=1e-4,2e-4")
    return choices


def _values(key: str, text: str) -> list[str]:
    """The values between the commas of `text`."""
    values = [value.strip() for value in _split(key, text)]
    if "" in values:
        raise ConfigError(f"{key}: an empty value in {text!r}; write null for none, quotes around a value with commas")
    twice = next((value for value in values if values.count(value) > 1), None)
    if twice is not None:
        raise ConfigError(f"{key}: the value {twice} is repeated in {text!r}")
    return values


def _split(key: str, text: str) -> Iterable[str]:
    """Cut `text` at the commas outside brackets and quotes. Raises ConfigError where one of these is not closed."""
    open_brackets: list[str] = []
    quote, start, index = "", 0, 0
    while index < len(text):
        char = text[index]
        if quote:
            if (char == "\\" and quote == '"') or char == quote == "'" == text[index + 1 : index + 2]:
                index += 1  # an escaped character, or two single quotes, which mean one
            elif char == quote:
                quote = ""
        elif char in "\"'" and (index == start or text[index - 1] in " ,[{:"):
            quote = char  # elsewhere it is an apostrophe
        elif char in _CLOSING:
            open_brackets.append(char)
        elif open_brackets and char in _CLOSING.values():
            if char != _CLOSING[open_brackets.pop()]:
                raise ConfigError(f"{key}: brackets do not match in {text!r}")
        elif char == "," and not open_brackets:
            yield text[start:index]
            start = index + 1
        index += 1
    if quote or open_brackets:
        raise ConfigError(f"{key}: {quote or open_brackets[-1]} is not closed in {text!r}")
    yield text[start:]


def _check_apart(found: Sequence[tuple[Config, Member]]) -> None:
    """Raise ConfigError where two members differ only in how they are written, or would overwrite each other."""
    runs: dict[str, Member] = {}
    adapters: dict[Path, Member] = {}
    for config, member in found:
        other = runs.setdefault(config.model_dump_json(), member)
        if other is not member:
            raise ConfigError(
                f"{other.run_dir.name} and {member.run_dir.name} are one run: the same value written in two ways"
            )
        if adapters.setdefault(member.config.adapter_dir.absolute(), member) is not member:
            raise ConfigError(
                f"save_path: all runs of the sweep would put their adapters into {member.config.adapter_dir}; "
                "save_path=null leaves each in its own folder"
            )


def _key(text: str) -> str:
    return text.partition("=")[0]
