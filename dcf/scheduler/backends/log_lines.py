"""Read the last lines of a watcher's output.

In:   lines of its log (`<unix seconds> <stream> <text>`) and of its stderr.
Out:  a LogTail. Pure: no I/O.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

TAIL_LINES = 20
_PIECE = struct.Struct(">BxxxL")
"""1 for stdout or 2 for stderr, and how many bytes follow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogTail:
    """The end of what a replica said."""

    lines: tuple[str, ...]
    """Text alone, oldest first, at most 20."""
    last_own: str
    """The last line of DCF's watcher in it; "" where there is none."""
    last_stderr: str
    """The last line the watcher process itself wrote to its stderr, such as an interpreter's complaint."""

    @property
    def said(self) -> str:
        """Why it ended, in the watcher's own words; "" where it had none."""
        if self.last_stderr.startswith("dcf: "):
            return self.last_stderr.removeprefix("dcf: ")
        return self.last_own or self.last_stderr


def read_lines(logged: Sequence[str], complaint: Sequence[str]) -> LogTail:
    """The tail of both."""
    entries: list[tuple[str, str]] = []
    for line in logged:
        parts = line.split(" ", 2)
        if len(parts) >= 2 and parts[1] in {"stdout", "stderr", "dcf"}:
            entries.append((parts[1], parts[2] if len(parts) == 3 else ""))
        else:
            entries.append(("", line))
    complaint = [line for line in complaint if line.strip()]
    own = [text for stream, text in entries if stream == "dcf" and text.strip()]
    lines = [text for _, text in entries] or complaint
    return LogTail(
        lines=tuple(lines[-TAIL_LINES:]),
        last_own=own[-1].removeprefix("dcf: ") if own else "",
        last_stderr=complaint[-1] if complaint else "",
    )


def split_streams(data: bytes) -> tuple[list[str], list[str]]:
    """Lines of stdout and of stderr in what an engine sends of a log: pieces, each behind 8 bytes that name it."""
    texts = {1: b"", 2: b""}
    at = 0
    while len(data) - at >= _PIECE.size:
        stream, size = _PIECE.unpack_from(data, at)
        at += _PIECE.size
        texts[stream] = texts.get(stream, b"") + data[at : at + size]
        at += size
    stdout, stderr = (texts[stream].decode(errors="replace").splitlines() for stream in (1, 2))
    return stdout, stderr
