"""`vizsage compare --leaks`: which of the samples that runs were asked are in the training split of a run.

It needs the files of the runs only, not the data: run.json and results.json with the sample_hashes.json beside each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from vizsage.contract import EVALUATIONS, PREDICTIONS, RESULTS, RUN, SAMPLE_HASHES
from vizsage.contract.hashes_file import HashesFacts, ImagesBy, Leaks, SampleHashes, read_hashes
from vizsage.contract.results_file import read_conditions
from vizsage.contract.run_files import read_run
from vizsage.data.identity import hash_of_sha256, name_hash, question_hash, sample_hash
from vizsage.data.sample_hashes import images_of, overlap, unpacked
from vizsage.errors import ConfigError, DataError, one_line
from vizsage.evaluation.answers import UNREADABLE
from vizsage.json_lines import read_jsonl
from vizsage.scoring.rows import PredictionRow
from vizsage.tables import FittedTable, cell

SCHEMA_VERSION = 1
SHOWN = 10
KINDS = ("sample", "image", "question")
"""What of a sample may be in a training split; the strongest first."""


@dataclass(frozen=True)
class LeakedSample:
    """A sample that was asked; `in_training`: those of KINDS that the training split has, too."""

    sample_id: str | None
    image: str | None
    question: str | None
    in_training: tuple[str, ...]


@dataclass(frozen=True)
class CheckedRun:
    """An evaluation: the folder of its results, the counts, and the samples, None without predictions.jsonl."""

    results: str
    leaks: Leaks
    samples: list[LeakedSample] | None


@dataclass(frozen=True)
class LeakCheck:
    """What is in the training split of `train_run`."""

    train_run: str
    runs: list[CheckedRun]

    def as_dict(self) -> dict[str, Any]:
        """What `vizsage compare --leaks --json` prints."""
        runs = [{**asdict(run), "leaks": run.leaks.model_dump()} for run in self.runs]
        return {"schema_version": SCHEMA_VERSION, "train_run": self.train_run, "runs": runs}


def check_leaks(paths: Sequence[Path], train_run: Path, *, split: str = "test") -> LeakCheck:
    """Count and name the samples of runs that are in the training split of another run.

    Args:
        paths: of evaluations: an output_dir (its evaluation of `split`), a folder or a file of an evaluation.
        train_run: the output_dir of a training, or its run.json.
        split: a name in evaluation_results/.

    Raises:
        ConfigError: there is no such run.
        DataError: a file of a run is damaged, or was written by a version that did not keep hashes.
    """
    folder = train_run.parent if train_run.is_file() else train_run
    if not (folder / RUN).is_file():
        raise ConfigError(f"{train_run}: no training run there; expected an output_dir with {RUN}, or that file")
    trained = _hashes(folder, RUN, lambda: read_run(folder).sample_hashes, "train with this version")
    return LeakCheck(str(folder), [_checked(_results_folder(path, split), trained, str(folder)) for path in paths])


def _results_folder(path: Path, split: str) -> Path:
    places = [path.parent] if path.is_file() else [path, path / EVALUATIONS / split]
    folder = next((place for place in places if (place / RESULTS).is_file()), None)
    if folder is None:
        evaluated = sorted(found.parent.name for found in path.glob(f"{EVALUATIONS}/*/{RESULTS}"))
        there = f"; evaluated there: {', '.join(evaluated)} (--split)" if evaluated else ""
        raise ConfigError(
            f"{path}: no results there; expected an output_dir with {EVALUATIONS}/{split}/{RESULTS}, a folder with "
            f"{RESULTS}, or a file in it{there}"
        )
    return folder


def _hashes(folder: Path, name: str, facts: Callable[[], HashesFacts | None], remedy: str) -> SampleHashes:
    """Those of the run in `folder`, whose file `name` has `facts` of them. Raises DataError."""
    try:
        found = facts()
    except (OSError, ValueError) as error:
        raise DataError(f"{folder / name}: cannot be read: {one_line(error)}") from None
    if found is None:
        raise DataError(f"{folder / name}: has no hashes of its samples: an earlier version wrote it; {remedy}")
    try:
        return read_hashes(folder, found)
    except FileNotFoundError:
        raise DataError(f"{folder / SAMPLE_HASHES}: is missing; copy it together with {name}") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{folder / SAMPLE_HASHES}: cannot be read: {one_line(error)}") from None


def _checked(folder: Path, trained: SampleHashes, train_run: str) -> CheckedRun:
    asked = _hashes(folder, RESULTS, lambda: read_conditions(folder).data.sample_hashes, "evaluate again")
    try:
        leaks = overlap(asked, trained, train_run)
    except ValueError as error:
        raise DataError(f"{folder / SAMPLE_HASHES}: {error}") from None
    if not (folder / PREDICTIONS).is_file():
        return CheckedRun(str(folder), leaks, None)
    try:
        found = list(_leaked(read_jsonl(folder / PREDICTIONS), trained, leaks.images_by))
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{folder / PREDICTIONS}: cannot be read: {one_line(error)}") from None
    return CheckedRun(str(folder), leaks, sorted(found, key=lambda sample: KINDS.index(sample.in_training[0])))


def _leaked(rows: Iterator[Any], trained: SampleHashes, by: ImagesBy) -> Iterator[LeakedSample]:
    """The rows of which something was trained on. By name, an image is found by the name that the row has."""
    known = images_of(trained, by)
    samples, images, questions = (_set(text) for text in (known.samples, known.images, trained.questions))
    for row in rows:
        hashes = _image_hashes(row, by)
        question = question_hash(row["question"])
        found = (
            bool(hashes) and sample_hash(hashes, question, row.get("choices") or ()) in samples,
            any(image in images for image in hashes),
            question in questions,
        )
        if any(found):
            kinds = tuple(kind for kind, there in zip(KINDS, found, strict=True) if there)
            yield LeakedSample(row["sample_id"], row["image"], row["question"], kinds)


def _image_hashes(row: PredictionRow, by: ImagesBy) -> list[bytes]:
    """Those of the row's images; none where one of them could not be read."""
    if by == "name":
        return list(map(name_hash, (row["image"] or "").split(", ")))
    sha256s = row["image_sha256"].split(",")
    return [] if UNREADABLE in sha256s else list(map(hash_of_sha256, sha256s))


