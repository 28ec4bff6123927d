"""The docker backend does what every backend does, and what containers alone can."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import docker.errors
import pytest

from dcf.domain.function import FunctionSpec
from dcf.errors import BackendUnavailableError, CapacityError, ImageNotFoundError, ImagePendingError
from dcf.scheduler.backends.contract import ObservedReplica, ReplicaBackend, ReplicaPlan
from dcf.scheduler.backends.registry import BackendOptions, open_backend
from tests.contracts.backend_contract import *  # noqa: F403
from tests.contracts.backend_contract import AnyBackend, call, next_exit, start_one, until_ready
from tests.contracts.replica_contract import *  # noqa: F403
from tests.engine.containers import make_image, remove_containers
from tests.engine.host_engine import Engine
from tests.scheduler.processes import ECHO, make_spec, until

CLUSTER = "dcf-contract"

EATS_MEMORY = """
    import os

    # The watcher's own process is to blame in the end: the handler only shows how it looks.
    def handler(req):
        eaten = []
        while True:
            eaten.append(bytearray(16 * 1024 * 1024))
"""

WHO_AM_I = """
    import json, os

    def handler(req):
        def can_write(path):
            try:
                open(os.path.join(path, "probe"), "w").close()
                return True
            except OSError:
                return False
        status = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
        return {
            "uid": os.getuid(),
            "root": can_write("/"), "source": can_write(os.getcwd()), "tmp": can_write("/tmp"),
            "capabilities": status["CapBnd"].strip(), "no_new_privileges": status["NoNewPrivs"].strip(),
        }
