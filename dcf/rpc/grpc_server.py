"""A gRPC server on asyncio alone: one protocol for each connection, and a task only where a method wants one.

In:   connections whose client speaks HTTP/2 from the start, methods as grpc registers them.
Out:  their answers, as grpc_call.py has them.
grpc.aio's own server hands each call over between its threads and the loop's, and makes a task for it: for small
calls that was most of what a gateway did. gRPC over HTTP/2: github.com/grpc/grpc, doc/PROTOCOL-HTTP2.md; RFC 9113.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Coroutine, Sequence
from contextlib import aclosing
from typing import Any, NamedTuple, cast

import grpc
import hpack

from dcf.errors import ProtocolError
from dcf.lifecycle import TaskSet
from dcf.rpc import http2
from dcf.rpc.grpc_call import ENCODINGS, WINDOW_BYTES, GrpcMethod, Rpc, RpcEndedError
from dcf.rpc.http2 import Http2Frame, Http2Reader, pack_frame, pack_headers, pack_settings, pack_window

log = logging.getLogger(__name__)

MAX_CALLS = 1024
"""Of one connection at once; a client that knows the rules waits with more."""
FRAME_BYTES = 1024 * 1024
"""The most that one frame of a client may have."""
HEADER_LIST_BYTES = 16 * 1024
"""Of a call's headers; gRPC's own servers refuse more too."""
BLOCK_BYTES = 64 * 1024
"""Headers of more end the connection: they are not even read."""
RENEW_BYTES = 2**30
LATE_S = 0.25
"""After a client's deadline. A call that keeps to it says more in its error, so it has a moment to say it first."""
UNSENT_BYTES = 4 * 1024 * 1024
"""With more that a client has not taken it is not read: answers that no window holds back would pile up."""
LEAVE_S = 0.3
"""At a stop, for clients to go."""
CLOSE_S = 2.0
"""For a peer to take what was written last."""
POLL_S = 0.02


class _Asked(NamedTuple):
    """What a generic handler of grpc is asked with."""

    method: str
    invocation_metadata: tuple[()] = ()


class GrpcServer:
    """What all connections share. Touched only by one event loop."""

    def __init__(self, tasks: TaskSet) -> None:
        """`tasks`: runs the methods that are coroutines."""
        self.tasks = tasks
        self.connections: set[GrpcConnection] = set()
        self.is_stopping = False
        self.count = 0
        self._handlers: list[grpc.GenericRpcHandler] = []
        self._methods: dict[bytes, GrpcMethod | None] = {}

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """As grpc.aio.Server has it, for what registers itself."""
        self._handlers += handlers

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Any]) -> None:
        """The same handlers once more, in grpc's newer way."""

    def method(self, path: bytes) -> GrpcMethod | None:
        """What answers `/package.Service/Method`."""
        if path not in self._methods:
            if len(self._methods) > MAX_CALLS:
                self._methods.clear()  # a client asks for whatever it likes
            asked = cast("Any", _Asked(path.decode(errors="replace")))
            found = next((one for one in (handler.service(asked) for handler in self._handlers) if one), None)
            self._methods[path] = GrpcMethod(found) if found else None
        return self._methods[path]

    def connection(self) -> GrpcConnection:
        """The protocol of one connection, whose preface is still to be read."""
        return GrpcConnection(self)

    @property
    def calls(self) -> int:
        """On all connections."""
        return sum(len(connection.rpcs) for connection in self.connections)

    async def stop(self, grace_s: float) -> None:
        """Take no new calls; those that run have `grace_s`, then they are cancelled. Safe to call twice."""
        self.is_stopping = True
        for connection in self.connections:
            connection.say_goodbye()
        loop = asyncio.get_running_loop()
        now = loop.time()
        # A client that hears it closes an idle connection by itself. What it had sent meanwhile is refused, and tried
        # again elsewhere: were the connection closed at once, that would reset it, and the client not know.
        await self._until(lambda: not self.connections, now + min(grace_s, LEAVE_S))
        await self._until(lambda: not self.calls, now + grace_s)
        for connection in list(self.connections):
            connection.close()
        await self._until(lambda: not self.connections, loop.time() + CLOSE_S)

    async def _until(self, done: Callable[[], bool], end: float) -> None:
        while not done() and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(POLL_S)


