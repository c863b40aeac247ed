"""`vizsage check`: find what would stop a run hours later, without loading weights.

`check` looks at everything and shows it; `quick_check` is its cheap part, which `vizsage train` begins with.
"""

from __future__ import annotations

import heapq
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from vizsage.config import Config
from vizsage.contract import RUN_FILES, RUN_FOLDERS
from vizsage.data.left_out import NOTICEABLE, require_some, summary
from vizsage.data.sample import ImageRef, Sample, text_chars
from vizsage.data.sources import open_split
from vizsage.data.survey import LEFT_OUT, SHOWN, Kind, Survey, decode_images, find_missing_files, survey_splits
from vizsage.errors import ConfigError, DataError, printable
from vizsage.files import nearest_existing
from vizsage.models.loaded import foreign_folder
from vizsage.models.loading.hardware import choose_backend, is_installed
from vizsage.tracking import check_environment

log = logging.getLogger(__name__)

OVERLAP = "samples in two splits"
TOO_LONG = "too long, left out"
_MEASURED = 24  # longest texts, and questions on the largest images, whose length in tokens is measured
_SPREAD = 200  # training samples by which the share that is left out is judged
_PROCESSOR_BYTES = 32 * 2**20  # a large tokenizer, saved with the adapter
_STATE_BYTES = 2**20  # random states, position and manifest of a checkpoint


def check(config: Config, *, console: Console, decode: bool = True) -> None:
    """Check data, images, lengths and disk, and show a table and the first cases of each kind of problem.

    Args:
        config: the run to be checked.
        console: gets the report; progress bars go to stderr.
        decode: decode every image and measure lengths; otherwise only look whether the image files are there.

    Raises ConfigError or DataError when something would stop the run, once all of it is shown.
    """
    check_environment(config)
    survey, notes = Survey(), list[str]()
    survey_splits(config, survey)
    wrong = _output_problems(config)
    backend = choose_backend(config)
    if backend != "hf" and not is_installed(backend):  # a warning: jobs may run elsewhere
        survey.add("backend", f"{backend} is not installed here; where the run is to be, it has to be", warning=True)
    if backend == "vllm":
        survey.add("backend", "vllm evaluates only; training takes hf or unsloth", warning=True)
    if decode:
        workers = len(os.sched_getaffinity(0)) if config.num_proc is None else config.num_proc
        with _progress(len(survey.images)) as advance:
            pixels = decode_images(config, survey, workers=workers, progress=advance)
        try:
            _check_model(config, survey, pixels, notes)
        except ConfigError as error:
            wrong.append(str(error))
    else:
        find_missing_files(survey)
    _show(console, config, survey, notes)
    if wrong:
        raise ConfigError("; ".join(wrong))
    if survey.errors:
        raise DataError(_summary(config, survey.kinds))
    console.print("Nothing found that would stop a run.")


def quick_check(config: Config) -> None:
    """Records, image files, descriptions and a writable output_dir: seconds, before the model is loaded.

    Warnings are logged. Raises ConfigError (output_dir, WANDB_MODE) or DataError (the data), in one line.
    """
    check_environment(config)
    if problems := _output_problems(config):
        raise ConfigError("; ".join(problems))
    survey = Survey()
    survey_splits(config, survey)
    find_missing_files(survey)
    # Training on what will be tested is a mistake, but not one that stops a run.
    stopping = {name: kind for name, kind in survey.kinds.items() if not kind.warning and name != OVERLAP}
    for name, kind in survey.kinds.items():
        if name not in stopping:
            log.warning("%s: %d, the first: %s", name, kind.count, kind.first[0])
    if stopping:
        raise DataError(_summary(config, stopping))


# --- model and disk --------------------------------------------------------------------------------------------------


def _check_model(config: Config, survey: Survey, pixels: dict[ImageRef, int], notes: list[str]) -> None:
    """Lengths in tokens and room on disk, where the base model's processor and configuration are at hand.

    Raises ConfigError when the settings do not fit the base model, CheckpointError when its files are damaged.
    """
    from vizsage.models.loading.hf import HubUnreachable, load_processor

    free = shutil.disk_usage(nearest_existing(config.output_dir)).free
    room = f"output_dir {config.output_dir}: {_gib(free)} free"
    try:
        processor = load_processor(config)
    except HubUnreachable as error:
        notes += [room, f"lengths in tokens were not measured: {error}"]
        return
    if not survey.errors:
        notes.append(_measure_lengths(config, survey, pixels, processor))
    needed = _bytes_needed(config)
    room += f", about {_gib(needed)} needed"
    if free < needed:
        survey.add("disk", f"{room}; free some space, or lower n_saves or lora_r")
    else:
        notes.append(room)


def _measure_lengths(config: Config, survey: Survey, pixels: dict[ImageRef, int], processor: Any) -> str:
    """Encode the samples that are likely to be the longest; note those that do not fit. Raises ConfigError."""
    from vizsage.data.collate import TrainCollator

    collate = TrainCollator(processor, config)
    longest = measured = 0
    for row in survey.rows:
        for sample in _long_samples(config, row.name, pixels):
            try:
                batch = collate([sample])
            except DataError as error:
                survey.add("answers", f"{row.name}: {error}")
                continue
            measured += 1
            longest = max(longest, int(batch["attention_mask"].sum()))
            for sample_id, reason in batch["left_out"]:
                survey.add(TOO_LONG, f"{row.name}: {sample_id}: {reason}", warning=True)
    if survey.kinds.keys() & {TOO_LONG, LEFT_OUT}:
        _check_share(config, survey, collate)
    return f"longest of {measured} samples measured: {longest} tokens of max_seq_length {config.max_seq_length}"


