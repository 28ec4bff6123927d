"""What every test has: a real Redis, and a guard that nothing outlives the test."""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import redis

from dcf.store.embedded import find_redis_server, redis_command
from dcf.store.redis_store import RedisStore, open_store, socket_url

# A runner that a shell started in the background has Ctrl-C ignored, and so would every program that we start.
signal.signal(signal.SIGINT, signal.default_int_handler)

LEAVE_S = 3.0
"""What a test began may end a moment after it; longer is a leak."""

LIBRARY_THREADS = ("_poll_wrapper",)
"""grpc.aio has one for the process and keeps it for the next channel; it holds nothing of ours."""

SESSION_PIDS: set[int] = set()
"""Started by the first test that wanted them, for the whole run."""


def wait_until(condition: Callable[[], object], *, within_s: float = 10.0, what: str = "it") -> None:
    """Poll a sync condition; fail where it does not come true in time."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come true within {within_s} s"
        time.sleep(0.01)


async def until(condition: Callable[[], object], *, within_s: float = 10.0, what: str = "it") -> None:
    """The same inside an event loop, which goes on meanwhile."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come true within {within_s} s"
        await asyncio.sleep(0.01)


def child_pids() -> set[int]:
    pids: set[int] = set()
    for task in Path("/proc/self/task").glob("*/children"):
        try:
            pids |= {int(pid) for pid in task.read_text().split()}
        except OSError:
            continue
    return pids


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip() or "(ended, not waited for)"
    except OSError:
        return "(gone)"


@pytest.fixture(autouse=True)
def no_thread_or_process_left() -> Iterator[None]:
    """Fail a test that leaves a thread or a child process behind."""
    threads, children = set(threading.enumerate()), child_pids()
    yield
    deadline = time.monotonic() + LEAVE_S
    while True:
        left_threads = [
            thread.name
            for thread in threading.enumerate()
            if thread not in threads and not any(name in thread.name for name in LIBRARY_THREADS)
        ]
        left_children = child_pids() - children - SESSION_PIDS
        if not left_threads and not left_children:
            return
        if time.monotonic() > deadline:
            break
        time.sleep(0.01)
    pytest.fail(
        f"left behind: threads {left_threads}, processes { {pid: _command(pid) for pid in left_children} }",
        pytrace=False,
    )


@pytest.fixture(autouse=True)
async def no_task_left(no_thread_or_process_left: None) -> AsyncIterator[None]:
    """Fail a test that leaves an asyncio task behind."""
    yield
    deadline = time.monotonic() + 0.5
    while True:
        left = asyncio.all_tasks() - {asyncio.current_task()}
        if not left or time.monotonic() > deadline:
            break
        await asyncio.sleep(0.01)
    for task in left:
        task.cancel()
    if left:
        pytest.fail(f"left behind: tasks {sorted(task.get_name() for task in left)}", pytrace=False)


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder whose Unix sockets have short enough paths; pytest's own are too deep."""
    folder = Path(tempfile.mkdtemp(prefix="dcf-t-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


# A test run that is killed has no time to stop its Redis.
_DIE_WITH_US = """
import os, sys
from dcf.lifecycle import die_with_parent
die_with_parent()
os.execv(sys.argv[1], sys.argv[1:])
"""


class RedisServer:
    """A private Redis, as a cluster starts it."""

    def __init__(self, binary: Path) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="dcf-r-", dir="/tmp"))
        self.socket = self.folder / "redis.sock"
        self.url = socket_url(str(self.socket))
        self._command = redis_command(binary, self.folder, self.socket)
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen([sys.executable, "-c", _DIE_WITH_US, *self._command], stdout=log, stderr=log)
        wait_until(self._answers, what="Redis")
        return process

    def _answers(self) -> bool:
        with redis.Redis(unix_socket_path=str(self.socket)) as client:
            try:
                return bool(client.ping())
            except redis.exceptions.ConnectionError:
                return False

    def flush(self) -> None:
        with redis.Redis(unix_socket_path=str(self.socket)) as client:
            client.flushall()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def restart(self) -> None:
        self.process = self._start()

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()
        shutil.rmtree(self.folder)


@pytest.fixture(scope="session")
def redis_servers() -> Iterator[Callable[[Path], RedisServer]]:
    """One Redis a binary, started when the first test wants it."""
    servers: dict[Path, RedisServer] = {}

    def server_of(binary: Path) -> RedisServer:
        if binary not in servers:
            servers[binary] = RedisServer(binary)
            SESSION_PIDS.add(servers[binary].process.pid)
        return servers[binary]

    yield server_of
    for server in servers.values():
        server.close()


@pytest.fixture(scope="session")
def redis_server(redis_servers: Callable[[Path], RedisServer]) -> RedisServer:
    return redis_servers(find_redis_server())


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """An empty Redis; its process lives as long as the test run."""
    redis_server.flush()
    return redis_server.url


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[RedisStore]:
    async with open_store(redis_url) as store:
        yield store