"""


class Containers:
    """A Place: an engine, with the images of this test in it."""

    def __init__(self, engine: Engine, base: str, gpus: str = "none") -> None:
        self.engine = engine
        self.gpus = gpus
        self.woken = 0
        self._base = base
        self._images: dict[str, str] = {ECHO: base}

    def open(self) -> AbstractAsyncContextManager[AnyBackend]:
        options = BackendOptions(
            state=None,  # type: ignore[arg-type] - of no interest here
            bundles=None,  # type: ignore[arg-type]
            cluster=CLUSTER,
            network=CLUSTER,
            gpus=self.gpus,
            environ=os.environ,
            on_change=self._on_change,
        )
        return open_backend("docker", options)

    def _on_change(self) -> None:
        self.woken += 1

    async def make_spec(self, name: str = "echo", source: str = ECHO, **fields: Any) -> FunctionSpec:
        if source not in self._images:
            self._images[source] = await asyncio.to_thread(make_image, self.engine, self._base, source)
        return make_spec(name, self._images[source], **fields)

    async def kill(self, replica: ObservedReplica) -> None:
        await asyncio.to_thread(self.engine.client.api.kill, f"{CLUSTER}-{replica.name}", "SIGKILL")

    async def is_gone(self, replica: ObservedReplica) -> bool:
        label = f"dcf.replica={replica.name}"
        found = await asyncio.to_thread(
            self.engine.client.api.containers, all=True, filters={"label": [f"dcf.cluster={CLUSTER}", label]}
        )
        return not found

    def close(self) -> None:
        remove_containers(self.engine.client, CLUSTER)
        for image in self._images.values():
            if image != self._base:
                self.engine.client.images.remove(image, force=True)


@pytest.fixture
def place(base_images: Engine, echo_image: str) -> Iterator[Containers]:
    place = Containers(base_images, echo_image)
    remove_containers(base_images.client, CLUSTER)
    yield place
    place.close()


async def test_an_image_that_is_nowhere_is_said_with_its_name(place: Containers, backend: ReplicaBackend) -> None:
    plan = ReplicaPlan(spec=make_spec("echo", "127.0.0.1:9/nobody/echo:1"), ordinal=0)

    with pytest.raises(ImagePendingError, match="being fetched"):
        await backend.start(plan)
    await until(lambda: place.woken > 1)
    with pytest.raises(ImageNotFoundError, match=r"127\.0\.0\.1:9/nobody/echo:1 could not be fetched"):
        await until(lambda: _start(backend, plan))


async def _start(backend: ReplicaBackend, plan: ReplicaPlan) -> ObservedReplica | None:
    try:
        return await backend.start(plan)
    except ImagePendingError:
        return None


async def test_an_image_of_somebody_else_is_refused(place: Containers, backend: ReplicaBackend) -> None:
    with pytest.raises(ImageNotFoundError, match="no function"):
        await backend.start(ReplicaPlan(spec=make_spec("echo", "python:3.11-slim"), ordinal=0))


async def test_a_function_has_no_more_rights_than_it_needs(place: Containers, backend: ReplicaBackend) -> None:
    replica = await start_one(backend, await place.make_spec(source=WHO_AM_I))
    await until_ready(replica)

    seen = eval(await call(replica, b""), {"true": True, "false": False})

    assert seen["uid"] != 0
    assert (seen["root"], seen["source"], seen["tmp"]) == (False, False, True)
    assert int(seen["capabilities"], 16) == 0
    assert seen["no_new_privileges"] == "1"


async def test_out_of_memory_is_said_as_such(place: Containers, backend: ReplicaBackend) -> None:
    spec = await place.make_spec(source=EATS_MEMORY, limits={"memory": "96Mi"})
    replica = await start_one(backend, spec)
    await until_ready(replica)

    with pytest.raises(Exception, match="out of memory"):
        await call(replica, b"")


async def test_limits_are_the_containers(place: Containers, backend: ReplicaBackend) -> None:
    spec = await place.make_spec(limits={"memory": "256Mi", "cpu": "500m"})
    replica = await start_one(backend, spec)

    host = place.engine.client.api.inspect_container(f"{CLUSTER}-{replica.name}")["HostConfig"]

    assert (host["Memory"], host["NanoCpus"], host["PidsLimit"]) == (256 * 1024**2, 500_000_000, 4096)
    [node] = await backend.nodes()
    assert (node.cpus_used, node.memory_used_bytes) == (0.5, 256 * 1024**2)


async def test_an_engine_that_is_not_there_is_said(place: Containers) -> None:
    options = BackendOptions(
        state=None,  # type: ignore[arg-type]
        bundles=None,  # type: ignore[arg-type]
        cluster=CLUSTER,
        network=CLUSTER,
        gpus="",
        environ={"DOCKER_HOST": "unix:///nowhere/docker.sock"},
        on_change=lambda: None,
    )
    async with open_backend("docker", options) as backend:
        with pytest.raises(BackendUnavailableError, match=r"does not answer.*dcf doctor"):
            await backend.observe()


@pytest.fixture
async def gpu_backend(
    place: Containers, gpus: tuple[str, ...], gpu_image: str
) -> AsyncIterator[tuple[ReplicaBackend, FunctionSpec]]:
    place.gpus = ""
    async with place.open() as backend:
        yield backend, make_spec("seer", gpu_image, limits={"gpu": "1"})  # type: ignore[misc]
        await backend.stop_all(grace_s=5)


async def test_each_replica_has_a_gpu_of_its_own_and_the_third_waits(
    place: Containers, gpu_backend: tuple[ReplicaBackend, FunctionSpec]
) -> None:
    backend, spec = gpu_backend

    first = await backend.start(ReplicaPlan(spec=spec, ordinal=0))
    second = await backend.start(ReplicaPlan(spec=spec, ordinal=1))
    with pytest.raises(CapacityError, match="no GPU free: 2 of 2 are held by seer-g1-0, seer-g1-1"):
        await backend.start(ReplicaPlan(spec=spec, ordinal=2))

    assert sorted([*first.gpus, *second.gpus]) == ["GPU-aaaa", "GPU-bbbb"]
    for replica in (first, second):
        await until_ready(replica)
        # What the engine was asked for is what the handler sees.
        assert await call(replica, b"") == replica.gpus[0].encode()
    [node] = await backend.nodes()
    assert (node.gpus, node.gpus_used) == (("GPU-aaaa", "GPU-bbbb"), ("GPU-aaaa", "GPU-bbbb"))

    await backend.stop(first.name, grace_s=20)
    await next_exit(backend)
    third = await backend.start(ReplicaPlan(spec=spec, ordinal=2))
    assert third.gpus == first.gpus


async def test_a_paused_replica_and_another_cluster_keep_their_gpus(
    place: Containers, gpu_backend: tuple[ReplicaBackend, FunctionSpec], gpu_image: str
) -> None:
    backend, spec = gpu_backend
    first = await backend.start(ReplicaPlan(spec=spec, ordinal=0))
    [taken] = first.gpus
    [free] = {"GPU-aaaa", "GPU-bbbb"} - {taken}
    client = place.engine.client
    labels = {"dcf.cluster": "another", "dcf.replica": "x-g1-0", "dcf.gpus": free}
    other = client.containers.run(gpu_image, entrypoint=["sleep", "60"], labels=labels, name="another-x", detach=True)
    mine = client.containers.get(f"{CLUSTER}-{first.name}")
    mine.pause()
    try:
        with pytest.raises(CapacityError, match="no GPU free: 2 of 2 are held by another-x, seer-g1-0"):
            await backend.start(ReplicaPlan(spec=spec, ordinal=1))
        assert [one.name for one in await backend.observe()] == [first.name], "a paused one is there, and silent"
        other.remove(force=True)
        second = await backend.start(ReplicaPlan(spec=spec, ordinal=1))
        assert second.gpus == (free,)
    finally:
        with contextlib.suppress(docker.errors.NotFound):
            other.remove(force=True)
        mine.unpause()


async def test_what_had_ended_before_the_scheduler_came_was_no_failed_start(
    place: Containers, backend: ReplicaBackend
) -> None:
    replica = await start_one(backend, await place.make_spec())
    await place.kill(replica)
    async with place.open() as another:
        [found] = await another.take_exits()  # type: ignore[union-attr]

    assert (found.replica.name, found.found_dead, found.code) == (replica.name, True, -9)
    assert await backend.observe() == []
    fresh = await start_one(backend, await place.make_spec())
    await place.kill(fresh)
    assert not (await next_exit(backend)).found_dead


async def test_a_gpu_that_is_not_in_the_container_is_refused_by_the_watcher(
    place: Containers, gpus: tuple[str, ...], echo_image: str
) -> None:
    # The engine grants it, and no driver's tool is in this image: as on a node whose runtime is not set up.
    place.gpus = ""
    async with place.open() as backend:
        await start_one(backend, make_spec("blind", echo_image, limits={"gpu": "1"}))

        ended = await next_exit(backend)

        assert ended.code == 1
        assert "GPU" in ended.cause
        assert "nvidia" in ended.cause.lower()
        await backend.stop_all(grace_s=5)


def test_the_stand_in_driver_lists_what_the_engine_advertises(gpus: tuple[str, ...]) -> None:
    assert set(gpus) >= {"GPU-aaaa", "GPU-bbbb"}


async def test_a_container_of_another_cluster_is_left_alone(place: Containers, backend: ReplicaBackend) -> None:
    client = place.engine.client
    other = client.containers.create("python:3.11-slim", ["sleep", "60"], labels={"dcf.cluster": "another"})
    try:
        assert await backend.observe() == []
        await backend.stop_all(grace_s=1)
        other.reload()
    finally:
        other.remove(force=True)
    with pytest.raises(docker.errors.NotFound):
        other.reload()
