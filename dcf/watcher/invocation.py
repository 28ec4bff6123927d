"""One call inside a watcher, and the two ends that it connects."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

from dcf.errors import ProtocolError
from dcf.rpc.frames import LAST, OPEN, OPEN_PREFIX, WINDOW_BYTES

if TYPE_CHECKING:
    from dcf.watcher.worker_process import WorkerProcess

SLACK_BYTES = 1024 * 1024
"""Over the window: the metadata of an OPEN frame are not counted in it."""


class CallerLink(Protocol):
    """Where a call came from: a gateway's stream, or a unary `Watcher.Call`."""

    calls: dict[int, Invocation]
    """Accepted and not yet answered, by the caller's own call id."""

    def send(self, call_id: int, kind: int, payload: bytes, flags: int) -> None:
        """Queue one frame for the caller."""
        ...


class Invocation:
    """Touched only by the event loop of the watcher."""

    __slots__ = ("call_id", "deadline", "frames", "id", "link", "unread_bytes", "whole", "worker")

    def __init__(self, link: CallerLink, call_id: int, watcher_id: int, payload: bytes, flags: int) -> None:
        """Raises ProtocolError where the OPEN frame's payload is shorter than it says."""
        if len(payload) < OPEN_PREFIX.size:
            raise ProtocolError("an OPEN frame is shorter than its prefix")
        deadline_ms, id_length, metadata_length = OPEN_PREFIX.unpack_from(payload)
        if OPEN_PREFIX.size + id_length + metadata_length > len(payload):
            raise ProtocolError("an OPEN frame is shorter than its metadata")
        self.link = link
        self.call_id = call_id
        """The caller's id."""
        self.id = watcher_id
        """Ours: two gateways' ids must never meet in the worker."""
        self.deadline: float | None = time.monotonic() + deadline_ms / 1000 if deadline_ms else None
        self.frames: list[tuple[int, bytes, int]] = [(OPEN, payload, flags)]
        """Kind, payload, flags of what waits to be handed over; empty once it was."""
        self.whole = bool(flags & LAST)
        """The caller has sent all of its input."""
        self.unread_bytes = len(payload)
        """Sent by the caller and not credited by the worker."""
        self.worker: WorkerProcess | None = None

    def note_input(self, size: int, flags: int) -> None:
        """A DATA frame came. Raises ProtocolError where the caller does not keep to its window."""
        self.unread_bytes += size
        if self.whole:
            raise ProtocolError(f"call {self.call_id} was sent more input after its last piece")
        if self.unread_bytes > WINDOW_BYTES + SLACK_BYTES:
            raise ProtocolError(f"call {self.call_id} was sent more input than it had credit for")
        self.whole = bool(flags & LAST)

    def is_late(self, now: float) -> bool:
        """Whether its deadline is before `now`, on the monotonic clock."""
        return self.deadline is not None and self.deadline < now
