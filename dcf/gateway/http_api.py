"""Answer HTTP: /function/<name> in http_call and websocket, /system/* in http_system, health.

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

from dcf.errors import InternalError, InvocationError
from dcf.gateway.health import Health
from dcf.gateway.http_call import error_response, serve_call
from dcf.gateway.http_head import FUNCTION, CallHeads
from dcf.gateway.http_wire import KEEP_ALIVE_S, LINGER_S
from dcf.gateway.invoke import Invoker
from dcf.gateway.metrics import CONTENT_TYPE, Metrics
from dcf.gateway.stopping import Stopping
from dcf.gateway.websocket import serve_websocket

log = logging.getLogger(__name__)

MAX_LINE_BYTES = 64 * 1024
"""Of a request's first line: browsers send that much, and a query may hold a text."""
CUT_S = 0.5


class _NotOurMistake(logging.Filter):
    """aiohttp logs a client's malformed request as an error of ours, with a traceback; the client has its 400."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


_server_log = logging.getLogger("dcf.gateway.http_server")
_server_log.addFilter(_NotOurMistake())


class HttpApi:
    """Touched only by the event loop of the gateway."""

    def __init__(
        self,
        invoker: Invoker,
        health: Health,
        handle_system: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
        metrics: Metrics,
        stopping: Stopping,
    ) -> None:
        self._invoker = invoker
        self._health = health
        self._handle_system = handle_system
        self._metrics = metrics
        self._stopping = stopping
        self.active = 0
        """Requests that are being answered."""
        self._heads = CallHeads()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Any request."""
        self.active += 1
        try:
            return await self._handle(request)
        finally:
            self.active -= 1

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.raw_path
        try:
            if path.startswith(FUNCTION):
                head = self._heads.read(request)
                response: web.StreamResponse
                if head.websocket:
                    response = await serve_websocket(self._invoker, request, head, self._stopping)
                else:
                    response = await serve_call(self._invoker, request, head)
            elif path.startswith("/system/"):
                response = await self._handle_system(request)
            elif path.partition("?")[0] == "/metrics":
                response = web.Response(body=await self._metrics.text(), headers={"Content-Type": CONTENT_TYPE})
            else:
                response = self._small(request)
        except InvocationError as error:
            response = error_response(error)
        except (asyncio.CancelledError, web.HTTPException, HttpProcessingError):
            raise
        except ConnectionError:  # the client went while its answer was written; aiohttp finds that out by itself
            response = web.Response(status=499)
        except Exception:
            log.exception("a request failed", extra={"path": path})
            response = error_response(InternalError("the gateway failed on this request; its log says why"))
        if self._stopping.is_set():
            response.force_close()
        return response

    def _small(self, request: web.BaseRequest) -> web.Response:
        path = request.raw_path.partition("?")[0]
        if path == "/healthz":
            return web.json_response({"live": True})
        if path == "/readyz":
            reason = self._health.not_ready()
            return web.json_response({"ready": not reason, "reason": reason}, status=503 if reason else 200)
        body = {"error": {"code": "not_found", "message": f"nothing is at {path}; a function is at /function/<name>"}}
        return web.json_response(body, status=404)


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
async def open_http_api(api: HttpApi, stopping: Stopping) -> AsyncIterator[web.Server]:
    """aiohttp's protocol factory; at the end every call in flight is answered, then connections close."""
    server = web.Server(
        api.handle,
        request_factory=_make_request,
        handler_cancellation=True,
        access_log=None,
        keepalive_timeout=KEEP_ALIVE_S,
        max_line_size=MAX_LINE_BYTES,
        # A body is the handler's as it is, with its Content-Encoding; and its size is what `max_payload` bounds.
        auto_decompress=False,
        logger=_server_log,
    )
    try:
        yield server
    finally:
        loop = asyncio.get_running_loop()
        linger_end = loop.time() + LINGER_S
        while (api.active and stopping.left_s()) or (server.connections and loop.time() < linger_end):
            await asyncio.sleep(0.02)
        # What still runs is cut off; aiohttp waits up to this twice, before and after it cancels.
        await server.shutdown(CUT_S)
