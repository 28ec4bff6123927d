"""Cut a byte stream into frames, and put frames together.

One format on both legs of a call: gateway <-> watcher (inside the messages
of `Watcher.Attach`) and watcher <-> worker (on a Unix socket), so that the
watcher copies payloads without looking into them. `proto/worker.md` is the
normative text; all numbers are big-endian.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from struct import Struct
from typing import Any, NamedTuple

from dcf.errors import ProtocolError
from dcf.rpc.incomplete import Buffer, Incomplete

PROTOCOL = 1
"""Version in the first frame of each direction."""

HEADER = Struct("!IIBB")
"""Length of the payload, call id, kind, flags."""

# Kinds.
HELLO = 1
STATE = 2
OPEN = 3
DATA = 4
REPLY = 5
ERROR = 6
REFUSED = 7
CANCEL = 8
CREDIT = 9
SHUTDOWN = 10
BATCH = 11

LAST = 1
"""Flag: nothing of this call follows in this direction."""

STREAM = 2
"""Flag of OPEN and REPLY: what follows in this direction is a stream of messages, each in DATA frames."""

END = 4
"""Flag of DATA in a stream: the message ends with this frame."""

CONTENT_SHIFT = 3
"""Flags of DATA in a stream: two bits from here are the content kind of its message."""

MESH_BIT = 0x8000_0000
"""Set in the id of a call that a handler makes, so that the two directions' ids never meet."""

PIECE_BYTES = 256 * 1024
"""A payload is cut in pieces of at most this: a small call waits for no more than one of them."""

WINDOW_BYTES = 1024 * 1024
"""A sender may be this far ahead of the CREDIT that its reader gave, for each call and direction."""

STREAM_PIECE_BYTES = 64 * 1024
STREAM_WINDOW_BYTES = 64 * 1024
"""The same two for streams, smaller because many of them may stall at once, each with a window in the gateway.
A stream's sender goes on while it has any credit left, so it may be one piece over."""

FRAME_COST_BYTES = 64
"""Each DATA frame of a stream costs this much credit over its payload: empty messages are not free to keep."""

MAX_UPLOADS = 8
"""Calls of one gateway whose input may be on its way to a replica at once, beside those that run; or its capacity."""

MESSAGE_BYTES = 512 * 1024
"""A message of the stream between gateway and watcher holds whole frames of about this: a small answer waits for no
more than one of them."""

JOINED_BYTES = 64 * 1024
"""Parts of up to this together are joined before they are written, for they may be many and small."""

MAX_FRAME_BYTES = 8 * 1024 * 1024
"""More in one frame is a peer gone wrong, not a payload: it would be cut in pieces."""

OPEN_PREFIX = Struct("!IBI")
"""Milliseconds left until the deadline (0: none), lengths of the invocation id and of the metadata."""

REPLY_PREFIX = Struct("!IIHBI")
"""Microseconds in the handler and of waiting for it, calls in its batch (said by one of them, else 0), content kind,
length of the reply's own metadata."""

# Content kinds of a reply.
BYTES = 0
TEXT = 1
JSON = 2
CONTENT_TYPES = {
    BYTES: "application/octet-stream",
    TEXT: "text/plain; charset=utf-8",
    JSON: "application/json",
}
JSON_LINES = "application/x-ndjson"
"""Of a stream of JSON values where it is one body."""


class Frame(NamedTuple):
    """One frame; `payload` is a copy, safe to keep."""

    call_id: int
    kind: int
    flags: int
    payload: bytes


def pack(call_id: int, kind: int, payload: bytes | memoryview = b"", flags: int = 0) -> bytes:
    """One frame as bytes."""
    return HEADER.pack(len(payload), call_id, kind, flags) + payload


def pack_json(call_id: int, kind: int, value: Any) -> bytes:
    """One frame whose payload is JSON."""
    return pack(call_id, kind, json.dumps(value).encode())


def pack_credit(call_id: int, number_bytes: int) -> bytes:
    """Allow the peer `number_bytes` more of this call, 1 to 2**32 - 1."""
    return pack(call_id, CREDIT, number_bytes.to_bytes(4, "big"))


def unpack_credit(payload: bytes) -> int:
    """Bytes that the peer allows more. Raises ProtocolError."""
    if len(payload) != 4:
        raise ProtocolError(f"a CREDIT frame has {len(payload)} bytes; it is a number of 4")
    return int.from_bytes(payload, "big")


def unpack_json(payload: bytes) -> dict[str, Any]:
    """The object in a HELLO or STATE frame's payload. Raises ProtocolError."""
    try:
        value = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"a frame's JSON cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise ProtocolError(f"a frame's JSON is a {type(value).__name__}, expected an object")
    return value


