"""Serve a function over WebSocket, at the URL of its HTTP calls.

In:   messages, binary or text. Out: messages: text where the handler gave
      text or JSON, binary where it gave bytes.
A handler with stream(self, requests) gets them all as one stream; any other
is called once for each, in order. An error closes the socket with a code and
its text; before the upgrade it is an HTTP status.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from aiohttp import WSCloseCode, WSMessage, WSMsgType, web

from dcf.errors import InternalError, InvalidInputError, InvocationError
from dcf.gateway.conversation import Conversation
from dcf.gateway.http_head import CallHead
from dcf.gateway.invoke import Invoker
from dcf.gateway.reply import Reply, ReplyStream, content_of
from dcf.gateway.router import FunctionEntry
from dcf.lifecycle import open_task_set
from dcf.rpc import frames
from dcf.rpc.status import status_of

log = logging.getLogger(__name__)

HEARTBEAT_S = 20.0
"""A peer that answers no ping is gone: its machine may have been switched off."""
CLOSE_S = 2.0
"""For the peer to answer our close."""
REASON_BYTES = 123
"""Of a close frame's text (RFC 6455, 5.5)."""
CLOSE_CODES = {
    "invalid_input": WSCloseCode.POLICY_VIOLATION,
    "payload_too_large": WSCloseCode.MESSAGE_TOO_BIG,
    "overloaded": WSCloseCode.TRY_AGAIN_LATER,
    "no_replica": WSCloseCode.TRY_AGAIN_LATER,
    "replica_lost": WSCloseCode.TRY_AGAIN_LATER,
    "cluster_unavailable": WSCloseCode.TRY_AGAIN_LATER,
}
"""Any other error is INTERNAL_ERROR (1011)."""


async def serve_websocket(
    invoker: Invoker, request: web.BaseRequest, head: CallHead, stopping: asyncio.Event
) -> web.StreamResponse:
    """One socket, until either side ends it. Raises InvocationError where it is refused before the upgrade."""
    entry = await invoker.entry(head.function)
    # One more than a message may have: aiohttp refuses from this size on.
    limit = entry.spec.max_payload_bytes + 1
    socket = web.WebSocketResponse(heartbeat=HEARTBEAT_S, max_msg_size=limit, compress=False, timeout=CLOSE_S)
    if not socket.can_prepare(request).ok:
        raise InvalidInputError("not a WebSocket handshake: expected GET with Upgrade and Sec-WebSocket-Key")
    conversation = None
    if await invoker.is_bidirectional(entry, head.timeout_s):
        conversation = await invoker.converse(
            entry, encoded=head.metadata, invocation_id=head.call_id, timeout_s=head.timeout_s
        )
    try:
        await socket.prepare(request)
        async with open_task_set() as tasks:
            if conversation:
                reader = tasks.start("reader", _read(socket, conversation))
                writer = tasks.start("writer", _outcome(_write(socket, conversation)))
            else:
                inbox: asyncio.Queue[WSMessage | None] = asyncio.Queue(1)
                reader = tasks.start("reader", _collect(socket, inbox))
                writer = tasks.start("writer", _outcome(_call_each(socket, inbox, invoker, entry, head)))
                tasks.start("stop", _end_at(stopping, inbox))
            # Either the answer has ended, or the client has closed: that is a cancel, for nobody reads any more.
            await asyncio.wait({reader, writer}, return_when=asyncio.FIRST_COMPLETED)
            error = writer.result() if writer.done() else reader.result() if reader.done() else None
        await _close(socket, error, going=stopping.is_set())
    finally:
        if conversation:
            conversation.close()
    return socket


async def _outcome(work: Coroutine[Any, Any, None]) -> InvocationError | None:
    """The error that it ends with: a result here, which the socket's close says."""
    try:
        await work
    except InvocationError as error:
        return error
    except ConnectionError:  # the client is gone
        return None
    except Exception:
        log.exception("a WebSocket failed on a bug of DCF")
        return InternalError("the gateway failed on this socket; its log says why")
    return None


async def _read(socket: web.WebSocketResponse, conversation: Conversation) -> InvocationError | None:
    """Pass the client's messages on until it closes."""
    try:
        async for message in socket:
            if not await conversation.send(_data(message)):
                await asyncio.Event().wait()  # the handler takes no more; the writer says how it ended
    except InvocationError as error:
        return error
    return None


async def _write(socket: web.WebSocketResponse, conversation: Conversation) -> None:
    answer = await conversation.answer()
    await _send_all(socket, answer)


async def _collect(socket: web.WebSocketResponse, inbox: asyncio.Queue[WSMessage | None]) -> None:
    """Read one message ahead, so that a close is heard while a call runs."""
    async for message in socket:
        await inbox.put(message)


async def _end_at(stopping: asyncio.Event, inbox: asyncio.Queue[WSMessage | None]) -> None:
    await stopping.wait()
    await inbox.put(None)


async def _call_each(
    socket: web.WebSocketResponse,
    inbox: asyncio.Queue[WSMessage | None],
    invoker: Invoker,
    entry: FunctionEntry,
    head: CallHead,
) -> None:
    """One call for each message; the next begins when the answer of the last was sent."""
    while message := await inbox.get():
        answer = await invoker.call(entry, _data(message), encoded=head.metadata, timeout_s=head.timeout_s)
        await _send_all(socket, answer)


async def _send_all(socket: web.WebSocketResponse, answer: Reply | ReplyStream) -> None:
    if isinstance(answer, Reply):
        await _send(socket, content_of(answer.content_type), answer.body)
        return
    try:
        async for content, message in answer.messages():
            await _send(socket, content, message)
    finally:
        answer.close()


async def _send(socket: web.WebSocketResponse, content: int, message: bytes) -> None:
    if content == frames.BYTES:
        await socket.send_bytes(message)
    else:
        await socket.send_str(message.decode("utf-8", "replace"))


def _data(message: WSMessage) -> bytes:
    return message.data.encode() if message.type is WSMsgType.TEXT else bytes(message.data)


async def _close(socket: web.WebSocketResponse, error: InvocationError | None, *, going: bool) -> None:
    if error is None:
        await socket.close(code=WSCloseCode.GOING_AWAY if going else WSCloseCode.OK)
        return
    code = status_of(error).code
    reason = f"{code}: {error.message}".encode()[:REASON_BYTES].decode("utf-8", "ignore")
    await socket.close(code=CLOSE_CODES.get(code, WSCloseCode.INTERNAL_ERROR), message=reason.encode())
