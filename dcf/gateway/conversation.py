"""One call whose input is a stream: messages in, and an answer that comes meanwhile.

In:   messages of the caller, as fast as the replica takes them.
Out:  a ReplyStream, once the handler has answered for the first time.
It has an idle limit instead of a time limit: each message counts, either way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from dcf.errors import DeadlineError, InvocationError, PayloadTooLargeError
from dcf.gateway.call import PendingCall
from dcf.gateway.reply import Reply, ReplyStream
from dcf.rpc import frames


class Conversation:
    """Touched only by the event loop of the gateway."""

    def __init__(self, call: PendingCall, limit_s: float) -> None:
        self.invocation_id = call.invocation_id
        self.on_close: Callable[[], None] = lambda: None
        self._call = call
        self._limit_s = limit_s
        self._touched_at = call.loop.time()
        self._idle: asyncio.TimerHandle | None = None
        self._settled = asyncio.Event()
        self._closed = False
        call.on_settled = lambda call: self._settled.set()

    async def until_taken(self, on_expired: Callable[[PendingCall, float], None]) -> None:
        """Wait until a replica has it, which it may refuse again. Raises InvocationError."""
        call = self._call
        timer = call.loop.call_at(call.deadline, on_expired, call, self._limit_s)
        try:
            await call.until_room()
        finally:
            timer.cancel()
        if call.error is not None:
            raise call.error
        self._watch_idle()

    def _watch_idle(self) -> None:
        call = self._call
        if call.ended() or call.stream is not None:
            return  # a stream looks for itself
        left_s = self._touched_at + self._limit_s - call.loop.time()
        if left_s > 0:
            self._idle = call.loop.call_later(left_s, self._watch_idle)
        else:
            call.fail(DeadlineError(f"the stream stood still for {self._limit_s:g} s (timeout)"))

    async def send(self, message: bytes) -> bool:
        """Pass one message on. False: the handler takes no more. Raises PayloadTooLargeError."""
        limit = self._call.entry.spec.max_payload_bytes
        if len(message) > limit:
            raise PayloadTooLargeError(f"a message has {len(message)} bytes; {limit} are allowed (max_payload)")
        size = frames.STREAM_PIECE_BYTES
        for start in range(0, max(len(message), 1), size):
            sender = await self._call.until_room()
            if sender is None:
                return False
            sender.send(message[start : start + size], frames.END if start + size >= len(message) else 0)
            self._touch()
        return True

    def _touch(self) -> None:
        self._touched_at = self._call.loop.time()
        if self._call.stream is not None:
            self._call.stream.touch()

    async def end(self) -> None:
        """The caller has sent all."""
        if sender := await self._call.until_room():
            sender.send(b"", frames.LAST)

    async def answer(self) -> Reply | ReplyStream:
        """Wait until the handler answers for the first time. Raises InvocationError."""
        await self._settled.wait()
        call = self._call
        if call.error is not None:
            raise call.error
        answer = call.answer
        if answer is None:
            raise asyncio.CancelledError  # it was closed
        if isinstance(answer, ReplyStream):
            answer.watch_idle(self._limit_s)
        return answer

    def fail(self, error: InvocationError) -> None:
        """Its input cannot go on: that is how it ends."""
        self._call.fail(error)

    def close(self) -> None:
        """Nobody reads or writes any more: what is not done is cancelled. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        if self._idle is not None:
            self._idle.cancel()
        call = self._call
        if call.stream is not None:
            call.stream.close()
        elif call.queued or call.link is not None:
            call.entry.give_up(call)
        call.settled = True
        self._settled.set()
        self.on_close()
