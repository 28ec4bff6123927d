"""What once went wrong with streams, large bodies and sockets."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import grpc
import pytest

from dcf.rpc import v1_gateway_pb2 as v1
from tests.conftest import until
from tests.gateway.running_gateway import Cluster, Gateway, v1_stub

pytestmark = pytest.mark.slow
MIB = 1024 * 1024

EDGES = """
class Handler:
    def __call__(self, req):
        path = req.metadata.get("path", "")
        if path == "/picture":
            return b"p" * (4 * 1024 * 1024)
        if path == "/text":
            return "t" * 300000
        if path == "/words":
            return iter(["one", "two"])
        if path == "/endless":
            return self.endless()
        return req.input

    def endless(self):
        import time
        while True:
            yield "."
            time.sleep(0.05)
"""
LARGE = """
class Handler:
    def stream(self, requests):
        return b"l" * (3 * 1024 * 1024)
"""
ALARGE = LARGE.replace("def stream", "async def stream")
DUPLEX = """
import threading

class Handler:
    def stream(self, requests):
        def read():
            for req in requests:
                taken.append(req.text)
        taken = []
        reader = threading.Thread(target=read)
        reader.start()
        for _ in range(60):
            yield "x" * 8000
        reader.join()
        yield " ".join(taken)
"""
ADUPLEX = """
import asyncio

class Handler:
    async def stream(self, requests):
        async def read():
            async for req in requests:
                taken.append(req.text)
        taken = []
        reader = asyncio.ensure_future(read())
        for _ in range(60):
            yield "x" * 8000
        await reader
        yield " ".join(taken)
"""
SLOW_TALK = """
import time

class Handler:
    def stream(self, requests):
        try:
            for req in requests:
                time.sleep(0.3)
                yield "heard"
        finally:
            print("talk ended")
"""
BATCH = """
import mesh

def handler(reqs):
    print("batch of", len(reqs))
    answer = mesh.mesh_call("gate").decode()
    return [req.text + answer for req in reqs]
"""
GATE = """
import os, time

def handler(req):
    while not os.path.exists("{go}"):
        time.sleep(0.01)
    return " passed"
