"""One call inside the gateway, from admission to its answer."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from dcf.errors import InvocationError
from dcf.rpc import frames
from dcf.rpc.frames import CONTENT_TYPES, unpack_reply

if TYPE_CHECKING:
    from dcf.gateway.router import FunctionEntry, Link

MIN_DEADLINE_MS = 1
"""0 on the wire means no deadline; a call about to expire must not get that."""


class Reply:
    """A function's answer."""

    __slots__ = ("body", "content_type", "invocation_id", "metadata")

    def __init__(self, body: bytes, content_type: str, metadata: dict[str, str], invocation_id: str) -> None:
        self.body = body
        self.content_type = content_type
        self.metadata = metadata
        self.invocation_id = invocation_id


class PendingCall:
    """Touched only by the event loop of the gateway."""

    __slots__ = (
        "body",
        "call_id",
        "chain",
        "content",
        "deadline",
        "entry",
        "future",
        "head",
        "invocation_id",
        "link",
        "loop",
        "metadata",
        "pieces",
        "queued",
        "sender",
    )

    def __init__(
        self,
        entry: FunctionEntry,
        body: bytes,
        *,
        metadata: bytes,
        invocation_id: str,
        deadline: float,
        chain: tuple[str, ...],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.entry = entry
        self.body = body
        self.metadata = metadata
        self.invocation_id = invocation_id
        self.deadline = deadline
        """On the loop's clock."""
        self.chain = chain
        """Functions that wait for this call, outermost first."""
        self.loop = loop
        self.future: asyncio.Future[Reply] = loop.create_future()
        self.link: Link | None = None
        self.call_id = 0
        self.queued = False
        self.sender: BodySender | None = None
        self.pieces: list[bytes] = []
        self.content = frames.BYTES
        self.head: dict[str, Any] | None = None

    def remaining_s(self) -> float:
        """Until its deadline; negative after it."""
        return self.deadline - self.loop.time()

    def deadline_ms(self) -> int:
        """As it travels."""
        return max(MIN_DEADLINE_MS, min(int(self.remaining_s() * 1000), 0xFFFF_FFFF))

    def on_reply(self, payload: bytes) -> int:
        """The first piece of the answer. Returns the handler's time, microseconds."""
        reply = unpack_reply(payload)
        self.content = reply.content
        if reply.metadata:
            self.head = json.loads(reply.metadata)
        self.pieces.append(reply.body)
        return reply.handler_us

    def finish(self) -> None:
        """All pieces are there."""
        if self.future.done():
            return
        head = self.head or {}
        content_type = head.get("content_type") or CONTENT_TYPES.get(self.content, CONTENT_TYPES[frames.BYTES])
        body = self.pieces[0] if len(self.pieces) == 1 else b"".join(self.pieces)
        self.future.set_result(Reply(body, content_type, head.get("metadata", {}), self.invocation_id))

    def fail(self, error: InvocationError) -> None:
        """Answer with an error."""
        if not self.future.done():
            self.future.set_exception(error)


class BodySender:
    """Send the rest of a body as credit allows: at most WINDOW_BYTES ahead of the reader."""

    __slots__ = ("_body", "_credit", "_position", "_write")

    def __init__(self, body: bytes, position: int, write: Any) -> None:
        self._body = body
        self._position = position
        self._credit = frames.WINDOW_BYTES - position
        self._write = write
        """Called with (piece, flags)."""

    def on_credit(self, number_bytes: int) -> None:
        """The reader took `number_bytes`."""
        self._credit += number_bytes
        self.pump()

    def pump(self) -> None:
        """Send what may be sent now."""
        body, end = self._body, len(self._body)
        while self._position < end:
            size = min(frames.PIECE_BYTES, end - self._position)
            if size > self._credit:
                return
            piece = body[self._position : self._position + size]
            self._position += size
            self._credit -= size
            self._write(piece, frames.LAST if self._position >= end else 0)