class GrpcConnection(asyncio.Protocol):
    """One client."""

    def __init__(self, server: GrpcServer) -> None:
        self.loop = asyncio.get_running_loop()
        self.now = self.loop.time
        self.rpcs: dict[int, Rpc] = {}
        self.is_full = False
        """It holds more than it should."""
        self._server = server
        self._transport: asyncio.Transport | None = None
        self._reader = Http2Reader(FRAME_BYTES)
        self._decoder = hpack.Decoder(BLOCK_BYTES)
        self._preface = len(http2.PREFACE)
        """Bytes of it that are still to come."""
        self._newest = 0
        """The stream that was opened last."""
        self._last = 0
        """The last that became a call: what GOAWAY says, and must not grow after it was said."""
        self._block: list[bytes] = []
        self._block_of = 0
        """The stream whose headers go on in another frame; 0: none."""
        self._block_flags = 0
        self._taken = 0
        self._window = self._initial_window = http2.DEFAULT_WINDOW
        self._frame_size = http2.DEFAULT_FRAME_SIZE

    # -- the connection ----------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say how much may be sent."""
        self._transport = cast("asyncio.Transport", transport)
        self._server.connections.add(self)
        settings = [
            (http2.MAX_CONCURRENT_STREAMS, MAX_CALLS),
            (http2.INITIAL_WINDOW_SIZE, WINDOW_BYTES),
            (http2.MAX_FRAME_SIZE, FRAME_BYTES),
            (http2.MAX_HEADER_LIST_SIZE, HEADER_LIST_BYTES),
        ]
        self.write(pack_settings(settings) + pack_window(0, http2.LARGEST_WINDOW - http2.DEFAULT_WINDOW))
        if self._server.is_stopping:
            self.say_goodbye()

    def data_received(self, data: bytes) -> None:
        """Bytes of the client."""
        if self._preface:
            skipped = min(self._preface, len(data))
            self._preface -= skipped
            data = data[skipped:]
        try:
            for frame in self._reader.feed(data):
                self._on_frame(frame)
                if self._transport is None or self._transport.is_closing():
                    return
        except ProtocolError as error:
            self._fail(http2.PROTOCOL_ERROR, str(error))
        except hpack.OversizedHeaderListError:
            self._fail(http2.ENHANCE_YOUR_CALM, f"the headers of a call have over {BLOCK_BYTES} bytes")
        except (hpack.HPACKError, UnicodeDecodeError) as error:
            self._fail(http2.COMPRESSION_ERROR, f"headers cannot be read: {error}")
        except Exception:
            log.exception("a gRPC connection failed on a bug of DCF")
            self._fail(http2.INTERNAL_ERROR, "the server failed; its log says why")
        if self.is_full and self._transport is not None and self._transport.get_write_buffer_size() > UNSENT_BYTES:
            self._transport.pause_reading()

    def connection_lost(self, error: Exception | None) -> None:
        """The client is gone, and with it all its calls."""
        self._transport = None
        self._server.connections.discard(self)
        for rpc in list(self.rpcs.values()):
            rpc.cancel()
        self.rpcs.clear()

    def pause_writing(self) -> None:
        """The client takes less than we write."""
        self.is_full = True

    def resume_writing(self) -> None:
        """It has caught up."""
        self.is_full = False
        if self._transport is not None:
            self._transport.resume_reading()
        for rpc in list(self.rpcs.values()):
            rpc.note_room()

    def write(self, data: bytes) -> None:
        """Of any stream; the loop writes what comes in one turn together."""
        if self._transport is not None:
            self._transport.write(data)

    def say_goodbye(self) -> None:
        """The client opens no more calls here; one whose first was on its way is told to try it elsewhere."""
        self.write(_goaway(self._last, http2.NO_ERROR))

    def close(self) -> None:
        """End it with all that is in it; what is written still leaves, within CLOSE_S."""
        transport = self._transport
        if transport is not None and not transport.is_closing():
            for rpc in list(self.rpcs.values()):
                rpc.fail(grpc.StatusCode.UNAVAILABLE, "the server stops")
            transport.close()
            self.loop.call_later(CLOSE_S, transport.abort)

    def _fail(self, code: int, reason: str) -> None:
        """The client broke a rule of HTTP/2."""
        log.warning("a gRPC client broke the protocol", extra={"error": reason})
        if self._transport is not None:
            self.write(_goaway(self._last, code, reason))
            self._transport.close()
            self.loop.call_later(CLOSE_S, self._transport.abort)

    # -- frames in -----------------------------------------------------------------

    def _on_frame(self, frame: Http2Frame) -> None:
        kind = frame.kind
        if self._block_of and (kind != http2.CONTINUATION or frame.stream != self._block_of):
            raise ProtocolError("headers were interrupted by another frame")
        if kind == http2.DATA:
            self._on_data(frame)
        elif kind == http2.HEADERS:
            if not frame.stream:
                raise ProtocolError("headers came for no stream")
            self._block, self._block_of, self._block_flags = [bytes(http2.strip(frame))], frame.stream, frame.flags
            if len(self._block[0]) > BLOCK_BYTES:
                raise hpack.OversizedHeaderListError
            if frame.flags & http2.END_HEADERS:
                self._on_block()
        elif kind == http2.CONTINUATION:
            if not self._block_of:
                raise ProtocolError("a CONTINUATION frame continues nothing")
            self._block.append(bytes(frame.payload))
            # Also empty ones: a client could send them for ever.
            if sum(map(len, self._block)) > BLOCK_BYTES or len(self._block) > BLOCK_BYTES // 1024:
                raise hpack.OversizedHeaderListError
            if frame.flags & http2.END_HEADERS:
                self._on_block()
        elif kind == http2.WINDOW_UPDATE:
            self._on_window(frame)
        elif kind == http2.SETTINGS:
            self._on_settings(frame)
        elif kind == http2.PING:
            if len(frame.payload) != 8:
                raise ProtocolError(f"a PING frame has {len(frame.payload)} bytes, expected 8")
            if not frame.flags & http2.ACK:
                self.write(pack_frame(http2.PING, http2.ACK, 0, bytes(frame.payload)))
        elif kind == http2.RST_STREAM:
            http2.unpack_number(frame.payload)
            if frame.stream > self._newest or not frame.stream:
                raise ProtocolError("a stream was reset that was never opened")
            if rpc := self.rpcs.pop(frame.stream, None):
                rpc.cancel()
        elif kind == http2.PUSH_PROMISE:
            raise ProtocolError("a client pushed a stream")

    def _on_window(self, frame: Http2Frame) -> None:
        more = http2.unpack_number(frame.payload)
        if not more:
            raise ProtocolError("a window was widened by nothing")
        if frame.stream:
            if rpc := self.rpcs.get(frame.stream):
                rpc.window += more
                if rpc.is_blocked:
                    rpc.pump()
            return
        self._window += more
        if self._window > http2.LARGEST_WINDOW:
            raise ProtocolError("the connection's window became too large")
        self._pump()

    def _pump(self) -> None:
        for rpc in [rpc for rpc in self.rpcs.values() if rpc.is_blocked]:
            rpc.pump()

    def _on_settings(self, frame: Http2Frame) -> None:
        if frame.flags & http2.ACK:
            return
        for name, value in http2.unpack_settings(frame.payload):
            if name == http2.INITIAL_WINDOW_SIZE:
                if value > http2.LARGEST_WINDOW:
                    raise ProtocolError(f"a window of {value} bytes is too large")
                for rpc in self.rpcs.values():
                    rpc.window += value - self._initial_window
                self._initial_window = value
            elif name == http2.MAX_FRAME_SIZE:
                if not http2.DEFAULT_FRAME_SIZE <= value <= http2.LARGEST_FRAME_SIZE:
                    raise ProtocolError(f"frames of {value} bytes are not allowed")
                self._frame_size = value
        self.write(pack_frame(http2.SETTINGS, http2.ACK, 0))
        self._pump()

    def _on_data(self, frame: Http2Frame) -> None:
        size = len(frame.payload)
        self._taken += size
        if self._taken > RENEW_BYTES:
            self.write(pack_window(0, self._taken))
            self._taken = 0
        rpc = self.rpcs.get(frame.stream)
        if rpc is None:
            if frame.stream > self._newest or not frame.stream:
                raise ProtocolError("data came for a stream that was never opened")
            return  # it has ended here
        if rpc.half_closed:
            raise ProtocolError("data came after the end of a stream")
        last = bool(frame.flags & http2.END_STREAM)
        try:
            rpc.take(http2.strip(frame) if frame.flags & http2.PADDED else frame.payload, size)
        except ProtocolError as error:
            rpc.fail(grpc.StatusCode.INTERNAL, str(error))
            return
        if last:
            self._on_last(rpc)

    def _on_block(self) -> None:
        stream, flags = self._block_of, self._block_flags
        block, self._block, self._block_of = b"".join(self._block), [], 0
        pairs = cast("list[tuple[bytes, bytes]]", self._decoder.decode(block, raw=True))
        last = bool(flags & http2.END_STREAM)
        if stream <= self._newest:
            rpc = self.rpcs.get(stream)
            if rpc is not None and last and not rpc.half_closed:  # trailers of the client's
                self._on_last(rpc)
            return
        if not stream & 1:
            raise ProtocolError("a client opened a stream with an even number")
        if self._server.is_stopping or len(self.rpcs) >= MAX_CALLS:
            # Safe to try again, and gRPC's clients do: nothing of it was looked at.
            self._newest = stream
            self.write(_reset(stream, http2.REFUSED_STREAM))
            return
        self._newest = self._last = stream
        self._on_call(stream, pairs, last)

    # -- calls -----------------------------------------------------------------------

    def _on_call(self, stream: int, pairs: list[tuple[bytes, bytes]], last: bool) -> None:
        """A client opens a stream."""
        headers = dict(pairs)
        if not headers.get(b"content-type", b"").startswith(b"application/grpc"):
            reason = "only gRPC is spoken over HTTP/2 here: content-type must be application/grpc"
            self._refuse(stream, last, b"415", reason)
            return
        if headers.get(b":method") != b"POST":
            self._refuse(stream, last, b"405", "gRPC calls are POST")
            return
        path = headers.get(b":path", b"")
        size = sum(len(name) + len(value) + 32 for name, value in pairs)
        method = self._server.method(path) if size <= HEADER_LIST_BYTES else None
        try:
            rpc = Rpc(self, stream, method or _NO_METHOD, headers, self._initial_window)
        except ProtocolError as error:
            rpc = Rpc(self, stream, _NO_METHOD, {}, self._initial_window)
            self.rpcs[stream] = rpc
            rpc.half_closed = last
            rpc.fail(grpc.StatusCode.INTERNAL, str(error))
            return
        self.rpcs[stream] = rpc
        if size > HEADER_LIST_BYTES:
            rpc.half_closed = last
            text = f"the call's headers have {size} bytes; at most {HEADER_LIST_BYTES} are allowed"
            rpc.fail(grpc.StatusCode.RESOURCE_EXHAUSTED, text)
        elif (encoding := headers.get(b"grpc-encoding", b"identity")) not in ENCODINGS:
            rpc.half_closed = last
            text = f"messages compressed by {encoding.decode(errors='replace')} are not understood"
            rpc.finish(grpc.StatusCode.UNIMPLEMENTED, text, (("grpc-accept-encoding", b",".join(ENCODINGS).decode()),))
        elif method is None:
            rpc.half_closed = last
            rpc.fail(grpc.StatusCode.UNIMPLEMENTED, f"there is no method {path.decode(errors='replace')}")
        else:
            if method.request_streaming:
                self.start(rpc, _serve_stream(rpc, rpc.requests()))
            if last:
                self._on_last(rpc)

    def _on_last(self, rpc: Rpc) -> None:
        """The client has sent all of a call."""
        rpc.close_half()
        method = rpc.method
        if method.request_streaming:
            return
        try:
            request = rpc.only_message()
        except ProtocolError as error:
            rpc.fail(grpc.StatusCode.INTERNAL, str(error))
            return
        if method.response_streaming:
            self.start(rpc, _serve_stream(rpc, request))
            return
        try:
            rest = method.implementation(request, rpc)
        except Exception:
            _on_bug(rpc)
            return
        if rest is not None:
            self.start(rpc, rest)

    def start(self, rpc: Rpc, work: Coroutine[Any, Any, Any]) -> None:
        """See `Rpc.run`."""
        self._server.count += 1
        name = f"rpc-{self._server.count}"
        task = self._server.tasks.start(name, _run(rpc, work))
        task.add_done_callback(lambda _: work.close())  # one that never began would be complained about
        before = rpc.on_cancel

        def cancel() -> None:
            task.cancel()
            before()  # a task that is cancelled before its first step closes nothing

        rpc.on_cancel = cancel
        if (left_s := rpc.time_remaining()) is not None:
            timer = self.loop.call_later(left_s + LATE_S, self._on_deadline, rpc)
            task.add_done_callback(lambda _: timer.cancel())

    def _on_deadline(self, rpc: Rpc) -> None:
        if not rpc.ended:
            rpc.fail(grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline is over")

    def _refuse(self, stream: int, last: bool, status: bytes, reason: str) -> None:
        """Whoever asks is no client of gRPC. It is told why if its windows have room for that."""
        pairs = ((b":status", status), (b"content-type", b"text/plain; charset=utf-8"))
        text = reason.encode() + b"\n"
        if len(text) <= min(self._window, self._initial_window):
            self._window -= len(text)
            self.write(pack_headers(stream, pairs) + pack_frame(http2.DATA, http2.END_STREAM, stream, text))
        else:
            self.write(pack_headers(stream, pairs, http2.END_STREAM))
        if not last:
            self.write(_reset(stream, http2.NO_ERROR))

    # -- windows, for a call -------------------------------------------------------------

    def room(self, rpc: Rpc) -> int:
        """Bytes that one frame of it may have now."""
        return min(self._window, rpc.window, self._frame_size)

    def has_room(self, rpc: Rpc, size: int) -> bool:
        """Whether so many fit into one frame."""
        return size <= self._window and size <= rpc.window and size <= self._frame_size

    def spend(self, rpc: Rpc, size: int) -> None:
        """So many are sent."""
        self._window -= size
        rpc.window -= size

    def forget(self, rpc: Rpc) -> None:
        """It has ended here. A client that still sends is told to stop."""
        if self.rpcs.pop(rpc.stream, None) is not None and not rpc.half_closed:
            self.write(_reset(rpc.stream, http2.NO_ERROR))


async def _serve_stream(rpc: Rpc, argument: Any) -> None:
    """A method one of whose sides is a stream."""
    result = rpc.method.implementation(argument, rpc)
    if inspect.isasyncgen(result):
        async with aclosing(result):
            async for message in result:
                await rpc.write(message)
    else:
        reply = await result
        if reply is not None:
            rpc.send(reply)
    rpc.finish()


async def _run(rpc: Rpc, work: Coroutine[Any, Any, Any]) -> None:
    """What it returns is the answer, if it is not None."""
    try:
        reply = await work
        if reply is not None:
            rpc.reply(reply)
    except RpcEndedError:
        pass
    except ProtocolError as error:
        rpc.finish(grpc.StatusCode.INTERNAL, str(error))
    except asyncio.CancelledError:
        if not rpc.ended:  # nobody asked for that
            _on_bug(rpc)
        raise
    except Exception:
        _on_bug(rpc)


def _on_bug(rpc: Rpc) -> None:
    log.exception("a gRPC call failed on a bug of DCF")
    rpc.finish(grpc.StatusCode.INTERNAL, "the server failed on this call; its log says why")


def _goaway(newest: int, code: int, reason: str = "") -> bytes:
    payload = newest.to_bytes(4, "big") + code.to_bytes(4, "big") + reason.encode()
    return pack_frame(http2.GOAWAY, 0, 0, payload)


def _reset(stream: int, code: int) -> bytes:
    return pack_frame(http2.RST_STREAM, 0, stream, code.to_bytes(4, "big"))


_NO_METHOD = GrpcMethod(
    grpc.unary_unary_rpc_method_handler(
        lambda request, rpc: None, request_deserializer=bytes, response_serializer=bytes
    )
)
"""Of a call that is refused."""
