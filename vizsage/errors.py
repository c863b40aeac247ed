"""The errors a user can cause or must react to, and the exit codes of every command.

A message is one line: what was found, where (file, key or record), what is allowed, how to fix it.
"""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import re
import sys
from pathlib import Path

from vizsage.contract import EXIT_DATA, EXIT_INTERRUPTED, EXIT_REPEATS, EXIT_UNKNOWN, EXIT_USAGE

LAUNCHER = "VIZSAGE_LAUNCHER"
"""Name of the environment variable with the process id of the launcher that started this process."""
CALLED_AS = "VIZSAGE_CALLED_AS"
"""Name of the environment variable with what the user typed, where another program starts `vizsage` for it."""
# The messages of libraries that do not raise OSError for it, such as safetensors and tokenizers.
_NO_ROOM = re.compile(r"No space left on device|Disk quota exceeded|\(os error (28|122)\)")
# A terminal executes control codes (C0, here without the tab, DEL and C1). After a character that overrides the
# direction of text it shows characters in another order than the file has them. Half of a surrogate pair cannot be
# encoded.
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_NO_MEMORY = re.compile(r"CU[A-Z]+_STATUS_ALLOC_FAILED|CUDA_ERROR_OUT_OF_MEMORY|(?i:cuda)\b.*\bout of memory")


class VizSageError(Exception):
    """Base of the errors that end a command with one line on stderr instead of a traceback."""

    exit_code = EXIT_UNKNOWN


class ConfigError(VizSageError):
    """The command or the configuration is wrong; running it again cannot help."""

    exit_code = EXIT_USAGE


class FolderInUse(ConfigError):
    """Another process is writing in the folder that a command would write into.

    A user who typed the command has to decide what to do. Under a launcher the exit code makes the scheduler try again,
    because the processes of an attempt that was killed may still be saving.
    """

    exit_code = EXIT_UNKNOWN if os.environ.get(LAUNCHER) else EXIT_USAGE


class DataError(VizSageError):
    """A data file, an image or the external-knowledge table is unusable."""

    exit_code = EXIT_DATA


class CheckpointError(VizSageError):
    """A checkpoint or an adapter is missing, damaged or belongs to something else."""

    exit_code = EXIT_DATA


class RepeatingError(VizSageError):
    """The run failed in a way that will repeat: loss not finite, GPU memory exceeded, shared memory full."""

    exit_code = EXIT_REPEATS


class Interrupted(VizSageError):
    """A signal stopped the run after a checkpoint was written; the same command continues it."""

    exit_code = EXIT_INTERRUPTED


def error_of(exit_code: int, message: str) -> VizSageError:
    """The error with that exit code and message, which another process has reported."""
    kinds: tuple[type[VizSageError], ...] = (ConfigError, DataError, RepeatingError, Interrupted)
    error = next((kind for kind in kinds if kind.exit_code == exit_code), VizSageError)(message)
    error.exit_code = exit_code
    return error


def missing_package(error: ModuleNotFoundError) -> ConfigError | None:
    """The error for a package that this Python does not have; None for a module of a package that is there.

    Most often the command was given to another Python than that of the virtual environment.
    """
    package = (error.name or "").partition(".")[0]
    own = package in ("", "vizsage", "jobs") or package in sys.stdlib_module_names
    if own or importlib.util.find_spec(package) is not None:
        return None
    return ConfigError(
        f"this command needs the package {package!r}, which this Python ({sys.executable}) does not have; run source "
        ".venv/bin/activate, or call .venv/bin/python (make install creates .venv)"
    )


def no_data_folder(folder: Path) -> DataError:
    """The error for a `folder` of a data set that is not there."""
    return DataError(f"{folder}: no such folder; base_path and dataset name the folder that holds the splits")


def one_line(error: BaseException) -> str:
    """The message of `error`: its first 300 characters in one line, or the name of its type if it has no message."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def printable(text: str, *, lines: bool = False) -> str:
    r"""`text` for a terminal, with control characters as Python escapes them: `\x1b`, `\u202e`.

    Everything that a command prints for people is passed through this function, because data, models and file names may
    contain any character. With `lines`, line breaks are kept.
    """
    return _UNPRINTABLE.sub(
        lambda match: "\n" if lines and match[0] == "\n" else match[0].encode("unicode_escape").decode(), text
    )


def printable_json(text: str) -> str:
    r"""JSON text of the same value for a terminal: control characters, which only strings contain, become \uXXXX."""
    return _UNPRINTABLE.sub(lambda match: match[0] if match[0] == "\n" else f"\\u{ord(match[0]):04x}", text)


def shortened(text: str, most: int = 200) -> str:
    """`text` for a message: of more than `most` characters the middle is left out and their number inserted."""
    if len(text) <= most:
        return text
    kept = most // 2 - 15  # on each side; the rest is for the words between them
    return f"{text[:kept]}... {len(text) - 2 * kept} characters more ...{text[-kept:]}"


def is_disk_full(error: BaseException) -> bool:
    """Whether a file could not be written because the disk, or the user's quota, is full."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return bool(_NO_ROOM.search(str(error)))


def quoted(value: object) -> str:
    """A name or text of the user for a message: in quotes, without control characters, shortened."""
    return shortened(repr(value))


def in_yaml(value: object) -> str:
    """The value of a setting for a message: null, true and numbers as in YAML, a text in quotes."""
    return shortened(repr(value) if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether GPU memory ran out. PyTorch's own error is recognised by name, because torch is not imported here.

    CUDA itself, NCCL and libraries such as cuBLAS allocate memory without PyTorch and report it in messages only.
    """
    if type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and bool(_NO_MEMORY.search(str(error)))
