"""What the splits of a run contain and what is wrong with them, found before a model is loaded.

Every record is read; images are decoded, in parallel, or only looked for.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from typing import NamedTuple

from vizsage.config import Config
from vizsage.data.identity import bytes_hash, named_sample_hash
from vizsage.data.images import BadImage, EmbeddedImage, FileImage, load_image
from vizsage.data.sample import ImageRef, Sample
from vizsage.data.sources import Split, find_split, open_split
from vizsage.errors import DataError, quoted, shortened
from vizsage.scoring.caveats import CHANGED_NUMBERS, EMPTIED, UNICODE_FORMS, answer_caveats
from vizsage.scoring.normalisation import normalise_squad

SPLITS = ("train", "val", "test")
SHOWN = 10
LEFT_OUT = "images left out"
_IMAGES_A_TASK = 16
_CAVEATS = {
    EMPTIED: "answers of which SQuAD's normalisation leaves nothing, so that an empty prediction is right; "
    "use_text_normalization: light keeps them",
    CHANGED_NUMBERS: "answers whose numbers SQuAD's normalisation changes; use_text_normalization: light keeps them",
    UNICODE_FORMS: "answers with decomposed accents (not NFC), which composed ones do not match; "
    "use_text_normalization: light takes them as equal",
}


@dataclass
class Kind:
    """One kind of problem: how many were found, and the first of them. A warning does not stop a run."""

    warning: bool
    count: int = 0
    first: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class SplitRow:
    """One line of the table: what a run would use of a split."""

    name: str
    records: int
    samples: int
    images: int
    with_knowledge: int
    without_knowledge: int
    left_out: int


class FirstUse(NamedTuple):
    """Where an image is used for the first time: the split, and the number of the record, from 1."""

    split: str
    record: int

    def __str__(self) -> str:
        return f"{self.split}: record {self.record}"


class Survey:
    """All that was found.

    Attributes:
        rows: one per split that is there.
        missing: val and test where they are not there.
        images: each image and the first record that has it; an image that two records embed is here two times.
        splits_of: the splits that have an image, by its name.
        kinds: the problems, by the name of their kind.
    """

    def __init__(self) -> None:
        self.rows: list[SplitRow] = []
        self.missing: list[str] = []
        self.images: dict[ImageRef, FirstUse] = {}
        self.splits_of: dict[str, list[str]] = {}
        self.kinds: dict[str, Kind] = {}

    def add(self, kind: str, case: str, *, warning: bool = False, count: int = 1) -> None:
        """Count `count` problems of `kind`; the text `case` is kept if it is among the first of its kind."""
        found = self.kinds.setdefault(kind, Kind(warning))
        found.count += count
        if len(found.first) < SHOWN:
            found.first.append(case)

    @property
    def errors(self) -> int:
        """The number of problems that would stop a run."""
        return sum(kind.count for kind in self.kinds.values() if not kind.warning)


def survey_splits(config: Config, survey: Survey) -> None:
    """Read every record of train, val and test; note bad ones, missing descriptions and samples that two splits have.

    A missing val or test is noted in `survey.missing`; a missing train is a problem.
    """
    seen: dict[bytes, str] = {}
    for name in SPLITS:
        try:
            if name != "train" and find_split(config, name) is None:
                survey.missing.append(name)
                continue
            split = open_split(config, name)
        except DataError as error:
            if str(error) not in survey.kinds.get("splits", Kind(False)).first:  # a broken table fails each split
                survey.add("splits", str(error))
            continue
        _survey_split(split, survey, seen, squad=config.use_text_normalization is True)
    for image_name, splits in survey.splits_of.items():
        if len(splits) > 1:
            survey.add("images in several splits", f"{image_name}: {', '.join(splits)}", warning=True)


def find_missing_files(survey: Survey) -> None:
    """Note missing image files; none is opened."""
    for image, first in survey.images.items():
        # Path.is_file raises for a folder that this user may not enter; here that is one more missing image.
        if isinstance(image, FileImage) and not os.path.isfile(image.path):  # noqa: PTH113
            survey.add("images", f"{first}: image {quoted(image.name)} is missing in {image.folder}")


def decode_images(
    config: Config, survey: Survey, *, workers: int, progress: Callable[[int], None] = lambda done: None
) -> dict[ImageRef, int]:
    """Decode every image; note those that cannot be decoded, and equal files under two names in different splits.

    Args:
        config: undecodable images are warnings where its on_bad_image is skip.
        survey: has the images, and takes the problems.
        workers: processes that decode; 0 decodes in this one.
        progress: called with the number of images done since the last call.

    Returns:
        The pixels (width x height) of each image that could be decoded.
    """
    pixels: dict[ImageRef, int] = {}
    owners: dict[bytes, str] = {}
    for image, found in _decoded(list(survey.images), config, workers, progress):
        if isinstance(found, _Trouble):
            # A missing file stops a run also with on_bad_image: skip, which is for undecodable images only.
            left_out = found.skippable and config.on_bad_image == "skip"
            kind = LEFT_OUT if left_out else "images"
            survey.add(kind, f"{survey.images[image]}: {found.text}", warning=left_out)
            continue
        pixels[image], digest = found
        twin = owners.setdefault(digest, image.name)
        if set(survey.splits_of[twin]) != set(survey.splits_of[image.name]):
            places = "; ".join(
                f"{shortened(name)} in {', '.join(survey.splits_of[name])}" for name in (twin, image.name)
            )
            survey.add("one image under two names in different splits", places, warning=True)
    return pixels


def _survey_split(split: Split, survey: Survey, seen: dict[bytes, str], *, squad: bool) -> None:
    images: set[str] = set()
    with_knowledge = 0
    try:
        for number, sample in split.checked():
            if sample is None:
                continue
            for image in sample.images:
                survey.images.setdefault(image, FirstUse(split.name, number + 1))
                if image.name not in images:
                    images.add(image.name)
                    survey.splits_of.setdefault(image.name, []).append(split.name)
            with_knowledge += sample.need_external_knowledge
            if sample.need_external_knowledge and sample.description is None:
                case = f"{split.name}: {shortened(sample.image_names)} has no description in the table"
                survey.add("external knowledge", case, warning=True)
            if squad:
                _note_caveats(sample, split.name, survey)
            other = seen.setdefault(named_sample_hash(sample), split.name)
            if other != split.name:
                case = f"{other} and {split.name}: {shortened(sample.image_names)}: {shortened(sample.question)}"
                survey.add("samples in two splits", case)
    except DataError as error:
        for problem in split.problems.first or [str(error)]:
            survey.add("records", f"{split.path}: {problem}", count=0)
        survey.kinds["records"].count += max(1, split.problems.count)
    counts = split.counts
    row = SplitRow(
        name=split.name,
        records=counts.records,
        samples=counts.kept,
        images=len(images),
        with_knowledge=with_knowledge,
        without_knowledge=counts.kept - with_knowledge,
        left_out=counts.left_out_knowledge,
    )
    survey.rows.append(row)


def _note_caveats(sample: Sample, split: str, survey: Survey) -> None:
    """Warn of accepted answers that SQuAD's normalisation, which the run uses for scores, empties or changes."""
    first: dict[str, str] = {}
    for answer in dict.fromkeys((*sample.answers, sample.answer)):
        for name in answer_caveats(answer):
            first.setdefault(name, answer)
    for name, answer in first.items():
        case = f"{split}: {shortened(sample.image_names)}: {shortened(sample.question)}: {quoted(answer)}"
        case += f" becomes {quoted(normalise_squad(answer))}" if name != UNICODE_FORMS else ""
        survey.add(_CAVEATS[name], case, warning=True)


