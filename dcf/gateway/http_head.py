"""Read what the head of a call says; once for heads that repeat.

In:   method, target and headers of a request to /function/<name>.
Out:  a CallHead. A client that keeps its connection sends the same head again
      and again, and encoding it costs as much as the rest of the admission.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from urllib.parse import unquote

from aiohttp import web

from dcf.domain.quantity import parse_duration
from dcf.errors import InvalidInputError

FUNCTION = "/function/"
MAX_CALL_ID = 128
MAX_HEADS = 512
"""Kept at most; then all are forgotten. A head is 8 KiB at the most, so 4 MiB."""


@dataclass(frozen=True, slots=True)
class CallHead:
    """What is not the body."""

    function: str
    metadata: bytes
    """JSON of method, path, query and headers: the handler's `req.metadata`."""
    call_id: str | None
    timeout_s: float | None
    length: int | None
    """Bytes of the body; None where it comes in chunks."""
    expects_continue: bool
    websocket: bool
    """It asks for a WebSocket."""
    events: bool
    """It accepts Server-Sent Events."""
    resumes: bool
    """It is a client of events that comes again after their end."""


class CallHeads:
    """Touched only by the event loop of the gateway."""

    def __init__(self) -> None:
        self._heads: dict[tuple[object, ...], CallHead] = {}

    def read(self, request: web.BaseRequest) -> CallHead:
        """Raises InvalidInputError, naming the header and what was expected."""
        key = (request.method, request.raw_path, request.raw_headers)
        head = self._heads.get(key)
        if head is None:
            head = _read(request)
            if len(self._heads) >= MAX_HEADS:
                self._heads.clear()
            self._heads[key] = head
        return head


def _read(request: web.BaseRequest) -> CallHead:
    path, _, query = request.raw_path[len(FUNCTION) :].partition("?")
    name, _, rest = path.partition("/")
    if not name:
        raise InvalidInputError("the path names no function: expected /function/<name>")
    headers = request.headers
    call_id = headers.get("X-Call-Id")
    if call_id is not None and not (call_id.isascii() and call_id.isprintable() and 0 < len(call_id) <= MAX_CALL_ID):
        raise InvalidInputError(f"X-Call-Id: expected 1 to {MAX_CALL_ID} printable ASCII characters")
    metadata = {"method": request.method, "path": "/" + rest, "query": query, "headers": dict(headers)}
    return CallHead(
        function=unquote(name),
        metadata=json.dumps(metadata).encode(),
        call_id=call_id,
        timeout_s=_timeout(headers.get("X-Timeout")),
        length=request.content_length,
        expects_continue=headers.get("Expect", "").lower() == "100-continue",
        websocket=headers.get("Upgrade", "").lower() == "websocket",
        events=(events := _accepts_events(headers.get("Accept", ""))),
        resumes=events and "Last-Event-ID" in headers,
    )


def _accepts_events(accept: str) -> bool:
    # By name only: curl's */* accepts everything and means nothing.
    return any(part.partition(";")[0].strip().lower() == "text/event-stream" for part in accept.split(","))


def _timeout(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        seconds = parse_duration(text)
    except InvalidInputError as error:
        raise InvalidInputError(f"X-Timeout: {error.message}") from error
    if seconds <= 0:
        raise InvalidInputError(f"X-Timeout: {text!r} must be above 0")
    return seconds
