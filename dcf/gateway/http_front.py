"""Answer plain calls over HTTP, connection by connection, without a task and without a web framework.

In:   the bytes of one connection. Out: answers, whole or as they come.
A plain call is a POST, GET, ... of HTTP/1.1 to /function/<name> whose body has a length. At the first request that
is anything else the connection is aiohttp's, for good: it has all the rest of HTTP.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import NoReturn, cast

from dcf.errors import InternalError, InvocationError
from dcf.gateway.call import PendingCall
from dcf.gateway.http_head import MAX_PLAIN_BYTES, PlainHead, PlainHeads
from dcf.gateway.http_upload import Upload
from dcf.gateway.http_wire import (
    CHUNKED_END,
    KEEP_ALIVE_S,
    LINGER_S,
    WRITE_BUFFER_BYTES,
    chunk,
    error_answer,
    stream_head,
    whole_answer,
)
from dcf.gateway.invoke import Invoker, located
from dcf.gateway.reply import Reply, ReplyStream
from dcf.gateway.router import FunctionEntry, Router
from dcf.gateway.stopping import Stopping
from dcf.lifecycle import TaskSet, running
from dcf.rpc.first_bytes import hand_over

log = logging.getLogger(__name__)

SWEEP_S = 5.0
AHEAD_BYTES = 64 * 1024
"""Of further requests that a client sends before it has its answer; then nothing more is read."""


class HttpFronts:
    """What all connections share. Touched only by the event loop of the gateway."""

    def __init__(
        self,
        invoker: Invoker,
        router: Router,
        stopping: Stopping,
        tasks: TaskSet,
        make_aiohttp: Callable[[], asyncio.Protocol],
    ) -> None:
        self.invoker = invoker
        self.router = router
        self.stopping = stopping
        self.tasks = tasks
        self.make_aiohttp = make_aiohttp
        self.heads = PlainHeads()
        self.connections: set[HttpFront] = set()

    def __call__(self) -> HttpFront:
        """A protocol for one connection."""
        return HttpFront(self)

    def busy(self) -> bool:
        """Whether any of them is being answered."""
        now = asyncio.get_running_loop().time()
        return any(not front.idle_s(now) or front.is_receiving for front in self.connections)

    async def run_sweep(self) -> NoReturn:
        """Close what nobody uses."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(SWEEP_S)
            for front in [front for front in self.connections if front.idle_s(loop.time()) > KEEP_ALIVE_S]:
                front.close()


