"""Keep the books of one call, and find what its worker may not do.

In:   the frames of one call, as they come.
Out:  the answer; AssertionError at a frame that the protocol forbids.
Pure: no sockets. wire.py has them.
"""

from __future__ import annotations

import json
from typing import Any

from dcf.rpc.frames import (
    CANCEL,
    CONTENT_SHIFT,
    CREDIT,
    DATA,
    END,
    ERROR,
    FRAME_COST_BYTES,
    LAST,
    PIECE_BYTES,
    REPLY,
    STREAM,
    STREAM_PIECE_BYTES,
    STREAM_WINDOW_BYTES,
    WINDOW_BYTES,
    Frame,
    unpack_credit,
    unpack_open,
    unpack_reply,
)

CONTENT_BITS = 3 << CONTENT_SHIFT


def cut(body: bytes, size: int = PIECE_BYTES) -> list[bytes]:
    """The pieces of a body; an empty one is one empty piece."""
    return [body[start : start + size] for start in range(0, max(len(body), 1), size)]


def credit_of(frame: Frame) -> int:
    """What a CREDIT frame allows."""
    number = unpack_credit(frame.payload)
    assert number > 0, "CREDIT of 0 bytes"
    assert frame.flags == 0, f"CREDIT with flags {frame.flags}"
    return number


class Call:
    """One call that the watcher makes. Touched only by its Wire."""

    def __init__(self, call_id: int, *, stream: bool, auto_credit: bool) -> None:
        self.id = call_id
        self.stream_in = stream
        self.auto_credit = auto_credit
        """Each piece of the answer is credited as it comes."""
        self.given = 0
        """Credit that the worker gave for the input."""
        self.sent = 0
        """Of the input, what counts against the credit."""
        self.rest: list[tuple[bytes, int]] = []
        """(payload, flags) of the input that waits for credit."""
        self.frames: list[Frame] = []
        """Of the answer; without CREDIT."""
        self.credits: list[int] = []
        self.ended = False
        self.stream_out = False
        self.content = -1
        self.head: dict[str, Any] = {}
        self.handler_us = 0
        self.messages: list[bytes] = []
        self.contents: list[int] = []
        self.error: dict[str, str] = {}
        self.received = 0
        """Of the answer, what counts against the credit."""
        self.allowed = WINDOW_BYTES
        self._pieces: list[bytes] = []
        self._message_content = -1

    @property
    def window(self) -> int:
        return 0 if self.stream_in else WINDOW_BYTES

    @property
    def code(self) -> str:
        return self.error.get("code", "")

    @property
    def message(self) -> str:
        return self.error.get("message", "")

    @property
    def body(self) -> bytes:
        """The answer, as far as it is here; of a stream, of the message that is still coming."""
        return b"".join(self._pieces)

    @property
    def began(self) -> bool:
        return bool(self.frames)

    def may_send(self, payload: bytes, flags: int) -> bool:
        """Whether this piece of the input is within the credit."""
        left = self.window + self.given - self.sent
        if self.stream_in:
            return left > 0 or (not payload and flags == LAST)
        return len(payload) <= left

    def cost(self, payload: bytes) -> int:
        """Of a piece of the input."""
        return len(payload) + (FRAME_COST_BYTES if self.stream_in else 0)

    def take(self, frame: Frame) -> int:
        """A frame of the worker's. Returns the credit that its reader owes for it.

        Raises:
            AssertionError: the frame breaks the protocol.
        """
        if frame.kind == CREDIT:
            self.given += credit_of(frame)
            self.credits.append(credit_of(frame))
            return 0
        assert not self.ended, f"call {self.id}: {frame} after the last frame of the answer"
        self.frames.append(frame)
        owed = {REPLY: self._reply, DATA: self._data, ERROR: self._error}[frame.kind](frame)
        if frame.flags & LAST:
            self.ended = True
            return 0
        return owed

    def _error(self, frame: Frame) -> int:
        assert frame.flags == LAST, f"ERROR with flags {frame.flags}"
        self.error = json.loads(frame.payload)
        assert isinstance(self.error["code"], str)
        assert isinstance(self.error["message"], str)
        return 0

    def _reply(self, frame: Frame) -> int:
        assert len(self.frames) == 1, f"call {self.id}: a second REPLY"
        assert not frame.flags & ~(LAST | STREAM), f"REPLY with flags {frame.flags}"
        replied = unpack_reply(frame.payload)
        assert (replied.wait_us, replied.batch) == (0, 0), "the watcher's fields of a REPLY are not 0"
        assert replied.content in (0, 1, 2), f"content kind {replied.content}"
        self.content, self.handler_us = replied.content, replied.handler_us
        self.head = json.loads(replied.metadata) if replied.metadata else {}
        self.stream_out = bool(frame.flags & STREAM)
        if self.stream_out:
            assert replied.body == b"", "the REPLY of a stream carries a piece"
            assert frame.flags & LAST or self.content >= 0
            self.allowed += STREAM_WINDOW_BYTES - WINDOW_BYTES
            return 0
        return self._piece(replied.body, frame.flags)

    def _data(self, frame: Frame) -> int:
        assert len(self.frames) > 1, f"call {self.id}: DATA before REPLY"
        if self.stream_out:
            return self._message_piece(frame)
        assert not frame.flags & ~LAST, f"DATA of one answer with flags {frame.flags}"
        return self._piece(frame.payload, frame.flags)

    def _piece(self, piece: bytes, flags: int) -> int:
        assert len(piece) <= PIECE_BYTES, f"a piece of {len(piece)} bytes"
        self.received += len(piece)
        assert self.received <= self.allowed, f"{self.received} bytes were sent, {self.allowed} allowed"
        self._pieces.append(piece)
        if flags & LAST and "length" in self.head:
            assert self.head["length"] == len(self.body), "`length` is not that of the whole answer"
        return len(piece)

    def _message_piece(self, frame: Frame) -> int:
        piece, flags = frame.payload, frame.flags
        assert not flags & ~(LAST | END | CONTENT_BITS), f"DATA of a stream with flags {flags}"
        assert len(piece) <= STREAM_PIECE_BYTES, f"a piece of a stream of {len(piece)} bytes"
        if flags & LAST and not flags & END:
            assert (piece, self._pieces) == (b"", []), "the stream ended inside a message"
            return 0
        assert self.received < self.allowed, f"{self.received} bytes of a stream were sent, {self.allowed} allowed"
        self.received += len(piece) + FRAME_COST_BYTES
        content = (flags & CONTENT_BITS) >> CONTENT_SHIFT
        assert content in (0, 1, 2), f"content kind {content}"
        if not self._pieces:
            self._message_content = content
        assert content == self._message_content, "the pieces of one message differ in their content kind"
        if not self.messages:
            assert content == self.content, "REPLY has not the content kind of the first message"
        self._pieces.append(piece)
        if flags & END:
            self.messages.append(b"".join(self._pieces))
            self.contents.append(content)
            self._pieces = []
        return len(piece) + FRAME_COST_BYTES


