"""Clients that go away, at every stage and in every protocol, cost nothing and hurt nobody."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest

from dcf.rpc import pb_gateway_pb2 as pb
from dcf.rpc import v1_gateway_pb2 as v1
from tests.conftest import until
from tests.gateway.processes import children_of, open_files, threads
from tests.gateway.running_gateway import Cluster, Gateway, pb_stub, v1_stub

pytestmark = pytest.mark.slow

CALLS = 2000
WARM_UP = 200
CLIENTS = 24
SEED = 20261124

# The input is "<milliseconds> <text>"; the answer is the text, a stream's in three chunks.
HANDLERS = {
    "sync": """
import time

def handler(req):
    wait, _, text = req.text.partition(" ")
    end = time.monotonic() + int(wait) / 1000
    while time.monotonic() < end and not req.cancelled:
        time.sleep(0.002)
    return text
""",
    "async": """
import asyncio

async def handler(req):
    wait, _, text = req.text.partition(" ")
    await asyncio.sleep(int(wait) / 1000)
    return text
""",
    "gen": """
import time

def handler(req):
    wait, _, text = req.text.partition(" ")
    for piece in (text[:2], text[2:4], text[4:]):
        time.sleep(int(wait) / 3000)
        yield piece
""",
    "agen": """
import asyncio

async def handler(req):
    wait, _, text = req.text.partition(" ")
    for piece in (text[:2], text[2:4], text[4:]):
        await asyncio.sleep(int(wait) / 3000)
        yield piece
""",
    "bidi": """
import time

class Handler:
    def stream(self, requests):
        for req in requests:
            wait, _, text = req.text.partition(" ")
            for piece in (text[:2], text[2:4], text[4:]):
                time.sleep(int(wait) / 3000)
                yield piece
""",
    "abidi": """
import asyncio

class Handler:
    async def stream(self, requests):
        async for req in requests:
            wait, _, text = req.text.partition(" ")
            for piece in (text[:2], text[2:4], text[4:]):
                await asyncio.sleep(int(wait) / 3000)
                yield piece
""",
    "mesher": """
import mesh

def handler(req):
    return mesh.mesh_call("async", req.input)
""",
    "amesher": """
import mesh

async def handler(req):
    return await mesh.mesh_call_async("gen", req.input)
""",
    "batched": """
import time

def handler(reqs):
    time.sleep(max(int(req.text.partition(" ")[0]) for req in reqs) / 1000)
    return [req.text.partition(" ")[2] for req in reqs]
""",
}
FIELDS: dict[str, dict[str, Any]] = {
    "sync": {"concurrency": 2},
    "gen": {"concurrency": 4, "workers": 2},
    "bidi": {"concurrency": 3},
    "mesher": {"concurrency": 2},
    "batched": {"batch": {"maxSize": 4, "maxWait": "2ms"}},
}


@dataclass
class Seen:
    answered: Counter[str] = field(default_factory=Counter)
    cancelled: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


class Clients:
    """Every way in; each call is one coroutine, and cancelling it is the client's going away."""

    def __init__(self, gateway: Gateway, session: aiohttp.ClientSession, channel: grpc.aio.Channel) -> None:
        self._url = f"http://{gateway.address}/function/"
        self._session = session
        self.hold = False
        """Do not end what the handler does not end."""
        self._v1, self._pb = v1_stub(channel), pb_stub(channel)
        self.ways = {
            "http": self.http,
            "sse": self.sse,
            "upload": self.upload,
            "websocket": self.websocket,
            "invoke": self.invoke,
            "stream": self.stream,
            "bidi": self.bidi,
            "pb": self.pb_invoke,
            "invokes": self.invokes,
        }

    async def http(self, name: str, body: str) -> str:
        async with self._session.post(self._url + name, data=body) as answer:
            return await answer.text() if answer.status == 200 else f"{answer.status} {await answer.text()}"

    async def sse(self, name: str, body: str) -> str:
        accept = {"Accept": "text/event-stream"}
        async with self._session.post(self._url + name, data=body, headers=accept) as answer:
            text = await answer.text()
            events = [line[6:] for line in text.split("\n") if line.startswith("data: ")]
            return "".join(events) if answer.status == 200 else text

    async def upload(self, name: str, body: str) -> str:
        async def pieces() -> AsyncIterator[bytes]:
            for piece in (body[:3], body[3:]):
                yield piece.encode()
                await asyncio.sleep(0.002)

        async with self._session.post(self._url + name, data=pieces()) as answer:
            return await answer.text()

    async def websocket(self, name: str, body: str) -> str:
        async with self._session.ws_connect(self._url + name) as socket:
            await socket.send_str(body)
            text = ""
            while len(text) < 6 or self.hold:
                message = await socket.receive()
                if message.type not in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
                    return f"{message}"
                text += message.data if isinstance(message.data, str) else message.data.decode()
            return text

    async def invoke(self, name: str, body: str) -> str:
        return (await self._v1.Invoke(v1.InvokeRequest(function=name, input=body.encode()), timeout=60)).output.decode()

    async def stream(self, name: str, body: str) -> str:
        call = self._v1.InvokeStream(v1.InvokeRequest(function=name, input=body.encode()), timeout=60)
        try:
            return "".join([chunk.output.decode() async for chunk in call])
        finally:
            call.cancel()

    async def bidi(self, name: str, body: str) -> str:
        call = self._v1.InvokeBidi(timeout=60)
        try:
            await call.write(v1.InvokeInput(function=name, input=body.encode()))
            if not self.hold:
                await call.done_writing()
            return "".join([chunk.output.decode() async for chunk in call])
        finally:
            call.cancel()

    async def pb_invoke(self, name: str, body: str) -> str:
        return str((await self._pb.Invoke(pb.InvokeServiceRequest(Service=name, Input=body.encode()), timeout=60)).Msg)

    async def invokes(self, name: str, body: str) -> str:
        call = self._pb.Invokes(timeout=60)
        try:
            for _ in range(3):
                await call.write(pb.InvokeServiceRequest(Service=name, Input=body.encode()))
            await call.done_writing()
            answers = [answer.Output.decode() async for answer in call]
            return answers[0] if len(set(answers)) == 1 and len(answers) == 3 else repr(answers)
        finally:
            call.cancel()


