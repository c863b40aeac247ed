"""The code blocks of a Markdown page, and the shell commands in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

SHELL = ("", "bash", "console", "sh")


@dataclass(frozen=True)
class Block:
    """A block of code.

    Attributes:
        language: of a fenced block; empty for an indented one.
        name: what follows the language, the name of the file that the block shows.
        text: its lines, without indentation.
        mark: the HTML comment directly before it, in one line; empty where there is none.
        line: the number of its first line on the page.
    """

    language: str
    name: str
    text: str
    mark: str
    line: int

    @property
    def commands(self) -> list[str]:
        """Its lines as commands, those that a backslash continues as one; of a session, what follows `$ `."""
        lines = re.sub(r"\\\n\s*", "", self.text).splitlines()
        if any(line.startswith("$ ") for line in lines):
            lines = [line[2:] for line in lines if line.startswith("$ ")]
        return [line for line in lines if line.strip()] if self.language in SHELL else []


def blocks(page: str) -> Iterator[Block]:
    """The fenced blocks of `page`, and the indented ones that follow an empty line, in order."""
    lines = page.splitlines()
    mark, i = "", 0
    while i < len(lines):
        start = i
        if lines[i].startswith("<!--"):
            while "-->" not in lines[i]:
                i += 1
            mark = " ".join(" ".join(lines[start : i + 1]).removeprefix("<!--").partition("-->")[0].split())
        elif fence := re.match(r"(`{3,}|~{3,})(\S*) *(.*)", lines[i]):
            i += 1
            while lines[i].strip() != fence[1]:
                i += 1
            yield Block(fence[2], fence[3].strip(), "\n".join(lines[start + 1 : i]), mark, start + 2)
            mark = ""
        elif lines[i].startswith("    ") and (i == 0 or not lines[i - 1].strip()):
            while i + 1 < len(lines) and (lines[i + 1].startswith("    ") or not lines[i + 1].strip()):
                i += 1
            text = "\n".join(line[4:] for line in lines[start : i + 1]).rstrip()
            yield Block("", "", text, mark, start + 1)
            mark = ""
        elif lines[i].strip():
            mark = ""
        i += 1


def simple_commands(line: str) -> Iterator[list[str]]:
    """The words of each command in a line of a shell, without redirections and assignments before it."""
    reader = shlex.shlex(line, posix=True, punctuation_chars=True)
    reader.whitespace_split = True
    reader.commenters = "#"
    words: list[str] = []
    skipped = False
    for word in [*reader, ";"]:
        if set(word) <= set("();&|"):
            if words:
                yield words
            words, skipped = [], False
        elif set(word) <= set("<>&"):
            skipped = True
        elif not skipped and (words or not re.match(r"\w+=", word)):
            words.append(word)
