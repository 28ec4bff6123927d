"""Tables for people, JSON for scripts, progress on stderr.

stdout holds what was asked for and nothing else; whatever tells how it is
going goes to stderr.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any

import typer

WIDE = 100_000
"""Columns of a table that no terminal reads: a script must not find a name cut in two."""


class Form(StrEnum):
    """What `--output` may say."""

    TABLE = "table"
    JSON = "json"


OutputOption = Annotated[Form, typer.Option("--output", "-o", help="table for people, json for scripts.")]


def say(text: str) -> None:
    """One line for a person, on stderr."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def write(text: str) -> None:
    """One line of the answer, on stdout."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def write_bytes(data: bytes) -> None:
    """The answer as it is; a newline is added only where a person would see the prompt on its line."""
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    if sys.stdout.isatty() and data and not data.endswith(b"\n"):
        sys.stdout.buffer.write(b"\n")
    sys.stdout.buffer.flush()


def write_json(value: Any) -> None:
    """The answer as JSON."""
    write(json.dumps(value, indent=2, ensure_ascii=False))


def write_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """The answer as columns; never cut where nobody's terminal limits it."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=not sys.stdout.isatty())
    for row in rows:
        # Text, not str: a `[` in a description is no markup. Blanks are joined: one row is one line.
        table.add_row(*(Text(" ".join(cell.split())) for cell in row))
    console = Console(file=sys.stdout, highlight=False, width=None if sys.stdout.isatty() else WIDE)
    with console.capture() as capture:
        console.print(table)
    for line in capture.get().splitlines():
        write(line.rstrip())


def write_facts(facts: Sequence[tuple[str, str]]) -> None:
    """`name   value` lines, values in one column; an empty value is left out."""
    width = max((len(name) for name, _ in facts), default=0)
    for name, value in facts:
        if value:
            write(f"{name:<{width}}   {value}")


class Progress:
    """One line on a terminal that changes in place; elsewhere nothing until it ends."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._text = ""

    def show(self, text: str) -> None:
        """Replace the line."""
        if self._live and text != self._text:
            sys.stderr.write(f"\r\x1b[2K{text}")
            sys.stderr.flush()
            self._text = text

    def clear(self) -> None:
        """Take the line away."""
        if self._text:
            sys.stderr.write("\r\x1b[2K")
            sys.stderr.flush()
            self._text = ""
