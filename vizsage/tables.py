"""Tables for a terminal of any width. Words and numbers are never broken.

Where a table does not fit, its paths are shortened in the middle first and its texts wrapped between words; then it is
drawn without lines between its columns; at last every row is written as lines of `column  value`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table
from rich.text import Text

from vizsage.errors import printable

_TEXT = 12  # a column of texts or paths gets this width, unless all its cells are shorter
_GAP = 2  # columns between the name of a column and its value


def cell(text: str | None) -> Text:
    """A text of data or model in a table: without markup and without characters that control a terminal."""
    return Text(printable(text or "", lines=True))


def shortened_path(path: str, width: int) -> str:
    """`path` without its middle where it is longer than `width`. More is kept of its end, where paths differ."""
    if cell_len(path) <= width:
        return path
    kept = max(width - 3, 2)
    return f"{path[: kept // 3]}...{path[-(kept - kept // 3) :]}"


@dataclass
class _Column:
    name: str
    kind: Literal["text", "number", "path"]
    cells: list[Text] = field(default_factory=list)

    @property
    def most(self) -> int:
        """Its width if nothing is wrapped."""
        return max(_longest(line for one in (self.name, *self._texts()) for line in one.splitlines()), 1)

    @property
    def least(self) -> int:
        """The width below which a word or a number would be broken, or two paths look the same."""
        header = _longest(self.name.split())
        if self.kind == "number":
            return max(header, _longest(self._texts()))
        if self.kind == "path":
            different = len(set(self._texts()))
            widths = range(min(_TEXT, self.most), self.most)
            enough = (w for w in widths if len({shortened_path(one, w) for one in self._texts()}) == different)
            return max(header, next(enough, self.most))
        words = (word for one in self._texts() for word in one.split())
        # Texts without blanks between words, in wide characters, may be divided anywhere.
        return max(header, min(_TEXT, self.most), _longest(word for word in words if cell_len(word) == len(word)))

    def shown(self, row: int, width: int) -> Text:
        """A cell in a column of that width."""
        one = self.cells[row]
        return Text(shortened_path(one.plain, width), one.style) if self.kind == "path" else one

    def _texts(self) -> Iterator[str]:
        return (one.plain for one in self.cells)


class FittedTable:
    """A table that chooses its form by the width of the console on which it is printed.

    Attributes:
        title: the line above it.
        caption: lines below it.
    """

    def __init__(self, title: str | Text = "", caption: str | Text = "") -> None:
        self.title = title
        self.caption = caption
        self._columns: list[_Column] = []
        self._styles: list[str] = []
        self._sections: set[int] = set()  # rows before which a line is drawn

    def add_texts(self, *names: str) -> None:
        """Add columns of texts, which are wrapped between words."""
        self._columns += [_Column(name, "text") for name in names]

    def add_numbers(self, *names: str) -> None:
        """Add columns of numbers, with units or not, which are kept in one line."""
        self._columns += [_Column(name, "number") for name in names]

    def add_paths(self, *names: str) -> None:
        """Add columns of paths, which are shortened in the middle."""
        self._columns += [_Column(name, "path") for name in names]

    def add_row(self, *cells: str | Text, style: str | None = None) -> None:
        """Add a row; the cells that are missing at its end are empty. A text is shown as it is, without markup."""
        for column, one in zip(self._columns, [*cells, *[""] * (len(self._columns) - len(cells))], strict=True):
            column.cells.append(one if isinstance(one, Text) else cell(one))
        self._styles.append(style or "")

    def add_section(self) -> None:
        """Draw a line before the next row."""
        self._sections.add(len(self._styles))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        """Called by rich."""
        for text, style in ((self.title, "table.title"), (None, ""), (self.caption, "table.caption")):
            if text is None:
                if self._styles:  # a frame around nothing says nothing
                    yield self._body(options.max_width)
            elif len(text):
                yield Text(text if isinstance(text, str) else text.plain, style)

    def _body(self, width: int) -> Table:
        count = len(self._columns)
        for lines, extra in ((True, 3 * count + 1), (False, 2 * (count - 1))):
            least = [column.least for column in self._columns]
            if sum(least) + extra <= width:
                return self._drawn(_spread(least, [column.most for column in self._columns], width - extra), lines)
        return self._stacked(width)

    def _drawn(self, widths: Sequence[int], lines: bool) -> Table:
        table = Table() if lines else Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
        for column, width in zip(self._columns, widths, strict=True):
            justify: Literal["right", "left"] = "right" if column.kind == "number" else "left"
            table.add_column(Text(column.name), justify=justify, width=width, overflow="fold")
        for row, style in enumerate(self._styles):
            if row in self._sections:
                table.add_section()
            shown = [column.shown(row, width) for column, width in zip(self._columns, widths, strict=True)]
            table.add_row(*shown, style=style or None)
        return table

    def _stacked(self, width: int) -> Table:
        """Each row as lines of a name and a value, without those that are empty; a blank line between rows."""
        names = min(_longest(column.name for column in self._columns), width // 2)
        values = max(width - names - _GAP, 1)
        table = Table.grid(padding=(0, _GAP, 0, 0))
        table.add_column(width=names, overflow="fold")
        table.add_column(width=values, overflow="fold")
        for row, style in enumerate(self._styles):
            if row:
                table.add_row("")
            for column in self._columns:
                if column.cells[row].plain:
                    table.add_row(Text(column.name, "bold"), column.shown(row, values), style=style or None)
        return table


def _spread(least: Sequence[int], most: Sequence[int], width: int) -> list[int]:
    """Widths between `least` and `most`, and of `width` together at most."""
    widths = list(least)
    while (left := width - sum(widths)) > 0:
        lacking = [column for column, size in enumerate(widths) if size < most[column]]
        if not lacking:
            break
        # By equal shares, so that a very long text does not take the width that short ones need.
        for column in lacking:
            widths[column] += min(max(left // len(lacking), 1), most[column] - widths[column], width - sum(widths))
    return widths


def _longest(texts: Iterable[str]) -> int:
    return max(map(cell_len, texts), default=0)
