"""Keep what the function prints: a bounded ring, and a bounded file.

In:   bytes of the worker's stdout and stderr, and the watcher's own lines.
Out:  lines for `Watcher.Log`, the newest of them; the same lines in a file
      (or on our stdout) for whoever comes when the watcher is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from dcf.errors import ConfigError

MAX_LINES = 10_000
MAX_KEPT_BYTES = 4 * 1024 * 1024
"""Of text in memory: lines may be long."""
MAX_LINE_BYTES = 16 * 1024
"""A longer line is cut in pieces: a handler that prints no newline must not fill the memory."""
MAX_FILE_BYTES = 8 * 1024 * 1024
"""Then the file starts anew and the old one stays as `.1`."""
TURN_LINES = 500
"""Then the calls have their turn: a flood of output must not hold them up."""


class Line(NamedTuple):
    """One line; `stream` is stdout, stderr or dcf."""

    at: float
    stream: str
    text: str


class FunctionLog:
    """Touched only by the event loop of the watcher."""

    def __init__(self, path: str = "") -> None:
        """Raises ConfigError where the file cannot be written."""
        self._lines: deque[Line] = deque()
        self._kept_bytes = 0
        self._count = 0
        self._changed = asyncio.Event()
        self._path = Path(path) if path else None
        self._file: BinaryIO = sys.stdout.buffer
        self._file_bytes = 0
        if self._path:
            self._open(self._path)

    def _open(self, path: Path) -> None:
        try:
            self._file = path.open("ab")
        except OSError as error:
            raise ConfigError(f"DCF_LOG_FILE={str(path)!r} cannot be written: {error.strerror}") from error
        self._file_bytes = self._file.tell()

    def write(self, stream: str, text: str) -> None:
        """Add a text: a line, or several."""
        for part in text.split("\n"):
            self._add(stream, part)
        self._flush()

    def write_cause(self, text: str) -> None:
        """Add one line of DCF's own: `dcf: ` and the text, however many lines that had."""
        self.write("dcf", f"dcf: {' '.join(text.split())}")

    def _add(self, stream: str, text: str) -> None:
        encoded = text.encode("utf-8", "backslashreplace")
        line = Line(time.time(), stream, encoded.decode())
        self._lines.append(line)
        self._count += 1
        self._kept_bytes += len(line.text)
        while len(self._lines) > MAX_LINES or self._kept_bytes > MAX_KEPT_BYTES:
            self._kept_bytes -= len(self._lines.popleft().text)
        data = b"%.3f %s %s\n" % (line.at, stream.encode(), encoded)
        self._file_bytes += len(data)
        with contextlib.suppress(OSError):  # a full disk must not stop the function
            self._file.write(data)

    def _flush(self) -> None:
        self._changed.set()
        with contextlib.suppress(OSError):
            self._file.flush()
            if self._path and self._file_bytes > MAX_FILE_BYTES:
                self._file.close()
                os.replace(self._path, f"{self._path}.1")
                self._open(self._path)

    async def collect(self, stream: str, reader: asyncio.StreamReader) -> None:
        """Write lines of `reader` until its end."""
        rest = b""
        while data := await reader.read(64 * 1024):
            *lines, rest = (rest + data).split(b"\n")
            for number, line in enumerate(lines, start=1):
                for start in range(0, max(len(line), 1), MAX_LINE_BYTES):
                    self._add_bytes(stream, line[start : start + MAX_LINE_BYTES])
                if number % TURN_LINES == 0:
                    await asyncio.sleep(0)
            while len(rest) > MAX_LINE_BYTES:
                self._add_bytes(stream, rest[:MAX_LINE_BYTES])
                rest = rest[MAX_LINE_BYTES:]
            self._flush()
        if rest:
            self._add_bytes(stream, rest)
            self._flush()

    def _add_bytes(self, stream: str, data: bytes) -> None:
        self._add(stream, data.decode("utf-8", "backslashreplace").rstrip("\r"))

    async def read(self, *, since_at: float, tail: int | None, follow: bool) -> AsyncIterator[Line]:
        """Kept lines not older than `since_at`, at most the last `tail`; with `follow` then new ones, for ever.

        A reader that is slower than a flood misses what is no longer kept.
        """
        lines = [line for line in self._lines if line.at >= since_at]
        seen = self._count
        for line in lines if tail is None else lines[len(lines) - min(tail, len(lines)) :]:
            yield line
        while follow:
            self._changed.clear()
            missed = min(self._count - seen, len(self._lines))
            if not missed:
                await self._changed.wait()
                continue
            seen = self._count
            # Copied at once: indexing into the middle of a deque of MAX_LINES would hold up the calls.
            for line in list(self._lines)[-missed:]:
                yield line

    def close(self) -> None:
        """Close the file."""
        if self._path:
            self._file.close()
