"""Carry the calls that a handler makes: they come as frames on its own stream.

In:   OPEN, DATA, CANCEL and CREDIT frames with MESH_BIT in their id.
Out:  the same invocation path that every caller takes, and its answer as
      frames on the control socket of the worker that asked.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from dcf.domain.status import Endpoint
from dcf.errors import InvalidInputError, InvocationError, PayloadTooLargeError
from dcf.gateway.call import PendingCall
from dcf.gateway.reply import Reply
from dcf.gateway.router import FunctionEntry
from dcf.lifecycle import TaskSet
from dcf.rpc import frames
from dcf.rpc.frames import LAST, PIECE_BYTES, REPLY_PREFIX, unpack_open
from dcf.rpc.status import to_wire

HANDED_ON = ("traceparent", "tracestate", "baggage")
"""Headers of the parent call that its mesh calls carry too (W3C trace context)."""

MeshInvoke = Callable[..., Awaitable[Reply]]
"""`Invoker.invoke`."""


class MeshLink(Protocol):
    """The stream that the frames come from."""

    endpoint: Endpoint
    entry: FunctionEntry

    def call(self, call_id: int) -> PendingCall | None:
        """A call that is at this replica."""
        ...

    def write(self, call_id: int, kind: int, payload: bytes, flags: int = 0) -> None:
        """Queue one frame."""
        ...


class _MeshCall:
    __slots__ = ("function", "parent_id", "pieces", "sender", "size", "task")

    def __init__(self, function: str, parent_id: int) -> None:
        self.function = function
        self.parent_id = parent_id
        self.pieces: list[bytes] = []
        self.size = 0
        self.sender: BodySender | None = None
        self.task = ""


class MeshCalls:
    """The mesh calls of one stream. Touched only by the event loop of the gateway."""

    def __init__(self, link: MeshLink, invoke: MeshInvoke, tasks: TaskSet) -> None:
        self._link = link
        self._invoke = invoke
        self._tasks = tasks
        self._calls: dict[int, _MeshCall] = {}

    def on_frame(self, call_id: int, kind: int, flags: int, payload: bytes) -> None:
        """One frame of a mesh call."""
        if kind == frames.OPEN:
            opened = unpack_open(payload)
            try:
                metadata = json.loads(opened.metadata)
                call = _MeshCall(str(metadata["function"]), int(metadata["parent"]))
            except (ValueError, KeyError, TypeError) as error:
                self._fail(call_id, InvalidInputError(f"a mesh call that cannot be read: {error!r}"))
                return
            self._calls[call_id] = call
            self._take(call_id, call, opened.body, flags, credit=False)
            return
        known = self._calls.get(call_id)
        if known is None:
            return
        if kind == frames.DATA:
            self._take(call_id, known, payload, flags, credit=True)
        elif kind == frames.CREDIT and known.sender:
            known.sender.on_credit(int.from_bytes(payload, "big"))
        elif kind == frames.CANCEL:
            self._drop(call_id)

    def _take(self, call_id: int, call: _MeshCall, piece: bytes, flags: int, *, credit: bool) -> None:
        call.pieces.append(piece)
        call.size += len(piece)
        limit = self._link.entry.spec.max_payload_bytes
        if call.size > limit:
            self._fail(call_id, PayloadTooLargeError(f"a mesh call of more than {limit} bytes (max_payload)"))
        elif flags & LAST:
            call.task = f"mesh-{self._link.endpoint.replica}-{self._link.entry.spec.uid}-{id(self)}-{call_id}"
            self._tasks.start(call.task, self._run(call_id, call))
        elif credit:
            self._link.write(call_id, frames.CREDIT, len(piece).to_bytes(4, "big"))

    async def _run(self, call_id: int, call: _MeshCall) -> None:
        own = self._link.entry.spec.name
        parent = self._link.call(call.parent_id)
        chain = (*parent.chain, own) if parent else (own,)
        metadata: dict[str, Any] = {"headers": _handed_on(parent.metadata) if parent else {}, "caller": own}
        # A parent that streams has no deadline any more.
        timeout_s = max(parent.remaining_s(), 0.001) if parent else None
        try:
            reply = await self._invoke(
                call.function, b"".join(call.pieces), metadata=metadata, timeout_s=timeout_s, chain=chain
            )
        except InvocationError as error:
            self._fail(call_id, error)
            return
        head = json.dumps({"content_type": reply.content_type}).encode()
        prefix = REPLY_PREFIX.pack(0, 0, 0, frames.BYTES, len(head)) + head
        body = reply.body
        whole = len(body) <= PIECE_BYTES
        self._link.write(call_id, frames.REPLY, prefix + body[:PIECE_BYTES], LAST if whole else 0)
        if whole:
            self._calls.pop(call_id, None)
            return

        def write(piece: bytes, flags: int) -> None:
            self._link.write(call_id, frames.DATA, piece, flags)
            if flags & LAST:
                self._calls.pop(call_id, None)

        call.sender = BodySender(body, PIECE_BYTES, write)
        call.sender.pump()

    def _fail(self, call_id: int, error: InvocationError) -> None:
        self._calls.pop(call_id, None)
        self._link.write(call_id, frames.ERROR, to_wire(error), LAST)

    def _drop(self, call_id: int) -> None:
        call = self._calls.pop(call_id)
        if call.task:
            self._tasks.cancel(call.task)

    def close(self) -> None:
        """The stream is gone, and with it everybody who waits."""
        for call_id in list(self._calls):
            self._drop(call_id)


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


def _handed_on(metadata: bytes) -> dict[str, str]:
    headers = (json.loads(metadata) if metadata else {}).get("headers", {})
    return {key: value for key, value in headers.items() if key.lower() in HANDED_ON}
