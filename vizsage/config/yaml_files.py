"""Settings are read from YAML files and `key=value` overrides, and written as YAML."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import yaml

from vizsage.config.building import build_config
from vizsage.config.settings import Config
from vizsage.config.strict_yaml import Loader, TextLoader
from vizsage.contract import CONFIG, RUN
from vizsage.errors import ConfigError, one_line, printable, quoted, shortened


def load_config(path: Path | str, overrides: Sequence[str] = ()) -> Config:
    """Read the settings of a run, from a YAML file or from the output_dir of an earlier run.

    Args:
        path: the file, or the folder. In the latter case that folder becomes output_dir, so that a run can be moved.
        overrides: `key=value`, each of which replaces a setting of the file.

    Raises:
        ConfigError: one line with a clause for each problem of file and overrides.
    """
    path = Path(path)
    file = settings_file(path)
    settings = read_yaml(file)
    if file != path and (path / RUN).is_file():
        written = settings.get("output_dir", Config.model_fields["output_dir"].default)
        if not isinstance(written, (str, Path)) or Path(written).resolve() != path.resolve():
            settings["output_dir"] = str(path)
    values, problems = parse_overrides(overrides)
    return build_config(settings, str(file), values, problems)


def settings_file(path: Path) -> Path:
    """`path`, or config.yaml in it if it is a folder. Raises ConfigError for a folder without one."""
    if not path.is_dir():
        return path
    file = path / CONFIG
    if not file.exists():
        raise ConfigError(
            f"{path}: a folder without config.yaml; name a YAML file of settings, or the output_dir of a training"
        )
    return file


def parse_overrides(overrides: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """The settings in `key=value` texts, and the problems of texts that are something else."""
    values, problems = dict[str, Any](), []
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key.strip():
            problems.append(f"{quoted(override)} is not an override; write key=value")
            continue
        values[key.strip()] = _override_value(text)
    return values, problems


def read_yaml(path: Path, as_text: bool = False) -> dict[str, Any]:
    """The mapping in a YAML file; empty if the file is empty.

    Args:
        path: of the file.
        as_text: keep numbers and switches as texts. YAML reads 24:00:00 as the number 86400, 010 as 8, `no` as false.

    Raises:
        ConfigError: the file is missing or not a mapping in YAML; one line with file, line and column.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        settings = yaml.load(text, Loader=TextLoader if as_text else Loader)
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: no such file; name a YAML file of settings, see config/, or a run's output_dir"
        ) from None
    except (OSError, ValueError) as error:  # not UTF-8, or `!!int x`
        raise ConfigError(f"{path}: cannot be read: {one_line(error)}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ConfigError(f"{path}: {where}broken YAML: {shortened(str(error.problem))}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: broken YAML: {one_line(error)}") from None
    if settings is None:
        return {}
    if not isinstance(settings, dict):
        raise ConfigError(f"{path}: expected lines of `key: value`, found a {type(settings).__name__}")
    return settings


def config_to_yaml(config: Config, *, ascii_only: bool = False, leave_out: Collection[str] = ()) -> str:
    """The resolved settings as YAML that `load_config` reads back to an equal Config.

    Those named in `leave_out` are left out, and then have their default.
    """
    settings = config.model_dump(mode="json", exclude=set(leave_out))
    text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=not ascii_only)
    # PyYAML escapes control codes, but not characters that change the direction of text.
    return text if text == printable(text, lines=True) else yaml.safe_dump(settings, sort_keys=False)


def _override_value(text: str) -> Any:
    """The value of an override: YAML where it looks like YAML, else the text itself, as `Answer: briefly # now` is."""
    try:
        value = yaml.load(text, Loader=Loader)
    except (yaml.YAMLError, ValueError):
        return text
    bracketed = text.lstrip().startswith(("[", "{", '"', "'"))
    return text if isinstance(value, (str, list, dict)) and not bracketed else value
