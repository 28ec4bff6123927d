"""The swarm backend does what every backend does, and what services of a Swarm alone can."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import hashlib
import json
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import docker.errors
import pytest

from dcf.domain.function import FunctionSpec
from dcf.errors import BackendConflictError, BackendError, BackendUnavailableError, CapacityError, ImageNotFoundError
from dcf.scheduler.backends.contract import ObservedReplica, ServiceBackend
from dcf.scheduler.backends.registry import BackendOptions, open_backend
from dcf.scheduler.function_memory import FunctionMemory
from dcf.scheduler.service_mover import ServiceMover
from tests.contracts.backend_contract import *  # noqa: F403
from tests.contracts.backend_contract import AnyBackend, call, next_exit, start_one, until_empty, until_ready
from tests.engine.containers import make_image
from tests.engine.function_images import SEES, build_gpu_image
from tests.engine.host_engine import GPUS, Engine
from tests.engine.overlay import reachable_overlay
from tests.engine.registry import Registry
from tests.engine.three_engines import GPU_NODE, NODES, ThreeEngines
from tests.scheduler.processes import ECHO, RAISES, make_spec, until

CLUSTER = "dcf-contract"

LOADS_LONG = """
    import time

    time.sleep(3)

    def handler(req):
        return b"two"
"""
TAKES_ITS_TIME = """
    import time

    def handler(req):
        time.sleep(float(req.input))
        return b"done"
"""


class Services:
    """A Place: a Swarm of three, with the images of these tests in each engine."""

    def __init__(self, engines: ThreeEngines, host: Engine, base: str) -> None:
        self.engines = engines
        self.woken = 0
        self._host = host
        self._base = base
        self._images: dict[str, str] = {ECHO: base}

    def open(self) -> AbstractAsyncContextManager[AnyBackend]:
        return self.open_at(self.engines.url(1))

    def open_at(self, url: str) -> AbstractAsyncContextManager[AnyBackend]:
        options = BackendOptions(
            state=None,  # type: ignore[arg-type] - of no interest here
            bundles=None,  # type: ignore[arg-type]
            cluster=CLUSTER,
            network=CLUSTER,
            gpus="",
            environ={**os.environ, "DOCKER_HOST": url},
            on_change=self._on_change,
        )
        return open_backend("swarm", options)

    def _on_change(self) -> None:
        self.woken += 1

    async def make_spec(self, name: str = "echo", source: str = ECHO, **fields: Any) -> FunctionSpec:
        if source not in self._images:
            self._images[source] = await asyncio.to_thread(self._build, source, NODES, make_image)
        return make_spec(name, self._images[source], **fields)

    async def make_gpu_spec(self, name: str) -> FunctionSpec:
        if SEES not in self._images:
            make: Callable[[Engine, str, str], str] = build_gpu_image
            self._images[SEES] = await asyncio.to_thread(self._build, SEES, (GPU_NODE,), make)
        return make_spec(name, self._images[SEES], limits={"gpu": "1"})

    async def kill(self, replica: ObservedReplica) -> None:
        await asyncio.to_thread(self._kill, replica)

    async def is_gone(self, replica: ObservedReplica) -> bool:
        return not await asyncio.to_thread(self._containers, replica)

    def _build(self, source: str, nodes: tuple[int, ...], make: Callable[[Engine, str, str], str]) -> str:
        """Built on each node: cheaper than carrying an image of 300 MB there for each handler."""
        name = f"dcf-swarm:{hashlib.sha256(source.encode()).hexdigest()[:12]}"
        for n in nodes:
            client = self.engines.client(n)
            made = make(dataclasses.replace(self._host, client=client), self._base, source)
            client.images.get(made).tag(name)
        return name

    def _containers(self, replica: ObservedReplica) -> list[tuple[int, str]]:
        """Node and id of the replica's container, while it runs."""
        found = []
        for n in NODES:
            for one in self.engines.client(n).api.containers(filters={"label": f"dcf.cluster={CLUSTER}"}):
                if one["Labels"]["com.docker.swarm.task.id"].startswith(replica.name.rsplit("-", 1)[1]):
                    found.append((n, one["Id"]))
        return found

    def _kill(self, replica: ObservedReplica) -> None:
        [(n, container)] = self._containers(replica)
        self.engines.client(n).api.kill(container, "SIGKILL")


@pytest.fixture(scope="module")
def services(base_images: Engine, echo_image: str, three_engines: ThreeEngines) -> Iterator[Services]:
    three_engines.load_image(echo_image)
    with reachable_overlay(three_engines, CLUSTER, echo_image):
        yield Services(three_engines, base_images, echo_image)