class MeshCall:
    """One call that the handler makes. Touched only by its Wire."""

    def __init__(self, frame: Frame) -> None:
        opened = unpack_open(frame.payload)
        assert opened.deadline_ms == 0, "a mesh call has no deadline of its own"
        assert opened.invocation_id == b"", "a mesh call has no invocation id"
        metadata = json.loads(opened.metadata)
        self.id = frame.call_id
        self.function = metadata["function"]
        self.parent = metadata["parent"]
        self.whole = False
        self.cancelled = False
        self.answered = False
        self.pieces: list[bytes] = []
        self.received = 0
        self.allowed = WINDOW_BYTES
        self.given = 0
        """Credit for the answer."""
        self.sent = 0
        self.rest: list[tuple[bytes, int]] = []
        self._take_piece(opened.body, frame.flags)

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    def take(self, frame: Frame) -> int:
        """A further frame; returns the credit that is owed for it."""
        if frame.kind == CREDIT:
            self.given += credit_of(frame)
            return 0
        if frame.kind == CANCEL:
            assert (frame.flags, frame.payload) == (0, b"")
            assert not self.cancelled, "a mesh call was cancelled twice"
            self.cancelled = True
            return 0
        assert frame.kind == DATA, f"{frame} of a mesh call"
        assert not self.cancelled, "input of a mesh call after its CANCEL"
        assert not self.whole, "input of a mesh call after its last piece"
        return self._take_piece(frame.payload, frame.flags)

    def _take_piece(self, piece: bytes, flags: int) -> int:
        assert not flags & ~LAST, f"a mesh call's input with flags {flags}"
        assert len(piece) <= PIECE_BYTES, f"a piece of {len(piece)} bytes"
        self.received += len(piece)
        assert self.received <= self.allowed, f"{self.received} bytes were sent, {self.allowed} allowed"
        self.pieces.append(piece)
        self.whole = bool(flags & LAST)
        return 0 if self.whole else len(piece)

    def may_send(self, payload: bytes) -> bool:
        """Whether this piece of the answer is within the credit."""
        return self.sent + len(payload) <= WINDOW_BYTES + self.given
