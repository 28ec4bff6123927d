"""Read what the head of a call says; once for heads that repeat.

In:   method, target and headers of a request to /function/<name>, or their bytes.
Out:  a CallHead or a PlainHead. A client that keeps its connection sends the same head again
      and again, and encoding it costs as much as the rest of the admission.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote

import httptools
from aiohttp import web
from multidict import CIMultiDict

from dcf.domain.quantity import parse_duration
from dcf.errors import InvalidInputError
from dcf.rpc.frames import PIECE_BYTES, WINDOW_BYTES

FUNCTION = "/function/"
MAX_CALL_ID = 128
MAX_HEADS = 512
"""Kept at most; then all are forgotten. A head is 8 KiB at the most, and its JSON beside it little more: some MiB."""
MAX_PLAIN_BYTES = 8 * 1024
"""A longer head is aiohttp's to read, or to refuse."""
_OTHER_METHODS = frozenset({"HEAD", "CONNECT"})
"""Their answers have no body, or no end."""
_OTHER_HEADERS = frozenset({"transfer-encoding", "expect", "upgrade"})


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
    """Heads of requests that aiohttp has read. Touched only by the event loop of the gateway."""

    def __init__(self) -> None:
        self._heads: dict[tuple[object, ...], CallHead] = {}

    def read(self, request: web.BaseRequest) -> CallHead:
        """Raises InvalidInputError, naming the header and what was expected."""
        key = (request.method, request.raw_path, request.raw_headers)
        head = self._heads.get(key)
        if head is None:
            head = _read(request.method, request.raw_path, request.headers, request.content_length)
            if len(self._heads) >= MAX_HEADS:
                self._heads.clear()
            self._heads[key] = head
        return head


@dataclass(frozen=True, slots=True)
class PlainHead:
    """Of a plain call: its body has a length, its answer is HTTP's own."""

    function: str
    metadata: bytes
    call_id: str | None
    timeout_s: float | None
    length: int
    close: bool
    """It is the connection's last request."""

    @property
    def first(self) -> int:
        """Bytes of the body that are here before the call begins: all, or of a large one what may be sent at once."""
        return self.length if self.length <= WINDOW_BYTES else WINDOW_BYTES - PIECE_BYTES


class PlainHeads:
    """Heads as bytes. Touched only by the event loop of the gateway."""

    def __init__(self) -> None:
        self._heads: dict[bytes, PlainHead | None] = {}

    def read(self, data: bytes) -> PlainHead | None:
        """None for any that is not of a plain call, or is malformed.

        Args:
            data: from the request line to the empty line that ends the head.
        """
        try:
            return self._heads[data]
        except KeyError:
            pass
        if len(data) > MAX_PLAIN_BYTES:
            return None
        if len(self._heads) >= MAX_HEADS:
            self._heads.clear()
        head = self._heads[data] = _Parser().read(data)
        return head


class _Parser:
    """Collects what httptools calls out of one head."""

    def __init__(self) -> None:
        self._target = b""
        self._headers: CIMultiDict[str] = CIMultiDict()

    def on_url(self, data: bytes) -> None:
        self._target += data

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.add(
            name.decode("utf-8", "surrogateescape"), value.strip(b" \t").decode("utf-8", "surrogateescape")
        )

    def read(self, data: bytes) -> PlainHead | None:
        parser = httptools.HttpRequestParser(self)
        try:
            parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            return None
        method, headers, target = parser.get_method().decode(), self._headers, self._target
        connection = {token.strip().lower() for one in headers.getall("Connection", ()) for token in one.split(",")}
        plain = (
            "Host" in headers
            and parser.get_http_version() == "1.1"
            and method not in _OTHER_METHODS
            and not _OTHER_HEADERS & {name.lower() for name in headers}
            and target.startswith(FUNCTION.encode())
            and target.isascii()
        )
        length = headers.get("Content-Length", "0")
        if not plain or not length.isdecimal():
            return None
        try:
            head = _read(method, target.decode(), headers, int(length))
        except InvalidInputError:
            return None
        if head.events:
            return None
        return PlainHead(head.function, head.metadata, head.call_id, head.timeout_s, int(length), "close" in connection)


def _read(method: str, target: str, headers: Mapping[str, str], length: int | None) -> CallHead:
    path, _, query = target[len(FUNCTION) :].partition("?")
    name, _, rest = path.partition("/")
    if not name:
        raise InvalidInputError("the path names no function: expected /function/<name>")
    call_id = headers.get("X-Call-Id")
    if call_id is not None and not (call_id.isascii() and call_id.isprintable() and 0 < len(call_id) <= MAX_CALL_ID):
        raise InvalidInputError(f"X-Call-Id: expected 1 to {MAX_CALL_ID} printable ASCII characters")
    metadata = {"method": method, "path": "/" + rest, "query": query, "headers": dict(headers)}
    return CallHead(
        function=unquote(name),
        metadata=json.dumps(metadata).encode(),
        call_id=call_id,
        timeout_s=_timeout(headers.get("X-Timeout")),
        length=length,
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