def _cut(data: Buffer) -> tuple[list[Frame], int]:
    """The whole frames at the front of `data`, and where they end. Raises ProtocolError."""
    frames: list[Frame] = []
    position, end = 0, len(data)
    unpack, size, new = HEADER.unpack_from, HEADER.size, tuple.__new__
    is_view = type(data) is memoryview
    while end - position >= size:
        length, call_id, kind, flags = unpack(data, position)
        if length > MAX_FRAME_BYTES:
            raise ProtocolError(f"a frame announced {length} bytes; at most {MAX_FRAME_BYTES} are allowed")
        start = position + size
        if start + length > end:
            break
        position = start + length
        payload = data[start:position]
        frames.append(new(Frame, (call_id, kind, flags, bytes(payload) if is_view else payload)))
    return frames, position


def iter_frames(data: Buffer) -> Iterator[Frame]:
    """All frames of a message that holds whole frames only. Raises ProtocolError before it yields any."""
    frames, position = _cut(data)
    if position != len(data):
        raise ProtocolError(f"a message ended inside a frame: {len(data) - position} bytes are left over")
    return iter(frames)


def messages_of(out: list[bytes]) -> Iterator[tuple[list[bytes], int]]:
    """Whole frames as messages of a stream: parts of each, and how long they are together.

    Args:
        out: frames, or a frame's header and after it its payload, where it has one.
    """
    parts: list[bytes] = []
    length = 0
    for part in out:
        parts.append(part)
        length += len(part)
        # A header ends no message; a frame without payload is no longer than one, and waits for the next.
        if length >= MESSAGE_BYTES and len(part) > HEADER.size:
            yield parts, length
            parts, length = [], 0
    if parts:
        yield parts, length


class FrameReader:
    """Collects what a socket delivers; hands out frames as they become whole."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = Incomplete()

    def feed(self, data: bytes) -> list[Frame]:
        """Frames that are whole now, in order. Raises ProtocolError at a frame over MAX_FRAME_BYTES."""
        if self._rest.parts:
            whole = self._rest.complete(data)
            if whole is None:
                return []
            data = whole
        frames, position = _cut(data)
        left = len(data) - position
        if left:
            missing = 1  # of a header
            if left >= HEADER.size:
                missing = HEADER.size + HEADER.unpack_from(data, position)[0] - left
            self._rest.keep(data[position:], missing)
        return frames


def pack_open(
    call_id: int, *, deadline_ms: int, invocation_id: bytes, metadata: bytes, body: bytes | memoryview, flags: int
) -> bytes:
    """An OPEN frame with the first piece of its body."""
    prefix = OPEN_PREFIX.pack(deadline_ms, len(invocation_id), len(metadata))
    length = len(prefix) + len(invocation_id) + len(metadata) + len(body)
    return b"".join((HEADER.pack(length, call_id, OPEN, flags), prefix, invocation_id, metadata, body))


class Opened(NamedTuple):
    """What an OPEN frame's payload says."""

    deadline_ms: int
    invocation_id: bytes
    metadata: bytes
    body: bytes


def unpack_open(payload: bytes) -> Opened:
    """Raises ProtocolError where the payload is shorter than it says."""
    if len(payload) < OPEN_PREFIX.size:
        raise ProtocolError("an OPEN frame is shorter than its prefix")
    deadline_ms, id_length, metadata_length = OPEN_PREFIX.unpack_from(payload)
    id_end = OPEN_PREFIX.size + id_length
    metadata_end = id_end + metadata_length
    if metadata_end > len(payload):
        raise ProtocolError("an OPEN frame is shorter than its metadata")
    return Opened(deadline_ms, payload[OPEN_PREFIX.size : id_end], payload[id_end:metadata_end], payload[metadata_end:])


class Replied(NamedTuple):
    """What a REPLY frame's payload says."""

    handler_us: int
    wait_us: int
    batch: int
    content: int
    metadata: bytes
    body: bytes


def unpack_reply(payload: bytes) -> Replied:
    """Raises ProtocolError where the payload is shorter than it says."""
    if len(payload) < REPLY_PREFIX.size:
        raise ProtocolError("a REPLY frame is shorter than its prefix")
    handler_us, wait_us, batch, content, metadata_length = REPLY_PREFIX.unpack_from(payload)
    metadata_end = REPLY_PREFIX.size + metadata_length
    if metadata_end > len(payload):
        raise ProtocolError("a REPLY frame is shorter than its metadata")
    metadata = payload[REPLY_PREFIX.size : metadata_end]
    return Replied(handler_us, wait_us, batch, content, metadata, payload[metadata_end:])