def _check_share(config: Config, survey: Survey, collate: Callable[..., Any]) -> None:
    """Note where training would leave out many of its samples, judged by some spread over the split, or all."""
    total = next((row.samples for row in survey.rows if row.name == "train"), 0)
    every = max(1, total // _SPREAD)
    reasons, looked_at = list[str](), 0
    for sample in islice(open_split(config, "train").stream(), 0, None, every):
        looked_at += 1
        try:
            reasons += [reason for _, reason in collate([sample])["left_out"]]
        except DataError:  # an answer that is noted already
            continue
    if len(reasons) == looked_at:
        try:
            require_some(open_split(config, "train").stream(), collate)
        except DataError as error:
            survey.add("training", str(error))
            return
    if len(reasons) >= NOTICEABLE * looked_at:
        survey.add("training samples left out", f"train: {summary(reasons, looked_at)}", warning=True)


def _long_samples(config: Config, split: str, pixels: dict[ImageRef, int]) -> list[Sample]:
    """The samples with the longest texts, and some on the largest images."""
    large = set(heapq.nlargest(_MEASURED, pixels, key=lambda image: pixels[image]))
    on_large: list[Sample] = []

    def sound_samples() -> Iterator[Sample]:
        for sample in open_split(config, split).stream():
            if len(on_large) < _MEASURED and any(image in large for image in sample.images):
                on_large.append(sample)
            if all(image in pixels for image in sample.images):
                yield sample

    longest = heapq.nlargest(_MEASURED, sound_samples(), key=text_chars)
    return list({sample.sample_id: sample for sample in (*longest, *on_large)}.values())


def _bytes_needed(config: Config) -> int:
    """Room for the checkpoints that are kept, the best one, one that is being written, and the adapter.

    Counted on the architecture alone: the model is built on PyTorch's meta device, without weights.
    """
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    from vizsage.models.adapters.lora import select_modules
    from vizsage.models.loaded import base_path_of

    options = {"revision": config.revision, "trust_remote_code": config.trust_remote_code}
    architecture = AutoConfig.from_pretrained(base_path_of(config), **options)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(architecture, trust_remote_code=config.trust_remote_code)
    targets, norms = select_modules(model, config)
    parameters = 0
    for name in targets:
        layer = model.get_submodule(name)
        parameters += config.lora_r * (layer.in_features + layer.out_features)
    parameters += sum(int(weight.numel()) for name in norms for weight in model.get_submodule(name).parameters())
    # 4 bytes for a weight in fp32 and 8 for Adam's two moments.
    return (config.n_saves + 2) * (12 * parameters + _STATE_BYTES) + 4 * parameters + _PROCESSOR_BYTES


def _output_problems(config: Config) -> list[str]:
    """What stands in the way of output_dir and of the adapter's folder. Leaves nothing behind, creates no folder."""
    folders = {"output_dir": config.output_dir} | ({"save_path": config.save_path} if config.save_path else {})
    problems = [_write_problem(key, folder) for key, folder in folders.items()]
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


def _write_problem(key: str, wanted: Path) -> str | None:
    folder = nearest_existing(wanted)
    if not folder.is_dir():
        return f"{key} {wanted}: {folder} is a file; name a folder"
    try:
        with tempfile.TemporaryFile(dir=folder):
            return None
    except OSError as error:
        return f"{key} {wanted}: {folder} cannot be written to: {error.strerror}; name another folder"


# --- report ----------------------------------------------------------------------------------------------------------


def _show(console: Console, config: Config, survey: Survey, notes: list[str]) -> None:
    _print(console, str(config.split_dir), style="bold")
    table = Table("split")
    for column in ("samples", "images", "with knowledge", "without", "left out"):
        table.add_column(column, justify="right")
    for row in survey.rows:
        numbers = (row.samples, row.images, row.with_knowledge, row.without_knowledge, row.left_out)
        table.add_row(row.name, *(f"{number:,}" for number in numbers))
    for name in survey.missing:
        table.add_row(name, "not there", *[""] * 4)
    console.print(table)
    if sum(row.left_out for row in survey.rows):
        console.print("left out: questions that need a description, because external_knowledge is false", style="dim")
    needed = sum(row.with_knowledge for row in survey.rows)
    if needed:
        absent = survey.kinds.get("external knowledge", Kind(warning=True)).count
        console.print(f"descriptions: {needed - absent:,} of the {needed:,} that are needed are in the table")
    for note in notes:
        _print(console, note)
    for name, kind in sorted(survey.kinds.items(), key=lambda item: item[1].warning):
        word, style = ("warning", "yellow") if kind.warning else ("error", "red")
        shown = f", the first {SHOWN}" if kind.count > SHOWN else ""
        console.print(f"{word}: {name} ({kind.count:,}{shown})", style=style, highlight=False)
        for case in kind.first:
            _print(console, f"  {case}")


def _print(console: Console, text: str, style: str = "") -> None:
    """One line with texts of the data in it: never markup, and nothing that would control a terminal."""
    console.print(Text(printable(text), style), highlight=False, soft_wrap=True)


def _summary(config: Config, kinds: dict[str, Kind]) -> str:
    """One line: how many problems of each kind, and the first."""
    stopping = {name: kind for name, kind in kinds.items() if not kind.warning}
    counts = ", ".join(f"{name}: {kind.count}" for name, kind in stopping.items())
    first = next(iter(stopping.values())).first[0]
    if sum(kind.count for kind in stopping.values()) == 1:
        return first
    return f"{config.split_dir}: problems found ({counts}); the first: {first}"


@contextmanager
def _progress(images: int) -> Iterator[Callable[[int], None]]:
    """A bar on stderr, and the function that moves it on."""
    columns = (TextColumn("decoding images"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=images)
        yield lambda done: progress.advance(task, done)


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:.1f} GiB"