"""


@pytest.fixture(scope="module")
def go(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gate") / "go"


@pytest.fixture(scope="module")
def edges(cluster: Cluster, go: Path) -> Gateway:
    gateway = Gateway(cluster, "edges-0")
    gateway.deploy("edges", EDGES, timeout="1s", killAfter="1s", concurrency=40, maxPayload="8Mi")
    gateway.deploy("patient", EDGES, concurrency=40, maxPayload="8Mi")  # on a slow machine no deadline passes meanwhile
    for name, source in {"large": LARGE, "alarge": ALARGE, "duplex": DUPLEX, "aduplex": ADUPLEX}.items():
        gateway.deploy(name, source)
    gateway.deploy("talk", SLOW_TALK, concurrency=4, maxPayload="8Mi")
    gateway.deploy("gate", GATE.replace("{go}", str(go)))
    gateway.deploy("batch", BATCH, batch={"maxSize": 3, "maxWait": "20s"})
    return gateway


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(
        timeout=timeout, connector=aiohttp.TCPConnector(limit=0), auto_decompress=False
    ) as session:
        yield session


def url(gateway: Gateway, path: str) -> str:
    return f"http://{gateway.address}/function/{path}"


def connect(gateway: Gateway) -> socket.socket:
    host, _, port = gateway.address.partition(":")
    return socket.create_connection((host, int(port)), timeout=20)


def log_of(gateway: Gateway, name: str) -> str:
    return str(gateway.http("GET", f"/system/function-log/{name}")[1])


async def test_a_slow_reader_of_a_large_answer_gets_all_of_it(edges: Gateway) -> None:
    """Longer than timeout and kill_after together: its handler has returned long ago."""

    def read_slowly() -> int:
        with connect(edges) as sock:
            sock.sendall(b"GET /function/edges/picture HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            size = 0
            while piece := sock.recv(64 * 1024):
                size += len(piece)
                time.sleep(0.05)
            return size

    size = await asyncio.get_running_loop().run_in_executor(None, read_slowly)
    assert size > 4 * MIB
    assert "was ended" not in log_of(edges, "edges")


@pytest.mark.parametrize("name", ["large", "alarge"])
async def test_a_stream_handler_may_return_one_large_answer(edges: Gateway, name: str) -> None:
    async with edges.aio_channel() as channel:
        inputs = [v1.InvokeInput(function=name, input=b"x")]
        chunks = [chunk.output async for chunk in v1_stub(channel).InvokeBidi(iter(inputs), timeout=20)]
    assert b"".join(chunks) == b"l" * (3 * MIB)


@pytest.mark.parametrize("name", ["duplex", "aduplex"])
async def test_a_handler_may_read_and_write_at_once(edges: Gateway, name: str) -> None:
    async with edges.aio_channel() as channel:
        call = v1_stub(channel).InvokeBidi(timeout=20)
        await call.write(v1.InvokeInput(function=name, input=b"first"))
        await asyncio.sleep(0.3)  # its output waits for credit, its reader for input
        outputs = []
        await call.write(v1.InvokeInput(input=b"second"))
        await call.done_writing()
        while (chunk := await call.read()) is not grpc.aio.EOF:
            outputs.append(chunk.output)
    assert len(outputs) == 61
    assert outputs[-1] == b"first second"


async def test_a_compressed_body_reaches_the_handler_as_it_is(edges: Gateway, session: aiohttp.ClientSession) -> None:
    body = gzip.compress(bytes(200 * MIB), 1)
    assert len(body) < 8 * MIB
    async with session.post(url(edges, "edges"), data=body, headers={"Content-Encoding": "gzip"}) as answer:
        assert answer.status == 200
        assert await answer.read() == body


async def test_a_cancel_of_one_call_of_a_batch_leaves_the_others_their_mesh_call(
    edges: Gateway, session: aiohttp.ClientSession, go: Path
) -> None:
    async def call(text: str) -> str:
        async with session.post(url(edges, "batch"), data=text) as answer:
            return await answer.text()

    calls = []
    for number in range(3):
        calls.append(asyncio.ensure_future(call(str(number))))
        await until(lambda number=number: edges.gauges("batch")["dcf_in_flight"] == number + 1, what="the call")
    await until(lambda: edges.gauges("gate")["dcf_in_flight"] == 1, what="the mesh call")
    calls[0].cancel()
    await asyncio.sleep(0.2)
    go.touch()

    assert [await one for one in calls[1:]] == ["1 passed", "2 passed"]


async def test_more_stalled_readers_than_a_worker_holds_answers_for(
    edges: Gateway, session: aiohttp.ClientSession
) -> None:
    sockets = [connect(edges) for _ in range(36)]
    try:
        for sock in sockets:
            sock.sendall(b"GET /function/patient/picture HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(lambda: edges.gauges("patient")["dcf_in_flight"] == 36, what="36 calls")
        for sock in sockets[20:]:
            sock.close()
        await until(
            lambda: edges.gauges("patient")["dcf_in_flight"] == 20, what="the calls of those that have gone to end"
        )
        async with session.post(url(edges, "patient"), data=b"still here") as answer:
            assert await answer.read() == b"still here"
    finally:
        for sock in sockets:
            sock.close()
    await until(lambda: edges.gauges("patient")["dcf_in_flight"] == 0, what="the end of all")


def test_head_writes_no_body(edges: Gateway) -> None:
    for path in (b"words", b"picture"):
        with connect(edges) as sock:
            sock.sendall(b"HEAD /function/edges/%s HTTP/1.1\r\nHost: x\r\n\r\n" % path)
            sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            data = b""
            while piece := sock.recv(65536):
                data += piece
        head, _, rest = data.partition(b"\r\n\r\n")
        assert b" 200 " in head.split(b"\r\n")[0]
        assert rest.startswith(b"HTTP/1.1 200"), rest[:60]


async def test_a_large_text_over_websocket_is_text(edges: Gateway, session: aiohttp.ClientSession) -> None:
    async with session.ws_connect(url(edges, "edges/text")) as ws:
        await ws.send_str("x")
        assert await ws.receive_str(timeout=20) == "t" * 300000


@pytest.mark.parametrize("name", ["edges", "talk"])
async def test_a_message_over_the_limit_closes_the_socket_with_its_code(
    edges: Gateway, session: aiohttp.ClientSession, name: str
) -> None:
    async with session.ws_connect(url(edges, name)) as ws:
        with contextlib.suppress(ConnectionError):  # it may be closed while this is still being sent
            await ws.send_bytes(bytes(9 * MIB))
            closed = await ws.receive(timeout=20)
            assert closed.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR)
            assert ws.close_code in (1009, 1006)
    await until(lambda: not any(edges.gauges(name).values()), what="the end of the call")
    assert "Traceback" not in edges.cluster.log()


async def test_a_close_is_heard_behind_messages_that_wait(edges: Gateway, session: aiohttp.ClientSession) -> None:
    ended = log_of(edges, "talk").count("talk ended")
    async with session.ws_connect(url(edges, "talk")) as ws:
        for _ in range(30):
            await ws.send_bytes(b"x" * 10_000)
        assert await ws.receive_str(timeout=20) == "heard"
    await until(lambda: log_of(edges, "talk").count("talk ended") > ended, within_s=5, what="the talk's end")


async def test_a_socket_outlives_no_function(edges: Gateway, session: aiohttp.ClientSession) -> None:
    edges.deploy("brief", "def handler(req):\n    return 'one'\n")
    async with session.ws_connect(url(edges, "brief")) as ws:
        await ws.send_str("x")
        assert await ws.receive_str(timeout=20) == "one"
        image = edges.view("brief")["image"]
        edges.http("DELETE", "/system/function/brief")
        await ws.send_str("x")
        closed = await ws.receive(timeout=5)
        assert "function_not_found" in closed.extra
    edges.http("POST", "/system/functions", {"service": "brief", "image": image})
    async with session.ws_connect(url(edges, "brief")) as ws:
        await ws.send_str("x")
        assert await ws.receive_str(timeout=20) == "one"


async def test_a_stop_takes_its_drain_time_once(cluster: Cluster, edges: Gateway) -> None:
    stopping = Gateway(cluster, "edges-1", DCF_DRAIN_S="3")
    async with aiohttp.ClientSession() as session, stopping.aio_channel() as channel:
        stub = v1_stub(channel)
        socket_open = await session.ws_connect(url(stopping, "talk"))
        await socket_open.send_str("hello")
        assert await socket_open.receive_str(timeout=20) == "heard"
        request = v1.InvokeRequest(function="talk", input=b"x")
        assert (await stub.Invoke(request, timeout=20)).output == b"heard"
        endless = await session.get(url(stopping, "edges/endless"))
        assert await endless.content.read(1) == b"."

        began = time.monotonic()
        loop = asyncio.get_running_loop()
        stopped = loop.run_in_executor(None, stopping.stop)
        await asyncio.sleep(0.5)
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.Invoke(request, timeout=5)
        closed = await socket_open.receive(timeout=10)
        assert (closed.type, closed.data) == (aiohttp.WSMsgType.CLOSE, 1001)
        with contextlib.suppress(aiohttp.ClientError):
            await endless.read()
        endless.close()
        assert await stopped == 0
        assert time.monotonic() - began < 3 + 5
