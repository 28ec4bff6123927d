"""One bidirectional gRPC stream with a connection of its own: messages of bytes, without a thread or a task.

In:   messages to send, as `Frames` carries them (one field of bytes).
Out:  the peer's messages by `on_message`, as they come; `ended` with the stream's status.
On the wire it is gRPC over HTTP/2, so the other end may be any gRPC library. grpc.aio hands each message over
between two threads, twice: for the call path, where a message may be one small call, that was most of its time.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import NamedTuple, cast
from urllib.parse import quote, unquote

import grpc
import hpack

from dcf.errors import ProtocolError
from dcf.rpc import http2
from dcf.rpc.frames import JOINED_BYTES
from dcf.rpc.grpc_messages import PREFIX, MessageReader
from dcf.rpc.http2 import Http2Frame, Http2Reader, pack_frame, pack_headers, pack_settings, pack_window
from dcf.rpc.incomplete import Buffer
from dcf.rpc.v1_watcher_pb2 import Frames
from dcf.sockets import widen

STREAM = 1
"""The one stream's id: a client's first."""
OUR_FRAME_SIZE = 1024 * 1024
"""What a peer may send in one frame: a gateway's message mostly fits."""
RENEW_BYTES = 2**30
"""The windows are as large as can be, for each call has its own credit; half of one is given back at once."""
MAX_MESSAGE_BYTES = 256 * 1024 * 1024
"""More in one message is a peer gone wrong."""
SIGNATURE_VALUE = 1
CLOSE_S = 2.0
"""For a peer to take what was written last; one that is frozen never will."""
_FIELD = 0x0A
"""Tag of `Frames.data`: field 1, bytes."""


class GrpcEnd(NamedTuple):
    """How a stream ended."""

    code: grpc.StatusCode
    details: str


_CODES = {code.value[0]: code for code in grpc.StatusCode}


