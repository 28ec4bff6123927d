"""Serve a function over WebSocket, at the URL of its HTTP calls.

In:   messages, binary or text. Out: messages: text where the handler gave
      text or JSON, binary where it gave bytes.
A handler with stream(self, requests) gets them all as one stream; any other
is called once for each, in order. An error closes the socket with a code and
its text; before the upgrade it is an HTTP status.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine
from typing import Any

from aiohttp import WSCloseCode, WSMsgType, web

from dcf.errors import InternalError, InvalidInputError, InvocationError
from dcf.gateway.conversation import Conversation
from dcf.gateway.http_head import CallHead
from dcf.gateway.invoke import Invoker, located
from dcf.gateway.reply import Reply, ReplyStream, content_of
from dcf.gateway.stopping import Stopping
from dcf.lifecycle import open_task_set
from dcf.rpc import frames
from dcf.rpc.status import status_of

log = logging.getLogger(__name__)

PING_S = 20.0
INBOX_MESSAGES = 64
INBOX_BYTES = 1024 * 1024
LAST_WORD_S = 1.0
"""Of the drain time, for a close to be heard."""
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
    invoker: Invoker, request: web.BaseRequest, head: CallHead, stopping: Stopping
) -> web.StreamResponse:
    """One socket, until either side ends it. Raises InvocationError where it is refused before the upgrade."""
    entry = await invoker.entry(head.function)
    # One more than a message may have: aiohttp refuses from this size on.
    limit = entry.spec.max_payload_bytes + 1
    socket = web.WebSocketResponse(max_msg_size=limit, compress=False, timeout=CLOSE_S)
    if not socket.can_prepare(request).ok:
        raise InvalidInputError("not a WebSocket handshake: expected GET with Upgrade and Sec-WebSocket-Key")
    conversation = None
    if await invoker.is_bidirectional(entry, head.timeout_s):
        conversation = await invoker.converse(
            entry, encoded=head.metadata, invocation_id=head.call_id, timeout_s=head.timeout_s
        )
    try:
        await socket.prepare(request)
        inbox = Inbox()
        async with open_task_set() as tasks:
            # It reads on while a call runs or its input waits for credit, so that a close is heard.
            reader = tasks.start("reader", _collect(socket, inbox))
            tasks.start("ping", _ping(socket))
            if conversation:
                tasks.start("sender", _send_inputs(inbox, conversation))
                writer = tasks.start("writer", _outcome(_write(socket, conversation)))
                tasks.start("stop", _end_when_drained(stopping, reader))
            else:
                writer = tasks.start("writer", _outcome(_call_each(socket, inbox, invoker, head)))
                tasks.start("stop", _end_inbox(stopping, inbox))
            # Either the answer has ended, or the client has closed: that is a cancel, for nobody reads any more.
            await asyncio.wait({reader, writer}, return_when=asyncio.FIRST_COMPLETED)
            error = writer.result() if writer.done() else None
        await _close(socket, error, going=stopping.is_set())
    finally:
        if conversation:
            conversation.close()
    return socket


class Inbox:
    """Messages that were read and not yet passed on; None is the end. Bounded by count and bytes."""

    def __init__(self) -> None:
        self._messages: asyncio.Queue[bytes | None] = asyncio.Queue(INBOX_MESSAGES)
        self._bytes = 0
        self._room = asyncio.Event()
        self._room.set()

    async def put(self, message: bytes | None) -> None:
        """Wait for room; one message that is larger than all of it has it alone."""
        await self._room.wait()
        self._count(len(message or b""))
        await self._messages.put(message)

    async def get(self) -> bytes | None:
        """The oldest."""
        message = await self._messages.get()
        self._count(-len(message or b""))
        return message

    def _count(self, change: int) -> None:
        self._bytes += change
        if self._bytes < INBOX_BYTES:
            self._room.set()
        else:
            self._room.clear()


async def _ping(socket: web.WebSocketResponse) -> None:
    """Keep proxies from closing a silent socket. Whether the peer lives, TCP's own keep-alive says (listener.py):
    a pong is not seen while its messages wait to be read."""
    with contextlib.suppress(ConnectionError):
        while True:
            await asyncio.sleep(PING_S)
            await socket.ping()
    await asyncio.Event().wait()


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


async def _collect(socket: web.WebSocketResponse, inbox: Inbox) -> None:
    """Read until the client closes."""
    async for message in socket:
        if message.type is WSMsgType.ERROR:  # too large, or no UTF-8: aiohttp has closed with the code that says so
            return
        await inbox.put(message.data.encode() if message.type is WSMsgType.TEXT else bytes(message.data))


async def _send_inputs(inbox: Inbox, conversation: Conversation) -> None:
    while (message := await inbox.get()) is not None:
        try:
            if not await conversation.send(message):
                return  # the handler takes no more; the writer says how it ended
        except InvocationError as error:
            conversation.fail(error)


async def _write(socket: web.WebSocketResponse, conversation: Conversation) -> None:
    answer = await conversation.answer()
    await _send_all(socket, answer)


async def _end_inbox(stopping: asyncio.Event, inbox: Inbox) -> None:
    await stopping.wait()
    await inbox.put(None)
    await asyncio.Event().wait()


async def _end_when_drained(stopping: Stopping, reader: asyncio.Task[Any]) -> None:
    """A conversation may go on while the gateway drains; then its client is told, rather than cut off."""
    await stopping.wait()
    await asyncio.sleep(max(0.0, stopping.left_s() - LAST_WORD_S))
    reader.cancel()


async def _call_each(socket: web.WebSocketResponse, inbox: Inbox, invoker: Invoker, head: CallHead) -> None:
    """One call for each message; the next begins when the answer of the last was sent."""
    while (message := await inbox.get()) is not None:
        entry = await invoker.entry(head.function)  # it may have been deployed anew
        answer = await invoker.call(entry, message, encoded=head.metadata, timeout_s=head.timeout_s)
        with located(entry, answer.invocation_id):
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


async def _close(socket: web.WebSocketResponse, error: InvocationError | None, *, going: bool) -> None:
    if error is None:
        await socket.close(code=WSCloseCode.GOING_AWAY if going else WSCloseCode.OK)
        return
    code = status_of(error).code
    reason = f"{code}: {error.message}".encode()[:REASON_BYTES].decode("utf-8", "ignore")
    await socket.close(code=CLOSE_CODES.get(code, WSCloseCode.INTERNAL_ERROR), message=reason.encode())
