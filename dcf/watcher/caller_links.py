"""Where calls come from: a gateway's stream, or one unary call."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

from dcf.errors import NoReplicaError, OverloadedError, PayloadTooLargeError
from dcf.rpc import frames
from dcf.rpc.frames import HEADER, LAST, PIECE_BYTES, WINDOW_BYTES, Frame, messages_of, pack_credit, pack_json
from dcf.rpc.grpc_call import Rpc
from dcf.rpc.status import from_wire, to_wire
from dcf.rpc.v1_watcher_pb2 import CallReply, CallRequest, Frames
from dcf.watcher.invocation import Invocation
from dcf.watcher.worker_pool import WorkerPool

LOCAL_ID = b"local"
"""Invocation id of a call that came through no gateway."""


class GatewayLink:
    """One gateway's stream. Touched only by the event loop of the watcher."""

    def __init__(self, on_dirty: Callable[[], None]) -> None:
        """`on_dirty`: there is something to write; whoever writes it calls `take`."""
        self.calls: dict[int, Invocation] = {}
        self.uploads = self.leaving = 0
        self._out: list[bytes] = []
        self._state = b""
        self._on_dirty = on_dirty
        self.closed = False

    def close(self) -> None:
        """Nothing is written any more."""
        self.closed = True
        self._on_dirty()

    def send_first(self, frame: bytes) -> None:
        """The first frame of the stream, before anything that waits already."""
        self._out.insert(0, frame)
        self._on_dirty()

    def send(self, call_id: int, kind: int, payload: bytes, flags: int) -> None:
        """Queue one frame; all that wait travel together."""
        self._out.append(HEADER.pack(len(payload), call_id, kind, flags))
        if payload:
            self._out.append(payload)
        self._on_dirty()

    def send_state(self, state: dict[str, Any]) -> None:
        """Say how we are; a state that was not written yet is replaced, so a stuck gateway collects none."""
        self._state = pack_json(0, frames.STATE, state)
        self._on_dirty()

    def take(self) -> Iterator[tuple[list[bytes], int]]:
        """What waits, as messages of the stream: parts, and how long they are together."""
        out, self._out = self._out, []
        if self._state:
            out.append(self._state)
            self._state = b""
        return messages_of(out)

    async def run_writer(self, rpc: Rpc, dirty: asyncio.Event) -> None:
        """Write what waits, until `close`."""
        while not self.closed:
            await dirty.wait()
            dirty.clear()
            for parts, _ in self.take():
                await rpc.write(Frames(data=b"".join(parts)))


class UnaryCall:
    """A `Watcher.Call`: sends one input, collects one answer. Touched only by the event loop of the watcher."""

    def __init__(self, pool: WorkerPool, max_payload_bytes: int) -> None:
        self.calls: dict[int, Invocation] = {}
        self.uploads = self.leaving = 0
        self._pool = pool
        self._max_payload_bytes = max_payload_bytes
        self._body = b""
        self._position = 0
        self._credit = WINDOW_BYTES
        self._pieces: list[bytes] = []
        self._size = 0
        self._streaming = False
        self._content_type = frames.CONTENT_TYPES[frames.BYTES]
        self._answer: asyncio.Future[CallReply] = asyncio.get_running_loop().create_future()

    async def run(self, request: CallRequest, deadline_ms: int) -> CallReply:
        """The answer. Raises InvocationError."""
        self._body = request.input
        if len(self._body) > self._max_payload_bytes:
            raise PayloadTooLargeError(
                f"the input has {len(self._body)} bytes; max_payload allows {self._max_payload_bytes}"
            )
        metadata = json.dumps({"headers": dict(request.metadata)}).encode() if request.metadata else b""
        prefix = frames.OPEN_PREFIX.pack(deadline_ms, len(LOCAL_ID), len(metadata)) + LOCAL_ID + metadata
        piece, flags = self._next_piece()
        try:
            self._pool.submit(self, Frame(1, frames.OPEN, flags, prefix + piece))
            self._pump()
            return await self._answer
        finally:
            self._pool.forget(self)

    @property
    def closed(self) -> bool:
        """The caller has its answer."""
        return self._answer.done()

    def _next_piece(self) -> tuple[bytes, int]:
        piece = self._body[self._position : self._position + PIECE_BYTES]
        self._position += len(piece)
        self._credit -= len(piece)
        return piece, LAST if self._position >= len(self._body) else 0

    def _pump(self) -> None:
        """Send what may be sent now."""
        while self.calls and self._position < len(self._body) and self._credit >= PIECE_BYTES:
            piece, flags = self._next_piece()
            self._pool.on_caller_frame(self, Frame(1, frames.DATA, flags, piece))

    def send(self, call_id: int, kind: int, payload: bytes, flags: int) -> None:
        """A frame of the answer."""
        if self._answer.done():
            return
        if call_id & frames.MESH_BIT:
            if kind == frames.OPEN:
                error = NoReplicaError("a mesh call needs a cluster; this call came through no gateway")
                self._pool.on_caller_frame(self, Frame(call_id, frames.ERROR, LAST, to_wire(error)))
        elif kind == frames.CREDIT:
            self._credit += frames.unpack_credit(payload)
            self._pump()
        elif kind == frames.REFUSED:
            reason = payload.decode()
            refused = OverloadedError if reason == "busy" else NoReplicaError
            self._answer.set_exception(refused(f"the replica refused the call: it is {reason}"))
        elif kind == frames.ERROR:
            self._answer.set_exception(from_wire(payload))
        else:
            self._take(kind, payload, flags)

    def _take(self, kind: int, payload: bytes, flags: int) -> None:
        if kind == frames.REPLY:
            reply = frames.unpack_reply(payload)
            payload = reply.body
            self._streaming = bool(flags & frames.STREAM)
            head = frames.unpack_json(reply.metadata) if reply.metadata else {}
            default = frames.CONTENT_TYPES.get(reply.content, self._content_type)
            if self._streaming and reply.content == frames.JSON:
                default = frames.JSON_LINES
            self._content_type = str(head.get("content_type") or default)
        size = len(payload) + (frames.FRAME_COST_BYTES if self._streaming else 0)
        if flags & frames.END and flags >> frames.CONTENT_SHIFT & 3 == frames.JSON:
            payload += b"\n"
        self._pieces.append(payload)
        self._size += len(payload)
        if self._size > self._max_payload_bytes:
            text = f"the answer has over {self._max_payload_bytes} bytes (max_payload), too many for one message"
            self._answer.set_exception(PayloadTooLargeError(text))
        elif flags & LAST:
            self._answer.set_result(CallReply(output=b"".join(self._pieces), content_type=self._content_type))
        else:
            self._pool.on_caller_frame(self, Frame(1, frames.CREDIT, 0, pack_credit(1, size)[HEADER.size :]))
