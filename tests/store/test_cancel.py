"""A loop that waits for the store ends when it is told to."""

from __future__ import annotations

import asyncio
import random

import pytest

from dcf.store.redis_store import open_store


@pytest.mark.slow
async def test_a_cancellation_is_never_swallowed_by_the_store(redis_url: str) -> None:
    """asyncio.wait_for of Python 3.11, which redis-py puts around its sends, loses one in three of these."""
    chance = random.Random(7)
    ended_by_itself = 0
    for _ in range(150):
        async with open_store(redis_url) as store:

            async def read(store=store) -> None:  # type: ignore[no-untyped-def]
                for _ in range(3):
                    await store.read_specs()
                await asyncio.sleep(0.02)

            task = asyncio.ensure_future(read())
            await asyncio.sleep(chance.random() * 0.003)
            task.cancel()
            await asyncio.wait([task])
            ended_by_itself += not task.cancelled()

    assert ended_by_itself == 0
