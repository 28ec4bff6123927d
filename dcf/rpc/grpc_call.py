"""One gRPC call at the server: what its implementation reads, writes and says at its end.

In:   messages of the client, as grpc_server.py cuts them out of its connection.
Out:  messages and a status, as far as the client's windows let them go.
It has those methods of grpc.aio's ServicerContext that a servicer uses.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
import zlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import quote

import grpc
import grpc.aio

from dcf.errors import ProtocolError
from dcf.rpc import http2
from dcf.rpc.grpc_messages import PREFIX, MessageReader
from dcf.rpc.incomplete import VIEW_BYTES, Buffer

if TYPE_CHECKING:
    from dcf.rpc.grpc_server import GrpcConnection

WINDOW_BYTES = 256 * 1024
"""What a client may send of a stream ahead of who reads it. A message that is not whole yet does not count."""
FULL_BYTES = 64 * 1024
"""With more on its way `write` waits."""
ENCODINGS = (b"identity", b"deflate", b"gzip")
"""Of a client's messages; ours are as they are."""
_WBITS = {"gzip": 31, "deflate": 15}
"""zlib's names for them."""
LARGEST_BYTES = 2**30
"""Of a message that was compressed: a small one may become anything."""
_TIMEOUT = re.compile(r"(\d{1,8})([HMSmun])")
_UNIT_S = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_HEAD = (b":status", b"200"), (b"content-type", b"application/grpc")
_GOOD_END = ((b"grpc-status", b"0"),)
_RESERVED = frozenset({"te", "content-type", "grpc-timeout", "grpc-encoding", "grpc-accept-encoding"})
MESSAGE_CHARACTERS = "".join(chr(number) for number in range(0x20, 0x7F) if chr(number) != "%")
"""That a status message keeps as they are; all others travel as %XX."""


class RpcEndedError(Exception):
    """What its implementation wanted to say last has been said: nothing of it runs any further."""


class GrpcMethod:
    """How a method is answered: `implementation` as grpc.aio takes it, or a plain function of a unary one.

    That is called with the request and the Rpc; it may answer by `Rpc.reply` then or later, without a task, or return
    a coroutine that does what is left.
    """

    __slots__ = ("implementation", "read", "request_streaming", "response_streaming", "write")

    def __init__(self, handler: Any) -> None:
        """`handler`: a grpc.RpcMethodHandler."""
        self.request_streaming: bool = handler.request_streaming
        self.response_streaming: bool = handler.response_streaming
        kind = "_".join("stream" if one else "unary" for one in (self.request_streaming, self.response_streaming))
        self.implementation: Callable[[Any, Rpc], Any] = getattr(handler, kind)
        self.read: Callable[[bytes], Any] = handler.request_deserializer
        self.write: Callable[[Any], bytes] = handler.response_serializer


