"""Call a function for an HTTP request; answer whole, in chunks, or as events.

In:   a request to /function/<name> and its head.
Out:  the handler's answer. A stream's chunks go out as they come: chunked, or
      as Server-Sent Events where the client accepts them.
A large input is passed on in pieces, as fast as the replica takes it.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_exceptions import HttpProcessingError

from dcf.errors import ClientGoneError, InvalidInputError, InvocationError, PayloadTooLargeError, UnauthenticatedError
from dcf.gateway.http_head import CallHead
from dcf.gateway.http_wire import WRITE_BUFFER_BYTES, their_headers
from dcf.gateway.invoke import Invoker, located
from dcf.gateway.reply import Reply, ReplyStream, content_of
from dcf.rpc import frames
from dcf.rpc.status import status_of, to_json

log = logging.getLogger(__name__)

EVENT_STREAM = "text/event-stream"


async def serve_call(invoker: Invoker, request: web.BaseRequest, head: CallHead) -> web.StreamResponse:
    """One call. Raises InvocationError where the answer has not begun."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    entry = await invoker.entry(head.function)
    if head.resumes:
        # A browser's EventSource comes again by itself when a stream has ended; this tells it to stop.
        return web.Response(status=204)
    limit = entry.spec.max_payload_bytes
    try:
        body, rest = await _read_body(request, head, limit)
    except InvocationError as error:
        error.function, error.invocation_id = head.function, head.call_id or ""
        raise
    answer = await invoker.call(
        entry, body, encoded=head.metadata, rest=rest, invocation_id=head.call_id, timeout_s=head.timeout_s
    )
    del body  # a stream of answers may last
    headers = {
        "Content-Type": answer.content_type,
        "X-Call-Id": answer.invocation_id,
        "X-Duration-Seconds": f"{loop.time() - began:.6f}",
    }
    headers.update(their_headers(answer.metadata))
    if isinstance(answer, Reply) and not head.events:
        return web.Response(body=answer.body, headers=headers)
    if request.method == "HEAD":
        # aiohttp writes no body for a Response, but would for a stream.
        if isinstance(answer, ReplyStream):
            answer.close()
        return web.Response(headers=headers | ({"Content-Type": EVENT_STREAM} if head.events else {}))
    with located(entry, answer.invocation_id):
        if head.events:
            return await _send_events(request, answer, headers, head.function)
        assert isinstance(answer, ReplyStream)
        if answer.length is None and request.version < (1, 1):
            # HTTP/1.0 has no chunks: it could not tell a broken stream from a whole one.
            joined = await answer.join(limit)
            return web.Response(body=joined.body, headers=headers)
        return await _send_stream(request, answer, headers)


async def _send_stream(request: web.BaseRequest, answer: ReplyStream, headers: dict[str, str]) -> web.StreamResponse:
    response = web.StreamResponse(headers=headers)
    if answer.length is None:
        response.enable_chunked_encoding()
    else:
        response.content_length = answer.length
    try:
        first = await anext(lines := answer.lines(), b"")
        writer = await _start(request, response)
        # Before the headers an error would have had a status of its own; from here on only the connection can say it.
        try:
            await response.write(first)
            async for data in lines:
                await response.write(data)
                await writer.drain()
            await response.write_eof()
        except InvocationError as error:
            _break_off(request, response, error)
    finally:
        answer.close()
    return response


async def _start(request: web.BaseRequest, response: web.StreamResponse) -> AbstractStreamWriter:
    """Send the head of a stream."""
    if request.transport is not None:
        request.transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
    writer = await response.prepare(request)
    assert writer is not None
    return writer


def _break_off(request: web.BaseRequest, response: web.StreamResponse, error: InvocationError) -> None:
    """End the connection without the last chunk: no client takes that for a good end."""
    log.info("a stream broke off", extra={"error": error.message, "replica": error.replica})
    if request.transport is not None:
        request.transport.close()
    response.force_close()


