"""Our gRPC server answers gRPC's own clients, and a client that keeps to no rule."""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import random
import socket
import zlib
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import hpack
import pytest

from dcf.lifecycle import open_task_set
from dcf.rpc import grpc_server, http2
from dcf.rpc.grpc_call import FULL_BYTES, WINDOW_BYTES, Rpc
from dcf.rpc.grpc_messages import PREFIX
from dcf.rpc.grpc_server import FRAME_BYTES, MAX_CALLS, GrpcServer
from dcf.rpc.http2 import Http2Frame, pack_frame, pack_headers, pack_settings, pack_window
from dcf.rpc.services import OPTIONS
from tests.conftest import until

LIMIT_S = 10.0
ODD_TEXT = "the gateway's % and ü\nand a line"
MIB = 1024 * 1024


# -- a server ------------------------------------------------------------------


def at_once(request: bytes, rpc: Rpc) -> None:
    rpc.reply(request)


def later(request: bytes, rpc: Rpc) -> None:
    asyncio.get_running_loop().call_soon(rpc.reply, request)


async def by_coroutine(request: bytes, rpc: Rpc) -> bytes:
    await asyncio.sleep(0)
    return request


def by_coroutine_after_all(request: bytes, rpc: Rpc) -> None:
    rpc.run(by_coroutine(request, rpc))


async def count(request: bytes, rpc: Rpc) -> AsyncIterator[bytes]:
    for number in range(int(request)):
        yield b"%d" % number


async def count_by_write(request: bytes, rpc: Rpc) -> None:
    for number in range(int(request)):
        await rpc.write(b"%d" % number)


async def echo_all(requests: AsyncIterator[bytes], rpc: Rpc) -> AsyncIterator[bytes]:
    async for request in requests:
        yield request


async def join(requests: AsyncIterator[bytes], rpc: Rpc) -> bytes:
    return b"".join([request async for request in requests])


def hang(request: bytes, rpc: Rpc) -> None:
    """Nobody answers."""


