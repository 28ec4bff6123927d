"""One call inside a watcher, and the two ends that it connects."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

from dcf.errors import ProtocolError
from dcf.rpc.frames import FRAME_COST_BYTES, LAST, OPEN, OPEN_PREFIX, STREAM, WINDOW_BYTES

if TYPE_CHECKING:
    from dcf.watcher.worker_process import Batch, WorkerProcess

SLACK_BYTES = 1024 * 1024
"""Over the window: the metadata of an OPEN frame are not counted in it."""


class CallerLink(Protocol):
    """Where a call came from: a gateway's stream, or a unary `Watcher.Call`."""

    calls: dict[int, Invocation]
    """Accepted and not yet answered, by the caller's own call id."""
    uploads: int
    """Of `calls`, those whose input is not whole yet."""
    leaving: int
    """Of `calls`, those whose handler has returned: the rest of a large answer is on its way."""

    @property
    def closed(self) -> bool:
        """Nobody reads what is sent to it any more."""
        ...

    def send(self, call_id: int, kind: int, payload: bytes, flags: int) -> None:
        """Queue one frame for the caller."""
        ...


class Invocation:
    """Touched only by the event loop of the watcher."""

    __slots__ = (
        "arrived_at",
        "batch",
        "call_id",
        "cancelled",
        "deadline",
        "ended",
        "frames",
        "id",
        "leaving",
        "link",
        "started_at",
        "unread_bytes",
        "wait_us",
        "waiting",
        "whole",
        "worker",
    )

    def __init__(self, link: CallerLink, call_id: int, payload: bytes, flags: int) -> None:
        """Raises ProtocolError where the OPEN frame's payload is shorter than it says."""
        if len(payload) < OPEN_PREFIX.size:
            raise ProtocolError("an OPEN frame is shorter than its prefix")
        deadline_ms, id_length, metadata_length = OPEN_PREFIX.unpack_from(payload)
        if OPEN_PREFIX.size + id_length + metadata_length > len(payload):
            raise ProtocolError("an OPEN frame is shorter than its metadata")
        self.link = link
        self.call_id = call_id
        """The caller's id."""
        self.id = 0
        """Ours, from the moment that it is handed over: two gateways' ids must never meet in the worker."""
        self.deadline: float | None = time.monotonic() + deadline_ms / 1000 if deadline_ms else None
        self.frames: list[tuple[int, bytes, int]] = [(OPEN, payload, flags)]
        """Kind, payload, flags of what waits to be handed over; empty once it was."""
        self.ended = bool(flags & LAST)
        """The caller has sent all of its input."""
        self.whole = bool(flags & (LAST | STREAM))
        """Its handler can start: it has all of its input, or takes it as a stream."""
        self.unread_bytes = len(payload)
        """Sent by the caller and not credited by the worker."""
        self.leaving = False
        """Its handler has returned; a reader that takes its time holds no slot by that."""
        self.worker: WorkerProcess | None = None
        self.waiting = False
        """It is in the watcher's line. Of a batched handler its input may be in the worker already."""
        self.arrived_at = 0.0
        """When it began to wait; 0: it did not."""
        self.wait_us = 0
        self.cancelled = False
        self.batch: Batch | None = None
        self.started_at = 0.0
        """When its answer became a stream; 0: it is none."""

    def note_input(self, size: int, flags: int) -> bool:
        """A DATA frame came. Whether it makes the input whole.

        Raises:
            ProtocolError: the caller does not keep to its window.
        """
        self.unread_bytes += size + (FRAME_COST_BYTES if self.whole else 0)
        if self.ended:
            raise ProtocolError(f"call {self.call_id} was sent more input after its last piece")
        if self.unread_bytes > WINDOW_BYTES + SLACK_BYTES:
            raise ProtocolError(f"call {self.call_id} was sent more input than it had credit for")
        if not flags & LAST:
            return False
        self.ended = True
        was_whole, self.whole = self.whole, True
        return not was_whole

    def is_late(self, now: float) -> bool:
        """Whether its deadline is before `now`, on the monotonic clock."""
        return self.deadline is not None and self.deadline < now
