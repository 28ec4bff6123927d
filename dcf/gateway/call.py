"""One call inside the gateway, from admission to its answer.

It is settled once: with a Reply, with a ReplyStream where the answer is too
large for one frame or has no end yet, or with an error. Whoever made it is
called back then and there: a future, and a turn of the loop until its task
runs, would cost a small call more than all else here.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

from dcf.errors import ClientGoneError, InvocationError
from dcf.gateway.reply import Reply, ReplyStream
from dcf.rpc import frames
from dcf.rpc.frames import CONTENT_TYPES, unpack_reply

if TYPE_CHECKING:
    from dcf.gateway.router import FunctionEntry, Link

MIN_DEADLINE_MS = 1
"""0 on the wire means no deadline; a call about to expire must not get that."""
NO_DEADLINE = float("inf")


class PendingCall:
    """Touched only by the event loop of the gateway."""

    __slots__ = (
        "answer", "bidirectional", "body", "call_id", "came_at", "chain", "deadline", "entry", "error", "invocation_id",
        "leaving", "link", "loop", "metadata", "on_settled", "queued", "queued_at", "rest", "sender", "settled",
        "stream", "then", "timer", "upload", "wait_s", "waiter",
    )  # fmt: skip

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
        rest: AsyncIterator[bytes] | None = None,
        bidirectional: bool = False,
    ) -> None:
        """`rest`: what of the input comes after `body`. `bidirectional`: it is a stream, which `body` is no part of."""
        self.entry = entry
        self.body = body
        self.metadata = metadata
        self.invocation_id = invocation_id
        self.deadline = deadline
        """On the loop's clock; for a stream's answer it ends with the first chunk."""
        self.chain = chain
        """Functions that wait for this call, outermost first."""
        self.loop = loop
        self.rest = rest
        self.bidirectional = bidirectional
        self.settled = False
        """It has its answer or its error, or nobody waits for it any more."""
        self.answer: Reply | ReplyStream | None = None
        self.error: InvocationError | None = None
        self.on_settled: Callable[[PendingCall], None] | None = None
        """Called once, when there is an answer or an error."""
        self.then: Callable[[PendingCall], None] = _ignore
        """Of whoever waits for it, where `Invoker.begin` made it."""
        self.came_at = 0.0
        self.timer: asyncio.TimerHandle | None = None
        """Of its deadline."""
        self.link: Link | None = None
        self.call_id = 0
        self.leaving = False
        """The handler has returned; the rest of a large answer is on its way."""
        self.queued = False
        self.queued_at = 0.0
        self.wait_s = 0.0
        self.sender: Sender | None = None
        self.stream: ReplyStream | None = None
        self.waiter: asyncio.Future[None] | None = None
        """Of whoever has more input and waits for credit."""
        self.upload = rest is not None
        """Its input still comes from the caller, in the caller's own time: it takes no slot at a replica yet."""

    def rewind(self) -> None:
        """No replica has seen it: it begins anew."""
        self.upload = self.rest is not None

    def remaining_s(self) -> float:
        """Until its deadline; negative after it."""
        return self.deadline - self.loop.time()

    def deadline_ms(self) -> int:
        """As it travels; 0 for none. Rounded up: a handler that returns at it must not be in time by chance."""
        if self.bidirectional:
            return 0
        return max(MIN_DEADLINE_MS, min(math.ceil(self.remaining_s() * 1000), 0xFFFF_FFFF))

    # -- the answer, from the link -------------------------------------------

    def settle(self, answer: Reply | ReplyStream | None, error: InvocationError | None = None) -> None:
        """What comes first counts."""
        if self.settled:
            return
        self.settled = True
        self.body = b""  # a stream and its call hold each other, and this, until the collector comes by
        self.answer, self.error = answer, error
        if self.on_settled is not None:
            self.on_settled(self)

    def on_reply(self, payload: bytes, flags: int) -> frames.Replied:
        """The head of the answer, and where it is small all of it."""
        reply = unpack_reply(payload)
        head = frames.unpack_json(reply.metadata) if reply.metadata else {}
        content_type = head.get("content_type") or CONTENT_TYPES.get(reply.content, CONTENT_TYPES[frames.BYTES])
        metadata = head.get("metadata", {})
        if flags & frames.LAST and not flags & frames.STREAM:
            self.settle(Reply(reply.body, content_type, metadata, self.invocation_id))
            return reply
        streaming = bool(flags & frames.STREAM)
        if streaming and reply.content == frames.JSON and not head.get("content_type"):
            content_type = frames.JSON_LINES
        stream = self.stream = ReplyStream(
            self, content_type, metadata, streaming=streaming, length=None if streaming else head.get("length")
        )
        if reply.body:
            stream.feed(reply.body, 0)
        if flags & frames.LAST:
            stream.end()
        self.deadline = NO_DEADLINE
        self.settle(stream)
        return reply

    def fail(self, error: InvocationError) -> None:
        """Answer with an error; where the answer has begun it breaks off with it."""
        if self.stream is not None:
            self.stream.fail(error)
        else:
            self.settle(None, error)
        self.wake()

    # -- the input, to the link ----------------------------------------------

    def wake(self) -> None:
        """Credit came, or the replica is another, or the call has ended."""
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    async def until_room(self) -> Sender | None:
        """Wait until more input may be sent; None: none is wanted any more."""
        while True:
            if self.ended():
                return None
            if self.sender is not None and self.sender.has_room():
                return self.sender
            self.waiter = self.loop.create_future()
            await self.waiter

    def ended(self) -> bool:
        """No more input is wanted."""
        if self.stream is not None:
            return self.stream.done
        return self.settled

    async def send_rest(self) -> None:
        """Read the rest of the input as fast as the replica takes it. What goes wrong becomes the call's answer."""
        assert self.rest is not None
        try:
            async for piece in self.rest:
                sender = await self.until_room()
                if sender is None:
                    return
                sender.send(piece, 0)
            if sender := await self.until_room():
                sender.send(b"", frames.LAST)
        except InvocationError as error:
            self.fail(error)
        except ConnectionError:
            self.fail(ClientGoneError("the caller went away in the middle of its input"))


