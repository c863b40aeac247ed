"""What is to be run, whatever the scheduler: the command, its settings as they are now, and the run directory."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs.schedulers.registry import schedulers
from vizsage.config import Config, config_to_yaml, load_config
from vizsage.contract import JOBS
from vizsage.errors import ConfigError, no_data_folder
from vizsage.files import write_text

_LONGEST_NAME_BYTES = 255  # NAME_MAX of Linux
_LONGEST_PATH_BYTES = 3500  # PATH_MAX, less what is below a run directory
FOLDER = JOBS  # below the run directory: scripts, logs and frozen settings of its jobs


@dataclass(frozen=True)
class Evaluation:
    """The options of `vizsage eval`, with its defaults. `adapter` is the path that the job can open."""

    split: str | None = None
    limit: int | None = None
    base: bool = False
    adapter: Path | None = None
    blind: bool = False
    other_data: bool = False

    @property
    def words(self) -> list[str]:
        """As arguments. An option and its value are one word, so that a value may begin with a dash."""
        given = {"split": self.split, "limit": self.limit, "adapter": self.adapter}
        switches = {"base": self.base, "blind": self.blind, "other-data": self.other_data}
        return [
            *(f"--{name}={value}" for name, value in given.items() if value is not None),
            *(f"--{name}" for name, on in switches.items() if on),
        ]


@dataclass(frozen=True)
class Work:
    """One `vizsage train` or `vizsage eval`. Paths are absolute, except those that only the job can resolve."""

    command: str
    config: Config
    run_dir: Path
    evaluation: Evaluation = Evaluation()

    @property
    def folder(self) -> Path:
        """Where the files of the run's jobs are."""
        return self.run_dir / FOLDER

    @property
    def settings_file(self) -> Path:
        """The settings as they were when the job was sent: a later edit of the original file does not change the job.

        The name contains a hash of the content, so that another submission does not change the file of a waiting job.
        """
        digest = hashlib.sha256(config_to_yaml(self.config).encode()).hexdigest()[:12]
        return self.folder / f"settings-{digest}.yaml"

    def freeze(self) -> None:
        """Write the settings file. Raises ConfigError where the run directory cannot be written."""
        try:
            write_text(self.settings_file, config_to_yaml(self.config))
        except OSError as error:
            raise ConfigError(f"output_dir: {self.run_dir} cannot be written: {error.strerror}") from None


def work(command: str, config: Config, evaluation: Evaluation = Evaluation()) -> Work:
    """The work of `command` with `config`. Raises ConfigError for settings that a launcher cannot serve."""
    run_dir = config.output_dir.absolute()
    _check_name(run_dir)
    if config.name_trained_model == FOLDER:
        raise ConfigError(f"name_trained_model: {FOLDER!r} is the folder that launchers keep their files in")
    return Work(command, config, run_dir, evaluation)


def _check_name(run_dir: Path) -> None:
    """Raise ConfigError for a folder that cannot be created, or whose name a script would not read as it is."""
    text = str(run_dir)
    shown = ascii(text) if len(text) <= 100 else f"{ascii(text[:60])[:-1]}...{ascii(text[-30:])[1:]}"
    if not text.isprintable():
        raise ConfigError(
            f"output_dir: {shown} has a line break or another character that no script or log can show; name another "
            "folder"
        )
    for scheduler in schedulers():
        if found := next((char for char in scheduler.pattern_characters if char in text), None):
            raise ConfigError(
                f"output_dir: {shown} has a {found}, which {scheduler.title} reads as a pattern; name another folder"
            )
    longest, whole = max(len(os.fsencode(part)) for part in run_dir.parts), len(os.fsencode(run_dir))
    if longest > _LONGEST_NAME_BYTES or whole > _LONGEST_PATH_BYTES:
        raise ConfigError(
            f"output_dir: {shown} is too long: a folder's name may have {_LONGEST_NAME_BYTES} bytes, found {longest}, "
            f"and the whole path {_LONGEST_PATH_BYTES}, found {whole}; name a shorter one"
        )


def check_data(works: Sequence[Work]) -> list[str]:
    """Look for the data sets of `works`, whose paths here are those of their jobs.

    Returns:
        A warning for each base_path that cannot be seen from here, as a login node need not mount it.

    Raises:
        DataError: base_path is here, and the data set is not in it.
    """
    unseen = []
    for base, folder in dict.fromkeys((one.config.base_path, one.config.split_dir) for one in works):
        if _is_folder(folder):
            continue
        if _is_folder(base):
            raise no_data_folder(folder)
        unseen.append(f"base_path: {base} is no folder that can be seen from here, so the data was not looked for")
    return list(dict.fromkeys(unseen))


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # no right to look
        return False


def load_work(command: str, path: Path, overrides: Sequence[str] = (), evaluation: Evaluation = Evaluation()) -> Work:
    """The work of `command` with the settings of a YAML file. Raises ConfigError."""
    return work(command, load_config(path, overrides), evaluation)
