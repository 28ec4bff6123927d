"""Read a page of the manual: its blocks of commands, its links, its headings.

In:   a Markdown file. Out: Block, Link, anchors, as GitHub reads them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"

_BLOCK = re.compile(r"^(?P<indent> *)```(?P<kind>\w*) ?(?P<tag>[^\n]*)\n(?P<text>.*?)^ *```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_INLINE = re.compile(r"`([^`\n]+)`")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """What stands between two fences."""

    kind: str
    """`console` is typed by a test; "" where nothing is said."""
    tag: str
    """Of `console`: where it is typed; of `sh`: `norun`; of `yaml`: the file that it is a part of."""
    text: str

    @property
    def lines(self) -> list[str]:
        """The commands, one a line."""
        return [line for line in self.text.splitlines() if line.strip()]


def read_blocks(page: Path) -> list[Block]:
    """In their order."""
    return [
        Block(kind=match["kind"], tag=match["tag"].strip(), text=match["text"])
        for match in _BLOCK.finditer(page.read_text())
    ]


def read_links(page: Path) -> list[str]:
    """Where its links lead, as they are written; not those in blocks."""
    return _LINK.findall(_without_blocks(page))


def read_inline(page: Path) -> Iterator[str]:
    """What stands between backticks in the text."""
    yield from _INLINE.findall(_without_blocks(page))


def anchors(page: Path) -> set[str]:
    """What a link may name after `#`: GitHub's way to write a heading as one word."""
    titles = _HEADING.findall(_without_blocks(page))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def _without_blocks(page: Path) -> str:
    return _BLOCK.sub("", page.read_text())