def _set(hashes: str) -> frozenset[bytes]:
    return frozenset(hashed.tobytes() for hashed in unpacked(hashes))


def show_leaks(console: Console, check: LeakCheck) -> None:
    """Write a table of counts and, for each run, the first SHOWN of its samples to `console`."""
    by_name = any(run.leaks.images_by == "name" for run in check.runs)
    table = FittedTable("In the training split")
    table.add_paths("run")
    table.add_numbers("samples", "images", "questions")
    for run in check.runs:
        leaks = run.leaks
        counts = [(getattr(leaks, f"{kind}s_in_training"), getattr(leaks, f"{kind}s")) for kind in KINDS]
        table.add_row(cell(run.results), *(f"{found:,} of {asked:,}" for found, asked in counts))
    identity = "their names: the training was streamed" if by_name else "their bytes: other copies are not found"
    table.caption = cell(
        f"trained in {check.train_run}; each counted once; a sample is a question on its image; images are identified "
        f"by {identity}"
    )
    console.print(table)
    for run in check.runs:
        if run.samples is None:
            console.print(cell(f"{run.results}: no {PREDICTIONS} there, so the samples cannot be named"))
        elif run.samples:
            console.print(_samples_table(run.samples))


def _samples_table(samples: list[LeakedSample]) -> FittedTable:
    shown = samples[:SHOWN]
    of_all = f"first {SHOWN} of {len(samples):,}" if len(samples) > SHOWN else f"{len(samples)}"
    table = FittedTable(f"Samples of which something is in the training split ({of_all})")
    table.add_paths("sample", "image")
    table.add_texts("question", "in training")
    for sample in shown:
        texts = (sample.sample_id or "", sample.image or "", sample.question or "", ", ".join(sample.in_training))
        table.add_row(*map(cell, texts))
    return table