class Hanging:
    """Implementations that wait for `go`, and say what became of them."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.rpcs: list[Rpc] = []
        self.cancelled: list[str] = []

    async def wait(self, request: bytes, rpc: Rpc) -> bytes:
        self.rpcs.append(rpc)
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled.append("task")
            raise
        return request

    def start(self, request: bytes, rpc: Rpc) -> None:
        rpc.on_cancel = lambda: self.cancelled.append("on_cancel")
        rpc.run(self.wait(request, rpc))

    async def stream(self, request: Any, rpc: Rpc) -> AsyncIterator[bytes]:
        yield b"here"
        await self.wait(b"", rpc)


class Served:
    """A server and where it listens."""

    def __init__(self, server: GrpcServer, address: str) -> None:
        self.server = server
        self.address = address

    def channel(self) -> grpc.aio.Channel:
        return grpc.aio.insecure_channel(self.address, options=OPTIONS)

    @asynccontextmanager
    async def raw(self, *settings: tuple[int, int], begin: bytes | None = None) -> AsyncIterator[RawClient]:
        host, port = self.address.rsplit(":", 1)
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(http2.PREFACE + pack_settings(settings) if begin is None else begin)
        try:
            yield RawClient(reader, writer)
        finally:
            writer.transport.abort()


@asynccontextmanager
async def serving(implementation: Any = at_once, kind: str = "unary_unary") -> AsyncIterator[Served]:
    """One method under `/t/M`, and one that echoes under `/t/Echo`; nothing is left of any call."""
    async with open_task_set() as tasks:
        server = GrpcServer(tasks)
        make = getattr(grpc, f"{kind}_rpc_method_handler")
        echo = grpc.unary_unary_rpc_method_handler(at_once, bytes, bytes)
        handlers = {"M": make(implementation, bytes, bytes), "Echo": echo}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t", handlers),))
        listener = await asyncio.get_running_loop().create_server(server.connection, "127.0.0.1", 0)
        try:
            yield Served(server, f"127.0.0.1:{listener.sockets[0].getsockname()[1]}")
            await until(lambda: not server.calls, what="the end of every call")
            await until(lambda: not tasks._tasks, what="the end of every task")
        finally:
            listener.close()
            await server.stop(0)
            await until(lambda: not server.connections, what="the end of every connection")


def call(channel: Any, kind: str, path: str = "/t/M") -> Any:
    return getattr(channel, kind)(path, bytes, bytes)


# -- gRPC's own clients --------------------------------------------------------


@pytest.mark.parametrize("implementation", [at_once, later, by_coroutine, by_coroutine_after_all])
async def test_a_unary_call_is_answered_however_its_implementation_does(implementation: Any) -> None:
    def ask() -> list[bytes]:
        with grpc.insecure_channel(served.address, options=OPTIONS) as channel:
            return [call(channel, "unary_unary")(body, timeout=LIMIT_S) for body in (b"", b"sync")]

    async with serving(implementation) as served, served.channel() as channel:
        assert [await call(channel, "unary_unary")(body, timeout=LIMIT_S) for body in (b"", b"x")] == [b"", b"x"]
        with ThreadPoolExecutor(1) as pool:
            assert await asyncio.get_running_loop().run_in_executor(pool, ask) == [b"", b"sync"]


@pytest.mark.parametrize("implementation", [count, count_by_write])
async def test_a_stream_of_answers_arrives(implementation: Any) -> None:
    async with serving(implementation, "unary_stream") as served, served.channel() as channel:
        for number in (0, 1, 2000):
            stream = call(channel, "unary_stream")(b"%d" % number, timeout=LIMIT_S)
            assert [int(answer) async for answer in stream] == list(range(number))
            assert await stream.code() is grpc.StatusCode.OK


async def test_streams_of_requests_arrive() -> None:
    dice = random.Random(3)
    bodies = [dice.randbytes(size) for size in (0, 1, 16_379, 16_384, 65_536, 300_000, 5_000_000)]
    async with serving(echo_all, "stream_stream") as served, served.channel() as channel:
        stream = call(channel, "stream_stream")(iter(bodies), timeout=LIMIT_S)
        assert [answer async for answer in stream] == bodies
    async with serving(join, "stream_unary") as served, served.channel() as channel:
        assert await call(channel, "stream_unary")(iter(bodies), timeout=LIMIT_S) == b"".join(bodies)


@pytest.mark.parametrize("way", ["finish", "abort"])
async def test_metadata_and_a_status_travel_both_ways(way: str) -> None:
    sent = (("text", "a b"), ("raw-bin", bytes(range(256))), ("none-bin", b""))

    async def refuse(request: bytes, rpc: Rpc) -> None:
        given = [pair for pair in rpc.invocation_metadata() if pair[0] != "user-agent"]
        assert rpc.header("text") == "a b"
        if way == "abort":
            await rpc.abort(grpc.StatusCode.FAILED_PRECONDITION, ODD_TEXT, given)
        rpc.finish(grpc.StatusCode.FAILED_PRECONDITION, ODD_TEXT, given)

    async with serving(refuse) as served, served.channel() as channel:
        ended = call(channel, "unary_unary")(b"", metadata=sent, timeout=LIMIT_S)
        assert (await ended.code(), await ended.details()) == (grpc.StatusCode.FAILED_PRECONDITION, ODD_TEXT)
        assert sorted(await ended.trailing_metadata()) == sorted(sent)


async def test_a_message_longer_than_a_frame_reaches_the_client() -> None:
    async def refuse(request: bytes, rpc: Rpc) -> None:
        await rpc.abort(grpc.StatusCode.ABORTED, "ü" * 4000)

    async with serving(refuse) as served, served.raw() as client:
        client.ask(1)
        _, _, trailers = await client.answer(1)  # no frame of it is larger than 16 KiB
        assert trailers[b"grpc-message"] == b"%C3%BC" * 4000


@pytest.mark.parametrize("encoding", [grpc.Compression.Gzip, grpc.Compression.Deflate])
async def test_compressed_requests_are_read(encoding: grpc.Compression) -> None:
    async with serving() as served, served.channel() as channel:
        body = b"again and " * 10_000
        assert await call(channel, "unary_unary")(body, compression=encoding, timeout=LIMIT_S) == body


@pytest.mark.parametrize("implementation", [at_once, by_coroutine])
async def test_large_messages_go_both_ways(implementation: Any) -> None:
    async with serving(implementation) as served, served.channel() as channel:
        body = random.Random(3).randbytes(MIB) * 20
        assert await call(channel, "unary_unary")(body, timeout=LIMIT_S) == body


async def test_many_calls_run_at_once_on_one_channel() -> None:
    waiting = Hanging()
    async with serving(waiting.wait) as served, served.channel() as channel:
        calls = [call(channel, "unary_unary")(b"%d" % number, timeout=LIMIT_S) for number in range(300)]
        await until(lambda: served.server.calls == 300)
        waiting.go.set()
        assert await asyncio.gather(*calls) == [b"%d" % number for number in range(300)]


@pytest.mark.slow
async def test_the_clients_deadline_is_known_and_kept() -> None:
    left: list[float | None] = []
    waiting = Hanging()

    async def wait(request: bytes, rpc: Rpc) -> bytes:
        left.append(rpc.time_remaining())
        return await waiting.wait(request, rpc)

    async with serving(wait) as served, served.channel() as channel, served.raw() as client:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await call(channel, "unary_unary")(b"", timeout=0.3)
        assert failed.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        client.ask(1, more=[(b"grpc-timeout", b"100m")])  # and never resets it
        assert (await client.answer(1))[2][b"grpc-status"] == b"4"
        client.ask(3, more=[(b"grpc-timeout", b"soon")])
        assert (await client.answer(3))[2][b"grpc-status"] == b"13"
        assert 0 < (left[0] or 0) < 0.35  # a client may round it up
        assert 0 < (left[1] or 0) <= 0.1
        await until(lambda: waiting.cancelled == ["task"] * 2)


@pytest.mark.parametrize("kind", ["unary_unary", "unary_stream", "stream_stream"])
async def test_a_cancel_reaches_the_implementation(kind: str) -> None:
    waiting = Hanging()
    implementation = waiting.start if kind == "unary_unary" else waiting.stream
    async with serving(implementation, kind) as served, served.channel() as channel:
        started = call(channel, kind)(*[b""][: kind.startswith("unary")])
        await until(lambda: waiting.rpcs)
        started.cancel()
        expected = ["on_cancel", "task"] if kind == "unary_unary" else ["task"]
        await until(lambda: sorted(waiting.cancelled) == expected)


@pytest.mark.filterwarnings("error")
async def test_a_cancel_in_the_same_breath_calls_on_cancel(recwarn: pytest.WarningsRecorder) -> None:
    waiting = Hanging()
    async with serving(waiting.start) as served, served.raw() as client:
        client.send(client.request(1) + client.reset(1))
        await until(lambda: waiting.cancelled == ["on_cancel"])
        assert not waiting.rpcs
    gc.collect()
    assert not [str(warning.message) for warning in recwarn]  # such as: never awaited


async def test_a_slow_reader_holds_back_who_writes_to_it_and_nobody_else() -> None:
    rpcs: list[Rpc] = []

    async def endless(request: bytes, rpc: Rpc) -> AsyncIterator[bytes]:
        rpcs.append(rpc)
        while True:
            yield bytes(16_000)

    async with serving(endless, "unary_stream") as served, served.channel() as channel:
        stream = call(channel, "unary_stream")(b"")
        assert await stream.read() == bytes(16_000)
        await until(lambda: rpcs[0]._queued_bytes > FULL_BYTES)
        for _ in range(100):
            assert await call(channel, "unary_unary", "/t/Echo")(b"x", timeout=LIMIT_S) == b"x"
            assert rpcs[0]._queued_bytes <= FULL_BYTES + 16_005
        for _ in range(100):
            assert await stream.read() == bytes(16_000)
        stream.cancel()


async def test_a_slow_implementation_holds_its_client_back() -> None:
    go, most, total = asyncio.Event(), [0], 0
    rpcs: list[Rpc] = []

    async def read_late(requests: AsyncIterator[bytes], rpc: Rpc) -> bytes:
        rpcs.append(rpc)
        await go.wait()
        size = 0
        async for request in requests:
            most[0] = max(most[0], rpc._unread)
            size += len(request)
        return b"%d" % size

    async def requests() -> AsyncIterator[bytes]:
        nonlocal total
        for _ in range(100):
            total += 50_000
            yield bytes(50_000)

    async with serving(read_late, "stream_unary") as served, served.channel() as channel:
        answer = call(channel, "stream_unary")(requests(), timeout=LIMIT_S)
        await until(lambda: rpcs and rpcs[0]._unread > WINDOW_BYTES // 2)
        for _ in range(100):
            assert await call(channel, "unary_unary", "/t/Echo")(b"x", timeout=LIMIT_S) == b"x"
        assert total < 100 * 50_000
        go.set()
        assert await answer == b"%d" % (100 * 50_000)
        assert WINDOW_BYTES // 2 < most[0] <= WINDOW_BYTES + 50_005


async def test_an_unknown_method_is_told() -> None:
    async with serving() as served, served.channel() as channel:
        for path in ("/t/Nothing", "/other/M"):
            ended = call(channel, "unary_unary", path)(b"", timeout=LIMIT_S)
            assert await ended.code() is grpc.StatusCode.UNIMPLEMENTED
            assert path in await ended.details()


def fail(request: bytes, rpc: Rpc) -> None:
    raise ValueError("a secret")


async def fail_later(request: bytes, rpc: Rpc) -> None:
    fail(request, rpc)


async def fail_on_the_way(request: bytes, rpc: Rpc) -> AsyncIterator[bytes]:
    yield b"one"
    fail(request, rpc)


async def wait_for_what_is_cancelled(request: bytes, rpc: Rpc) -> None:
    future = asyncio.get_running_loop().create_future()
    future.cancel()
    await future


@pytest.mark.parametrize("implementation", [fail, fail_later, fail_on_the_way, wait_for_what_is_cancelled])
async def test_a_bug_of_an_implementation_ends_its_call_and_is_told_to_nobody(implementation: Any) -> None:
    kind = "unary_stream" if implementation is fail_on_the_way else "unary_unary"
    async with serving(implementation, kind) as served, served.channel() as channel:
        ended = call(channel, kind)(b"", timeout=LIMIT_S)
        if kind == "unary_stream":
            assert await ended.read() == b"one"
        assert await ended.code() is grpc.StatusCode.INTERNAL
        assert "secret" not in await ended.details()


@pytest.mark.slow
async def test_a_stop_lets_calls_finish_and_takes_no_more() -> None:
    waiting = Hanging()
    async with serving(waiting.wait) as served, served.channel() as channel, served.raw() as client:
        running = call(channel, "unary_unary")(b"x", timeout=LIMIT_S)
        client.ask(1)
        await until(lambda: len(waiting.rpcs) == 2)
        stopped = [asyncio.create_task(served.server.stop(LIMIT_S))]
        goodbye = await client.until(http2.GOAWAY)
        assert goodbye.payload == (1).to_bytes(4, "big") + bytes(4)
        client.ask(3)
        assert await client.until(http2.RST_STREAM, 3) == client.reset_frame(3, http2.REFUSED_STREAM)
        stopped.append(asyncio.create_task(served.server.stop(LIMIT_S)))
        assert await client.until(http2.GOAWAY) == goodbye  # its last stream must never grow
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call(channel, "unary_unary")(b"", timeout=0.3)
        assert refused.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
        assert served.server.calls == 2
        waiting.go.set()
        assert await running == b"x"
        assert (await client.answer(1))[2][b"grpc-status"] == b"0"
        await asyncio.gather(*stopped)
        assert await client.rest() == []


async def test_a_stop_tells_a_call_whose_answer_the_client_has_not_taken() -> None:
    async with serving() as served, served.raw((http2.INITIAL_WINDOW_SIZE, 2)) as client:
        client.ask(1)
        await client.until(http2.DATA, 1)
        await served.server.stop(0)
        assert (await client.answer(1))[2][b"grpc-status"] == b"14"


async def test_a_stop_without_grace_cancels() -> None:
    waiting = Hanging()
    async with serving(waiting.start) as served, served.channel() as channel:
        running = call(channel, "unary_unary")(b"x", timeout=LIMIT_S)
        await until(lambda: waiting.rpcs)
        await served.server.stop(0)
        assert await running.code() is grpc.StatusCode.UNAVAILABLE
        await until(lambda: sorted(waiting.cancelled) == ["on_cancel", "task"])


# -- a client that keeps to no rule ----------------------------------------------


class RawClient:
    """Frames out, frames in."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self.reader = reader
        self._decoder = hpack.Decoder()

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    @staticmethod
    def headers(path: str = "/t/M", more: Any = (), kind: bytes = b"application/grpc") -> list[tuple[bytes, bytes]]:
        return [(b":method", b"POST"), (b":path", path.encode()), (b"content-type", kind), *more]

    @staticmethod
    def request(stream: int, message: bytes = b"x", path: str = "/t/M", more: Any = ()) -> bytes:
        head = pack_headers(stream, RawClient.headers(path, more))
        return head + pack_frame(http2.DATA, http2.END_STREAM, stream, PREFIX.pack(0, len(message)) + message)

    @staticmethod
    def reset_frame(stream: int, code: int = http2.CANCEL) -> Http2Frame:
        return Http2Frame(http2.RST_STREAM, 0, stream, code.to_bytes(4, "big"))

    @staticmethod
    def reset(stream: int) -> bytes:
        return pack_frame(*RawClient.reset_frame(stream))

    def ask(self, stream: int, message: bytes = b"x", path: str = "/t/M", more: Any = ()) -> None:
        self.send(self.request(stream, message, path, more))

    async def frame(self) -> Http2Frame:
        async with asyncio.timeout(LIMIT_S):
            head = await self.reader.readexactly(http2.HEADER_BYTES)
            size = int.from_bytes(head[:3], "big")
            assert size <= http2.DEFAULT_FRAME_SIZE
            return Http2Frame(head[3], head[4], int.from_bytes(head[5:], "big"), await self.reader.readexactly(size))

    async def until(self, kind: int, stream: int = 0, flags: int = 0) -> Http2Frame:
        while (frame := await self.frame())[:3:2] != (kind, stream) or frame.flags & flags != flags:
            pass
        return frame

    async def rest(self) -> list[Http2Frame]:
        """All that comes until the server closes."""
        frames: list[Http2Frame] = []
        try:
            while True:
                frames.append(await self.frame())
        except (asyncio.IncompleteReadError, ConnectionResetError):
            return frames

    async def answer(self, stream: int) -> tuple[dict[bytes, bytes], bytes, dict[bytes, bytes]]:
        """Its headers, data and trailers, which are the headers where there are no others."""
        blocks: list[dict[bytes, bytes]] = []
        data = block = b""
        last = 0
        while not last or block:
            frame = await self.frame()
            if frame.stream != stream:
                continue
            assert frame.kind != http2.RST_STREAM, frame
            if frame.kind == http2.DATA:
                data += frame.payload
            if frame.kind in (http2.DATA, http2.HEADERS):
                last |= frame.flags & http2.END_STREAM
            if frame.kind in (http2.HEADERS, http2.CONTINUATION):
                block += frame.payload
                if frame.flags & http2.END_HEADERS:
                    blocks.append(dict(self._decoder.decode(block, raw=True)))
                    block = b""
        return blocks[0], data, blocks[-1]


