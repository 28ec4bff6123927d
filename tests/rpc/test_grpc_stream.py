"""Our transport of one gRPC stream speaks with gRPC's own, at either end."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import hpack
import pytest

from dcf.errors import ProtocolError
from dcf.rpc import http2
from dcf.rpc.grpc_stream import (
    ClientStream,
    GrpcEnd,
    ServerStream,
    is_ours,
    open_client_stream,
    unwrap,
    wrap,
)
from dcf.rpc.services import OPTIONS
from dcf.rpc.v1_watcher_pb2 import Frames

PATH = "/dcf.v1.Watcher/Attach"
SIZES = [0, 1, 126, 127, 128, 16_379, 16_384, 65_535, 65_536, 300_000, 5_000_000]
LIMIT_S = 20.0


class Received:
    """What came, message by message."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self._changed = asyncio.Event()

    def __call__(self, data: bytes) -> None:
        self.messages.append(data)
        self._changed.set()

    async def until(self, number: int) -> list[bytes]:
        async with asyncio.timeout(LIMIT_S):
            while len(self.messages) < number:
                self._changed.clear()
                await self._changed.wait()
        return self.messages


def bodies() -> list[bytes]:
    dice = random.Random(3)
    return [dice.randbytes(size) for size in SIZES]


@asynccontextmanager
async def grpc_server(folder: Path, answer: Callable[[Any, Any], AsyncIterator[Frames]]) -> AsyncIterator[str]:
    """A server of grpc.aio, as a watcher of an older release is one."""
    server = grpc.aio.server(options=OPTIONS)
    handler = grpc.stream_stream_rpc_method_handler(answer, Frames.FromString, Frames.SerializeToString)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("dcf.v1.Watcher", {"Attach": handler}),))
    address = f"unix:{folder}/grpc"
    server.add_insecure_port(address)
    await server.start()
    try:
        yield address
    finally:
        await server.stop(None)


class _SkipPreface(asyncio.Protocol):
    """What the watcher's listener does before a ServerStream has the connection."""

    def __init__(self, make: Callable[[], ServerStream]) -> None:
        self._make = make
        self._data = b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._stream = self._make()
        self._stream.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        self._data += data
        if len(self._data) >= len(http2.PREFACE):
            assert self._data.startswith(http2.PREFACE)
            self._transport.set_protocol(self._stream)
            self._stream.data_received(self._data[len(http2.PREFACE) :])


@asynccontextmanager
async def our_server(folder: Path, make: Callable[[], ServerStream]) -> AsyncIterator[str]:
    path = f"{folder}/ours"
    server = await asyncio.get_running_loop().create_unix_server(lambda: _SkipPreface(make), path)
    try:
        yield f"unix:{path}"
    finally:
        server.close()


def echoing(half_closed: Callable[[ServerStream], None] = lambda stream: stream.finish()) -> ServerStream:
    stream = ServerStream(lambda data: stream.send(data))
    stream.on_half_closed = lambda: half_closed(stream)
    return stream


async def end_of(stream: ClientStream) -> GrpcEnd:
    async with asyncio.timeout(LIMIT_S):
        return await stream.ended


async def test_a_server_of_grpc_gets_every_message_and_answers_it(tmp_path: Path) -> None:
    async def answer(requests: Any, context: Any) -> AsyncIterator[Frames]:
        assert dict(context.invocation_metadata())["user-agent"] == "test/1"
        async for request in requests:
            yield Frames(data=request.data)

    received = Received()
    async with grpc_server(tmp_path, answer) as address:
        stream = await open_client_stream(address, PATH, "test/1", received)
        for body in bodies():
            stream.send(body)
        assert await received.until(len(SIZES)) == bodies()
        stream.half_close()
        assert await end_of(stream) == (grpc.StatusCode.OK, "")
        stream.close()


async def test_a_client_of_grpc_gets_every_message_of_ours(tmp_path: Path) -> None:
    async with our_server(tmp_path, echoing) as address, grpc.aio.insecure_channel(address, options=OPTIONS) as channel:
        call = channel.stream_stream(PATH, Frames.SerializeToString, Frames.FromString)()
        for body in bodies():
            await call.write(Frames(data=body))
        assert [(await call.read()).data for _ in SIZES] == bodies()
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        assert await call.code() is grpc.StatusCode.OK


async def test_both_ends_of_ours_carry_many_messages_at_once(tmp_path: Path) -> None:
    received = Received()
    async with our_server(tmp_path, echoing) as address:
        stream = await open_client_stream(address, PATH, "test/1", received)
        for _ in range(8):  # more than both sockets hold
            for body in bodies():
                stream.send(body)
        messages = await received.until(8 * len(SIZES))
        assert messages[:: len(SIZES)] == [b""] * 8
        assert messages[-1] == bodies()[-1]
        stream.half_close()
        assert (await end_of(stream)).code is grpc.StatusCode.OK
        stream.close()