class Rpc:
    """Touched only by the event loop of its server."""

    __slots__ = (
        "_connection", "_deadline", "_encoding", "_given", "_has_head", "_messages", "_queued", "_queued_bytes",
        "_reader", "_room", "_taken", "_trailers", "_unread", "_waiter", "ended", "half_closed", "headers", "method",
        "on_cancel", "stream", "window",
    )  # fmt: skip

    def __init__(
        self, connection: GrpcConnection, stream: int, method: GrpcMethod, headers: dict[bytes, bytes], window: int
    ) -> None:
        """`window`: what the client takes of its stream for now. Raises ProtocolError: a header is malformed."""
        self.stream = stream
        self.method = method
        self.headers = headers
        self.window = window
        self.half_closed = False
        """The client has sent all."""
        self.ended = False
        """Its status is said, or nobody waits for it."""
        self.on_cancel: Callable[[], object] = _nothing
        """Nobody waits any more. Where a task serves it this ends the task: set by what is no task alone."""
        self._connection = connection
        timeout = headers.get(b"grpc-timeout")
        self._deadline = connection.now() + parse_timeout(timeout) if timeout is not None else None
        self._encoding = headers.get(b"grpc-encoding", b"identity").decode(errors="replace")
        self._reader = MessageReader()
        self._messages: deque[bytes] = deque()
        self._unread = self._taken = self._given = 0
        self._waiter: asyncio.Future[None] | None = None
        self._queued: deque[Buffer] = deque()
        """Waits for the client's windows."""
        self._queued_bytes = 0
        self._room: asyncio.Future[None] | None = None
        self._has_head = False
        self._trailers = b""
        """What ends it, after what is queued."""

    # -- what a servicer asks ------------------------------------------------

    def invocation_metadata(self) -> list[tuple[str, str | bytes]]:
        """The client's own headers; values of names that end in `-bin` as bytes."""
        found: list[tuple[str, str | bytes]] = []
        for raw_name, raw in self.headers.items():
            name = raw_name.decode(errors="replace")
            if name.startswith(":") or name in _RESERVED:
                continue
            found.append((name, _from_base64(raw) if name.endswith("-bin") else raw.decode(errors="replace")))
        return found

    def header(self, name: str) -> str | None:
        """One of them, which is text."""
        raw = self.headers.get(name.encode())
        return None if raw is None else raw.decode(errors="replace")

    def time_remaining(self) -> float | None:
        """Seconds until the client's deadline, not below 0; None where it has none."""
        return None if self._deadline is None else max(0.0, self._deadline - self._connection.now())

    async def read(self) -> Any:
        """The next message; grpc.aio.EOF after the last."""
        while not self._messages:
            if self.half_closed:
                return grpc.aio.EOF
            self._waiter = self._connection.loop.create_future()
            await self._waiter
        data = self._messages.popleft()
        self._unread -= PREFIX.size + len(data)
        self._grant()
        return self._parse(data)

    async def requests(self) -> AsyncIterator[Any]:
        """All of them."""
        while (message := await self.read()) is not grpc.aio.EOF:
            yield message

    async def write(self, *messages: Any) -> None:
        """Send them, together; waits while the client takes less than it is sent."""
        self.send(*messages)
        while (self._queued_bytes > FULL_BYTES or self._connection.is_full) and not self.ended:
            self._room = self._connection.loop.create_future()
            await self._room

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: Iterable[tuple[str, str | bytes]] = ()
    ) -> NoReturn:
        """End it with a status, and its implementation with RpcEndedError."""
        self.finish(code, details, trailing_metadata)
        raise RpcEndedError

    # -- the client's messages ---------------------------------------------------

    def take(self, data: Buffer, size: int) -> None:
        """What a DATA frame of `size` bytes brought. Raises ProtocolError."""
        self._taken += size
        if self._taken - self._given > WINDOW_BYTES:
            raise ProtocolError("a client sent more than its window allows")
        for is_compressed, piece, start, stop in self._reader.feed(data):
            message = bytes(piece[start:stop])
            self._messages.append(decompress(message, self._encoding) if is_compressed else message)
            self._unread += PREFIX.size + len(self._messages[-1])
        if len(self._messages) > 1 and not self.method.request_streaming:
            raise ProtocolError("a unary call takes one message; more came")
        if self._messages and self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        if not self.half_closed:
            self._grant()

    def close_half(self) -> None:
        """The client has sent all."""
        self.half_closed = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def only_message(self) -> Any:
        """Of a unary call, whose client has sent all. Raises ProtocolError."""
        if len(self._messages) != 1 or self._reader.is_inside:
            raise ProtocolError(f"a unary call takes one message; {len(self._messages)} came")
        return self._parse(self._messages.popleft())

    def _parse(self, data: bytes) -> Any:
        try:
            return self.method.read(data)
        except Exception as error:
            raise ProtocolError(f"a message cannot be read: {error}") from error

    def _grant(self) -> None:
        """Let the client send on. Of messages that nobody has read yet, not of the rest of one that is on its way."""
        if self.half_closed or self.ended:
            return
        owed = self._taken - self._given - (self._unread if self.method.request_streaming else 0)
        if owed * 2 >= WINDOW_BYTES:
            self._given += owed
            self._connection.write(http2.pack_window(self.stream, owed))

    # -- ours ----------------------------------------------------------------------

    def send(self, *messages: Any) -> None:
        """Send them, as soon as the client's windows allow."""
        if not self.ended:
            self._push(b"".join(map(self._pack, messages)))

    def _pack(self, message: Any) -> bytes:
        data = self.method.write(message)
        return PREFIX.pack(0, len(data)) + data

    def reply(self, message: Any) -> None:
        """The answer of a unary call."""
        if self.ended:
            return
        data = self._pack(message)
        connection = self._connection
        if connection.has_room(self, len(data)):
            # All of it in one write.
            connection.spend(self, len(data))
            head, tail = _good_blocks(self.stream)
            frame = http2.pack_head(http2.DATA, 0, self.stream, len(data)) + data
            self._has_head = True
            connection.write(head + frame + tail)
            self._end()
        else:
            self._push(data)
            self.finish()

    def _push(self, data: bytes) -> None:
        if not self._has_head:
            self._has_head = True
            self._connection.write(_good_blocks(self.stream)[0])
        if not self._queued and self._connection.has_room(self, len(data)):
            self._connection.spend(self, len(data))
            self._connection.write(http2.pack_frame(http2.DATA, 0, self.stream, data))
        else:
            # A large one goes out in many frames: cutting a view copies nothing.
            self._queued.append(memoryview(data) if len(data) > VIEW_BYTES else data)
            self._queued_bytes += len(data)
            self.pump()

    def pump(self) -> None:
        """Send what the windows allow now."""
        connection, queued = self._connection, self._queued
        while queued:
            room = connection.room(self)
            if room <= 0:
                return
            data = queued.popleft()
            if len(data) > room:
                queued.appendleft(data[room:])
                data = data[:room]
            self._queued_bytes -= len(data)
            connection.spend(self, len(data))
            connection.write(http2.pack_frame(http2.DATA, 0, self.stream, data))
        if self._trailers:
            connection.write(self._trailers)
            connection.forget(self)
        self.note_room()

    def note_room(self) -> None:
        """`write` may look again."""
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    @property
    def is_blocked(self) -> bool:
        """Something waits for the client's windows."""
        return bool(self._queued)

    def finish(
        self,
        code: grpc.StatusCode = grpc.StatusCode.OK,
        details: str = "",
        trailing_metadata: Iterable[tuple[str, str | bytes]] = (),
    ) -> None:
        """End it, after what was sent. The first end counts."""
        if self.ended:
            return
        if code is grpc.StatusCode.OK and self._has_head and not trailing_metadata:
            self._trailers = _good_blocks(self.stream)[1]
        else:
            pairs = [] if self._has_head else [*_HEAD]
            pairs.append((b"grpc-status", str(code.value[0]).encode()))
            if details:
                pairs.append((b"grpc-message", quote(details, safe=MESSAGE_CHARACTERS).encode()))
            for name, value in trailing_metadata:
                pairs.append((name.encode(), base64.b64encode(value) if isinstance(value, bytes) else value.encode()))
            self._trailers = http2.pack_headers(self.stream, pairs, http2.END_STREAM)
        if self._queued:
            self.ended = True
            self.note_room()
            return
        self._connection.write(self._trailers)
        self._end()

    def _end(self) -> None:
        self.ended = True
        self._connection.forget(self)
        self.note_room()

    def fail(self, code: grpc.StatusCode, details: str) -> None:
        """End it at once, and its implementation: it cannot go on."""
        if self._queued:
            self.ended = False  # the end that waits behind them is not said yet
        self._queued.clear()
        self._queued_bytes = 0
        self.finish(code, details)
        self.cancel()

    def run(self, rest: Coroutine[Any, Any, Any]) -> None:
        """Let a unary call's implementation go on as a task; what it returns is the answer, if it is not None."""
        self._connection.start(self, rest)

    def cancel(self) -> None:
        """Nobody waits for it any more."""
        self._queued.clear()
        self._queued_bytes = 0
        self.ended = True
        self.note_room()
        on_cancel, self.on_cancel = self.on_cancel, _nothing
        on_cancel()