ECHO = (b"0", b"\0\0\0\0\1x")
"""Of an answer to `ask`: its status and data."""


async def echoes(client: RawClient, stream: int, path: str = "/t/M") -> bool:
    """Whether the connection still works."""
    client.ask(stream, path=path)
    _, data, trailers = await client.answer(stream)
    return (trailers[b"grpc-status"], data) == ECHO


async def test_a_connection_is_read_wherever_it_is_cut() -> None:
    begin = http2.PREFACE + pack_settings([(http2.ENABLE_PUSH, 0)]) + RawClient.request(1)
    async with serving() as served:
        for cut in range(len(begin)):
            async with served.raw(begin=begin[:cut]) as client:
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                client.send(begin[cut:])
                _, data, trailers = await client.answer(1)
                assert (trailers[b"grpc-status"], data) == ECHO
        async with served.raw(begin=b"") as client:
            for byte in begin:
                client.send(bytes((byte,)))
                await asyncio.sleep(0)
            assert (await client.answer(1))[1] == ECHO[1]


def cut_headers(stream: int, pairs: list[tuple[bytes, bytes]], size: int) -> Iterator[bytes]:
    """Each frame has so many bytes of them."""
    block = pack_headers(stream, pairs)[http2.HEADER_BYTES :]
    for at in range(0, len(block), size):
        flags = http2.END_HEADERS if at + size >= len(block) else 0
        yield pack_frame(http2.CONTINUATION if at else http2.HEADERS, flags, stream, block[at : at + size])


