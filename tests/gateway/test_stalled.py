"""What slow and silent clients cost: bounded memory, and nobody else's time."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from tests.conftest import until
from tests.gateway.processes import children_of, resident_bytes
from tests.gateway.running_gateway import Cluster, Gateway

pytestmark = pytest.mark.slow
MIB = 1024 * 1024

HANDLERS = {
    "afast": """
import hashlib

class Handler:
    async def __call__(self, req):
        if req.metadata["path"] == "/endless":
            while True:
                yield b"x" * 4096
        elif req.metadata["path"] == "/gib":
            for number in range(16384):
                yield number.to_bytes(8, "big") * 8192
        else:
            yield hashlib.sha256(req.input).hexdigest() + " %d" % len(req.input)
""",
    "fast": """
def handler(req):
    if req.metadata["path"] == "/endless":
        return endless()
    return req.input

def endless():
    while True:
        yield b"x" * 4096
""",
    "single": """
import hashlib

def handler(req):
    if req.metadata["path"] == "/picture":
        return b"p" * (8 * 1024 * 1024)
    return hashlib.sha256(req.input).hexdigest() + " %d" % len(req.input)
""",
}


@pytest.fixture(scope="module")
def fast(cluster: Cluster) -> Gateway:
    gateway = Gateway(cluster, "stalled-0")
    for name, source in HANDLERS.items():
        gateway.deploy(name, source, maxPayload="128Mi", **({} if name == "single" else {"concurrency": 300}))
    return gateway


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    timeout = aiohttp.ClientTimeout(total=90)
    async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:
        yield session


def url(gateway: Gateway, name: str, path: str = "") -> str:
    return f"http://{gateway.address}/function/{name}{path}"


def call_path(gateway: Gateway, name: str) -> list[int]:
    """Gateway, watcher and worker of a function."""
    watchers = [pid for pid in gateway.cluster.watcher_pids() if f"DCF_FUNCTION={name}" in environ_of(pid)]
    return [gateway.process.pid, *watchers, *(pid for watcher in watchers for pid in children_of(watcher))]


def environ_of(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/environ").read_text().split("\0")
    except OSError:
        return []


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("name", "seconds"), [("fast", 5), ("afast", 20)])
async def test_200_readers_that_never_read_cost_little_and_nobody_else(
    fast: Gateway, session: aiohttp.ClientSession, name: str, seconds: int
) -> None:
    host, _, port = fast.address.partition(":")
    pids = call_path(fast, name)
    assert len(pids) == 3
    answered = 0
    end = time.monotonic() + seconds

    async def calls() -> None:
        nonlocal answered
        while time.monotonic() < end:
            async with session.post(url(fast, name), data=b"hello") as answer:
                assert answer.status == 200
                assert (await answer.read()).startswith(b"hello" if name == "fast" else b"2cf24dba")
                answered += 1

    async with session.post(url(fast, name), data=b"hello") as answer:  # everything is loaded
        assert answer.status == 200
    before = [resident_bytes(pid) for pid in pids]
    stalled = []
    try:
        for _ in range(200):
            sock = socket.create_connection((host, int(port)), timeout=10)
            sock.setblocking(False)
            sock.sendall(f"GET /function/{name}/endless HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            stalled.append(sock)
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            for _ in range(64):
                group.create_task(calls())
        grown = [(resident_bytes(pid) - was) / MIB for pid, was in zip(pids, before, strict=True)]
    finally:
        for sock in stalled:
            sock.close()

    assert answered > 64
    assert sum(grown) < 64, f"gateway, watcher, worker: {grown} MiB"
    await until(lambda: fast.gauges(name) == {"dcf_in_flight": 0, "dcf_queued": 0}, what="the end of the streams")


async def test_a_gib_in_chunks_passes_through_a_bounded_gateway(fast: Gateway, session: aiohttp.ClientSession) -> None:
    before, highest, size = resident_bytes(fast.process.pid), 0, 0
    digest, wanted = hashlib.sha256(), hashlib.sha256()

    async with session.get(url(fast, "afast", "/gib")) as answer:
        async for piece in answer.content.iter_any():
            digest.update(piece)
            size += len(piece)
            if size % (64 * MIB) < len(piece):
                highest = max(highest, resident_bytes(fast.process.pid))

    for number in range(16384):
        wanted.update(number.to_bytes(8, "big") * 8192)
    assert size == 1024 * MIB
    assert digest.digest() == wanted.digest()
    assert highest - before < 32 * MIB, f"{(highest - before) / MIB:.1f} MiB"


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_large_upload_passes_through_a_bounded_gateway(
    fast: Gateway, session: aiohttp.ClientSession, chunked: bool
) -> None:
    body = os.urandom(MIB) * 64
    before, highest = resident_bytes(fast.process.pid), 0

    async def pieces() -> AsyncIterator[bytes]:
        nonlocal highest
        for start in range(0, len(body), MIB):
            yield body[start : start + MIB]
            highest = max(highest, resident_bytes(fast.process.pid))

    headers = {} if chunked else {"Content-Length": str(len(body))}
    async with session.post(url(fast, "single"), data=pieces(), headers=headers) as answer:
        assert await answer.text() == f"{hashlib.sha256(body).hexdigest()} {len(body)}"

    assert max(highest, resident_bytes(fast.process.pid)) - before < 32 * MIB


async def test_a_body_that_was_answered_is_not_kept(fast: Gateway, session: aiohttp.ClientSession) -> None:
    """A call and its answer in pieces hold each other until the collector comes: hundreds of calls later, perhaps."""
    body = os.urandom(MIB)

    async def call() -> None:
        async with session.post(url(fast, "fast"), data=body) as answer:
            assert await answer.read() == body

    await call()
    before = resident_bytes(fast.process.pid)
    for _ in range(50):
        await call()
    grown = resident_bytes(fast.process.pid) - before
    assert grown < 20 * MIB, f"{grown / MIB:.1f} MiB"


async def test_an_upload_over_the_limit_is_refused_in_the_middle(fast: Gateway, session: aiohttp.ClientSession) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 1000:
            yield b"x" * MIB
            sent += 1

    try:
        async with session.post(url(fast, "single"), data=endless()) as answer:
            assert answer.status == 413
            assert "max_payload" in await answer.text()
    except aiohttp.ClientOSError:  # it was still writing when the gateway closed
        pass
    assert sent < 300
    await until(lambda: fast.gauges("single") == {"dcf_in_flight": 0, "dcf_queued": 0}, what="the end of the call")


async def test_a_slow_sender_and_a_slow_reader_keep_no_slot(fast: Gateway, session: aiohttp.ClientSession) -> None:
    """The function has one slot; a body that trickles in, and an answer that nobody takes, leave it free."""
    host, _, port = fast.address.partition(":")
    _, writer = await asyncio.open_connection(host, int(port))
    sockets = []
    try:
        for _ in range(3):
            writer.write(f"POST /function/single HTTP/1.1\r\nHost: x\r\nContent-Length: {4 * MIB}\r\n\r\n".encode())
            writer.write(b"x" * 2 * MIB)
            sockets.append(writer)
            _, writer = await asyncio.open_connection(host, int(port))
        for _ in range(3):
            sock = socket.create_connection((host, int(port)), timeout=10)
            sock.sendall(b"GET /function/single/picture HTTP/1.1\r\nHost: x\r\n\r\n")
            sockets.append(sock)  # type: ignore[arg-type]
        await until(lambda: fast.gauges("single")["dcf_in_flight"] == 6, what="six calls that go nowhere")

        for _ in range(50):
            async with session.post(url(fast, "single"), data=b"quick") as answer:
                assert answer.status == 200
    finally:
        for one in (*sockets, writer):
            one.close()
    await until(lambda: fast.gauges("single") == {"dcf_in_flight": 0, "dcf_queued": 0}, what="the end of all calls")