@pytest.fixture
def place(services: Services) -> Services:
    services.woken = 0
    return services


@pytest.fixture
async def swarm(place: Services) -> AsyncIterator[ServiceBackend]:
    """The backend, with nothing on it before and after."""
    async with place.open() as backend:
        assert isinstance(backend, ServiceBackend)
        assert await backend.observe() == []
        yield backend
        await backend.stop_all(grace_s=20)


async def replicas_of(backend: ServiceBackend, wanted: Callable[[list[ObservedReplica]], object]) -> list[Any]:
    """The replicas once they are as `wanted` says."""

    async def look() -> list[ObservedReplica] | None:
        seen = await backend.observe()
        return seen if wanted(seen) else None

    return await until(look, within_s=60)


async def create_with_gpu(backend: ServiceBackend, spec: FunctionSpec) -> None:
    """As the mover does it: again and again while the nodes join the network."""

    async def look() -> bool:
        await backend.observe()
        try:
            await backend.create(spec)
        except CapacityError:
            return False
        return True

    await until(look)


async def until_settled(backend: ServiceBackend, function: str) -> None:
    async def look() -> bool:
        await backend.observe()
        state = backend.services()[function]
        return not state.updating and not state.rolling_back

    await until(look, within_s=60)


async def waiting_text(backend: ServiceBackend, function: str, words: str) -> str:
    async def look() -> str | None:
        await backend.observe()
        text = backend.services()[function].waiting
        return text if words in text else None

    return await until(look)


async def running_first(backend: ServiceBackend, spec: FunctionSpec) -> list[ObservedReplica]:
    await backend.create(spec)
    seen: list[ObservedReplica] = await replicas_of(backend, lambda seen: len(seen) == spec.desired)
    for one in seen:
        await until_ready(one)
    return seen


async def test_scaling_restarts_nobody_who_stays(place: Services, swarm: ServiceBackend) -> None:
    two = await running_first(swarm, await place.make_spec(replicas=2))

    await swarm.scale("echo", 4)
    four = await replicas_of(swarm, lambda seen: len(seen) == 4)
    for one in four:
        await until_ready(one)
    await swarm.observe()
    await swarm.scale("echo", 2)
    left = await replicas_of(swarm, lambda seen: len(seen) == 2)

    assert {one.name for one in two} == {one.name for one in left}
    assert {one.name for one in two} < {one.name for one in four}
    assert all(one.started_at == before.started_at for one, before in zip(left, two, strict=True))


async def test_the_old_replica_goes_when_the_new_one_is_healthy(place: Services, swarm: ServiceBackend) -> None:
    [old] = await running_first(swarm, await place.make_spec())
    await swarm.observe()

    await swarm.update(await place.make_spec(source=LOADS_LONG, generation=2))

    assert swarm.services()["echo"].updating
    seen = await replicas_of(swarm, lambda seen: any(one.stopping for one in seen))
    [new] = [one for one in seen if one.generation == 2]
    assert [one.name for one in seen if one.stopping] == [old.name]
    assert await call(new, b"") == b"two"
    await replicas_of(swarm, lambda seen: [one.name for one in seen] == [new.name])
    await until_settled(swarm, "echo")


async def test_a_version_that_cannot_start_is_rolled_back(place: Services, swarm: ServiceBackend) -> None:
    good = await place.make_spec()
    [serving] = await running_first(swarm, good)
    bad = await place.make_spec(source=RAISES, generation=2)
    mover, memory = ServiceMover(swarm), FunctionMemory()
    memory.meet(bad, 0.0)

    async def move(now_s: float) -> None:
        await mover.move(bad, [], memory, publish=_publish_nothing, look=lambda started: [], now_s=now_s)

    await swarm.observe()
    await move(now_s=0.0)
    failed = await next_exit(swarm)
    memory.on_exit(failed, ready_for_s=0.0, now_s=100.0)
    await until_settled(swarm, "echo")

    state = swarm.services()["echo"]
    assert (state.generation, state.rolling_back) == (1, False)
    assert (failed.replica.generation, failed.replica.stopping, failed.code) == (2, False, 1)
    assert "ValueError: no weights" in failed.cause
    assert await call(serving, b"still here") == b"still here"
    await move(now_s=100.5)
    assert swarm.services()["echo"].generation == 1  # its back-off is not over
    await move(now_s=101.5)
    assert swarm.services()["echo"].generation == 2
    assert (await next_exit(swarm)).replica.name != failed.replica.name


async def _publish_nothing(views: object) -> None:
    pass


