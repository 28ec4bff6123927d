"""What every backend does alike, told once; each backend's tests take all of it and give a `place`.

`place` is where a backend is opened, one after the other: it makes functions that this kind of backend can
run, and does to replicas what backends never do. `start_one` and `end_one` are the two words in which the two
kinds of backends differ.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

import grpc
import grpc.aio
import pytest

from dcf.domain.function import FunctionSpec, replica_digest
from dcf.rpc import v1_watcher_pb2
from dcf.rpc.services import OPTIONS, Stub
from dcf.scheduler.backends.contract import ObservedReplica, ReplicaBackend, ReplicaExit, ReplicaPlan, ServiceBackend
from tests.scheduler.processes import ECHO, RAISES, until

AnyBackend = ReplicaBackend | ServiceBackend

SAYS_HELLO = '\n    print("hello", flush=True)\n' + ECHO
SLEEPS = """
    import time

    def handler(req):
        time.sleep(600)
"""


class Place(Protocol):
    """Where backends are opened, one after the other."""

    woken: int
    """How often `on_change` was called."""

    def open(self) -> AbstractAsyncContextManager[AnyBackend]:
        """A backend on what is here."""
        ...

    async def make_spec(self, name: str = "echo", source: str = ECHO, **fields: Any) -> FunctionSpec:
        """A function whose image, or bundle, is here."""
        ...

    async def kill(self, replica: ObservedReplica) -> None:
        """End its watcher by SIGKILL, as the kernel does that is out of memory."""
        ...

    async def is_gone(self, replica: ObservedReplica) -> bool:
        """Whether nothing is left of it: no process, no folder, no container."""
        ...


async def start_one(backend: AnyBackend, spec: FunctionSpec) -> ObservedReplica:
    """One replica of `spec`, as `observe` shows it."""
    if not isinstance(backend, ServiceBackend):
        return await backend.start(ReplicaPlan(spec=spec, ordinal=0))
    await backend.create(dataclasses.replace(spec, replicas=1))

    async def look() -> ObservedReplica | None:
        return next((one for one in await backend.observe() if one.uid == spec.uid), None)

    return await until(look)


async def end_one(backend: AnyBackend, replica: ObservedReplica, *, grace_s: float = 20.0) -> None:
    """Let it drain."""
    if isinstance(backend, ServiceBackend):
        await backend.scale(replica.function, 0)
    else:
        await backend.stop(replica.name, grace_s=grace_s)


async def next_exit(backend: AnyBackend) -> ReplicaExit:
    async def look() -> ReplicaExit | None:
        await backend.observe()
        exits = await backend.take_exits()
        assert len(exits) <= 1
        return exits[0] if exits else None

    return await until(look)


async def until_empty(backend: AnyBackend) -> None:
    async def look() -> bool:
        return not await backend.observe()

    await until(look)


async def until_gone(place: Place, replica: ObservedReplica) -> None:
    await until(lambda: place.is_gone(replica))


async def until_ready(replica: ObservedReplica, *, busy: bool = False) -> None:
    """Return when its handler is loaded; with `busy`, when all its slots are taken."""
    wanted = {"busy"} if busy else {"ready", "busy"}
    async with asyncio.timeout(40):
        while True:
            async with grpc.aio.insecure_channel(replica.address, options=OPTIONS) as channel:
                watch = Stub(channel, v1_watcher_pb2.DESCRIPTOR.services_by_name["Watcher"]).Watch
                try:
                    async for state in watch(v1_watcher_pb2.WatchRequest()):
                        if state.state in wanted:
                            return
                except grpc.aio.AioRpcError:
                    await asyncio.sleep(0.05)


async def call(replica: ObservedReplica, data: bytes) -> bytes:
    """What the handler answers, asked without a gateway."""
    async with grpc.aio.insecure_channel(replica.address, options=OPTIONS) as channel:
        stub = Stub(channel, v1_watcher_pb2.DESCRIPTOR.services_by_name["Watcher"])
        return bytes((await stub.Call(v1_watcher_pb2.CallRequest(input=data), timeout=600)).output)


@pytest.fixture
async def backend(place: Place) -> AsyncIterator[AnyBackend]:
    async with place.open() as backend:
        yield backend
        await backend.stop_all(grace_s=5)
        assert await backend.observe() == []


async def test_what_was_started_is_observed_and_answers(place: Place, backend: AnyBackend) -> None:
    spec = await place.make_spec()

    started = await start_one(backend, spec)

    assert [one.name for one in await backend.observe()] == [started.name]
    assert started.name.startswith("echo-g1-")
    assert (started.function, started.uid) == ("echo", "uid-echo")
    assert (started.generation, started.digest) == (1, replica_digest(spec))
    assert (started.stopping, started.adopted, started.grace_s) == (False, False, 100.0)
    await until_ready(started)
    assert await call(started, b"hello") == b"hello"


async def test_a_replica_that_is_stopped_drains_and_is_gone(place: Place, backend: AnyBackend) -> None:
    replica = await start_one(backend, await place.make_spec())
    await until_ready(replica)

    await end_one(backend, replica)

    ended = await next_exit(backend)
    assert (ended.replica.name, ended.replica.stopping) == (replica.name, True)
    assert await backend.observe() == []
    assert await backend.take_exits() == []
    await until_gone(place, replica)


async def test_an_end_that_nobody_asked_for_wakes_the_loop_and_names_its_cause(
    place: Place, backend: AnyBackend
) -> None:
    replica = await start_one(backend, await place.make_spec())
    await until_ready(replica)
    before = place.woken

    await place.kill(replica)

    ended = await next_exit(backend)
    assert place.woken > before
    assert (ended.replica.name, ended.replica.stopping) == (replica.name, False)
    assert ended.replica.address == replica.address
    assert "SIGKILL" in ended.cause


async def test_a_handler_that_cannot_be_loaded_is_explained_by_its_log(place: Place, backend: AnyBackend) -> None:
    await start_one(backend, await place.make_spec(source=RAISES))

    ended = await next_exit(backend)

    assert ended.code == 1
    assert not ended.replica.stopping
    assert "ValueError: no weights" in ended.cause
    assert not ended.cause.startswith("dcf:")
    assert "loading the model" in ended.log_tail


async def test_the_log_of_a_running_replica_can_be_read(place: Place, backend: AnyBackend) -> None:
    replica = await start_one(backend, await place.make_spec(source=SAYS_HELLO))

    async def look() -> str | None:
        return next((line for line in await backend.log_tail(replica.name) if line == "hello"), None)

    seen: str = await until(look)
    assert seen == "hello"


async def test_replicas_outlive_a_backend_and_the_next_one_adopts_them(place: Place) -> None:
    spec = await place.make_spec()
    async with place.open() as first:
        started = await start_one(first, spec)

    async with place.open() as second:
        [adopted] = await second.observe()
        assert adopted.adopted
        assert (adopted.name, adopted.address, adopted.digest) == (started.name, started.address, started.digest)
        again = await start_one(second, spec)
        assert again.name == adopted.name
        assert len(await second.observe()) == 1

        await until_ready(started)
        await end_one(second, adopted)
        assert (await next_exit(second)).replica.stopping
        await second.stop_all(grace_s=5)


async def test_stop_all_ends_everything_that_is_there(place: Place) -> None:
    async with place.open() as first:
        one = await start_one(first, await place.make_spec())
        other = await start_one(first, await place.make_spec("other", SLEEPS))
        await until_ready(other)

    async with place.open() as second:
        await second.stop_all(grace_s=5)
        assert await second.observe() == []

    await until_gone(place, one)
    await until_gone(place, other)


async def test_the_machines_and_what_was_given_to_replicas(place: Place, backend: AnyBackend) -> None:
    await start_one(backend, await place.make_spec())

    nodes = await backend.nodes()

    assert all(node.name and node.ready and node.cpus > 0 and node.memory_bytes > 0 for node in nodes)
    assert sum(node.replicas for node in nodes) == 1