class GrpcStream(asyncio.Protocol):
    """What client and server have in common. Touched only by one event loop."""

    def __init__(self, on_message: Callable[[Buffer], None]) -> None:
        self.ended: asyncio.Future[GrpcEnd] = asyncio.get_running_loop().create_future()
        """Set once, when no message comes any more."""
        self.on_half_closed: Callable[[], None] = lambda: None
        """The peer has said that it sends no more."""
        self._on_message = on_message
        self._transport: asyncio.Transport | None = None
        self._reader = Http2Reader(OUR_FRAME_SIZE)
        self._headers = hpack.Decoder()
        self._block = b""
        """Of a HEADERS frame that goes on in another."""
        self._block_flags = 0
        self._messages = MessageReader(MAX_MESSAGE_BYTES)
        self._taken = 0
        """Bytes that came since the windows were renewed."""
        self._window = self._stream_window = http2.DEFAULT_WINDOW
        self._initial_window = http2.DEFAULT_WINDOW
        self._frame_size = http2.DEFAULT_FRAME_SIZE
        self._blocked: deque[bytes] = deque()
        """Waits for the peer's window."""
        self._half_closes = self._is_half_closed = False
        self._is_full = False
        """The connection holds more than it should."""
        self.is_writable = True
        """Whether the peer keeps up; one that does not should not be sent more."""
        self.on_writable: Callable[[], None] = lambda: None
        """It does again."""

    # -- the connection -----------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say hello."""
        self._transport = cast("asyncio.Transport", transport)
        widen(transport.get_extra_info("socket"))
        window = pack_window(0, http2.LARGEST_WINDOW - http2.DEFAULT_WINDOW)
        self._transport.write(self._hello() + pack_settings(_settings()) + window + self._opening())

    def _hello(self) -> bytes:
        """What comes before the first frame."""
        return b""

    def _opening(self) -> bytes:
        """What comes after the first frame."""
        return b""

    def data_received(self, data: bytes) -> None:
        """Bytes of the peer."""
        try:
            for frame in self._reader.feed(data):
                if self.ended.done():
                    return
                self._on_frame(frame)
        except ProtocolError as error:
            self.fail(grpc.StatusCode.INTERNAL, str(error))
        except hpack.HPACKError as error:
            self.fail(grpc.StatusCode.INTERNAL, f"the peer's headers cannot be read: {error}")

    def connection_lost(self, error: Exception | None) -> None:
        """It is gone."""
        self._transport = None
        self._end(grpc.StatusCode.UNAVAILABLE, f"the connection was lost{f': {error}' if error else ''}")

    def pause_writing(self) -> None:
        """The peer takes less than we write."""
        self.is_writable, self._is_full = False, True

    def resume_writing(self) -> None:
        """It has caught up."""
        self._is_full = False
        self._note_room()

    def _note_room(self) -> None:
        if not self.is_writable and not self._is_full and not self._blocked:
            self.is_writable = True
            self.on_writable()

    def _end(self, code: grpc.StatusCode, details: str) -> None:
        if not self.ended.done():
            self.ended.set_result(GrpcEnd(code, details))

    def fail(self, code: grpc.StatusCode, details: str) -> None:
        """End it from here."""
        self._end(code, details)
        self.close()

    def close(self) -> None:
        """Let go of the connection; what is written still leaves, within CLOSE_S."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.close()
            asyncio.get_running_loop().call_later(CLOSE_S, self._transport.abort)

    # -- frames in ------------------------------------------------------------

    def _on_frame(self, frame: Http2Frame) -> None:
        kind = frame.kind
        if kind == http2.DATA:
            self._on_data(frame)
        elif kind == http2.WINDOW_UPDATE:
            more = http2.unpack_number(frame.payload)
            if frame.stream:
                self._stream_window += more
            else:
                self._window += more
            self._unblock()
        elif kind == http2.HEADERS:
            self._block, self._block_flags = bytes(http2.strip(frame)), frame.flags
            if frame.flags & http2.END_HEADERS:
                self._on_block()
        elif kind == http2.CONTINUATION:
            self._block += frame.payload
            if frame.flags & http2.END_HEADERS:
                self._on_block()
        elif kind == http2.SETTINGS:
            self._on_settings(frame)
        elif kind == http2.PING:
            if not frame.flags & http2.ACK:
                self._write(pack_frame(http2.PING, http2.ACK, 0, bytes(frame.payload)))
        elif kind == http2.RST_STREAM:
            code = http2.unpack_number(frame.payload)
            status = grpc.StatusCode.CANCELLED if code == http2.CANCEL else grpc.StatusCode.UNAVAILABLE
            self._end(status, f"the peer reset the stream (HTTP/2 error {code})")
        elif kind == http2.GOAWAY:
            last = int.from_bytes(frame.payload[:4], "big")
            if last < STREAM:
                self._end(grpc.StatusCode.UNAVAILABLE, "the peer goes away")

    def _on_settings(self, frame: Http2Frame) -> None:
        if frame.flags & http2.ACK:
            return
        for name, value in http2.unpack_settings(frame.payload):
            if name == http2.INITIAL_WINDOW_SIZE:
                self._stream_window += value - self._initial_window
                self._initial_window = value
            elif name == http2.MAX_FRAME_SIZE:
                self._frame_size = value
        self._write(pack_frame(http2.SETTINGS, http2.ACK, 0))
        self._unblock()

    def _on_block(self) -> None:
        pairs = cast("list[tuple[bytes, bytes]]", self._headers.decode(self._block, raw=True))
        flags, self._block = self._block_flags, b""
        self._on_headers({bytes(name): bytes(value) for name, value in pairs}, bool(flags & http2.END_STREAM))

    def _on_headers(self, headers: dict[bytes, bytes], last: bool) -> None:
        raise NotImplementedError

    def _on_data(self, frame: Http2Frame) -> None:
        self._taken += len(frame.payload)
        if self._taken > RENEW_BYTES:
            self._write(pack_window(0, self._taken) + pack_window(STREAM, self._taken))
            self._taken = 0
        data = http2.strip(frame) if frame.flags & http2.PADDED else frame.payload
        for is_compressed, piece, start, stop in self._messages.feed(data):
            if is_compressed:
                raise ProtocolError("the peer compresses its messages")
            self._on_message(unwrap(piece, start, stop))
            if self.ended.done():
                return
        if frame.flags & http2.END_STREAM:
            self.on_half_closed()

    # -- messages out -----------------------------------------------------------

    def send(self, data: bytes) -> None:
        """Send one message, as soon as the peer's windows allow."""
        self.send_parts([data], len(data))

    def send_parts(self, parts: list[bytes], length: int) -> None:
        """The same with a message in parts, of `length` bytes together, which large ones are not joined for."""
        head = wrap(length)
        size = len(head) + length
        if not self._blocked and size <= self._frame_size and size <= self._window and size <= self._stream_window:
            self._window -= size
            self._stream_window -= size
            head = http2.pack_head(http2.DATA, 0, STREAM, size) + head
            if length <= JOINED_BYTES:
                self._write(b"".join((head, *parts)))
            elif self._transport is not None and not self._transport.is_closing():
                self._transport.writelines([head, *parts])
            return
        self._blocked.append(b"".join((head, *parts)))
        self._unblock()

    def _unblock(self) -> None:
        blocked = self._blocked
        while blocked:
            room = min(self._window, self._stream_window, self._frame_size)
            if room <= 0:
                self.is_writable = False
                return
            data = blocked.popleft()
            if len(data) > room:
                blocked.appendleft(data[room:])
                data = data[:room]
            self._window -= len(data)
            self._stream_window -= len(data)
            self._write(pack_frame(http2.DATA, 0, STREAM, data))
        if self._half_closes:
            self._half_closes = False
            self._write(self._last())
        self._note_room()

    def _last(self) -> bytes:
        """What ends our half."""
        return pack_frame(http2.DATA, http2.END_STREAM, STREAM)

    def half_close(self) -> None:
        """Say that no more comes, after what is still to be sent."""
        if not self._is_half_closed:
            self._is_half_closed = self._half_closes = True
            self._unblock()

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)