async def test_a_scale_waits_for_the_end_of_an_update(place: Services, swarm: ServiceBackend) -> None:
    await running_first(swarm, await place.make_spec())
    await swarm.observe()
    newer = await place.make_spec(source=LOADS_LONG, generation=2)
    await swarm.update(newer)
    more = dataclasses.replace(newer, pinned_replicas=2)
    mover, memory = ServiceMover(swarm), FunctionMemory()

    async def move() -> int:
        await swarm.observe()
        await mover.move(more, [], memory, publish=_publish_nothing, look=lambda started: [], now_s=0.0)
        return swarm.services()["echo"].replicas

    assert await move() == 1
    await until_settled(swarm, "echo")
    assert await move() == 2


async def test_an_image_that_no_node_has_is_said(place: Services, swarm: ServiceBackend) -> None:
    await running_first(swarm, await place.make_spec())
    await swarm.observe()

    await swarm.update(make_spec("echo", "nowhere.invalid/echo:1", generation=2))

    failed = await next_exit(swarm)
    assert failed.image_missing
    assert "could not fetch image nowhere.invalid/echo:1" in failed.cause
    assert "node dcf-e" in failed.cause
    await until_settled(swarm, "echo")
    assert swarm.services()["echo"].generation == 1


async def test_another_deploy_with_a_login_mends_one_without(
    place: Services, swarm: ServiceBackend, locked_registry: Registry, base_images: Engine, echo_image: str
) -> None:
    login = {"username": locked_registry.user, "password": locked_registry.password}
    image = locked_registry.name_of("dcf-locked:1")
    base_images.client.images.get(echo_image).tag(image)
    assert "error" not in str(base_images.client.api.push(image, auth_config=login))
    without = make_spec("echo", image)
    encoded = base64.urlsafe_b64encode(json.dumps(login | {"serveraddress": locked_registry.address}).encode())
    with_login = dataclasses.replace(without, registry_auth=encoded.decode(), revision=without.revision + 1)
    mover, memory = ServiceMover(swarm), FunctionMemory()
    memory.meet(without, 0.0)
    try:
        await swarm.observe()
        await mover.move(without, [], memory, publish=_publish_nothing, look=lambda started: [], now_s=0.0)
        failed = await next_exit(swarm)
        assert failed.image_missing
        memory.on_exit(failed, ready_for_s=0.0, now_s=1.0)

        await swarm.observe()
        await mover.move(with_login, [], memory, publish=_publish_nothing, look=lambda started: [], now_s=1.0)

        [replica] = await replicas_of(swarm, lambda seen: len(seen) == 1)
        await until_ready(replica)
    finally:
        base_images.client.images.remove(image)


async def test_a_bundle_is_no_image(swarm: ServiceBackend) -> None:
    with pytest.raises(ImageNotFoundError, match="dcf function build"):
        await swarm.create(make_spec("echo", "bundle:echo@ffffffffffff"))


async def test_two_replicas_have_gpus_of_their_own_and_the_third_waits(place: Services, swarm: ServiceBackend) -> None:
    for name in ("one", "two"):
        await create_with_gpu(swarm, await place.make_gpu_spec(name))
    seen = await replicas_of(swarm, lambda seen: len(seen) == 2)
    for replica in seen:
        await until_ready(replica)
        assert await call(replica, b"") == replica.gpus[0].encode()
    await create_with_gpu(swarm, await place.make_gpu_spec("three"))

    said = await waiting_text(swarm, "three", "no GPU free")

    assert said.startswith("no GPU free: 2 of 2 are held by one-g1-1-")
    assert {gpu for one in seen for gpu in one.gpus} == set(GPUS)
    assert {one.node for one in seen} == {place.engines.hostname(GPU_NODE)}
    [used] = [node.gpus_used for node in await swarm.nodes() if node.gpus]
    assert used == tuple(sorted(GPUS))
    await swarm.remove("one")
    await replicas_of(swarm, lambda seen: any(one.function == "three" for one in seen))


async def test_a_gpu_function_whose_image_is_gone_keeps_no_other_waiting(
    place: Services, swarm: ServiceBackend
) -> None:
    gone = make_spec("gone", "nowhere.invalid/gone:1", limits={"gpu": "1"})

    async def look() -> str:
        await swarm.observe()
        with pytest.raises(CapacityError) as caught:
            await swarm.create(gone)
        return str(caught.value) if "nowhere.invalid" in str(caught.value).partition("says")[2] else ""

    said = await until(look, within_s=30)
    await create_with_gpu(swarm, await place.make_gpu_spec("seer"))

    assert "must join the cluster's network first" in said
    [replica] = await replicas_of(swarm, lambda seen: len(seen) == 1)
    await until_ready(replica)