async def test_headers_go_on_in_other_frames_and_have_padding_and_priority() -> None:
    async with serving() as served, served.raw() as client:
        message = PREFIX.pack(0, 1) + b"x"
        client.send(b"".join(cut_headers(1, client.headers(), 7)))
        client.send(pack_frame(http2.DATA, http2.PADDED, 1, b"\4" + message[:3] + bytes(4)))
        client.send(pack_frame(http2.DATA, http2.PADDED | http2.END_STREAM, 1, b"\0" + message[3:]))
        assert (await client.answer(1))[1] == message
        block = pack_headers(3, client.headers())[http2.HEADER_BYTES :]
        flags = http2.END_HEADERS | http2.PADDED | http2.PRIORITY_FLAG
        client.send(pack_frame(http2.HEADERS, flags, 3, b"\2" + bytes(5) + block + bytes(2)))
        client.send(pack_frame(http2.DATA, 0, 3, message))
        client.send(pack_headers(3, [(b"trailer", b"x")], http2.END_STREAM))
        assert (await client.answer(3))[1] == message


NAMED = [(b"n" * 30, b"v" * 4000)]
BOMB = b"\x40\x01n\x7f\xa1\x1e" + b"v" * 4000 + b"\xbe" * 60_000
"""4000 bytes in hpack's table, and then its index again and again."""
OPEN = pack_headers(1, RawClient.headers())


