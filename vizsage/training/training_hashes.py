"""The hashes of the training split, written before a run loads its model; see vizsage.contract.hashes_file."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from accelerate import PartialState

from vizsage.contract import SAMPLE_HASHES
from vizsage.data.identity import bytes_hash
from vizsage.data.images import FileImage
from vizsage.data.sample import ImageRef
from vizsage.data.sample_hashes import HashCollector, write_hashes
from vizsage.record import RunRecord
from vizsage.training.directory import on_main
from vizsage.training.plan import Plan

log = logging.getLogger(__name__)

_IMAGES_AT_ONCE = 256
_REPORT_S = 10
_APART_S = 60  # a process that hears nothing from the others for ten minutes ends the run


def note_hashes(
    plan: Plan, record: RunRecord, *, world: PartialState, continued: bool, stop: Callable[[], bool]
) -> None:
    """Write sample_hashes.json and note it in run.json, in the main process; the others wait.

    Images are hashed by their bytes; with use_streaming, by their names, because such a split may be too large to read
    before the first step. A run that is continued keeps what it has. If `stop` asks to end before all images are read,
    nothing is written and the next attempt begins again.

    Raises DataError for an image that cannot be read: it would stop the training, too.
    """
    noting = _noting(plan, record, continued=continued)

    def some() -> bool:
        began = time.monotonic()
        for _ in noting:
            if stop():
                return True
            if time.monotonic() - began > _APART_S:
                return False
        return True

    while not on_main(world, some):
        pass


def _noting(plan: Plan, record: RunRecord, *, continued: bool) -> Iterator[None]:
    """Does the work of `note_hashes`, with breaks in which it may be ended."""
    output_dir, order = record.path.parent, plan.order
    if continued and record.content.sample_hashes is not None and (output_dir / SAMPLE_HASHES).is_file():
        return
    by_name = plan.config.use_streaming
    images: dict[ImageRef, bytes] = {}
    if not by_name:
        distinct = list(dict.fromkeys(image for sample in order.unshuffled() for image in sample.images))
        yield from _read_all(distinct, images)
    identify = _read_hash if by_name else images.__getitem__
    collector = HashCollector(identify, by_content=not by_name, by_name=by_name)
    for _ in collector.watch(order.unshuffled()):
        yield
    record.note(sample_hashes=write_hashes(output_dir, collector.hashes()))


def _read_all(images: list[ImageRef], found: dict[ImageRef, bytes]) -> Iterator[None]:
    """Add the hash of each image's bytes to `found`."""
    reported = time.monotonic()
    with ThreadPoolExecutor() as threads:
        for start in range(0, len(images), _IMAGES_AT_ONCE):
            part = images[start : start + _IMAGES_AT_ONCE]
            # Embedded images are read in their order by one thread: several would decode a row group again and again.
            each = threads.map if all(isinstance(image, FileImage) for image in part) else map
            found.update(zip(part, each(_read_hash, part), strict=True))
            if time.monotonic() - reported > _REPORT_S:
                reported = time.monotonic()
                log.info("hashed %d of %d training images, to find them in a test split", len(found), len(images))
            yield


def _read_hash(image: ImageRef) -> bytes:
    return bytes_hash(image.read())