@pytest.mark.parametrize("text", ["", "plain", "the gateway's % and ü\nand a line"])
async def test_a_status_and_its_text_arrive(tmp_path: Path, text: str) -> None:
    async def refuse(requests: Any, context: Any) -> AsyncIterator[Frames]:
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, text)
        yield Frames()

    def finish(stream: ServerStream) -> None:
        stream.finish(grpc.StatusCode.FAILED_PRECONDITION, text)

    async with grpc_server(tmp_path, refuse) as theirs, our_server(tmp_path, lambda: echoing(finish)) as ours:
        for address in (theirs, ours):
            stream = await open_client_stream(address, PATH, "test/1", Received())
            stream.half_close()
            assert await end_of(stream) == (grpc.StatusCode.FAILED_PRECONDITION, text)
            stream.close()
        async with grpc.aio.insecure_channel(ours, options=OPTIONS) as channel:
            call = channel.stream_stream(PATH, Frames.SerializeToString, Frames.FromString)()
            await call.done_writing()
            assert (await call.code(), await call.details()) == (grpc.StatusCode.FAILED_PRECONDITION, text)


async def test_a_cancel_reaches_a_server_of_grpc_and_ours(tmp_path: Path) -> None:
    gone = asyncio.Event()
    ends: list[GrpcEnd] = []

    async def answer(requests: Any, context: Any) -> AsyncIterator[Frames]:
        yield Frames(data=b"here")
        try:
            await asyncio.sleep(LIMIT_S)
        finally:
            gone.set()

    def make() -> ServerStream:
        stream = echoing()
        stream.ended.add_done_callback(lambda ended: ends.append(ended.result()))
        return stream

    async with grpc_server(tmp_path, answer) as theirs, our_server(tmp_path, make) as ours:
        for address in (theirs, ours):
            received = Received()
            stream = await open_client_stream(address, PATH, "test/1", received)
            stream.send(b"x")
            await received.until(1)
            stream.cancel()
            assert (await end_of(stream)).code is grpc.StatusCode.CANCELLED
        async with asyncio.timeout(LIMIT_S):
            await gone.wait()
            while not ends:
                await asyncio.sleep(0.01)
    assert ends[0].code is grpc.StatusCode.CANCELLED


async def test_a_peer_that_dies_or_speaks_something_else_ends_the_stream(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(answers.pop())
        await writer.drain()
        writer.close()

    answers = [
        b"",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        http2.pack_headers(1, [(b":status", b"404")]),
        http2.pack_frame(http2.DATA, 0, 1, b"\x01\0\0\0\1x"),
        http2.pack_frame(http2.HEADERS, http2.END_HEADERS, 1, b"\xff\xff\xff"),
        http2.pack_frame(http2.SETTINGS, 0, 0, b"odd"),
        http2.pack_frame(http2.DATA, http2.PADDED, 1, b"\xff"),
        http2.pack_frame(http2.GOAWAY, 0, 0, bytes(8)),
        http2.pack_frame(http2.RST_STREAM, 0, 1, bytes(4)),
    ]
    server = await asyncio.start_unix_server(serve, f"{tmp_path}/odd")
    while answers:
        stream = await open_client_stream(f"unix:{tmp_path}/odd", PATH, "test/1", Received())
        end = await end_of(stream)
        assert end.code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN), end
        assert end.details
        stream.close()
    server.close()
    await server.wait_closed()


def test_frames_are_found_wherever_they_are_cut() -> None:
    data = (
        http2.pack_settings([(1, 2), (3, 4)]) + http2.pack_window(1, 9) + http2.pack_frame(http2.DATA, 1, 1, b"x" * 9)
    )
    for cut in range(len(data)):
        reader = http2.Http2Reader(1 << 20)
        found = reader.feed(data[:cut]) + reader.feed(data[cut:])
        assert [frame.kind for frame in found] == [http2.SETTINGS, http2.WINDOW_UPDATE, http2.DATA]
        assert list(http2.unpack_settings(found[0].payload)) == [(1, 2), (3, 4)]


@pytest.mark.parametrize("size", [0, 1, 126, 127, 128, 254, 255, 5000])
def test_headers_are_read_by_another_decoder(size: int) -> None:
    pairs = [(b":path", b"/x"), (b"long", b"v" * size)]
    frame = http2.pack_headers(1, pairs)
    assert hpack.Decoder().decode(frame[http2.HEADER_BYTES :], raw=True) == pairs


def test_messages_are_those_of_protobuf() -> None:
    for size in SIZES:
        body = bytes(size)
        message = Frames(data=body).SerializeToString() if size else b"\x0a\x00"
        assert (wrap(size) + body)[5:] == message
        for data in (message, memoryview(message)):
            assert unwrap(data, 0, len(data)) == body
            assert unwrap(b"".join((b"--", data, b"-")), 2, 2 + len(data)) == body
    assert unwrap(b"", 0, 0) == b""
    assert unwrap(b"\x0a\x01a\x0a\x01b", 0, 6) == b"b"  # the last of a field counts
    with pytest.raises(ProtocolError):
        unwrap(b"\x0a\x05a", 0, 3)


async def test_a_connection_of_ours_is_told_from_others(tmp_path: Path) -> None:
    seen: list[bytes] = []

    async def look(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.read(65536))
        writer.close()

    server = await asyncio.start_unix_server(look, f"{tmp_path}/look")
    stream = await open_client_stream(f"unix:{tmp_path}/look", PATH, "test/1", Received())
    await end_of(stream)
    server.close()
    await server.wait_closed()
    begin = seen[0]
    assert is_ours(begin)
    told = [is_ours(begin[:size]) for size in range(len(begin) + 1)]
    assert told == [None] * told.index(True) + [True] * (len(told) - told.index(True))
    for other in (
        http2.PREFACE + http2.pack_settings([(2, 0)]) + bytes(40),
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01",
    ):
        assert is_ours(other) is False