def _ignore(call: PendingCall) -> None:
    """Nobody asked to be told."""


class Sender:
    """Send an input that is larger than one frame, as credit allows. One for each try of its call."""

    __slots__ = ("_body", "_call", "_credit", "_credited", "_position")

    def __init__(self, call: PendingCall, position: int) -> None:
        """`position`: how much of the body the OPEN frame holds."""
        self._call = call
        self._body = call.body
        """Empty once all of it was sent."""
        self._position = position
        # A stream of input begins with no credit: the first says that the replica will not refuse it any more.
        self._credit = 0 if call.bidirectional else frames.WINDOW_BYTES - position
        self._credited = False

    def on_credit(self, number_bytes: int) -> None:
        """The reader took `number_bytes`."""
        self._credit += number_bytes
        self._credited = True
        self.pump()
        self._call.wake()

    def pump(self) -> None:
        """Send what of the body may be sent now."""
        body, end = self._body, len(self._body)
        while self._position < end:
            size = min(frames.PIECE_BYTES, end - self._position)
            if size > self._credit:
                return
            piece = body[self._position : self._position + size]
            self._position += size
            last = self._position >= end and self._call.rest is None
            self.send(piece, frames.LAST if last else 0)
        self._body, self._position = b"", 0

    def has_room(self) -> bool:
        """Whether what comes after the body may be sent.

        Not before the first credit: until then the replica may refuse the call, and the body, which is kept, is
        all that can be sent again elsewhere.
        """
        if self._call.bidirectional:
            return self._credit > 0
        return self._credited and not self._body and self._credit >= frames.PIECE_BYTES

    def send(self, piece: bytes, flags: int) -> None:
        """Send one piece, at most PIECE_BYTES."""
        call, link = self._call, self._call.link
        self._credit -= len(piece) + (frames.FRAME_COST_BYTES if call.bidirectional else 0)
        if link is not None:
            link.send_input(call, piece, flags)
