"""HTTP in: bodies, headers, connections that go away, gateways that stop."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import time

import aiohttp
import pytest

from tests.conftest import until
from tests.gateway.running_gateway import Cluster, Gateway, wait_for

pytestmark = pytest.mark.slow

SHOW = """
import json
import time

import dcf

class Handler:
    def __call__(self, req):
        if req.metadata.get("path") == "/slow":
            for _ in range(500):
                time.sleep(0.02)
                if req.cancelled:
                    print("cancelled", req.text)
                    return "nobody reads this"
        if req.metadata.get("path") == "/picture":
            return dcf.Reply(b"PNG", content_type="image/png", metadata={"X-Model": "v1", "Content-Length": "7"})
        if req.metadata.get("path") == "/echo":
            return req.input
        return {"metadata": req.metadata, "size": len(req.input), "id": req.invocation_id, "in": req.remaining_s}
"""


@pytest.fixture(scope="module")
def show(cluster: Cluster) -> Gateway:
    gateway = Gateway(cluster, "http-0")
    gateway.deploy("show", SHOW, concurrency=4, maxPayload="8Mi")
    return gateway


def url(gateway: Gateway, path: str = "") -> str:
    return f"http://{gateway.address}/function/show{path}"


async def test_the_handler_sees_method_path_query_headers_and_deadline(show: Gateway) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.put(
            url(show, "/a/b%20c?x=1&y=2"),
            data=b"12345",
            headers={"X-Call-Id": "my-call", "X-Timeout": "5s", "X-Own": "1"},
        ) as response,
    ):
        seen = await response.json()

    assert response.headers["X-Call-Id"] == seen["id"] == "my-call"
    assert float(response.headers["X-Duration-Seconds"]) > 0
    assert (seen["metadata"]["method"], seen["metadata"]["path"]) == ("PUT", "/a/b%20c")
    assert seen["metadata"]["query"] == "x=1&y=2"
    assert seen["metadata"]["headers"]["X-Own"] == "1"
    assert seen["size"] == 5
    assert 4 < seen["in"] <= 5


async def test_a_handler_sets_content_type_and_headers_but_not_the_framing(show: Gateway) -> None:
    async with aiohttp.ClientSession() as session, session.get(url(show, "/picture")) as response:
        assert await response.read() == b"PNG"
    assert response.content_type == "image/png"
    assert response.headers["X-Model"] == "v1"


async def test_bodies_of_unknown_length_are_taken_up_to_the_limit(show: Gateway) -> None:
    async def pieces(number: int) -> object:
        for _ in range(number):
            yield b"x" * 1024 * 1024

    async with aiohttp.ClientSession() as session:
        async with session.post(url(show, "/echo"), data=pieces(5)) as response:
            assert len(await response.read()) == 5 * 1024 * 1024
        with contextlib.suppress(aiohttp.ClientError):  # it may be cut off while it still sends
            async with session.post(url(show, "/echo"), data=pieces(50)) as response:
                assert response.status == 413
        async with session.post(url(show, "/echo"), data=b"fine") as response:
            assert await response.read() == b"fine"


async def test_a_client_that_goes_away_cancels_its_call(show: Gateway) -> None:
    async with aiohttp.ClientSession() as session:
        with pytest.raises(TimeoutError):
            async with session.post(url(show, "/slow"), data=b"gone", timeout=aiohttp.ClientTimeout(total=0.3)):
                pass

    def log() -> str:
        return str(show.http("GET", "/system/function-log/show")[1])

    await asyncio.to_thread(wait_for, lambda: "cancelled gone" in log(), "the handler to see it", within_s=5)


async def test_a_deadline_answers_at_once_and_reaches_the_handler(show: Gateway) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.post(url(show, "/slow"), data=b"late", headers={"X-Timeout": "200ms"}) as response,
    ):
        error = (await response.json())["error"]
    assert (response.status, error["code"]) == (504, "deadline_exceeded")

    def log() -> str:
        return str(show.http("GET", "/system/function-log/show")[1])

    await asyncio.to_thread(wait_for, lambda: "cancelled late" in log(), "the handler to see it", within_s=5)


async def test_http_and_grpc_share_the_port_whatever_way_the_first_bytes_come(show: Gateway) -> None:
    host, _, port = show.address.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    for byte in b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n":
        writer.write(bytes([byte]))
        await writer.drain()
    assert b'{"live": true}' in await reader.read()
    writer.close()
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"PRI * HT")
    await writer.drain()
    writer.write(b"TP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00")
    frame = await reader.readexactly(9)
    assert frame[3] == 4  # the gRPC server's SETTINGS
    writer.close()


async def test_many_grpc_connections_one_after_the_other(show: Gateway) -> None:
    for _ in range(30):
        async with show.aio_channel() as channel:
            check = channel.unary_unary("/grpc.health.v1.Health/Check")
            assert await check(b"", timeout=5)


async def test_a_gateway_that_stops_answers_what_it_has_and_loses_nothing(cluster: Cluster, show: Gateway) -> None:
    gateway = Gateway(cluster, "http-1")
    wait_for(lambda: gateway.http("POST", "/function/show/echo", b"x")[0] == 200, "the function there too")
    session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=4))
    answers: list[int] = []

    async def client() -> None:
        """Calls on a kept connection until the gateway says that it closes."""
        while True:
            async with session.post(url(gateway, "/echo"), data=b"x") as response:
                await response.read()
                answers.append(response.status)
                if response.headers.get("Connection") == "close":
                    return

    slow = asyncio.ensure_future(session.post(url(gateway, "/slow"), data=b"drain", headers={"X-Timeout": "1s"}))
    clients = [asyncio.ensure_future(client()) for _ in range(3)]
    await until(lambda: len(answers) > 50, what="calls")
    gateway.process.terminate()
    await asyncio.wait_for(asyncio.gather(*clients), 10)

    response = await slow
    assert response.status == 504  # its own limit: it was not cut off
    assert set(answers) == {200}
    assert await asyncio.to_thread(gateway.process.wait, 15) == 0
    with pytest.raises(OSError), socket.create_connection(tuple(gateway.address.split(":")), timeout=2):  # type: ignore[arg-type]
        pass
    await session.close()
    total = sum(1 for status in answers if status == 200) + 1  # and the one that made sure of the function
    counts = await asyncio.to_thread(show.view, "show")
    assert counts["invocationCount"] >= total


async def test_a_replica_that_freezes_is_taken_out_of_routing_and_comes_back(cluster: Cluster) -> None:
    gateway = Gateway(cluster, "http-2")
    source = "class Handler:\n    def __call__(self, req): return req.info.replica\n"
    await asyncio.to_thread(gateway.deploy, "frozen", source, replicas=2)
    victim, pid = min(
        (record["name"], record["pid"])
        for record in (json.loads(path.read_text()) for path in cluster.state.glob("replicas/frozen-*/replica.json"))
    )
    os.kill(pid, signal.SIGSTOP)
    try:
        async with aiohttp.ClientSession() as session:

            async def answered_by() -> str:
                headers = {"X-Timeout": "500ms"}
                async with session.post(f"http://{gateway.address}/function/frozen", headers=headers) as response:
                    return await response.text() if response.status == 200 else ""

            streak = 0
            for _ in range(200):
                streak = streak + 1 if await answered_by() not in ("", victim) else 0
                if streak >= 20:
                    break
            assert streak >= 20, "the frozen replica still gets calls"
            os.kill(pid, signal.SIGCONT)
            for _ in range(500):
                if await answered_by() == victim:
                    break
                await asyncio.sleep(0.02)
            else:
                pytest.fail("the replica never came back")
    finally:
        os.kill(pid, signal.SIGCONT)
        await asyncio.to_thread(gateway.stop)


async def test_a_call_on_a_replica_that_is_lost_fails_long_before_its_deadline(cluster: Cluster) -> None:
    gateway = Gateway(cluster, "http-3")
    source = "import time\nclass Handler:\n    def __call__(self, req):\n        time.sleep(600)\n"
    await asyncio.to_thread(gateway.deploy, "lost", source)
    record = json.loads(next(cluster.state.glob("replicas/lost-*/replica.json")).read_text())
    try:
        async with aiohttp.ClientSession() as session:
            call = asyncio.create_task(session.post(f"http://{gateway.address}/function/lost"))
            await until(lambda: gateway.gauges("lost")["dcf_in_flight"] == 1)
            # As a host that was powered off: no connection breaks, and nothing comes any more.
            os.kill(record["pid"], signal.SIGSTOP)
            begun_s = time.monotonic()
            async with await call as response:
                error = (await response.json())["error"]
        assert (response.status, error["code"]) == (502, "replica_lost")
        assert time.monotonic() - begun_s < 30
    finally:
        os.kill(record["pid"], signal.SIGCONT)
        os.kill(record["pid"], signal.SIGKILL)
        await asyncio.to_thread(gateway.stop)


def test_a_first_line_that_is_too_long_is_the_clients_mistake(show: Gateway) -> None:
    host, _, port = show.address.partition(":")
    for length, status in ((30_000, b"200"), (100_000, b"400")):
        with socket.create_connection((host, int(port)), timeout=10) as sock:
            line = b"GET /function/show?x=" + b"y" * length + b" HTTP/1.1"
            sock.sendall(line + b"\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = sock.recv(65536)
        assert answer.split(b" ", 2)[1] == status, answer[:200]
    assert "Traceback" not in show.cluster.log()
