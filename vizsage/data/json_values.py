"""JSON values from a file, one record at a time, with a limit for the size of a record.

Records are parsed by Python's own parser, whose C code parses a value in the middle of a text without a copy. A number
keeps its text: 1.50 stays 1.50, and 0.00000001 and 1e5 do not become 1E-8 and 1E+5.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import Any, BinaryIO

MAX_RECORD_BYTES = 8 * 2**20  # once parsed, a record of `[],` repeated takes twenty times its size
MAX_DEPTH = 100
_CHUNK_BYTES = 2**18
# Where a value is cut by the end of what was read, the parser fails within this many characters before that end.
_CUT_CHARACTERS = 32
_SPACE = re.compile(r"[ \t\n\r]*")
_COMMA = re.compile(r"[ \t\n\r]*,[ \t\n\r]*")
_TEXT = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_BOM = b"\xef\xbb\xbf"


class JsonError(ValueError):
    """What is wrong with a JSON file; no further record of it can be read."""


class Number(Decimal):
    """A number with a decimal point or an exponent, whose text is the one in the file."""

    def __new__(cls, text: str) -> Number:
        """Parse `text`. Raises ArithmeticError where the number is out of range."""
        number = super().__new__(cls, text)
        number._text = text
        return number

    _text: str

    def __str__(self) -> str:
        return self._text


@dataclass(frozen=True)
class BrokenRecord:
    """Replaces a record that cannot be parsed, so that the others can still be checked."""

    reason: str


def array_values(file: BinaryIO) -> Iterator[Any]:
    """The values of a JSON array in UTF-8 that begins with `[`. Raises JsonError, OSError."""
    text = _Text(file)
    text.skip("[")
    more = text.following() != "]"
    while more:
        yield text.value()
        more = text.comma()
    text.skip("]")
    if text.following():
        raise JsonError(f"something follows the array at character {text.place}")


def json_lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """The lines of a file of JSON lines with their numbers, without empty ones. Raises JsonError, OSError."""
    for number, line in enumerate(iter(partial(file.readline, MAX_RECORD_BYTES + 1), b""), 1):
        if len(line) > MAX_RECORD_BYTES:
            raise JsonError(f"line {number} has more than {_LIMIT}")
        if number == 1:
            line = line.removeprefix(_BOM)
        if line and not line.isspace():
            yield number, line


def parse_line(line: bytes, line_number: int) -> Any:
    """The value of a line of JSON, or a BrokenRecord that names the line."""
    try:
        text = line.decode("utf-8").rstrip(
            " \t\r\n"
        )  # or what is missing at its end would be in column 1 of another line
        value = _DECODER.decode(text)
        _refuse_depth(text, 0, len(text))
        return value
    except UnicodeDecodeError:
        return BrokenRecord(f"line {line_number} is not UTF-8")
    except json.JSONDecodeError as error:
        return BrokenRecord(f"broken JSON in line {line_number}, column {error.colno}: {error.msg}")
    except (ValueError, ArithmeticError, RecursionError) as error:
        return BrokenRecord(f"broken JSON in line {line_number}: {_reason(error)}")


class _Text:
    """The part of a file that is being parsed: what was read and not used yet."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._text = ""
        self._at = 0
        self._before = 0  # characters of the file before _text
        self._ended = False

    @property
    def place(self) -> int:
        """The number of the next character, from 1."""
        return self._before + self._at + 1

    def following(self) -> str:
        """The next character that is not white space; empty at the end."""
        while True:
            match = _SPACE.match(self._text, self._at)
            self._at = match.end() if match else self._at
            if self._at < len(self._text) or not self._read_on():
                return self._text[self._at : self._at + 1]

    def skip(self, character: str) -> None:
        """Skip `character`. Raises JsonError where another one follows."""
        found = self.following()
        if found != character:
            raise JsonError(
                f"expected {character!r}, found {found!a} at character {self.place}" if found else _CUT_SHORT
            )
        self._at += 1

    def comma(self) -> bool:
        """Skip a comma and the white space around it; False where the array ends instead."""
        match = _COMMA.match(self._text, self._at)
        if match and match.end() < len(self._text):
            self._at = match.end()
            return True
        if self.following() == "]":
            return False
        self.skip(",")
        self.following()
        return True

    def value(self) -> Any:
        """The value that begins with the next character."""
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
                # Near the end of what was read a number may be cut, 1.5 to 1.
                if end + _CUT_CHARACTERS < len(self._text) or not self._read_on():
                    _refuse_depth(self._text, self._at, end)
                    self._at = end
                    return value
            except json.JSONDecodeError as error:
                open_text = error.msg.startswith("Unterminated string")
                if (open_text or error.pos + _CUT_CHARACTERS > len(self._text)) and self._read_on():
                    continue
                if open_text or error.pos >= len(self._text.rstrip()):
                    raise JsonError(_CUT_SHORT) from None
                raise JsonError(f"{error.msg} at character {self._before + error.pos + 1}") from None
            except (ValueError, ArithmeticError, RecursionError) as error:
                raise JsonError(_reason(error)) from None

    def _read_on(self) -> bool:
        """Read more; False at the end of the file.

        At least as much as is there is read: with pieces of a fixed size a long record would be parsed once per piece.
        """
        rest = len(self._text) - self._at
        if self._ended:
            return False
        if rest > MAX_RECORD_BYTES:
            raise JsonError(f"it has more than {_LIMIT}")
        data = self._file.read(max(_CHUNK_BYTES, rest))
        self._ended = not data
        try:
            new = self._decoder.decode(data, final=self._ended)
        except UnicodeDecodeError:
            raise JsonError("it is not UTF-8") from None
        self._before += self._at
        self._text = self._text[self._at :] + new
        self._at = 0
        return True


def _refuse_depth(text: str, start: int, end: int) -> None:
    """Raise JsonError where a value has more than MAX_DEPTH levels."""
    if text.count("[", start, end) + text.count("{", start, end) <= MAX_DEPTH:
        return
    depth = 0
    for character in re.findall(r"[][{}]", _TEXT.sub("", text[start:end])):
        depth += 1 if character in "[{" else -1
        if depth > MAX_DEPTH:
            raise JsonError(_TOO_DEEP)


def _reason(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return _TOO_DEEP
    if isinstance(error, ArithmeticError):
        return "a number is out of range"
    # Python's own message advises calling a function of Python.
    return "a number has thousands of digits" if "integer string conversion" in str(error) else str(error)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON value")


_LIMIT = f"{MAX_RECORD_BYTES // 2**20} MiB, the most that a record may have; put an image into a separate file"
_TOO_DEEP = f"it is nested more than {MAX_DEPTH} deep"
_CUT_SHORT = "the file ends before the array does"
_DECODER = json.JSONDecoder(parse_float=Number, parse_constant=_no_constant)
