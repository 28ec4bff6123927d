"""The process backend does what every backend does, and keeps its folders as it says."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from dcf.domain.function import FunctionSpec
from dcf.errors import ImageNotFoundError
from dcf.scheduler.backends.contract import ObservedReplica, ReplicaBackend, ReplicaPlan
from dcf.scheduler.backends.registry import BackendOptions, open_backend
from tests.contracts.backend_contract import *  # noqa: F403
from tests.contracts.backend_contract import AnyBackend, next_exit, start_one
from tests.contracts.replica_contract import *  # noqa: F403
from tests.scheduler.processes import ECHO, RAISES, is_alive, make_bundle, make_spec, until

pytestmark = pytest.mark.slow


class Folders:
    """A Place: state and bundles in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.state = folder / "state"
        self.bundles = folder / "bundles"
        self.woken = 0
        self._killed: set[int] = set()

    def open(self) -> AbstractAsyncContextManager[AnyBackend]:
        options = BackendOptions(
            state=self.state,
            bundles=self.bundles,
            cluster="dcf",
            network="dcf",
            gpus="none",
            environ=os.environ,
            on_change=self._on_change,
        )
        return open_backend("process", options)

    def _on_change(self) -> None:
        self.woken += 1

    async def make_spec(self, name: str = "echo", source: str = ECHO, **fields: Any) -> FunctionSpec:
        return make_spec(name, make_bundle(self.bundles, name, source), **fields)

    async def kill(self, replica: ObservedReplica) -> None:
        pid = self.pid(replica)
        os.kill(pid, signal.SIGKILL)
        self._killed.add(pid)
        await until(lambda: not is_alive(pid))

    async def is_gone(self, replica: ObservedReplica) -> bool:
        # Where no backend was there to wait for it, it is we who started it.
        return all(map(_is_reaped, self._killed)) and not (self.state / "replicas" / replica.name).exists()

    def pid(self, replica: ObservedReplica) -> int:
        return int(json.loads((self.state / "replicas" / replica.name / "replica.json").read_text())["pid"])


def _is_reaped(pid: int) -> bool:
    with contextlib.suppress(ChildProcessError):
        return os.waitpid(pid, os.WNOHANG) != (0, 0)
    return True


@pytest.fixture
def place(short_path: Path) -> Folders:
    return Folders(short_path)


async def test_a_missing_image_is_said_at_once(place: Folders, backend: ReplicaBackend) -> None:
    with pytest.raises(ImageNotFoundError, match="dcf function build"):
        await backend.start(ReplicaPlan(spec=make_spec("echo", "registry/echo:latest"), ordinal=0))


async def test_the_folder_of_a_failed_start_is_kept_for_people(place: Folders, backend: ReplicaBackend) -> None:
    await start_one(backend, await place.make_spec(source=RAISES))

    await next_exit(backend)

    assert len(list((place.state / "replicas" / ".failed").iterdir())) == 1


async def test_a_record_whose_pid_is_another_process_by_now_touches_nobody(place: Folders) -> None:
    async with place.open() as first:
        replica = await start_one(first, await place.make_spec())
    pid = place.pid(replica)
    os.kill(pid, signal.SIGKILL)
    await until(lambda: os.waitpid(pid, os.WNOHANG) != (0, 0))
    bystander = await asyncio.create_subprocess_exec("sleep", "60")
    path = place.state / "replicas" / replica.name / "replica.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "pid": bystander.pid}))

    async with place.open() as second:
        assert await second.stop_all(grace_s=1) == 0

    assert is_alive(bystander.pid)
    bystander.kill()
    await bystander.wait()