async def _send_events(
    request: web.BaseRequest, answer: Reply | ReplyStream, headers: dict[str, str], function: str
) -> web.StreamResponse:
    """Server-Sent Events: one for each chunk; an `error` event where it breaks off."""
    headers |= {"Content-Type": EVENT_STREAM, "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    response = web.StreamResponse(headers=headers)
    if isinstance(answer, Reply):
        event = _event(0, content_of(answer.content_type), answer.body)
        await response.prepare(request)
        await response.write(event)
        return response
    number, writer = 0, None
    try:
        messages = answer.messages()
        try:
            async for content, message in messages:
                event = _event(number, content, message)
                if writer is None:
                    writer = await _start(request, response)
                await response.write(event)
                await writer.drain()
                number += 1
            if writer is None:
                await response.prepare(request)
        except InvocationError as error:
            if not number:
                raise
            error.function, error.invocation_id = function, answer.invocation_id
            await response.write(b"event: error\ndata: " + json.dumps(to_json(error)).encode() + b"\n\n")
    finally:
        answer.close()
    return response


def _event(number: int, content: int, message: bytes) -> bytes:
    """One event; several lines are several `data:` lines. Raises InvalidInputError for bytes that are no text."""
    if content == frames.BYTES:
        try:
            message.decode()
        except UnicodeDecodeError as error:
            raise InvalidInputError(
                f"chunk {number} of the answer is binary, which {EVENT_STREAM} cannot carry: "
                "ask without that Accept header, or over WebSocket or gRPC"
            ) from error
    # All three line ends that the standard knows: the client makes a line feed of each.
    lines = message.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    return b"id: %d\n" % number + b"".join(b"data: " + line + b"\n" for line in lines) + b"\n"


def error_response(error: InvocationError) -> web.Response:
    """The JSON body and headers of an error."""
    headers = {"X-Call-Id": error.invocation_id} if error.invocation_id else {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, round(error.retry_after_s)))
    if isinstance(error, UnauthenticatedError):
        headers["WWW-Authenticate"] = "Bearer"
    response = web.json_response(to_json(error), status=status_of(error).http, headers=headers)
    if isinstance(error, PayloadTooLargeError):
        response.force_close()  # the rest of the body is still on its way
    return response


async def _read_body(request: web.BaseRequest, head: CallHead, limit: int) -> tuple[bytes, AsyncIterator[bytes] | None]:
    """The body, or its first window and what follows. Raises PayloadTooLargeError before more than `limit` is held."""
    if head.length is not None and head.length > limit:
        raise PayloadTooLargeError(f"the body has {head.length} bytes; {head.function} takes {limit} (max_payload)")
    if head.expects_continue:
        assert request.transport
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    if head.length is not None and head.length <= frames.WINDOW_BYTES:
        return await request.read(), None
    pieces = _pieces(request, head, limit)
    parts, size = [], 0
    async for piece in pieces:
        parts.append(piece)
        size += len(piece)
        if size > frames.WINDOW_BYTES - frames.PIECE_BYTES:
            return b"".join(parts), pieces
    return b"".join(parts), None


async def _pieces(request: web.BaseRequest, head: CallHead, limit: int) -> AsyncIterator[bytes]:
    """The body in pieces of at most PIECE_BYTES."""
    size = 0
    while piece := await _read(request):
        size += len(piece)
        if size > limit:
            raise PayloadTooLargeError(f"the body has over {limit} bytes; {head.function} takes no more (max_payload)")
        yield piece


async def _read(request: web.BaseRequest) -> bytes:
    try:
        return bytes(await request.content.read(frames.PIECE_BYTES))
    except ConnectionError as error:
        raise ClientGoneError("the client went away in the middle of its body") from error
    except (HttpProcessingError, web.RequestPayloadError) as error:
        raise InvalidInputError(f"the body cannot be read: {error}") from error