async def play(clients: Clients, dice: random.Random, number: int, seen: Seen) -> None:
    """One call; some are cancelled after a while, some by their deadline."""
    name, way = dice.choice(list(HANDLERS)), dice.choice(list(clients.ways))
    wait_ms, text = dice.choice((0, 0, 5, 20, 60)), f"{number:06d}"
    patience_s = dice.choice((None, 0.0, dice.random() * 0.08))
    call = asyncio.ensure_future(clients.ways[way](name, f"{wait_ms} {text}"))
    what = f"{way} {name}"
    try:
        if patience_s is None:
            answer = await asyncio.wait_for(call, 60)
            if answer == text:
                seen.answered[what] += 1
            else:
                seen.wrong.append(f"{what} {number}: {answer!r}")
            return
        await asyncio.wait({call}, timeout=patience_s)
        if not call.done():
            call.cancel()
            seen.cancelled[what] += 1
        with contextlib.suppress(asyncio.CancelledError):
            await call
    except (aiohttp.ClientError, grpc.aio.AioRpcError, TimeoutError) as error:
        seen.wrong.append(f"{what} {number}: {error!r}")


@pytest.fixture(scope="module")
def mixed(cluster: Cluster) -> Gateway:
    gateway = Gateway(cluster, "cancels-0")
    for name, source in HANDLERS.items():
        gateway.deploy(name, source, **FIELDS.get(name, {}))
    return gateway


async def run_all(gateway: Gateway, dice: random.Random, numbers: range) -> Seen:
    seen = Seen()
    left = iter(numbers)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session, gateway.aio_channel() as channel:
        clients = Clients(gateway, session, channel)

        async def client() -> None:
            for number in left:
                await play(clients, dice, number, seen)

        async with asyncio.TaskGroup() as group:
            for _ in range(CLIENTS):
                group.create_task(client())
    return seen


@pytest.mark.timeout(180)
async def test_2000_calls_cancelled_at_random_leave_nothing_behind(mixed: Gateway) -> None:
    dice = random.Random(SEED)
    await run_all(mixed, dice, range(WARM_UP))
    await until(lambda: idle(mixed), what="the end of all calls")
    watchers = {pid: children_of(pid) for pid in mixed.cluster.watcher_pids()}
    pids = [mixed.process.pid, *watchers, *(worker for workers in watchers.values() for worker in workers)]
    before = {pid: (open_files(pid), threads(pid)) for pid in pids}
    tasks = mixed.metric("dcf_gateway_tasks")

    seen = await run_all(mixed, dice, range(WARM_UP, WARM_UP + CALLS))

    assert seen.wrong == []
    assert min(sum(seen.answered.values()), sum(seen.cancelled.values())) > CALLS // 5, "the dice are loaded"
    await until(lambda: idle(mixed), what="in-flight and queue to be 0")
    assert {pid: children_of(pid) for pid in mixed.cluster.watcher_pids()} == watchers, "a worker was replaced"
    await until(lambda: mixed.metric("dcf_gateway_tasks") <= tasks, what="the tasks to end")

    def left() -> dict[int, tuple[int, int]]:
        """What a process has more than before: files, threads."""
        more = {pid: (open_files(pid) - before[pid][0], threads(pid) - before[pid][1]) for pid in pids}
        return {pid: (files, number) for pid, (files, number) in more.items() if files > 0 or number > 0}

    end = time.monotonic() + 20
    while more := left():
        assert time.monotonic() < end, f"files and threads more than before, of gateway {mixed.process.pid}: {more}"
        await asyncio.sleep(0.05)