END = http2.END_HEADERS
BROKEN = {
    http2.PROTOCOL_ERROR: {
        "an even stream": pack_headers(2, RawClient.headers()),
        "headers of no stream": pack_headers(0, RawClient.headers()),
        "data of a stream that is not open": pack_frame(http2.DATA, 0, 1, b"x"),
        "data of no stream": pack_frame(http2.DATA, 0, 0, b"x"),
        "data after the end": RawClient.request(1) + pack_frame(http2.DATA, 0, 1, b"x"),
        "a window widened by nothing": pack_window(0, 0),
        "a stream's window widened by nothing": OPEN + pack_window(1, 0),
        "a window too wide": pack_window(0, http2.LARGEST_WINDOW),
        "a first window too wide": pack_settings([(http2.INITIAL_WINDOW_SIZE, 2**31)]),
        "frames too small": pack_settings([(http2.MAX_FRAME_SIZE, 1)]),
        "odd settings": pack_frame(http2.SETTINGS, 0, 0, b"odd"),
        "an odd ping": pack_frame(http2.PING, 0, 0, b"odd"),
        "an odd window": pack_frame(http2.WINDOW_UPDATE, 0, 0, b"odd"),
        "a frame too large": http2.pack_head(http2.DATA, 0, 1, FRAME_BYTES + 1),
        "a push": pack_frame(http2.PUSH_PROMISE, END, 1, bytes(4)),
        "a reset of a stream that is not open": RawClient.reset(1),
        "a reset of no stream": RawClient.reset(0),
        "more padding than bytes": pack_frame(http2.HEADERS, http2.PADDED | END, 1, b"\xff"),
        "a continuation of nothing": pack_frame(http2.CONTINUATION, 0, 1, b"x"),
        "a ping amid headers": pack_frame(http2.HEADERS, 0, 1) + pack_frame(http2.PING, 0, 0, bytes(8)),
        "another stream's headers": pack_frame(http2.HEADERS, 0, 1) + pack_frame(http2.CONTINUATION, 0, 3),
    },
    http2.ENHANCE_YOUR_CALM: {
        "empty continuations": pack_frame(http2.HEADERS, 0, 1) + pack_frame(http2.CONTINUATION, 0, 1) * 100,
        "large continuations": b"".join(cut_headers(1, NAMED * 17, 16_000)),
        "a long block": pack_frame(http2.HEADERS, END, 1, b"\x20" * FRAME_BYTES),
        "a short block for much": pack_frame(http2.HEADERS, END, 1, BOMB),
    },
    http2.COMPRESSION_ERROR: {"noise": pack_frame(http2.HEADERS, END, 1, b"\xff\xff\xff")},
}