class ClientStream(GrpcStream):
    """The end that opens it."""

    def __init__(self, path: str, user_agent: str, on_message: Callable[[Buffer], None]) -> None:
        super().__init__(on_message)
        self._path = path
        self._user_agent = user_agent

    def _hello(self) -> bytes:
        return http2.PREFACE

    def _opening(self) -> bytes:
        return pack_headers(
            STREAM,
            [
                (b":method", b"POST"),
                (b":scheme", b"http"),
                (b":path", self._path.encode()),
                (b":authority", b"localhost"),
                (b"te", b"trailers"),
                (b"content-type", b"application/grpc"),
                (b"user-agent", self._user_agent.encode()),
            ],
        )

    def _on_headers(self, headers: dict[bytes, bytes], last: bool) -> None:
        """The answer's head, or its trailers."""
        status = headers.get(b":status", b"200")
        if status != b"200":
            self.fail(grpc.StatusCode.UNKNOWN, f"the peer speaks no gRPC: HTTP status {status.decode()}")
        elif last or b"grpc-status" in headers:
            code = _CODES.get(int(headers.get(b"grpc-status", b"2")), grpc.StatusCode.UNKNOWN)
            self._end(code, unquote(headers.get(b"grpc-message", b"").decode(errors="replace")))

    def cancel(self) -> None:
        """Nobody wants it any more."""
        if not self.ended.done():
            self._write(pack_frame(http2.RST_STREAM, 0, STREAM, http2.CANCEL.to_bytes(4, "big")))
            self._end(grpc.StatusCode.CANCELLED, "it was cancelled here")
        self.close()


class ServerStream(GrpcStream):
    """The end that answers it; the client's first bytes were looked at already."""

    def _on_headers(self, headers: dict[bytes, bytes], last: bool) -> None:
        """The request; it comes once."""
        self._write(pack_headers(STREAM, [(b":status", b"200"), (b"content-type", b"application/grpc")]))
        if last:
            self.on_half_closed()

    def finish(self, code: grpc.StatusCode = grpc.StatusCode.OK, details: str = "") -> None:
        """End it with a status, after what the windows have let go."""
        if self.ended.done():
            return
        trailers = [(b"grpc-status", str(code.value[0]).encode())]
        if details:
            trailers.append((b"grpc-message", quote(details).encode()[:4096]))
        self._write(pack_headers(STREAM, trailers, http2.END_STREAM))
        self._end(code, details)
        self.close()


def _settings() -> list[tuple[int, int]]:
    return [
        (http2.SIGNATURE, SIGNATURE_VALUE),
        (http2.ENABLE_PUSH, 0),
        (http2.INITIAL_WINDOW_SIZE, http2.LARGEST_WINDOW),
        (http2.MAX_FRAME_SIZE, OUR_FRAME_SIZE),
    ]


_BEGINNING = http2.PREFACE + pack_settings(_settings())


def is_ours(data: bytes) -> bool | None:
    """Whether a connection that begins so is a ClientStream's; None while that cannot be told.

    By its settings: the first is one that no other client sends, and every server passes over.
    """
    if len(data) >= len(_BEGINNING):
        return data.startswith(_BEGINNING)
    return None if _BEGINNING.startswith(data) else False


def wrap(size: int) -> bytes:
    """What comes before `size` bytes of `Frames.data` in a gRPC message."""
    varint = bytearray()
    rest = size
    while rest > 127:
        varint.append(rest & 127 | 128)
        rest >>= 7
    varint.append(rest)
    return PREFIX.pack(0, 1 + len(varint) + size) + bytes((_FIELD,)) + varint


def unwrap(data: Buffer, start: int, stop: int) -> Buffer:
    """`Frames.data` of the message there. Raises ProtocolError."""
    if stop - start > 1 and data[start] == _FIELD:
        size, shift, position = 0, 0, start + 1
        while position < stop and shift < 35:
            byte = data[position]
            position += 1
            size |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
        if position + size == stop:
            return data[position:stop]
    try:
        return Frames.FromString(bytes(data[start:stop])).data  # written in another way than ours, or empty
    except Exception as error:
        raise ProtocolError(f"a message of the stream cannot be read: {error}") from error


async def open_client_stream(
    address: str, path: str, user_agent: str, on_message: Callable[[Buffer], None]
) -> ClientStream:
    """Connect to `unix:/path` or `host:port` and open the stream. Raises OSError."""
    loop = asyncio.get_running_loop()

    def make() -> ClientStream:
        return ClientStream(path, user_agent, on_message)

    if address.startswith("unix:"):
        _, stream = await loop.create_unix_connection(make, address.removeprefix("unix:"))
    else:
        host, _, port = address.rpartition(":")
        _, stream = await loop.create_connection(make, host.strip("[]"), int(port))
    return stream
