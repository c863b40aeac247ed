"""`check` looks for all that would stop a run and shows it; `quick_check`, its fast part, runs before each training."""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path

from rich.console import Console

from vizsage.check.findings import decoding_progress, show, summary_line
from vizsage.check.model_fit import MODEL, check_model
from vizsage.config import Config
from vizsage.contract import PREVIOUS_PREFIX, RUN, RUN_FILES, RUN_FOLDERS
from vizsage.data.survey import Survey, decode_images, find_missing_files, survey_splits
from vizsage.errors import CheckpointError, ConfigError, DataError
from vizsage.files import nearest_existing
from vizsage.models.adapters.init_adapter import check_init_adapter
from vizsage.models.loaded import foreign_folder
from vizsage.models.loading.hardware import choose_backend, is_installed
from vizsage.tracking.trackers import check_trackers

log = logging.getLogger(__name__)

OVERLAP = "samples in two splits"


def check(config: Config, *, console: Console, decode: bool = True) -> None:
    """Check data, images, lengths and disk, and show a table and the first cases of each kind of problem.

    Args:
        config: the run to be checked.
        console: gets the report; progress bars go to stderr.
        decode: decode every image and measure lengths; otherwise only look whether the image files are there.

    Raises:
        ConfigError: a setting would stop the run; raised after everything is shown.
        DataError: the data would, raised likewise.
    """
    check_trackers(config)
    survey, notes = Survey(), list[str]()
    survey_splits(config, survey)
    wrong = output_problems(config)
    try:
        check_init_adapter(config)
    except (ConfigError, CheckpointError) as error:
        wrong.append(str(error))
    backend = choose_backend(config)
    if backend != "hf" and not is_installed(backend):  # a warning: jobs may run elsewhere
        survey.add("backend", f"{backend} is not installed here; where the run is to be, it has to be", warning=True)
    if backend == "vllm":
        survey.add("backend", "vllm evaluates only; training takes hf or unsloth", warning=True)
    if decode:
        workers = len(os.sched_getaffinity(0)) if config.num_proc is None else config.num_proc
        with decoding_progress(len(survey.images)) as advance:
            pixels = decode_images(config, survey, workers=workers, progress=advance)
        try:
            check_model(config, survey, pixels, notes)
        except ConfigError as error:
            wrong.append(str(error))
    else:
        find_missing_files(survey)
    show(console, config, survey, notes)
    if wrong:
        raise ConfigError("; ".join(wrong))
    if survey.errors:
        raise DataError(summary_line(config, survey.kinds))
    if MODEL in survey.kinds:  # a warning only: the machine of the run may have it
        console.print("The base model was not found here. Nothing else found that would stop a run.")
    else:
        console.print("Nothing found that would stop a run.")


def quick_check(config: Config) -> None:
    """Check records, image files, descriptions and output_dir, without a model. Warnings are logged.

    Raises:
        ConfigError: output_dir or a tracker cannot be used.
        DataError: the data would stop the run; one line.
    """
    check_trackers(config)
    if problems := output_problems(config):
        raise ConfigError("; ".join(problems))
    survey = Survey()
    survey_splits(config, survey)
    find_missing_files(survey)
    # Training on test samples makes scores too high, but does not stop a run: here it is a warning.
    stopping = {name: kind for name, kind in survey.kinds.items() if not kind.warning and name != OVERLAP}
    for name, kind in survey.kinds.items():
        if name not in stopping:
            log.warning("%s: %d, the first: %s", name, kind.count, kind.first[0])
    if stopping:
        raise DataError(summary_line(config, stopping))


def output_problems(config: Config) -> list[str]:
    """Why output_dir and the adapter's folder cannot be used. Creates no folder and leaves no file."""
    folders = {"output_dir": config.output_dir} | ({"save_path": config.save_path} if config.save_path else {})
    problems = [_write_problem(key, folder) for key, folder in folders.items()]
    if below := _run_below(config.output_dir):
        problems.append(
            f"output_dir {config.output_dir}: contains the folders of other runs, such as {below.name}; name a folder "
            f"below it, such as {config.output_dir / 'my-run'}"
        )
    for name in RUN_FILES:
        path = config.output_dir / name
        if path.exists() and path.is_dir() != (name in RUN_FOLDERS):
            found, wanted = ("folder", "file") if path.is_dir() else ("file", "folder")
            problems.append(
                f"output_dir {config.output_dir}: {name} is a {found}, and the run writes a {wanted}; move it"
            )
    if not any(problems) and config.save_model:
        problems.append(foreign_folder(config.adapter_dir))
    return [problem for problem in problems if problem]


def _run_below(folder: Path) -> Path | None:
    """The folder of a run below `folder`, which has none itself; those that a restart moved aside do not count."""
    if (folder / RUN).exists():
        return None
    found = (path.parent for path in sorted(folder.glob(f"*/{RUN}")))
    return next((path for path in found if not path.name.startswith(PREVIOUS_PREFIX)), None)


def _write_problem(key: str, wanted: Path) -> str | None:
    folder = nearest_existing(wanted)
    if not folder.is_dir():
        return f"{key} {wanted}: {folder} is a file; name a folder"
    try:
        with tempfile.TemporaryFile(dir=folder):
            return None
    except OSError as error:
        return f"{key} {wanted}: {folder} cannot be written to: {error.strerror}; name another folder"