@pytest.mark.parametrize(("code", "name"), [(code, name) for code in BROKEN for name in BROKEN[code]])
async def test_a_broken_rule_ends_its_connection_and_no_other(code: int, name: str) -> None:
    async with serving(hang) as served, served.raw() as other, served.raw() as client:
        client.send(BROKEN[code][name])
        goodbye = (await client.rest())[-1]
        assert goodbye.kind == http2.GOAWAY
        assert int.from_bytes(goodbye.payload[4:8], "big") == code, goodbye.payload
        await until(lambda: served.server.calls == 0)
        assert await echoes(other, 1, "/t/Echo")


async def test_headers_that_are_noise_are_never_a_bug_of_ours(caplog: pytest.LogCaptureFixture) -> None:
    dice = random.Random(3)
    caplog.set_level(logging.ERROR)
    async with serving() as served:
        for _ in range(300):
            async with served.raw() as client:
                client.send(pack_frame(http2.HEADERS, 0x25, 1, dice.randbytes(dice.randrange(40))))
                client.send(pack_frame(http2.PING, 0, 0, bytes(8)))
                frame = await client.frame()
                while frame.kind not in (http2.PING, http2.GOAWAY):
                    frame = await client.frame()
    assert not caplog.records


@pytest.mark.parametrize(
    "sent",
    [
        RawClient.request(1),
        RawClient.reset(1),
        pack_frame(http2.DATA, http2.END_STREAM, 1, b"x"),
        pack_window(1, 5),
        pack_frame(http2.PRIORITY, 0, 1, bytes(5)),
        pack_frame(0xFA, 0xFF, 9, b"unknown"),
        pack_frame(http2.GOAWAY, 0, 0, bytes(8)),
        pack_settings([(0xABCD, 1)]),
        pack_frame(http2.SETTINGS, http2.ACK, 0),
    ],
)
async def test_what_may_still_be_on_its_way_for_a_stream_that_ended_does_nothing(sent: bytes) -> None:
    async with serving() as served, served.raw() as client:
        assert await echoes(client, 1)
        client.send(sent)
        assert await echoes(client, 3)


