"""Cut what the DATA frames of a stream bring into gRPC messages."""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

from dcf.errors import ProtocolError
from dcf.rpc.incomplete import VIEW_BYTES, Buffer, Incomplete

PREFIX = Struct("!BI")
"""Of a message: whether it is compressed, and its length."""


class GrpcMessage(NamedTuple):
    """One message, in `data` from `start` to `stop`: whoever takes it cuts it out, and copies it once."""

    is_compressed: bool
    data: Buffer
    start: int
    stop: int


class MessageReader:
    """Keeps what is not whole yet."""

    __slots__ = ("_largest", "_rest")

    def __init__(self, largest: int = 2**32 - 1) -> None:
        """`largest`: bytes that a message may have."""
        self._largest = largest
        self._rest = Incomplete()

    @property
    def is_inside(self) -> bool:
        """A message has begun and is not whole."""
        return bool(self._rest.parts)

    def feed(self, data: Buffer) -> list[GrpcMessage]:
        """Messages that are whole now, in order. Raises ProtocolError at one that is too large."""
        if self._rest.parts:
            data = self._rest.complete(data) or b""
            if len(data) > VIEW_BYTES:
                data = memoryview(data)
        messages: list[GrpcMessage] = []
        position, end, missing = 0, len(data), 1  # of a prefix
        while end - position >= PREFIX.size:
            compressed, length = PREFIX.unpack_from(data, position)
            if length > self._largest:
                raise ProtocolError(f"a gRPC message announced {length} bytes; at most {self._largest} are allowed")
            start = position + PREFIX.size
            if start + length > end:
                missing = start + length - end
                break
            position = start + length
            messages.append(GrpcMessage(bool(compressed), data, start, position))
        if position < end:
            self._rest.keep(data[position:], missing)
        return messages
