"""Opening the files of a data set: regular files only, and none outside its folder."""

from __future__ import annotations

import errno
import os
import re
import stat
from pathlib import Path
from typing import BinaryIO

_DATA_URL = re.compile(r"data:[^,]{0,200},", re.IGNORECASE)
_URL = re.compile(r"[a-z][a-z0-9+.-]{1,15}://", re.IGNORECASE)
_BASE64_IMAGES = ("/9j/", "iVBORw0KGgo", "R0lGOD", "UklGR")  # how JPEG, PNG, GIF and WebP begin
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK


def open_file(path: str | Path, dir_fd: int | None = None, flags: int = 0) -> BinaryIO:
    """Open a regular file to read. Raises OSError.

    A folder, a pipe or a device is refused. O_NONBLOCK: opening a pipe would otherwise wait for ever for a writer. The
    open descriptor is checked and not the name, which may be given to another file between check and opening.
    """
    descriptor = os.open(path, _READ | flags, dir_fd=dir_fd)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a regular file")
    return os.fdopen(descriptor, "rb")


def open_inside(folder: Path, name: str) -> BinaryIO:
    """Open the file `name` below `folder`. The folder may be a link; links below it must not lead out of it.

    Each part of the name is opened relative to the descriptor of the folder above it, without following links: a file
    that is replaced by a link between check and opening is refused. Raises OSError.
    """
    try:
        return _walk(str(folder), name)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENOTDIR):  # the errors of opening a link with O_NOFOLLOW
            raise
    root = os.path.realpath(folder)
    target = os.path.realpath(os.path.join(root, name))
    return _walk(root, os.path.relpath(target, root))


def leaves_folder(name: str, folder: Path) -> str | None:
    """Why the file `name` would not be inside `folder`, or None when it is.

    Links are resolved only where `name` contains one, so that the check costs one lstat per part of the name.
    """
    if "\0" in name:
        return "holds a NUL character; write a file name below Images/"
    parts = name.split("/")
    if name.startswith("/") or ".." in parts:
        return f"leaves {folder}; write a file name below it, without '..' and leading '/'"
    path = str(folder)
    for part in parts:
        path = f"{path}/{part}"
        if os.path.islink(path):
            root = os.path.realpath(folder)
            if not os.path.realpath(os.path.join(folder, name)).startswith(root.rstrip("/") + "/"):
                return (
                    f"is a symbolic link that leaves {folder}; copy the file into it. {folder} itself may be a link "
                    "to the folder that holds the files"
                )
            break
    return None


def no_file_name(text: str) -> str | None:
    """Why `text` cannot be the name of a file, and what to do instead; None where it may be one."""
    if len(text) <= 100 and ":" not in text:
        return None  # as nearly all are
    if _DATA_URL.match(text):
        kind = f"a data URL of {len(text)} characters"
    elif _URL.match(text):
        kind = "a URL"
    elif text.startswith(_BASE64_IMAGES) and len(text) > 100:
        kind = f"an image as base64, {len(text)} characters"
    elif len(text) > 4095 or max(map(len, text.split("/"))) > 255:  # of a path and of a name in Linux
        kind = f"a text of {len(text)} characters, more than a name can have"
    else:
        return None
    return (
        f"{kind}; URLs and base64 are not read: save the image as a file below Images/ and write its name, or embed "
        "its bytes in Parquet"
    )


def _walk(root: str, name: str) -> BinaryIO:
    *folders, last = [part for part in name.split("/") if part not in ("", ".")] or ["."]
    if ".." in (*folders, last):
        raise OSError(errno.EPERM, "it is outside of its folder")
    descriptor = os.open(root, _READ | os.O_DIRECTORY)
    try:
        for folder in folders:
            inner = os.open(folder, _READ | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        return open_file(last, descriptor, os.O_NOFOLLOW)
    finally:
        os.close(descriptor)
