"""Where a command's words go.

    -o text   the result on standard output, progress and remarks on standard error
    -o json   one JSON document (for `watch`: one a line) on standard output, the rest on standard error

So standard output can always be piped. Text from the API is data: control characters in it are shown, never obeyed.
"""

import json
import sys
from collections.abc import Sequence
from enum import StrEnum
from typing import Any, TextIO

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text


class OutputFormat(StrEnum):
    """What a command prints."""

    TEXT = "text"
    JSON = "json"


def plain(text: object) -> str:
    """`text` with each control character but the line feed written as an escape."""
    return "".join(
        character
        if character == "\n" or (character.isprintable() or character == " ")
        else character.encode("unicode_escape").decode("ascii")
        for character in str(text)
    )


class Output:
    """The two streams of one command."""

    def __init__(
        self, output_format: OutputFormat, *, stdout: TextIO | None = None, stderr: TextIO | None = None
    ) -> None:
        self.as_json = output_format is OutputFormat.JSON
        self._stdout = sys.stdout if stdout is None else stdout
        self._stderr = sys.stderr if stderr is None else stderr
        self.remarks = Console(file=self._stderr, markup=False, highlight=False, emoji=False, soft_wrap=True)

    def document(self, document: Any) -> None:
        """With `-o json`, the result; else nothing."""
        if self.as_json:
            self._stdout.write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
            self._stdout.flush()

    def document_line(self, document: Any) -> None:
        """With `-o json`, one of several results, on one line; else nothing."""
        if self.as_json:
            self._stdout.write(json.dumps(document, ensure_ascii=False) + "\n")
            self._stdout.flush()

    def text(self, text: str = "") -> None:
        """Without `-o json`, a line of the result; else nothing."""
        if not self.as_json:
            self._stdout.write(plain(text) + "\n")
            self._stdout.flush()

    def remark(self, text: str) -> None:
        """A remark for the person in front, on standard error."""
        self._stderr.write(plain(text) + "\n")
        self._stderr.flush()

    def fields(self, rows: Sequence[tuple[str, str]]) -> None:
        """Without `-o json`, names and values, one pair a line; pairs without a value are left out."""
        shown = [(name, value) for name, value in rows if value]
        width = max((len(name) for name, _ in shown), default=0)
        for name, value in shown:
            self.text(f"{name:<{width}}  {value}")

    def table(self, headers: Sequence[str], rows: Sequence[Sequence[str]], *, empty: str) -> None:
        """Without `-o json`, a table; `empty` is remarked instead of one without rows."""
        if self.as_json:
            return
        if not rows:
            self.remark(empty)
        elif not (self._stdout.isatty() and self._rich_table(headers, rows)):
            for line in _aligned([list(headers), *[[plain(cell) for cell in row] for row in rows]]):
                self.text(line)

    def _rich_table(self, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> bool:
        """Draw it, unless the terminal is too narrow for that: an id that is broken over lines cannot be copied."""
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for number, header in enumerate(headers):
            words = any(" " in row[number] for row in rows)
            table.add_column(header, no_wrap=not words)
        for row in rows:
            table.add_row(*[Text(plain(cell)) for cell in row])
        console = Console(file=self._stdout, highlight=False)
        if Measurement.get(console, console.options.update(max_width=10_000), table).minimum > console.width:
            return False
        console.print(table)
        return True


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns two spaces apart; nothing is cut, so that `awk` and eyes both find it."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
