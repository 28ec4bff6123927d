"""One leader at a time, and what it writes after it was deposed is refused: with a real Redis."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import NoReturn

import pytest

from dcf.errors import LeaseLostError
from dcf.lifecycle import open_task_set
from dcf.scheduler.leader import run_leader
from dcf.store.contract import Fence
from dcf.store.redis_store import RedisStore
from tests.scheduler.processes import until

TTL_S = 1.5
"""A machine that runs other tests too may not come to renew it for half a second."""


class Leader:
    """Runs `run_leader` and notes under which fences it has acted."""

    def __init__(self, store: RedisStore, owner: str) -> None:
        self.store = store
        self.owner = owner
        self.fences: list[Fence] = []
        self.acting = False

    async def act(self, fence: Fence) -> NoReturn:
        self.fences.append(fence)
        self.acting = True
        try:
            while True:
                await self.store.write_endpoints(fence, "echo", ())
                await asyncio.sleep(0.02)
        finally:
            self.acting = False


@asynccontextmanager
async def leading(store: RedisStore, owner: str) -> AsyncIterator[tuple[Leader, Callable[[], None]]]:
    leader = Leader(store, owner)
    async with open_task_set() as tasks:
        task = tasks.start(owner, run_leader(store, owner, ttl_s=TTL_S, act=leader.act))
        yield leader, task.cancel  # type: ignore[misc]


async def test_it_acts_once_it_has_the_lease_and_keeps_it_by_renewing(store: RedisStore) -> None:
    async with leading(store, "a") as (leader, _):
        await until(lambda: leader.acting)
        deadline = asyncio.get_running_loop().time() + 2 * TTL_S
        while asyncio.get_running_loop().time() < deadline:
            assert await store.acquire_lease("b", ttl_s=TTL_S) is None
            await asyncio.sleep(0.05)

        assert len(leader.fences) == 1


async def test_a_second_one_waits_until_the_first_has_stopped(store: RedisStore) -> None:
    async with leading(store, "a") as (first, stop_first):
        await until(lambda: first.acting)
        async with leading(store, "b") as (second, _):
            assert not second.acting

            stop_first()

            await until(lambda: second.acting, 5)
            assert not first.acting
            assert second.fences[0] > first.fences[0]


async def test_the_same_owner_takes_over_at_once_and_the_deposed_one_stops_acting(store: RedisStore) -> None:
    async with leading(store, "a") as (old, stop_old):
        await until(lambda: old.acting)

        fence = await store.acquire_lease("a", ttl_s=60)

        assert fence is not None
        with pytest.raises(LeaseLostError):
            await store.write_endpoints(old.fences[0], "echo", ())
        await until(lambda: not old.acting or len(old.fences) > 1, 2)
        stop_old()
        await store.release_lease("a", fence)


async def test_one_that_was_deposed_waits_and_leads_again(store: RedisStore) -> None:
    async with leading(store, "a") as (leader, _):
        await until(lambda: leader.acting)
        with contextlib.suppress(LeaseLostError):
            await store.release_lease("a", leader.fences[0])
        fence: Fence = await until(lambda: store.acquire_lease("b", ttl_s=60), 2)
        await until(lambda: not leader.acting, 2)

        await store.release_lease("b", fence)

        await until(lambda: leader.acting, 5)
        assert leader.fences[-1] > fence


async def test_a_bug_in_what_it_does_ends_it(store: RedisStore) -> None:
    async def act(fence: Fence) -> None:
        raise RuntimeError("a bug")

    with pytest.raises(ExceptionGroup) as caught:
        await run_leader(store, "a", ttl_s=TTL_S, act=act)

    assert caught.group_contains(RuntimeError, match="a bug")
    assert await store.acquire_lease("b", ttl_s=TTL_S) is not None
