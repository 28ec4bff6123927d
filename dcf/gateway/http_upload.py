"""The rest of a large body, between a connection that delivers it and a replica that takes it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from dcf.rpc.frames import PIECE_BYTES

HELD_BYTES = 2 * PIECE_BYTES
"""More is not read from the client before the replica has taken some."""


class Upload:
    """An iterator of pieces, each at most PIECE_BYTES. Touched only by the event loop of the gateway."""

    def __init__(self, missing: int, pause: Callable[[], None], resume: Callable[[], None]) -> None:
        """`missing`: bytes of the body that are still to come."""
        self.missing = missing
        self._pause = pause
        self._resume = resume
        self._parts: deque[bytes] = deque()
        self._held = 0
        self._paused = False
        self._waiter: asyncio.Future[None] | None = None

    def feed(self, data: bytes) -> bytes:
        """Take what belongs to the body; what does not is given back."""
        part, rest = data[: self.missing], data[self.missing :]
        self.missing -= len(part)
        for start in range(0, len(part), PIECE_BYTES):
            self._parts.append(part[start : start + PIECE_BYTES])
        self._held += len(part)
        if self._held > HELD_BYTES and self.missing and not self._paused:
            self._paused = True
            self._pause()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        return rest

    def __aiter__(self) -> Upload:
        return self

    async def __anext__(self) -> bytes:
        while not self._parts:
            if not self.missing:
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        parts = [self._parts.popleft()]
        size = len(parts[0])
        while self._parts and size + len(self._parts[0]) <= PIECE_BYTES:
            parts.append(self._parts.popleft())
            size += len(parts[-1])
        self._held -= size
        if self._paused and self._held <= PIECE_BYTES:
            self._paused = False
            self._resume()
        return parts[0] if len(parts) == 1 else b"".join(parts)
