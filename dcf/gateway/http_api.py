"""Answer HTTP: /function/<name> here, /system/* in http_system, health.

In:   aiohttp requests. Out: the handler's answer, or the JSON error body.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import StreamReader, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import RawRequestMessage
from aiohttp.http_exceptions import HttpProcessingError

from dcf.errors import InternalError, InvocationError, PayloadTooLargeError, UnauthenticatedError
from dcf.gateway.health import Health
from dcf.gateway.http_head import FUNCTION, CallHead, CallHeads
from dcf.gateway.invoke import Invoker
from dcf.rpc.status import status_of, to_json

log = logging.getLogger(__name__)

LINGER_S = 2.0
"""At a stop: how long an idle keep-alive connection may still send a request, which is answered with `close`."""
_NOT_THEIRS = frozenset(
    {"connection", "content-length", "content-type", "transfer-encoding", "keep-alive", "upgrade", "te", "trailer"}
)
"""A handler's own headers that would break the message; content_type is a field of its reply."""


class HttpApi:
    """Touched only by the event loop of the gateway."""

    def __init__(
        self,
        invoker: Invoker,
        health: Health,
        handle_system: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
        stopping: asyncio.Event,
    ) -> None:
        self._invoker = invoker
        self._health = health
        self._handle_system = handle_system
        self._stopping = stopping
        self._heads = CallHeads()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Any request."""
        path = request.raw_path
        try:
            if path.startswith(FUNCTION):
                response: web.StreamResponse = await self._invoke(request)
            elif path.startswith("/system/"):
                response = await self._handle_system(request)
            else:
                response = self._small(request)
        except InvocationError as error:
            response = error_response(error)
        except (asyncio.CancelledError, web.HTTPException, HttpProcessingError):
            raise
        except Exception:
            log.exception("a request failed", extra={"path": path})
            response = error_response(InternalError("the gateway failed on this request; its log says why"))
        if self._stopping.is_set():
            response.force_close()
        return response

    async def _invoke(self, request: web.BaseRequest) -> web.Response:
        loop = asyncio.get_running_loop()
        began = loop.time()
        head = self._heads.read(request)
        entry = await self._invoker.entry(head.function)
        try:
            body = await _read_body(request, head, entry.spec.max_payload_bytes)
        except InvocationError as error:
            error.function, error.invocation_id = head.function, head.call_id or ""
            raise
        reply = await self._invoker.call(
            entry, body, encoded=head.metadata, invocation_id=head.call_id, timeout_s=head.timeout_s
        )
        out = {
            "Content-Type": reply.content_type,
            "X-Call-Id": reply.invocation_id,
            "X-Duration-Seconds": f"{loop.time() - began:.6f}",
        }
        for key, value in reply.metadata.items():
            if key.lower() not in _NOT_THEIRS:
                out[key] = value.replace("\r", " ").replace("\n", " ")
        return web.Response(body=reply.body, headers=out)

    def _small(self, request: web.BaseRequest) -> web.Response:
        path = request.raw_path.partition("?")[0]
        if path == "/healthz":
            return web.json_response({"live": True})
        if path == "/readyz":
            reason = self._health.not_ready()
            return web.json_response({"ready": not reason, "reason": reason}, status=503 if reason else 200)
        body = {"error": {"code": "not_found", "message": f"nothing is at {path}; a function is at /function/<name>"}}
        return web.json_response(body, status=404)


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


async def _read_body(request: web.BaseRequest, head: CallHead, limit: int) -> bytes:
    """The body. Raises PayloadTooLargeError before more than `limit` bytes of it are held."""
    if head.length is not None and head.length > limit:
        raise PayloadTooLargeError(f"the body has {head.length} bytes; {head.function} takes {limit} (max_payload)")
    if head.expects_continue:
        assert request.transport
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    if head.length is not None:
        return await request.read()
    pieces, size = [], 0
    async for piece in request.content.iter_any():
        size += len(piece)
        if size > limit:
            raise PayloadTooLargeError(f"the body has over {limit} bytes; {head.function} takes no more (max_payload)")
        pieces.append(piece)
    return b"".join(pieces)


def _make_request(
    message: RawRequestMessage,
    payload: StreamReader,
    protocol: web.RequestHandler,
    writer: AbstractStreamWriter,
    task: asyncio.Task[None],
) -> web.BaseRequest:
    # client_max_size 0: the limit is each function's own, checked in _read.
    loop = asyncio.get_running_loop()
    return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=0)


@asynccontextmanager
async def open_http_api(api: HttpApi, *, drain_s: float) -> AsyncIterator[web.Server]:
    """aiohttp's protocol factory; at the end every call in flight is answered, then connections close."""
    server = web.Server(
        api.handle,
        request_factory=_make_request,
        handler_cancellation=True,
        access_log=None,
        keepalive_timeout=75.0,
    )
    try:
        yield server
    finally:
        loop = asyncio.get_running_loop()
        linger_end = loop.time() + LINGER_S
        while server.connections and loop.time() < linger_end:
            await asyncio.sleep(0.02)
        await server.shutdown(drain_s)