@dataclass(frozen=True)
class _Trouble:
    """What is wrong with an image; `skippable` if on_bad_image: skip leaves it out."""

    text: str
    skippable: bool


_Found = tuple[int, bytes] | _Trouble


def _decoded(
    images: list[ImageRef], config: Config, workers: int, progress: Callable[[int], None]
) -> Iterator[tuple[ImageRef, _Found]]:
    """Each image, in order, with its pixels and the hash of its bytes, or with what is wrong with it."""
    tasks = [images[i : i + _IMAGES_A_TASK] for i in range(0, len(images), _IMAGES_A_TASK)]
    decode = partial(_decode, max_image_px=config.max_image_px)
    if workers == 0:
        yield from _in_order(tasks, map(decode, tasks), progress)
        return
    # Not fork: a lock that the thread of the progress bar holds at that moment would stay locked in the child for ever.
    pool = ProcessPoolExecutor(workers, get_context("forkserver"), initializer=_leave_signals_to_the_parent)
    try:
        yield from _in_order(tasks, pool.map(decode, tasks), progress)
    except BrokenProcessPool:
        raise DataError(
            "decoding the images: a worker process was killed, in most cases because memory ran out; lower num_proc, "
            "or max_image_px so that huge images are refused"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _in_order(
    tasks: list[list[ImageRef]], results: Iterable[list[_Found]], progress: Callable[[int], None]
) -> Iterator[tuple[ImageRef, _Found]]:
    for task, found in zip(tasks, results, strict=True):
        yield from zip(task, found, strict=True)
        progress(len(task))


def _decode(task: list[ImageRef], max_image_px: int) -> list[_Found]:
    found: list[_Found] = []
    for image in task:
        try:
            data = image.read()
            decoded = load_image(EmbeddedImage(image.name, data), max_image_px=max_image_px)
            found.append((decoded.width * decoded.height, bytes_hash(data)))
        except DataError as error:
            found.append(_Trouble(str(error), skippable=isinstance(error, BadImage)))
    return found


def _leave_signals_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
