"""Write answers as HTTP/1.1 has them: bytes, and no objects of a framework."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from email.utils import formatdate

from dcf import __version__
from dcf.errors import InvocationError
from dcf.gateway.reply import Reply, ReplyStream
from dcf.rpc.status import status_of, to_json

NOT_THEIRS = frozenset(
    {
        "connection", "content-length", "content-type", "date", "keep-alive", "server", "te", "trailer",
        "transfer-encoding", "upgrade", "x-call-id", "x-duration-seconds",
    }
)  # fmt: skip
"""A handler's own headers that would break the message; content_type is a field of its reply."""
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
KEEP_ALIVE_S = 75.0
"""An idle connection is closed after this, and one whose request does not become whole."""
LINGER_S = 2.0
"""At a stop: how long an idle connection may still send a request, which is answered with `close`."""
CHUNKED_END = b"0\r\n\r\n"
WRITE_BUFFER_BYTES = 16 * 1024
"""A reader that stalls holds this much here, beside its window: less than the default, for there may be many."""
_SERVER = f"dcf/{__version__}".encode()
_REASONS = {
    400: "Bad Request", 404: "Not Found", 409: "Conflict", 413: "Content Too Large", 429: "Too Many Requests",
    499: "Client Closed Request", 500: "Internal Server Error", 502: "Bad Gateway", 503: "Service Unavailable",
    504: "Gateway Timeout",
}  # fmt: skip
_WHOLE = (
    b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nX-Call-Id: %b\r\nX-Duration-Seconds: %.6f\r\n%b"
    b"Content-Length: %d\r\nDate: %b\r\nServer: " + _SERVER + b"\r\n\r\n%b"
)
_STREAM = (
    b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nX-Call-Id: %b\r\nX-Duration-Seconds: %.6f\r\n%b"
    b"%b\r\nDate: %b\r\nServer: " + _SERVER + b"\r\n\r\n"
)
_CLOSE = b"Connection: close\r\n"


class _Clock:
    """The text of now, made once a second."""

    def __init__(self) -> None:
        self._second = 0
        self._text = b""

    def text(self) -> bytes:
        second = int(time.time())
        if second != self._second:
            self._second, self._text = second, formatdate(second, usegmt=True).encode()
        return self._text


_clock = _Clock()


def whole_answer(reply: Reply, seconds: float, *, close: bool) -> bytes:
    """Head and body.

    Args:
        seconds: that the call took.
        close: this is the connection's last answer.
    """
    body = reply.body
    more = _more(reply.metadata, close) if reply.metadata or close else b""
    return _WHOLE % (
        _text(reply.content_type), reply.invocation_id.encode(), seconds, more, len(body), _clock.text(), body,
    )  # fmt: skip


def stream_head(answer: ReplyStream, seconds: float, *, close: bool) -> bytes:
    """The head of an answer that comes in pieces: with its length where that is known, else in chunks."""
    length = b"Transfer-Encoding: chunked" if answer.length is None else b"Content-Length: %d" % answer.length
    return _STREAM % (
        _text(answer.content_type), answer.invocation_id.encode(), seconds, _more(answer.metadata, close), length,
        _clock.text(),
    )  # fmt: skip


def chunk(data: bytes) -> bytes:
    """One chunk; nothing for no data, which would be the end."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


def error_answer(error: InvocationError, *, close: bool) -> bytes:
    """The JSON body and headers of an error."""
    body = json.dumps(to_json(error)).encode()
    code = status_of(error).http
    lines = [f"HTTP/1.1 {code} {_REASONS.get(code, 'Error')}", "Content-Type: application/json; charset=utf-8"]
    if error.invocation_id:
        lines.append(f"X-Call-Id: {error.invocation_id}")
    if error.retry_after_s is not None:
        lines.append(f"Retry-After: {max(1, round(error.retry_after_s))}")
    if close:
        lines.append("Connection: close")
    lines += [f"Content-Length: {len(body)}", f"Date: {_clock.text().decode()}", f"Server: {_SERVER.decode()}", "", ""]
    return "\r\n".join(lines).encode() + body


def their_headers(metadata: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Those of a handler's own headers that break nothing: a name that is none, or one of ours, is left out."""
    for name, value in metadata.items():
        if _NAME.fullmatch(name) and name.lower() not in NOT_THEIRS:
            yield name, value.replace("\r", " ").replace("\n", " ")


def _more(metadata: dict[str, str], close: bool) -> bytes:
    """A handler's own headers."""
    lines = [_text(name) + b": " + _text(value) + b"\r\n" for name, value in their_headers(metadata)]
    return b"".join(lines) + (_CLOSE if close else b"")


def _text(value: str) -> bytes:
    """A line end in it would be the next header. What a client sent that was no UTF-8 goes back as it was."""
    return value.replace("\r", " ").replace("\n", " ").encode("utf-8", "surrogateescape")
