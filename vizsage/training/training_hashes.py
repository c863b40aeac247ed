"""The hashes of the training split, written before a run loads its model; see vizsage.contract.hashes_file."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from vizsage.contract import SAMPLE_HASHES
from vizsage.contract.hashes_file import SampleHashes
from vizsage.data.identity import bytes_hash
from vizsage.data.images import FileImage
from vizsage.data.sample import ImageRef
from vizsage.data.sample_hashes import HashCollector, write_hashes
from vizsage.record import RunRecord
from vizsage.training.plan import Plan

log = logging.getLogger(__name__)

_IMAGES_AT_ONCE = 256
_REPORT_S = 10


def note_hashes(plan: Plan, record: RunRecord, *, continued: bool, stop: Callable[[], bool]) -> None:
    """Write sample_hashes.json and note it in run.json; called in the main process.

    Images are hashed by their bytes; with use_streaming, by their names, because such a split may be too large to read
    before the first step. A run that is continued keeps what it has. If `stop` asks to end before all images are read,
    nothing is written and the next attempt begins again.

    Raises DataError for an image that cannot be read: it would stop the training, too.
    """
    output_dir = record.path.parent
    if continued and record.content.sample_hashes is not None and (output_dir / SAMPLE_HASHES).is_file():
        return
    if (hashes := _hashes(plan, stop)) is not None:
        record.note(sample_hashes=write_hashes(output_dir, hashes))


def _hashes(plan: Plan, stop: Callable[[], bool]) -> SampleHashes | None:
    """Those of the training split; None where `stop` asked to end."""
    if plan.config.use_streaming:
        collector = HashCollector(_read_hash, by_content=False, by_name=True)
    else:
        images = _content_hashes((image for sample in plan.order.unshuffled() for image in sample.images), stop)
        if images is None:
            return None
        collector = HashCollector(images.__getitem__, by_content=True, by_name=False)
    for _ in collector.watch(plan.order.unshuffled()):
        if stop():
            return None
    return collector.hashes()


def _content_hashes(images: Iterable[ImageRef], stop: Callable[[], bool]) -> dict[ImageRef, bytes] | None:
    """The hash of each image's bytes; None where `stop` asked to end."""
    distinct = list(dict.fromkeys(images))
    found: dict[ImageRef, bytes] = {}
    reported = time.monotonic()
    with ThreadPoolExecutor() as threads:
        for start in range(0, len(distinct), _IMAGES_AT_ONCE):
            if stop():
                return None
            part = distinct[start : start + _IMAGES_AT_ONCE]
            # Embedded images are read in their order by one thread: several would decode a row group again and again.
            each = threads.map if all(isinstance(image, FileImage) for image in part) else map
            found.update(zip(part, each(_read_hash, part), strict=True))
            if time.monotonic() - reported > _REPORT_S:
                reported = time.monotonic()
                log.info("hashed %d of %d training images, to find them in a test split", len(found), len(distinct))
    return found


def _read_hash(image: ImageRef) -> bytes:
    return bytes_hash(image.read())
