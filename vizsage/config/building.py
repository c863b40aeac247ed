"""Values become a validated model, or one line with all their problems.

Each problem names its key, what was found, what is allowed and what the key is for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from vizsage.config.settings import Config
from vizsage.errors import ConfigError, quoted, shortened
from vizsage.hints import hint_for

COMMAND_LINE = "on the command line"
_PROBLEMS = 20  # named in one message: a file that is not one of settings may have thousands of keys

Model = TypeVar("Model", bound=BaseModel)


class SettingsError(ConfigError):
    """Settings that are not valid; its message is one line."""

    def __init__(self, problems: Mapping[str, list[str]]) -> None:
        """`problems`: a clause for each, by the place where the setting was given."""
        super().__init__(problems)
        self.problems = problems

    def __str__(self) -> str:
        found = [(place, clause) for place, clauses in self.problems.items() for clause in clauses]
        shown: dict[str, list[str]] = {}
        for place, clause in found[:_PROBLEMS]:
            shown.setdefault(place, []).append(clause)
        more = [f"and {len(found) - _PROBLEMS} more problems"] if len(found) > _PROBLEMS else []
        return "; ".join([*(f"{place}: {'; '.join(clauses)}" for place, clauses in shown.items()), *more])


def build_config(
    settings: dict[str, Any],
    source: str = "settings",
    overrides: Mapping[str, Any] | None = None,
    problems: Iterable[str] = (),
) -> Config:
    """Validate `settings`. Raises like `build`."""
    return build(Config, settings, source, overrides, problems)


def build(
    model: type[Model],
    settings: dict[str, Any],
    source: str,
    overrides: Mapping[str, Any] | None = None,
    problems: Iterable[str] = (),
) -> Model:
    """Validate `settings` as a `model`, which forbids other keys and whose fields each have a description.

    Args:
        model: a pydantic model.
        settings: keys and values, not checked yet.
        source: where they come from: the beginning of the message.
        overrides: those of the command line, which replace others.
        problems: those of the command line that were found before.

    Raises:
        SettingsError: one line with a clause for each problem, after the place where the setting was given. The value
            of a field with repr=False is not shown, because it may be a secret.
    """
    overrides = overrides or {}
    settings = settings | dict(overrides)
    both = f"{source} with the command line"
    found: dict[str, list[str]] = {source: [], both: [], COMMAND_LINE: list(problems)}

    def place(key: str) -> list[str]:
        return found[COMMAND_LINE if key in overrides else source]

    known = model.model_fields
    for key in settings:
        if key not in known:
            place(key).append(f"unknown key {quoted(key)}{hint_for(str(key), known)}")
        elif not is_unicode(settings[key]):
            place(key).append(f"{key}: expected UTF-8, found {_shown(ascii(settings[key]))}")
    settings = {key: value for key, value in settings.items() if key in known and is_unicode(value)}
    built, problems_of_keys = _validated(model, settings)
    rules = problems_of_keys.get("", "")
    for key, clause in problems_of_keys.items():
        if key:
            place(key).append(clause)
    if problems_of_keys and "" not in problems_of_keys:
        # Pydantic does not check rules over several settings while one of them is invalid: check those of the others.
        _, others = _validated(model, {k: v for k, v in settings.items() if k not in problems_of_keys})
        clauses = others.get("", "").split("; ")
        rules = "; ".join(clause for clause in clauses if not any(key in clause for key in problems_of_keys))
    if rules:
        named = any(re.search(rf"\b{re.escape(key)}\b", rules) for key in overrides)
        found[both if named else source].append(rules)
    if built is None or any(found.values()):
        raise SettingsError({where: clauses for where, clauses in found.items() if clauses})
    return built


def is_unicode(value: Any) -> bool:
    """Whether all texts in `value` can be encoded as UTF-8; undecodable bytes of the command line cannot."""
    if isinstance(value, dict):
        return all(is_unicode(one) for pair in value.items() for one in pair)
    if isinstance(value, (list, tuple)):
        return all(map(is_unicode, value))
    return not isinstance(value, str) or not re.search("[\ud800-\udfff]", value)


def _validated(model: type[Model], settings: dict[str, Any]) -> tuple[Model | None, dict[str, str]]:
    """The model, or one clause per key with a problem; rules over several settings have the key ""."""
    try:
        return model(**settings), {}
    except ValidationError as error:
        details = error.errors(include_url=False)
    messages: dict[str, list[str]] = {}
    inputs: dict[str, Any] = {}
    for detail in details:
        key = str(detail["loc"][0]) if detail["loc"] else ""
        # A key of several possible types has one error for each of them.
        messages.setdefault(key, []).append(detail["msg"].removeprefix("Value error, "))
        inputs.setdefault(key, detail["input"])
    return None, {key: _clause(model, key, messages[key], inputs[key]) for key in messages}


def _clause(model: type[BaseModel], key: str, messages: list[str], found: Any) -> str:
    if not key:
        return "; ".join(messages)
    field = model.model_fields[key]
    purpose = (field.description or "").rstrip(".")
    value = f", found {_shown(found)}" if field.repr else ""
    return f"{key}: {', or '.join(dict.fromkeys(messages))}{value} ({purpose}; default {_shown(field.default)})"


def _shown(value: Any) -> str:
    """A value as it is written in a file."""
    return shortened(json.dumps(value, default=str, ensure_ascii=False))
