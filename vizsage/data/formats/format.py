"""What a format of splits has to do: find a split, read its records one by one, and return what identifies its data."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from vizsage.errors import DataError

_HASHED_WHOLE_BYTES = 2**28  # of a larger file only the size and both ends are hashed
_PIECE_BYTES = 2**20


@dataclass(frozen=True)
class Place:
    """Where a split is looked for.

    Attributes:
        folder: of the data set.
        stem: what file names of the split begin with; for `val` also "validation".
        split: the name of the split; images without a name are named "<split>-<number of the record>".
        images_dir: of images that records only name.
    """

    folder: Path
    stem: str
    split: str
    images_dir: Path


class Digest(Protocol):
    """What hashlib's functions give."""

    def update(self, data: bytes, /) -> None:
        """Take in more bytes."""


class Format(ABC):
    """The records of one split in one format.

    An instance is cheap and can be pickled: files are opened by `records`. To add a format, derive from this class and
    enter the class in `vizsage.data.formats.FORMATS`. Modules of formats are imported with the registry, so a library
    that takes long to load is imported inside the methods that need it.
    """

    layouts: ClassVar[tuple[str, ...]]
    """What a split `{0}` is called in this format, for the message that lists them: "{0}.json"."""

    @classmethod
    @abstractmethod
    def find(cls, place: Place) -> Iterable[Format]:
        """The split as it is there in this format: none, one, or several of which the user has to remove all but one.

        Raises DataError where something else has the name of its file.
        """

    @property
    @abstractmethod
    def paths(self) -> tuple[Path, ...]:
        """The files that are read, or the folder; at least one. Messages name the first."""

    @property
    @abstractmethod
    def float_fields(self) -> tuple[str, ...]:
        """Fields that may be integers which became floats before they were written (3 as 3.0); `checked` warns of them.

        Raises DataError.
        """

    @abstractmethod
    def records(self, start: int = 0) -> Iterator[Any]:
        """The records from number `start` on, in file order.

        Each is a dict, whose "image" is a file name, or an ImageRef where the image is embedded; or a BrokenRecord.
        Raises DataError where no further record can be read.
        """

    def feed(self, digest: Digest) -> None:
        """Put what is read into `digest`. Splits that give the same records should give the same bytes."""
        feed_files(digest, self.paths)

    def identity(self) -> str:
        """SHA-256 of what is read, in hexadecimal. A run with another identity of its data is not continued."""
        digest = hashlib.sha256()
        self.feed(digest)
        return digest.hexdigest()

    def state(self) -> Hashable:
        """Differs from an earlier value if the data was changed since. Fast. Raises OSError."""
        return tuple((found.st_size, found.st_mtime_ns) for found in (path.stat() for path in self.paths))


@dataclass(frozen=True)
class JsonFile(Format):
    """A split in one file of JSON."""

    path: Path
    float_fields: ClassVar[tuple[str, ...]] = ("answer", "answers")

    @property
    def paths(self) -> tuple[Path, ...]:
        """The file."""
        return (self.path,)


def feed_files(digest: Digest, paths: Iterable[Path]) -> None:
    """Put files into `digest`: content up to 256 MiB, beyond that size, first and last MiB.

    A large file is not read in full, so that a run of many gigabytes starts at once; an edit in its middle that keeps
    the size is not noticed. Of a folder all files count. Raises OSError.
    """
    for path in paths:
        for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
            size = file.stat().st_size
            digest.update(f"{file.name}:{size}:".encode())
            with file.open("rb") as stream:
                if size <= _HASHED_WHOLE_BYTES:
                    while chunk := stream.read(_PIECE_BYTES):
                        digest.update(chunk)
                else:
                    digest.update(stream.read(_PIECE_BYTES))
                    stream.seek(-_PIECE_BYTES, os.SEEK_END)
                    digest.update(stream.read())


def is_file(path: Path) -> bool:
    """Whether there is such a file. Raises DataError where something else has its name: reading a pipe never ends."""
    if path.is_file():
        return True
    if path.exists():
        raise DataError(f"{path}: is {'a folder' if path.is_dir() else 'no regular file'}; expected a file")
    return False
