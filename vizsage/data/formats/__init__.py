"""The formats in which a split may be stored: one module per format, and the registry that all others ask.

To add a format, write its module beside the others and add its class to FORMATS.
"""

from __future__ import annotations

from pathlib import Path

from vizsage.data.formats.format import Format, Place
from vizsage.data.formats.json_array import JsonArray
from vizsage.data.formats.json_lines_files import JsonLines
from vizsage.data.formats.parquet import ParquetFiles
from vizsage.data.formats.saved_folder import SavedFolder
from vizsage.errors import DataError

FORMATS: tuple[type[Format], ...] = (JsonArray, JsonLines, ParquetFiles, SavedFolder)
_STEMS = {"val": ("val", "validation")}


def find_format(folder: Path, split: str, images_dir: Path) -> Format | None:
    """The one format in which `split` is in `folder`, or None. Raises DataError when it is there more than once."""
    places = [Place(folder, stem, split, images_dir) for stem in _STEMS.get(split, (split,))]
    found = [one for place in places for form in FORMATS for one in form.find(place)]
    if len(found) > 1:
        names = " and ".join(str(one.paths[0]) for one in found)
        raise DataError(f"{folder}: the split {split!r} is there more than once: {names}; keep one of them")
    return found[0] if found else None


def layouts(split: str) -> str:
    """What `split` may be called in each format, for a message: `a.json, a.parquet or a folder a`."""
    *names, last = (layout.format(split) for form in FORMATS for layout in form.layouts)
    return f"{', '.join(names)} or {last}"
