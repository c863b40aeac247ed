"""The folder of an evaluation's results: below output_dir, and never that of another data set or base model."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from vizsage.config import Config
from vizsage.contract import EVALUATIONS, RUN
from vizsage.contract.results_file import evaluation_name
from vizsage.data.sources import Split, split_identity
from vizsage.errors import ConfigError
from vizsage.files import nearest_existing
from vizsage.models.loaded import FINGERPRINT_FILE
from vizsage.record import RunRecord


def results_folder(config: Config, split: Split, *, base: bool, blind: bool, other_data: bool) -> Path:
    """The folder below output_dir/evaluation_results. Creates nothing.

    It is named after the split, and also after the data set if that is not the one of the run in output_dir.

    Raises:
        ConfigError: such a data set, unless `other_data` allows it; or the folder cannot be written to.
    """
    name = evaluation_name(split.name, base=base, blind=blind)
    parent = config.output_dir / EVALUATIONS
    if difference := _other_data_set(config, split):
        name = f"{re.sub(r'[^A-Za-z0-9._-]+', '-', config.dataset).strip('.-') or 'other'}-{name}"
        if not other_data:
            raise ConfigError(
                f"{config.output_dir}: holds a run on another data set ({difference}), whose results these would "
                f"replace; name another output_dir, with --adapter {config.adapter_dir} for the run's adapter, or use "
                f"--other-data to write them to {parent / name}"
            )
    folder = parent / name
    existing = nearest_existing(folder)
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise ConfigError(f"output_dir: {existing} is not a folder that can be written to; name another output_dir")
    return folder


def _other_data_set(config: Config, split: Split) -> str | None:
    """Why `split` belongs to another data set than the run in output_dir was trained on; None where it does not.

    Files with the bytes of the run's files are its data under any name. A copied run, and a run whose files were edited
    in their folder, keep their data set. A folder of the same name elsewhere with other files is another data set.
    """
    record = RunRecord(config.output_dir)
    if not record.exists:
        return None
    trained = record.content.settings or {}
    name, base_path = trained.get("dataset", config.dataset), Path(trained.get("base_path", config.base_path))
    if name == config.dataset and base_path.resolve() == config.base_path.resolve():
        return None
    known = record.content.splits or {}  # a run of an earlier version has none
    for one in (split.name, "train"):  # train for a split that was written after the training
        if one in known and (identity := split_identity(config, one)):
            return None if identity == known[one] else f"{one} in {config.split_dir} is not that of {base_path / name}"
    return None if name == config.dataset else f"dataset was {name!r}, is now {config.dataset!r}"


def check_base_model(config: Config, made_by: dict[str, Any]) -> None:
    """Raise ConfigError if output_dir contains a run on another base model than the one that is evaluated."""
    path = config.adapter_dir / FINGERPRINT_FILE
    if not (config.output_dir / RUN).is_file():
        return
    try:
        trained = json.loads(path.read_text(encoding="utf-8"))["base_identity"]
    except (OSError, ValueError, KeyError, TypeError):  # no adapter yet, or a damaged one, which is not used here
        return
    if trained != (identity := made_by["fingerprint"]["base_identity"]):
        raise ConfigError(
            f"{config.output_dir}: holds a run on base model {trained}, and model_name is {config.model_name} "
            f"({identity}); name another output_dir"
        )
