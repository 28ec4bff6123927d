"""What the backends do alike that start and stop replicas one by one."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from dcf.errors import ImageNotFoundError
from dcf.scheduler.backends.contract import ReplicaBackend, ReplicaPlan
from tests.contracts.backend_contract import (
    SLEEPS,
    Place,
    call,
    end_one,
    next_exit,
    start_one,
    until_empty,
    until_gone,
    until_ready,
)
from tests.scheduler.processes import make_spec


async def test_starting_a_replica_that_is_there_changes_nothing(place: Place, backend: ReplicaBackend) -> None:
    plan = ReplicaPlan(spec=await place.make_spec(), ordinal=0)
    first = await backend.start(plan)

    assert await backend.start(plan) == first
    assert [one.name for one in await backend.observe()] == ["echo-g1-0"]


async def test_two_replicas_stand_side_by_side(place: Place, backend: ReplicaBackend) -> None:
    spec = await place.make_spec()

    one = await backend.start(ReplicaPlan(spec=spec, ordinal=0))
    two = await backend.start(ReplicaPlan(spec=spec, ordinal=3))

    assert (one.ordinal, two.ordinal) == (0, 3)
    assert one.address != two.address
    assert {replica.name for replica in await backend.observe()} == {"echo-g1-0", "echo-g1-3"}


async def test_a_bundle_and_an_image_are_not_mistaken_for_each_other(place: Place, backend: ReplicaBackend) -> None:
    bundle = make_spec("echo", "bundle:echo@ffffffffffff")

    with pytest.raises(ImageNotFoundError, match="dcf function build"):
        await backend.start(ReplicaPlan(spec=bundle, ordinal=0))

    assert await backend.observe() == []


async def test_stopping_what_is_not_there_changes_nothing(place: Place, backend: ReplicaBackend) -> None:
    await backend.stop(ReplicaPlan(spec=await place.make_spec(), ordinal=7).name, grace_s=1)


async def test_a_replica_that_does_not_drain_is_killed_when_its_grace_ends(
    place: Place, backend: ReplicaBackend
) -> None:
    replica = await start_one(backend, await place.make_spec(source=SLEEPS, timeout_s=600.0))
    await until_ready(replica)
    under_way = asyncio.create_task(call(replica, b""))
    await until_ready(replica, busy=True)

    await backend.stop(replica.name, grace_s=60)
    assert [one.stopping for one in await backend.observe()] == [True]
    assert not await place.is_gone(replica)
    await backend.stop(replica.name, grace_s=0.1)

    ended = await next_exit(backend)
    assert (ended.code, ended.replica.stopping) == (-9, True)
    assert "SIGKILL" in ended.cause
    with pytest.raises(grpc.aio.AioRpcError):
        await under_way


async def test_a_stop_that_was_begun_is_carried_on_by_the_next_backend(place: Place) -> None:
    async with place.open() as first:
        replica = await start_one(first, await place.make_spec(source=SLEEPS, timeout_s=600.0))
        await until_ready(replica)
        under_way = asyncio.create_task(call(replica, b""))
        await until_ready(replica, busy=True)
        await end_one(first, replica, grace_s=2.0)

    async with place.open() as second:
        assert [one.stopping for one in await second.observe()] == [True]
        ended = await next_exit(second)
        await second.stop_all(grace_s=1)

    assert (ended.replica.name, ended.replica.stopping) == (replica.name, True)
    await until_gone(place, replica)
    with pytest.raises(grpc.aio.AioRpcError):
        await under_way


async def test_what_died_while_nobody_looked_is_said_or_cleared_away(place: Place) -> None:
    async with place.open() as first:
        replica = await start_one(first, await place.make_spec())
        await until_ready(replica)
    await place.kill(replica)

    async with place.open() as second:
        await until_empty(second)
        await second.take_exits()
        assert await second.take_exits() == []
        await second.stop_all(grace_s=1)
    await until_gone(place, replica)
