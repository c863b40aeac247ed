"""Thumbnails for a report: one per image, however many questions are asked about it."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image

from vizsage.config import build_config
from vizsage.data.images import load_image
from vizsage.data.sample import ImageRef, Sample
from vizsage.data.sources import open_split
from vizsage.errors import DataError, VizSageError, one_line

# Longest edge in pixels and WebP quality. An image gets the first of these sizes at which its file is at most its share
# of TOTAL_BYTES: the page shows it small, and as large as it is when a reader enlarges it.
SIZES = ((512, 70), (384, 70), (288, 70), (224, 70), (160, 70), (112, 60), (80, 50))
TOTAL_BYTES = 22_000_000  # in the page a third more, as base64: with texts some 40 MB
_BYTES_PER_PX = 0.1  # of a smooth image; sizes at which even such a one exceeds its share are not tried
_AHEAD = 64  # images decoded at a time


@dataclass
class Thumbnails:
    """WebP files by image name, and why others are missing, one line per reason."""

    files: dict[str, bytes] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def thumbnails(
    settings: dict[str, Any], split: str, names: Collection[str], *, largest_px: int = SIZES[0][0]
) -> Thumbnails:
    """Thumbnails of the images `names` from the data set that an evaluation asked.

    Never raises for missing or damaged data: the result lists that among its problems. Images are decoded a few at a
    time in threads, so memory contains those and the thumbnails.

    Args:
        settings: those in results.json.
        split: of the data set.
        names: file names of the images.
        largest_px: the longest edge that an image may have.
    """
    found, sizes = Thumbnails(), _sizes(len(names), largest_px)
    share = TOTAL_BYTES // max(1, len(names))
    images, total_bytes = _Images(settings, split, set(names)), 0

    def small(sample: Sample) -> tuple[str, bytes | str]:
        try:
            return sample.image_names, _thumbnail(sample.images, sizes, share, max_image_px=images.max_image_px)
        except DataError as error:
            return sample.image_names, one_line(error)

    try:
        with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
            while some := list(islice(images, _AHEAD)):
                for name, made in pool.map(small, some):
                    if isinstance(made, str):
                        found.problems.append(made)
                        continue
                    total_bytes += len(made)
                    found.files[name] = made
                if total_bytes > TOTAL_BYTES:
                    left = len(names) - len(found.files) - len(found.problems)
                    found.problems.append(f"{left} images are left out, because the page would become too large")
                    return found
    except (VizSageError, OSError) as error:
        found.problems.append(one_line(error))
        return found
    if images.wanted:
        found.problems.append(f"{len(images.wanted)} images are no longer in the data set")
    return found


def keep_earlier(found: Thumbnails, report: Path, names: Iterable[str]) -> int:
    """Add to `found` the thumbnails of `names` that it lacks and that the page `report` contains.

    The data set may have been moved, and a report with images must not be replaced by one without. Where no image is
    missing afterwards, the problems are removed.

    Returns:
        How many were added.
    """
    missing = [name for name in names if name not in found.files]
    earlier = _embedded(report) if missing else {}
    total_bytes = sum(map(len, found.files.values()))
    kept = 0
    for name in missing:
        if name in earlier and total_bytes <= TOTAL_BYTES:
            found.files[name] = earlier[name]
            total_bytes += len(earlier[name])
            kept += 1
    if kept == len(missing):
        found.problems.clear()
    return kept


def _embedded(report: Path) -> dict[str, bytes]:
    """The WebP files in a page that `page.render` wrote, by image name; none of any other page."""
    try:
        text = report.read_bytes()
        data_id = b"thumbnail-data" if b'id="thumbnail-data"' in text else b"picture-data"  # before version 0.2
        # The JSON of these elements has no `<`.
        gallery, shown = (
            json.loads(text.split(b'<script type="application/json" id="%s">' % name, 1)[1].split(b"<", 1)[0])
            for name in (b"gallery-data", data_id)
        )
        files = zip(gallery["images"], shown, strict=True)
        found = {str(name): base64.b64decode(file, validate=True) for name, file in files if file is not None}
    except (OSError, ValueError, LookupError, TypeError):
        return {}
    return {name: file for name, file in found.items() if file[:4] == b"RIFF" and file[8:12] == b"WEBP"}


class _Images(Iterator[Sample]):
    """A sample for each of the names `wanted`; a name is removed when its sample is given.

    Raises VizSageError where the data is unusable.
    """

    def __init__(self, settings: dict[str, Any], split: str, wanted: set[str]) -> None:
        self.wanted = wanted
        self.max_image_px = 0
        self._settings, self._split = settings, split
        self._samples: Iterator[Sample] | None = None

    def __next__(self) -> Sample:
        if self._samples is None:
            self._samples = self._open()
        return next(self._samples)

    def _open(self) -> Iterator[Sample]:
        if not self.wanted:
            return
        config = build_config(self._settings, source="the settings in results.json")
        self.max_image_px = config.max_image_px
        for sample in open_split(config, self._split).stream():
            if sample.image_names in self.wanted:
                self.wanted.remove(sample.image_names)
                yield sample
                if not self.wanted:
                    return


def _sizes(images: int, largest_px: int) -> list[tuple[int, int]]:
    """Those of SIZES that are tried for so many images, the smallest one always."""
    share = TOTAL_BYTES / max(1, images)
    usual = [size for size in SIZES if size[0] <= largest_px and _BYTES_PER_PX * 3 / 4 * size[0] ** 2 <= share]
    return usual or [SIZES[-1]]


def _thumbnail(images: Sequence[ImageRef], sizes: Sequence[tuple[int, int]], share: int, *, max_image_px: int) -> bytes:
    """A WebP file of at most `share` bytes, larger only at the last of `sizes`. Raises DataError."""
    edge_px = sizes[0][0]
    # With double the edge length, resampling has enough pixels, and most of a large JPEG is never decoded.
    parts = [load_image(image, max_image_px=max_image_px, resize_px=2 * edge_px**2) for image in images]
    file = b""
    for edge_px, quality in sizes:
        file = _side_by_side(parts, edge_px, quality)
        if len(file) <= share:
            break
    return file


def _side_by_side(parts: Sequence[Image.Image], edge_px: int, quality: int) -> bytes:
    """A WebP file: the images in a row, each of at most `edge_px` on its longer side."""
    for part in parts:
        part.thumbnail((edge_px, edge_px), Image.Resampling.LANCZOS)
    row = Image.new("RGB", (sum(part.width for part in parts), max(part.height for part in parts)), "white")
    left = 0
    for part in parts:
        row.paste(part, (left, 0))
        left += part.width
    file = BytesIO()
    row.save(file, "WEBP", quality=quality, method=2)  # 4 takes double the time and saves a twentieth
    return file.getvalue()