class HttpFront(asyncio.Protocol):
    """One connection; one request at a time, those that a client sends ahead wait."""

    def __init__(self, fronts: HttpFronts) -> None:
        self._fronts = fronts
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._unread = b""
        """What came and is no part of the request that is answered now."""
        self._head: PlainHead | None = None
        """Of a request whose body is still coming."""
        self._upload: Upload | None = None
        """The rest of a large body, whose call has begun."""
        self._parts: list[bytes] = []
        self._missing = 0
        self._call: PendingCall | None = None
        self._busy = False
        """A request is being answered."""
        self._closes = False
        """Its answer is the last of the connection."""
        self._task = ""
        """That sends a stream."""
        self._lingers_for = 0
        """Bytes of a body that nobody wants, which the client still sends before it looks at its answer."""
        self._input = ""
        """The task that passes a large body on."""
        self._writable = asyncio.Event()
        self._writable.set()
        self._idle_since = self._loop.time()

    # -- bytes in ------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The listener hands it over."""
        self._transport = cast("asyncio.Transport", transport)
        self._fronts.connections.add(self)

    def data_received(self, data: bytes) -> None:
        """Any bytes of the client."""
        if self._lingers_for:
            self._lingers_for -= len(data)
            if self._lingers_for <= 0:
                self.close()
        elif self._upload is not None and self._upload.missing:
            self._unread += self._upload.feed(data)
        elif self._busy or not self._writable.is_set():
            self._unread += data
            if len(self._unread) > AHEAD_BYTES and self._transport is not None:
                self._transport.pause_reading()
        elif self._head is not None:
            self._on_body(data)
        else:
            self._on_request(self._unread + data if self._unread else data)

    def _on_request(self, data: bytes) -> None:
        """The beginning of a request, perhaps all of it and more."""
        self._unread = data
        end = data.find(b"\r\n\r\n") + 4
        if end < 4:
            if len(data) > MAX_PLAIN_BYTES:
                self._hand_over()
            return
        head = self._fronts.heads.read(data[:end])
        entry = self._fronts.router.functions.get(head.function) if head is not None else None
        # A function that is not known here may have been deployed through another gateway: aiohttp's side looks it up.
        if head is None or entry is None or head.length > entry.spec.max_payload_bytes:
            self._hand_over()
            return
        whole = end + head.first
        if len(data) >= whole:
            self._unread = data[whole:]
            self._begin(entry, head, data[end:whole])
        else:
            self._head, self._parts, self._missing = head, [data[end:]], whole - len(data)
            self._unread = data[:end]

    def _on_body(self, data: bytes) -> None:
        head = self._head
        assert head is not None
        if len(data) < self._missing:
            self._parts.append(data)
            self._missing -= len(data)
            self._idle_since = self._loop.time()  # a slow client is not an idle one
            return
        self._parts.append(data[: self._missing])
        body, rest, raw_head = b"".join(self._parts), data[self._missing :], self._unread
        self._head, self._parts, self._missing = None, [], 0
        entry = self._fronts.router.functions.get(head.function)
        if entry is None:
            self._unread = raw_head + body + rest
            self._hand_over()
            return
        self._unread = rest
        self._begin(entry, head, body)

    def _hand_over(self) -> None:
        """To aiohttp, with all that was not answered yet."""
        transport, data = self._transport, self._unread
        assert transport is not None
        self._fronts.connections.discard(self)
        self._transport, self._unread = None, b""
        if not transport.is_reading():
            transport.resume_reading()
        hand_over(transport, self._fronts.make_aiohttp(), data)

    # -- a call ----------------------------------------------------------------

    def _pause(self) -> None:
        if self._transport is not None:
            self._transport.pause_reading()

    def _resume(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def _begin(self, entry: FunctionEntry, head: PlainHead, body: bytes) -> None:
        """Begin a call with its body, or with the first of a large one: the rest follows as the replica takes it."""
        if head.length > head.first:
            self._upload = Upload(head.length - head.first, self._pause, self._resume)
            self._unread = self._upload.feed(self._unread)
        self._busy, self._closes = True, head.close or self._fronts.stopping.is_set()
        try:
            self._call = self._fronts.invoker.begin(
                entry,
                body,
                encoded=head.metadata,
                then=self._on_answer,
                rest=self._upload,
                invocation_id=head.call_id,
                timeout_s=head.timeout_s,
            )
            if self._upload is not None:
                self._input = f"http-input-{id(self)}"
                self._fronts.tasks.start(self._input, self._call.send_rest())
        except InvocationError as error:
            self._write(error_answer(error, close=self._is_last()))
        except Exception:
            self._on_bug()

    def _is_last(self) -> bool:
        """Whether the connection ends with this answer: one before the end of a large body leaves its rest unread."""
        self._closes = (
            self._closes or self._fronts.stopping.is_set() or (self._upload is not None and self._upload.missing > 0)
        )
        return self._closes

    def _on_answer(self, call: PendingCall) -> None:
        """Called by whoever has it: the replica's link, mostly."""
        try:
            answer, close = call.answer, self._is_last()
            if isinstance(answer, Reply):
                self._write(whole_answer(answer, self._loop.time() - call.came_at, close=close))
            elif answer is not None:
                self._task = f"http-stream-{id(self)}"
                self._fronts.tasks.start(self._task, self._send_stream(call, answer, close))
            else:
                assert call.error is not None
                self._write(error_answer(call.error, close=close))
        except Exception:
            self._on_bug()

    def _on_bug(self) -> None:
        log.exception("a request failed")
        self._closes = True
        self._write(error_answer(InternalError("the gateway failed on this request; its log says why"), close=True))

    def _write(self, data: bytes) -> None:
        """All of an answer."""
        if self._transport is not None:
            self._transport.write(data)
            self._finish()

    def _finish(self) -> None:
        """The answer is written; what the client has sent ahead comes next."""
        self._call, self._busy, self._task = None, False, ""
        transport = self._transport
        if self._upload is not None:
            self._fronts.tasks.cancel(self._input)
            self._lingers_for, self._upload, self._input = self._upload.missing, None, ""
        if transport is None:
            return
        self._idle_since = self._loop.time()
        if self._lingers_for:
            # Closed at once, what it sends would reset the connection, and the answer with it.
            self._resume()
            self._loop.call_later(LINGER_S, self.close)
        elif self._closes:
            transport.close()
        elif self._unread:
            # Not here: we are in the middle of the link's message, whose slot is not free yet.
            self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        if self._busy or not self._writable.is_set() or self._transport is None or self._transport.is_closing():
            return  # who reads no answers gets no more of them
        data, self._unread = self._unread, b""
        if not self._transport.is_reading():
            self._transport.resume_reading()
        if data:
            self._on_request(data)

    # -- a stream ------------------------------------------------------------------

    async def _send_stream(self, call: PendingCall, answer: ReplyStream, close: bool) -> None:
        """Send it as fast as the client reads. An error before its first piece has a status of its own."""
        transport = self._transport
        began = False
        try:
            if transport is None:
                return
            transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
            with located(call.entry, call.invocation_id):
                lines = answer.lines()
                first = await anext(lines, b"")
                chunked = answer.length is None
                head = stream_head(answer, self._loop.time() - call.came_at, close=close)
                began = True
                transport.write(head + (chunk(first) if chunked else first))
                async for data in lines:
                    await self._writable.wait()
                    transport.write(chunk(data) if chunked else data)
                await self._writable.wait()
                if chunked:
                    transport.write(CHUNKED_END)
            self._finish()
        except InvocationError as error:
            if began:
                # Only the end of the connection can say it now: no client takes that for a good end.
                log.info("a stream broke off", extra={"error": error.message, "replica": error.replica})
                self.close()
            else:
                self._write(error_answer(error, close=close))
        except Exception:
            if began:
                log.exception("a request failed")
                self.close()
            else:
                self._on_bug()
        finally:
            answer.close()

    def pause_writing(self) -> None:
        """The client reads slower than we write."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """It has caught up."""
        self._writable.set()
        if self._unread and not self._busy:
            self._loop.call_soon(self._go_on)

    # -- the end ----------------------------------------------------------------------

    def idle_s(self, now: float) -> float:
        """Seconds since its last answer; 0 while one is being made."""
        return 0.0 if self._busy else now - self._idle_since

    @property
    def is_receiving(self) -> bool:
        """A request has begun to come, or waits for its turn."""
        return self._head is not None or (bool(self._unread) and not self._writable.is_set())

    def close(self) -> None:
        """End the connection; what is written still leaves."""
        if self._transport is not None:
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        """The client went: its call is cancelled."""
        self._transport = None
        self._fronts.connections.discard(self)
        self._unread, self._parts = b"", []
        self._writable.set()
        if self._input:
            self._fronts.tasks.cancel(self._input)
        if self._task:
            self._fronts.tasks.cancel(self._task)
        if self._call is not None:
            # Of a stream too: a task that is cancelled before its first step closes nothing.
            self._fronts.invoker.abandon(self._call)


@asynccontextmanager
async def open_http_fronts(fronts: HttpFronts) -> AsyncIterator[HttpFronts]:
    """For the life of the block; at its end every call in flight is answered, then connections close."""
    async with running(http_sweep=fronts.run_sweep()):
        try:
            yield fronts
        finally:
            loop = asyncio.get_running_loop()
            linger_end = loop.time() + LINGER_S
            while fronts.connections and (loop.time() < linger_end or (fronts.busy() and fronts.stopping.left_s())):
                await asyncio.sleep(0.02)
            for front in list(fronts.connections):
                front.close()
