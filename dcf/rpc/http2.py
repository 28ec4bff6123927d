"""Write and read the frames of HTTP/2, as far as one gRPC stream needs them (RFC 9113, RFC 7541).

Pure: bytes in, frames out, and back. grpc_stream.py has the connection. Header blocks are written without a table
and without Huffman's code, which every peer reads; what a peer writes is read by `hpack`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from struct import Struct
from typing import NamedTuple

from dcf.errors import ProtocolError
from dcf.rpc.incomplete import VIEW_BYTES, Buffer, Incomplete

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What a client's connection begins with."""

# Types of frames.
DATA = 0
HEADERS = 1
PRIORITY = 2
RST_STREAM = 3
SETTINGS = 4
PUSH_PROMISE = 5
PING = 6
GOAWAY = 7
WINDOW_UPDATE = 8
CONTINUATION = 9

# Flags.
END_STREAM = 0x1
ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
PRIORITY_FLAG = 0x20

# Settings.
ENABLE_PUSH = 2
MAX_CONCURRENT_STREAMS = 3
INITIAL_WINDOW_SIZE = 4
MAX_FRAME_SIZE = 5
MAX_HEADER_LIST_SIZE = 6
SIGNATURE = 0xFDCF
"""Ours, in the range for private use: a peer that does not know a setting ignores it."""

DEFAULT_WINDOW = 65_535
DEFAULT_FRAME_SIZE = 16_384
LARGEST_WINDOW = 2**31 - 1
LARGEST_FRAME_SIZE = 2**24 - 1

# Error codes.
NO_ERROR = 0
PROTOCOL_ERROR = 1
INTERNAL_ERROR = 2
REFUSED_STREAM = 7
"""Nothing of it was looked at: it may be tried again."""
CANCEL = 8
"""Nobody wants the stream any more."""
COMPRESSION_ERROR = 9
ENHANCE_YOUR_CALM = 11

_HEADER = Struct("!HBBBI")
HEADER_BYTES = _HEADER.size
_SETTING = Struct("!HI")


class Http2Frame(NamedTuple):
    """One frame; `payload` is a copy, but of large DATA a view."""

    kind: int
    flags: int
    stream: int
    payload: Buffer


def pack_head(kind: int, flags: int, stream: int, size: int) -> bytes:
    """What comes before a payload of `size` bytes."""
    return _HEADER.pack(size >> 8, size & 0xFF, kind, flags, stream)


def pack_frame(kind: int, flags: int, stream: int, payload: Buffer = b"") -> bytes:
    """One frame as bytes."""
    return pack_head(kind, flags, stream, len(payload)) + payload


def pack_settings(values: Iterable[tuple[int, int]]) -> bytes:
    """A SETTINGS frame."""
    return pack_frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(*pair) for pair in values))


def unpack_settings(payload: Buffer) -> Iterator[tuple[int, int]]:
    """Its pairs. Raises ProtocolError."""
    if len(payload) % _SETTING.size:
        raise ProtocolError(f"a SETTINGS frame has {len(payload)} bytes, which is no number of settings")
    return (_SETTING.unpack_from(payload, at) for at in range(0, len(payload), _SETTING.size))


def pack_window(stream: int, more: int) -> bytes:
    """A WINDOW_UPDATE frame: `more` bytes, 1 to 2**31 - 1."""
    return pack_frame(WINDOW_UPDATE, 0, stream, more.to_bytes(4, "big"))


def unpack_number(payload: Buffer) -> int:
    """The 31 bits of a WINDOW_UPDATE, the error code of a RST_STREAM. Raises ProtocolError."""
    if len(payload) != 4:
        raise ProtocolError(f"a frame of HTTP/2 with one number has {len(payload)} bytes, expected 4")
    return int.from_bytes(payload, "big") & LARGEST_WINDOW


def pack_headers(stream: int, pairs: Iterable[tuple[bytes, bytes]], flags: int = 0) -> bytes:
    """A HEADERS frame; what is more than every peer takes in one goes on in CONTINUATION frames."""
    block = b"".join(b"\x00" + _text(name) + _text(value) for name, value in pairs)
    if len(block) <= DEFAULT_FRAME_SIZE:
        return pack_frame(HEADERS, flags | END_HEADERS, stream, block)
    parts = [block[at : at + DEFAULT_FRAME_SIZE] for at in range(0, len(block), DEFAULT_FRAME_SIZE)]
    frames = [pack_frame(HEADERS, flags, stream, parts[0])]
    frames += [pack_frame(CONTINUATION, 0, stream, part) for part in parts[1:-1]]
    return b"".join((*frames, pack_frame(CONTINUATION, END_HEADERS, stream, parts[-1])))


def _text(value: bytes) -> bytes:
    """RFC 7541, 5.1 and 5.2: the length in 7 bits, or 127 and the rest in groups of 7."""
    size = len(value)
    if size < 127:
        return bytes((size,)) + value
    size -= 127
    head = bytearray(b"\x7f")
    while size > 127:
        head.append(size & 127 | 128)
        size >>= 7
    head.append(size)
    return bytes(head) + value


def strip(frame: Http2Frame) -> Buffer:
    """The payload of a DATA or HEADERS frame without padding and priority. Raises ProtocolError."""
    payload = frame.payload
    if frame.flags & PADDED:
        if not payload or payload[0] >= len(payload):
            raise ProtocolError("a frame of HTTP/2 has more padding than bytes")
        payload = payload[1 : len(payload) - payload[0]]
    if frame.kind == HEADERS and frame.flags & PRIORITY_FLAG:
        payload = payload[5:]
    return payload


class Http2Reader:
    """Collects what a connection delivers; hands out frames as they become whole."""

    __slots__ = ("_largest", "_rest")

    def __init__(self, largest: int) -> None:
        """`largest`: bytes that a frame may have."""
        self._largest = largest
        self._rest = Incomplete()

    def feed(self, data: bytes) -> list[Http2Frame]:
        """Frames that are whole now, in order. Raises ProtocolError at one that is too large."""
        if self._rest.parts:
            whole = self._rest.complete(data)
            if whole is None:
                return []
            data = whole
        frames: list[Http2Frame] = []
        position, end, missing = 0, len(data), 1  # of a header
        while end - position >= HEADER_BYTES:
            high, low, kind, flags, stream = _HEADER.unpack_from(data, position)
            start = position + HEADER_BYTES
            stop = start + (high << 8 | low)
            if stop - start > self._largest:
                raise ProtocolError(f"a frame announced {stop - start} bytes; at most {self._largest} are allowed")
            if stop > end:
                missing = stop - end
                break
            is_large = kind == DATA and stop - start > VIEW_BYTES
            payload = memoryview(data)[start:stop] if is_large else data[start:stop]
            frames.append(Http2Frame(kind, flags, stream & LARGEST_WINDOW, payload))
            position = stop
        if position < end:
            self._rest.keep(data[position:], missing)
        return frames