def idle(gateway: Gateway) -> bool:
    """Nothing waits or runs, in the gateway and in every replica."""
    return (
        all(not any(gateway.gauges(name).values()) for name in HANDLERS)
        and not gateway.metric("dcf_gateway_calls")
        and all(not replica["inFlight"] for name in HANDLERS for replica in gateway.view(name)["replicaStates"])
    )


SLOW_START = """
import os, time

class Handler:
    def __init__(self):
        while not os.path.exists("{go}"):
            time.sleep(0.01)

    def __call__(self, req):
        print("ran", req.text)
        return req.text.partition(" ")[2]
"""


async def test_calls_cancelled_while_the_replica_starts_never_run(mixed: Gateway, tmp_path: Path) -> None:
    go = tmp_path / "go"
    image = mixed.cluster.bundle("late", SLOW_START.replace("{go}", str(go)))
    assert mixed.http("POST", "/system/functions", {"service": "late", "image": image})[0] == 202

    async with aiohttp.ClientSession() as session, mixed.aio_channel() as channel:
        clients = Clients(mixed, session, channel)
        calls = {way: asyncio.ensure_future(call("late", f"0 {way}")) for way, call in clients.ways.items()}
        kept = asyncio.ensure_future(clients.http("late", "0 kept"))
        held = len(calls) + 1 + 2  # Invokes holds three messages
        await until(lambda: mixed.gauges("late")["dcf_queued"] == held, what=f"{held} held calls")
        for call in calls.values():
            call.cancel()
        await asyncio.gather(*calls.values(), return_exceptions=True)
        await until(lambda: mixed.gauges("late")["dcf_queued"] == 1, what="the queue to be empty but for one")
        go.touch()
        assert await asyncio.wait_for(kept, 30) == "kept"

    log = str(mixed.http("GET", "/system/function-log/late")[1])
    assert log.count("ran") == 1
    assert mixed.view("late")["invocationCount"] == 1


WITNESS = {
    "sees": """
import time

def handler(req):
    print("begun", req.text)
    while not req.cancelled:
        time.sleep(0.005)
    print("saw it", req.text, time.time())
""",
    "asees": """
import asyncio, time

async def handler(req):
    print("begun", req.text)
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        print("saw it", req.text, time.time())
        raise
""",
    "closes": """
import time

def handler(req):
    print("begun", req.text)
    try:
        while True:
            yield "x" * 100
            time.sleep(0.005)
    finally:
        print("saw it", req.text, time.time())
""",
    "acloses": """
import asyncio, time

async def handler(req):
    print("begun", req.text)
    try:
        while True:
            yield "x" * 100
            await asyncio.sleep(0.005)
    finally:
        print("saw it", req.text, time.time())
""",
    "waits": """
import time

class Handler:
    def stream(self, requests):
        try:
            for req in requests:
                print("begun", req.text)
                yield "go on"
        finally:
            print("saw it", requests.invocation_id, time.time())
""",
}


@pytest.mark.parametrize("name", WITNESS)
async def test_code_learns_that_its_client_has_gone(mixed: Gateway, name: str) -> None:
    mixed.deploy(name, WITNESS[name], concurrency=20)
    async with aiohttp.ClientSession() as session, mixed.aio_channel() as channel:
        clients = Clients(mixed, session, channel)
        clients.hold = True
        ways = ["websocket", "bidi"] if name == "waits" else [way for way in clients.ways if way != "invokes"]
        for way in ways:
            call = asyncio.ensure_future(clients.ways[way](name, f"0 {way}"))
            await until(lambda way=way: f"begun 0 {way}" in log_of(mixed, name), what=f"{way} to begin")
            seen = log_of(mixed, name).count("saw it")
            call.cancel()
            gone_at = time.time()
            with contextlib.suppress(asyncio.CancelledError, grpc.aio.AioRpcError):
                await call
            await until(lambda seen=seen: log_of(mixed, name).count("saw it") > seen, within_s=5, what=f"{way}'s end")
            last = [line for line in log_of(mixed, name).splitlines() if "saw it" in line][-1]
            assert float(last.rpartition(" ")[2]) - gone_at < 5
    await until(lambda: not any(mixed.gauges(name).values()), what="the slots to be free")


def log_of(gateway: Gateway, name: str) -> str:
    return str(gateway.http("GET", f"/system/function-log/{name}")[1])