def _nothing() -> None:
    """Nothing is to be stopped."""


@lru_cache(maxsize=4)
def _good_patterns() -> tuple[bytes, bytes]:
    """Blocks of the head and of the good end of every answer, without the frames' own heads."""
    frames = http2.pack_headers(0, _HEAD), http2.pack_headers(0, _GOOD_END)
    return frames[0][http2.HEADER_BYTES :], frames[1][http2.HEADER_BYTES :]


def _good_blocks(stream: int) -> tuple[bytes, bytes]:
    head, tail = _good_patterns()
    return (
        http2.pack_head(http2.HEADERS, http2.END_HEADERS, stream, len(head)) + head,
        http2.pack_head(http2.HEADERS, http2.END_HEADERS | http2.END_STREAM, stream, len(tail)) + tail,
    )


def parse_timeout(value: bytes) -> float:
    """Seconds of a `grpc-timeout` header: up to 8 digits and H, M, S, m, u or n. Raises ProtocolError."""
    found = _TIMEOUT.fullmatch(value.decode(errors="replace"))
    if found is None:
        raise ProtocolError(f"grpc-timeout: {value!r} is no number and unit, such as 100m")
    return int(found[1]) * _UNIT_S[found[2]]


def decompress(message: bytes, encoding: str) -> bytes:
    """A compressed message as it was. Raises ProtocolError."""
    if encoding not in _WBITS:
        raise ProtocolError(f"a message is compressed by {encoding}, expected one of {', '.join(_WBITS)}")
    stream = zlib.decompressobj(_WBITS[encoding])
    try:
        whole = stream.decompress(message, LARGEST_BYTES)
        if not stream.eof:
            raise ProtocolError(f"a compressed message is cut off, or has over {LARGEST_BYTES} bytes")
        return whole
    except zlib.error as error:
        raise ProtocolError(f"a message cannot be decompressed: {error}") from error


def _from_base64(value: bytes) -> bytes:
    """With or without padding. Raises ProtocolError."""
    try:
        return base64.b64decode(value + b"=" * (-len(value) % 4))
    except binascii.Error as error:
        raise ProtocolError(f"a binary header is no base64: {error}") from error
