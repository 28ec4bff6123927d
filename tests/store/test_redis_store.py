"""What the store does when its Redis is not there, or comes and goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import cast

import pytest

import dcf.store.redis_store
from dcf.domain.function import FunctionSpec
from dcf.domain.names import FunctionName
from dcf.errors import ConfigError, StoreUnavailableError
from dcf.store import keys
from dcf.store.contract import ChangedKey
from dcf.store.embedded import find_redis_server
from dcf.store.redis_store import RedisStore, open_store, socket_url
from tests.conftest import RedisServer

ECHO = FunctionSpec(name=FunctionName("echo"), image="bundle:echo@0123456789ab", uid="u1")


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    server = RedisServer(find_redis_server())
    yield server
    server.close()


async def test_a_redis_that_is_not_there_is_an_unavailable_store(short_path: Path) -> None:
    async with open_store(socket_url(str(short_path / "none.sock"))) as store:
        with pytest.raises(StoreUnavailableError, match=r"none\.sock"):
            await store.read_specs()
        with pytest.raises(StoreUnavailableError):
            await store.write_spec(ECHO, expected_revision=0)
        with pytest.raises(StoreUnavailableError):
            await store.acquire_lease("one", ttl_s=1)


@pytest.mark.parametrize("url", ["", "http://localhost", "localhost:6379", "redis://host:port/0"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    async def use() -> None:
        async with open_store(url):
            pass

    with pytest.raises(ConfigError, match="redis://"):
        asyncio.run(use())


async def test_a_password_is_not_shown() -> None:
    async with open_store("redis://user:secret@127.0.0.1:1/0") as store:
        with pytest.raises(StoreUnavailableError) as caught:
            await store.read_specs()

    assert "secret" not in str(caught.value)
    assert "127.0.0.1:1" in str(caught.value)


async def test_a_path_with_odd_characters_is_an_address(short_path: Path) -> None:
    folder = short_path / "a b%20?#"
    folder.mkdir()

    async with open_store(socket_url(str(folder / "none.sock"))) as store:
        with pytest.raises(StoreUnavailableError, match=r"No such file"):
            await store.ping()


@pytest.mark.slow
async def test_a_store_goes_on_after_redis_was_killed_and_nothing_is_lost(own_redis: RedisServer) -> None:
    async with open_store(own_redis.url) as store:
        await asyncio.gather(*(store.read_specs() for _ in range(5)))  # several connections, all of them stale below
        await store.write_spec(ECHO, expected_revision=0)
        await store.write_counts("gateway-0", {("echo", "u1"): {"invocations": 5}})
        own_redis.kill()
        with pytest.raises(StoreUnavailableError):
            await store.read_specs()

        own_redis.restart()

        assert await store.read_specs() == {"echo": ECHO}
        assert await store.read_counts() == {"u1": {"gateway-0": {"invocations": 5}}}
        await store.write_counts("gateway-0", {("echo", "u1"): {"invocations": 6}})
        assert await store.read_counts() == {"u1": {"gateway-0": {"invocations": 6}}}


async def next_hint(hints: AsyncGenerator[ChangedKey, None]) -> ChangedKey:
    async with asyncio.timeout(10):
        return await anext(hints)


@pytest.mark.slow
async def test_changes_are_heard_again_after_redis_was_killed(own_redis: RedisServer) -> None:
    async with (
        open_store(own_redis.url) as store,
        aclosing(cast("AsyncGenerator[ChangedKey, None]", store.changes())) as hints,
    ):
        for _ in keys.FAMILIES:
            await next_hint(hints)
        own_redis.kill()
        pending = asyncio.ensure_future(next_hint(hints))

        own_redis.restart()

        # Anything may have changed meanwhile, and so the reader is told.
        told = [await pending, *[await next_hint(hints) for _ in keys.FAMILIES[1:]]]
        assert told == [ChangedKey(family=family, function="") for family in keys.FAMILIES]
        await store.write_spec(ECHO, expected_revision=0)
        assert await next_hint(hints) == ChangedKey(family="spec", function="echo")


async def test_changes_wait_for_a_redis_that_is_not_there_yet(short_path: Path) -> None:
    async with (
        open_store(socket_url(str(short_path / "none.sock"))) as store,
        aclosing(cast("AsyncGenerator[ChangedKey, None]", store.changes())) as hints,
    ):
        pending = asyncio.ensure_future(next_hint(hints))

        await asyncio.wait({pending}, timeout=0.2)

        assert not pending.done()
        pending.cancel()
        await asyncio.wait({pending})


@pytest.mark.slow
async def test_a_quiet_channel_is_tested_and_stays(store: RedisStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dcf.store.redis_store, "SILENCE_S", 0.25)  # a busy machine answers a ping within that
    async with aclosing(cast("AsyncGenerator[ChangedKey, None]", store.changes())) as hints:
        for _ in keys.FAMILIES:
            await next_hint(hints)
        pending = asyncio.ensure_future(next_hint(hints))
        await asyncio.wait({pending}, timeout=1.0)  # several of them, each tested
        assert not pending.done()

        await store.write_spec(ECHO, expected_revision=0)

        assert await pending == ChangedKey(family="spec", function="echo")