async def test_settings_and_pings_are_answered() -> None:
    async with serving() as served, served.raw((http2.MAX_FRAME_SIZE, http2.LARGEST_FRAME_SIZE)) as client:
        await client.until(http2.SETTINGS, flags=http2.ACK)
        client.send(pack_frame(http2.PING, http2.ACK, 0, b"unasked-"))
        client.send(pack_frame(http2.PING, 0, 0, b"12345678"))
        assert await client.until(http2.PING) == Http2Frame(http2.PING, http2.ACK, 0, b"12345678")


@pytest.mark.parametrize("size", [1, 100])
async def test_a_clients_window_is_kept_and_may_shrink(size: int) -> None:
    body = bytes(range(256))
    async with serving() as served, served.raw((http2.INITIAL_WINDOW_SIZE, size)) as client:
        client.ask(1, body)
        data = bytes((await client.until(http2.DATA, 1)).payload)
        assert len(data) == size
        client.send(pack_settings([(http2.INITIAL_WINDOW_SIZE, 0)]))
        client.send(pack_window(1, size))  # back to 0: nothing may come
        client.send(pack_frame(http2.PING, 0, 0, bytes(8)))
        await client.until(http2.SETTINGS, flags=http2.ACK)
        assert (await client.frame()).kind == http2.PING
        client.send(pack_settings([(http2.INITIAL_WINDOW_SIZE, 9)]))
        data += (await client.until(http2.DATA, 1)).payload
        assert len(data) == size + 9
        for _ in range(20):
            client.send(pack_window(1, 1))
            data += (await client.until(http2.DATA, 1)).payload
        client.send(pack_settings([(http2.INITIAL_WINDOW_SIZE, 1000)]))
        _, rest, trailers = await client.answer(1)
        assert (data + rest, trailers[b"grpc-status"]) == (PREFIX.pack(0, 256) + body, b"0")
        await until(lambda: not served.server.calls)


GZIP = (b"grpc-encoding", b"gzip")


@pytest.mark.parametrize(
    ("more", "data"),
    [
        ([], b""),
        ([], b"\0\0\0\0\0" * 2),
        ([], b"\0\0\0\0\2x"),
        ([], b"\0\0\0"),
        ([], b"\1\0\0\0\1x"),
        ([GZIP], b"\1\0\0\0\1x"),
        ([GZIP], PREFIX.pack(1, 18) + zlib.compress(bytes(99), wbits=31)[:18]),
    ],
)
async def test_a_request_that_is_not_one_message_is_refused(more: Any, data: bytes) -> None:
    async with serving() as served, served.raw() as client:
        client.send(pack_headers(1, client.headers(more=more)) + pack_frame(http2.DATA, http2.END_STREAM, 1, data))
        assert (await client.answer(1))[2][b"grpc-status"] == b"13"
        assert await echoes(client, 3)


async def test_a_compression_that_is_not_known_is_refused_with_those_that_are() -> None:
    async with serving() as served, served.raw() as client:
        head = client.headers(more=[(b"grpc-encoding", b"snappy")])
        client.send(pack_headers(1, head) + pack_frame(http2.DATA, http2.END_STREAM, 1, b"\1\0\0\0\1x"))
        trailers = (await client.answer(1))[2]
        assert (trailers[b"grpc-status"], trailers[b"grpc-accept-encoding"]) == (b"12", b"identity,deflate,gzip")
        assert await echoes(client, 3)


async def test_an_endless_request_to_a_unary_call_ends_at_its_second_message() -> None:
    async with serving() as served, served.raw() as client:
        client.send(OPEN + pack_frame(http2.DATA, 0, 1, bytes(5) * 2))
        assert (await client.answer(1))[2][b"grpc-status"] == b"13"
        assert await client.until(http2.RST_STREAM, 1)


