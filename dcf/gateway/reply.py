"""What a function answers: a Reply, or a ReplyStream that is still coming.

In:   pieces, from the watcher link.
Out:  pieces, messages or one body, to whoever speaks the caller's protocol.
A stream holds no more than its window: credit goes back as its reader takes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, NamedTuple

from dcf.errors import DeadlineError, InvocationError, PayloadTooLargeError
from dcf.rpc import frames

if TYPE_CHECKING:
    from dcf.gateway.call import PendingCall

GROWN_WINDOW_BYTES = 256 * 1024
"""A reader that keeps up gets a window of this in the end, so that it need not wait for the way to the worker and
back, as long as GROWTH_BYTES lasts."""
GROWTH_BYTES = 4 * 1024 * 1024
"""All that this process's windows may grow together: a reader may stall later, and then it holds what it was given."""
TAKE_BYTES = 16 * 1024
"""Taken at once: what has left here is in the socket's own buffer, and no longer bounded by the window."""


class Reply:
    """A function's answer, whole."""

    __slots__ = ("body", "content_type", "invocation_id", "metadata")

    def __init__(self, body: bytes, content_type: str, metadata: dict[str, str], invocation_id: str) -> None:
        self.body = body
        self.content_type = content_type
        self.metadata = metadata
        self.invocation_id = invocation_id


def content_of(content_type: str) -> int:
    """The content kind of a whole body, for who must say whether it is text."""
    if content_type == frames.CONTENT_TYPES[frames.JSON]:
        return frames.JSON
    return frames.TEXT if content_type.startswith("text/") else frames.BYTES


class Piece(NamedTuple):
    """A part of an answer."""

    data: bytes
    content: int
    """Of its message: frames.BYTES, TEXT or JSON."""
    end: bool
    """Its message ends with it."""


class GrowthBudget:
    """What the windows of this process may still grow. Touched only by the event loop of the gateway."""

    def __init__(self) -> None:
        self.left_bytes = GROWTH_BYTES


class ReplyStream:
    """An answer in pieces. Whoever gets one calls `close`. Touched only by the event loop of the gateway."""

    __slots__ = (
        "_call", "_closed", "_error", "_idle", "_owed", "_pieces", "_touched_at", "_waiter", "_window",
        "content_type", "done", "invocation_id", "length", "metadata", "on_close", "opened_at", "streaming",
    )  # fmt: skip

    def __init__(
        self, call: PendingCall, content_type: str, metadata: dict[str, str], *, streaming: bool, length: int | None
    ) -> None:
        self.content_type = content_type
        self.metadata = metadata
        self.invocation_id = call.invocation_id
        self.streaming = streaming
        """A stream of messages; else one body in pieces."""
        self.length = length
        """Bytes of that body, where it is known."""
        self.done = False
        """All of it is here, or it broke off."""
        self.opened_at = self._touched_at = call.loop.time()
        self.on_close: Callable[[], None] = lambda: None
        self._call = call
        self._closed = False
        self._error: InvocationError | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._pieces: deque[Piece] = deque()
        self._owed = 0
        self._window = frames.STREAM_WINDOW_BYTES if streaming else frames.WINDOW_BYTES
        self._waiter: asyncio.Future[None] | None = None

    # -- from the link -------------------------------------------------------

    def feed(self, data: bytes, flags: int) -> None:
        """A piece came."""
        self._touched_at = self._call.loop.time()
        if not self._closed:
            self._pieces.append(Piece(data, flags >> frames.CONTENT_SHIFT & 3, bool(flags & frames.END)))
            self._wake()

    def end(self) -> None:
        """That was all."""
        self.done = True
        self._wake()

    def fail(self, error: InvocationError) -> None:
        """It breaks off; what has come is still delivered."""
        if not self.done:
            self._error = error
            self.end()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # -- to the reader -------------------------------------------------------

    def touch(self) -> None:
        """Something moved: its input, where that is a stream too."""
        self._touched_at = self._call.loop.time()

    def watch_idle(self, limit_s: float) -> None:
        """End it with DeadlineError where nothing moves for `limit_s`."""
        loop = self._call.loop
        left_s = self._touched_at + limit_s - loop.time()
        if self.done:
            return
        if left_s > 0:
            self._idle = loop.call_later(left_s, self.watch_idle, limit_s)
            return
        self.fail(DeadlineError(f"the stream stood still for {limit_s:g} s (timeout)"))
        self._call.entry.give_up(self._call)

    async def take(self) -> list[Piece]:
        """Pieces that have come, about TAKE_BYTES of them; none at the end. Raises the error that it broke off with."""
        while not self._pieces:
            if self.done:
                if self._error is not None:
                    raise self._error
                return []
            self._waiter = self._call.loop.create_future()
            await self._waiter
        pieces, size = [], 0
        while self._pieces and size < TAKE_BYTES:
            piece = self._pieces.popleft()
            pieces.append(piece)
            size += len(piece.data)
        self._give_credit(pieces)
        return pieces

    def _give_credit(self, pieces: list[Piece]) -> None:
        self._touched_at = self._call.loop.time()
        link = self._call.link
        if self.done or link is None:
            return
        cost = frames.FRAME_COST_BYTES if self.streaming else 0
        self._owed += sum(len(piece.data) + cost for piece in pieces)
        # Several are credited together: a frame for each would cost as much as a small chunk does.
        if self._owed * (4 if self.streaming else 2) >= self._window:
            budget = self._call.entry.growth
            keeps_up = self.streaming and self._owed * 2 >= self._window
            if keeps_up and self._window < GROWN_WINDOW_BYTES and self._window <= budget.left_bytes:
                budget.left_bytes -= self._window
                self._owed += self._window  # it may have waited for us: twice as much next time
                self._window *= 2
            link.grant(self._call, self._owed)
            self._owed = 0

    async def messages(self) -> AsyncIterator[tuple[int, bytes]]:
        """(content, message) of a stream; one body is one message. Raises as `take`."""
        parts: list[bytes] = []
        content = content_of(self.content_type)
        while pieces := await self.take():
            for piece in pieces:
                parts.append(piece.data)
                if self.streaming:
                    content = piece.content
                if piece.end:
                    yield content, parts[0] if len(parts) == 1 else b"".join(parts)
                    parts = []
        if not self.streaming:
            yield content, b"".join(parts)

    async def lines(self) -> AsyncIterator[bytes]:
        """What has come, joined: a body as it is, messages one after the other, JSON ones a line each."""
        while pieces := await self.take():
            yield b"".join(
                piece.data + b"\n" if piece.end and piece.content == frames.JSON else piece.data for piece in pieces
            )

    async def join(self, limit: int) -> Reply:
        """All of it as one body of at most `limit` bytes. Closes it. Raises as `take`, and PayloadTooLargeError."""
        parts: list[bytes] = []
        size = 0
        try:
            async for data in self.lines():
                size += len(data)
                if size > limit:
                    raise PayloadTooLargeError(
                        f"the stream has over {limit} bytes (max_payload), too many for one answer: "
                        "call it in a way that streams"
                    )
                parts.append(data)
        finally:
            self.close()
        return Reply(b"".join(parts), self.content_type, self.metadata, self.invocation_id)

    def close(self) -> None:
        """Nobody reads any more: what is not done is cancelled. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        self._pieces.clear()
        if self.streaming:
            self._call.entry.growth.left_bytes += self._window - frames.STREAM_WINDOW_BYTES
        if self._idle is not None:
            self._idle.cancel()
        if not self.done:
            self._call.entry.give_up(self._call)
        self.on_close()