async def test_a_gpu_that_a_node_promises_and_has_not_is_explained(place: Services, swarm: ServiceBackend) -> None:
    await create_with_gpu(swarm, await place.make_spec("blind", limits={"gpu": "1"}))

    failed = await next_exit(swarm)

    assert failed.code == 1
    assert "was reserved for this replica" in failed.cause
    assert "NVIDIA's runtime is not set up on this node" in failed.cause


async def test_constraints_choose_the_node_or_say_that_there_is_none(place: Services, swarm: ServiceBackend) -> None:
    here = f"node.hostname=={place.engines.hostname(2)}"
    spec = await place.make_spec(constraints=("node.labels.rack==a", "spread=node.labels.room"))
    await swarm.create(spec)
    assert "(node.labels.rack==a)" in await waiting_text(swarm, "echo", "no node fits")

    await swarm.update(dataclasses.replace(spec, generation=2, constraints=(here,)))

    [one] = await replicas_of(swarm, lambda seen: len(seen) == 1)
    assert one.node == place.engines.hostname(2)


async def test_a_removed_function_finishes_its_calls(place: Services, swarm: ServiceBackend) -> None:
    [one] = await running_first(swarm, await place.make_spec(source=TAKES_ITS_TIME))
    answer = asyncio.ensure_future(call(one, b"5"))
    await until_ready(one, busy=True)

    await swarm.remove("echo")

    assert "echo" not in swarm.services()
    assert [seen.stopping for seen in await swarm.observe()] == [True]
    assert await answer == b"done"
    await until_empty(swarm)
    assert (await next_exit(swarm)).replica.stopping


async def test_an_update_forced_by_hand_is_done_and_not_undone(place: Services, swarm: ServiceBackend) -> None:
    [before] = await running_first(swarm, await place.make_spec())

    await asyncio.to_thread(lambda: place.engines.manager.services.list(filters={"name": CLUSTER})[0].force_update())

    [after] = await replicas_of(swarm, lambda seen: len(seen) == 1 and seen[0].name != before.name)
    assert after.generation == before.generation
    await until_settled(swarm, "echo")
    await swarm.scale("echo", 2)
    both = await replicas_of(swarm, lambda seen: len(seen) == 2)
    assert after.name in {one.name for one in both}


async def test_who_read_an_older_version_changes_nothing(place: Services) -> None:
    async with place.open() as leader, place.open() as deposed:
        assert isinstance(leader, ServiceBackend)
        assert isinstance(deposed, ServiceBackend)
        await start_one(leader, await place.make_spec())
        await leader.observe()
        await deposed.observe()
        # Its poll would make it know better: what is late here is the decision.
        stale = deposed._picture.services["echo"]  # type: ignore[attr-defined]
        await leader.scale("echo", 2)

        with pytest.raises(BackendConflictError, match="update out of sequence"):
            await deposed._swarm.update(stale, stale.spec, auth="")  # type: ignore[attr-defined]

        await leader.observe()
        assert leader.services()["echo"].replicas == 2
        await leader.stop_all(grace_s=20)


async def test_a_secret_is_a_file_and_one_that_is_not_there_is_named(place: Services, swarm: ServiceBackend) -> None:
    reads = "def handler(req):\n    return open('/run/secrets/dcf-token').read()\n"
    spec = await place.make_spec(source=reads, secrets=("dcf-token",))
    with pytest.raises(BackendError, match=r"no secret named dcf-token: .*docker secret create"):
        await swarm.create(spec)
    secret = await asyncio.to_thread(lambda: place.engines.manager.secrets.create(name="dcf-token", data=b"open"))
    try:
        [one] = await running_first(swarm, spec)
        assert await call(one, b"") == b"open"
        await swarm.stop_all(grace_s=20)
    finally:
        secret.remove()


async def test_a_service_of_somebody_else_is_left_alone(place: Services, swarm: ServiceBackend) -> None:
    other = place.engines.manager.services.create(place._base, name=f"{CLUSTER}_echo", command=["sleep", "60"])
    try:
        with pytest.raises(BackendError, match=f"a service named {CLUSTER}_echo is there"):
            await swarm.create(await place.make_spec())
        await swarm.stop_all(grace_s=1)
        other.reload()
    finally:
        other.remove()
    with pytest.raises(docker.errors.NotFound):
        other.reload()


async def test_an_engine_that_manages_no_swarm_says_what_to_do(place: Services) -> None:
    async with place.open_at(place.engines.url(2)) as backend:
        with pytest.raises(BackendUnavailableError, match=r"not a manager of a Swarm: .*docker node promote"):
            await backend.observe()