@pytest.mark.parametrize("message", [b"", bytes(1000)])
async def test_more_than_the_window_is_refused_and_small_messages_count(message: bytes) -> None:
    waiting = Hanging()
    async with serving(waiting.stream, "stream_stream") as served, served.raw() as client:
        client.send(OPEN)
        many = (PREFIX.pack(0, len(message)) + message) * (16_000 // (5 + len(message)))
        for _ in range(WINDOW_BYTES // len(many)):
            client.send(pack_frame(http2.DATA, 0, 1, many))
        client.send(pack_frame(http2.PING, 0, 0, bytes(8)))
        while (frame := await client.frame()).kind != http2.PING:
            assert frame.kind != http2.WINDOW_UPDATE or not frame.stream  # nobody has read anything
        client.send(pack_frame(http2.DATA, 0, 1, many) * 2)
        assert (await client.answer(1))[2][b"grpc-status"] == b"13"
        await until(lambda: waiting.cancelled)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (RawClient.headers(kind=b"text/html"), b"415"),
        ([(b":method", b"GET"), (b":path", b"/t/M")], b"415"),
        (RawClient.headers(more=[(b":method", b"GET")]), b"405"),
    ],
)
async def test_who_is_no_client_of_grpc_is_told_in_http(headers: Any, status: bytes) -> None:
    async with serving() as served, served.raw() as client:
        for stream in (1, 3):
            client.send(pack_headers(stream, headers, http2.END_STREAM))
            head, data, _ = await client.answer(stream)
            assert head[b":status"] == status
            assert b"gRPC" in data
        assert await echoes(client, 5)
        client.send(pack_settings([(http2.INITIAL_WINDOW_SIZE, 0)]))
        client.send(pack_headers(7, headers, http2.END_STREAM))
        assert (await client.answer(7))[1] == b""  # the client takes none


async def test_headers_over_the_limit_refuse_a_call_and_not_its_connection() -> None:
    async with serving() as served, served.raw() as client:
        client.ask(1, more=NAMED * 5)
        assert (await client.answer(1))[2][b"grpc-status"] == b"8"
        client.ask(3, path="/" + "x" * 20_000)
        assert (await client.answer(3))[2][b"grpc-status"] == b"8"
        assert await echoes(client, 5)


async def test_a_call_over_the_limit_of_a_connection_is_refused() -> None:
    async with serving(hang) as served, served.raw() as client:
        client.send(b"".join(client.request(stream) for stream in range(1, 2 * MAX_CALLS + 2, 2)))
        refused = 2 * MAX_CALLS + 1
        assert await client.until(http2.RST_STREAM, refused) == client.reset_frame(refused, http2.REFUSED_STREAM)
        assert served.server.calls == MAX_CALLS
        client.send(client.reset(1))
        assert await echoes(client, refused + 2, "/t/Echo")


@pytest.mark.slow
async def test_calls_that_are_reset_at_once_leave_nothing() -> None:
    waiting = Hanging()
    async with serving(waiting.start) as served, served.raw() as client:
        for stream in range(1, 10_000, 2):
            client.send(client.request(stream) + client.reset(stream))
        client.send(pack_frame(http2.PING, 0, 0, bytes(8)))
        await client.until(http2.PING)
        assert served.server.calls == 0
        assert waiting.cancelled.count("on_cancel") == 5000


@pytest.mark.parametrize(
    "flood",
    [pack_frame(http2.PING, 0, 0, bytes(8)), pack_settings([]), pack_headers(1, RawClient.headers("/t/No"))],
    ids=["pings", "settings", "calls"],
)
@pytest.mark.slow
async def test_a_client_that_reads_no_answers_is_not_read_either(flood: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_server, "UNSENT_BYTES", 256 * 1024)
    streams = itertools.count(1, 2)
    seen = b""

    def many() -> bytes:
        if flood[3] != http2.HEADERS:
            return flood * 5000
        return b"".join(flood[:5] + next(streams).to_bytes(4, "big") + flood[9:] for _ in range(5000))

    async with serving() as served, served.raw() as client:
        await client.until(http2.SETTINGS, flags=http2.ACK)
        (connection,) = served.server.connections
        transport: Any = connection._transport
        unread: Any = client.writer.transport
        unread.pause_reading()
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        while transport.is_reading():
            if not unread.get_write_buffer_size():
                client.send(many())
            assert transport.get_write_buffer_size() < 4 * MIB
            await asyncio.sleep(0)
        unread.resume_reading()
        client.send(pack_frame(http2.PING, 0, 0, b"the last"))
        async with asyncio.timeout(LIMIT_S):
            while b"the last" not in seen:
                seen = seen[-8:] + await client.reader.read(MIB)


@pytest.mark.slow
async def test_a_client_that_disappears_leaves_nothing() -> None:
    waiting = Hanging()
    request = RawClient.request(1) + RawClient.request(3)
    async with serving(waiting.stream, "unary_stream") as served:
        for cut in range(0, len(request) + 1, 5):
            async with served.raw((http2.INITIAL_WINDOW_SIZE, 1)) as client:
                client.send(request[:cut])
                await until(lambda: len(served.server.connections) == 1)
            await until(lambda: not served.server.connections)
        async with served.raw() as client:
            client.send(request)
            await until(lambda: served.server.calls == 2)
            client.writer.write_eof()
            await client.rest()
            await until(lambda: not served.server.calls)
