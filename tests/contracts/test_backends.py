"""What every backend does alike; run against the real thing."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from dcf.domain.function import FunctionSpec, replica_digest
from dcf.errors import ImageNotFoundError
from dcf.scheduler.backends.contract import Backend, ObservedReplica, ReplicaExit, ReplicaPlan
from dcf.scheduler.backends.registry import NAMES, open_backend
from tests.scheduler.processes import ECHO, RAISES, is_alive, make_bundle, make_spec, until

pytestmark = pytest.mark.slow

TERM_IS_IGNORED = """
    import os
    import signal

    # It stops its own watcher: what a drain that hangs looks like from outside.
    os.kill(os.getppid(), signal.SIGSTOP)

    def handler(req):
        return b""
"""


class Place:
    """Folders in which backends are opened, one after the other."""

    def __init__(self, name: str, folder: Path) -> None:
        self._name = name
        self.state = folder / "state"
        self.bundles = folder / "bundles"
        self.woken = 0

    def open(self) -> AbstractAsyncContextManager[Backend]:
        return open_backend(
            self._name, state=self.state, bundles=self.bundles, environ=os.environ, on_change=self._on_change
        )

    def _on_change(self) -> None:
        self.woken += 1

    def make_spec(self, name: str = "echo", source: str = ECHO, replicas: int = 1) -> FunctionSpec:
        return make_spec(name, make_bundle(self.bundles, name, source), replicas=replicas)

    def pid(self, name: str) -> int:
        return int(json.loads((self.state / "replicas" / name / "replica.json").read_text())["pid"])


@pytest.fixture(params=NAMES)
def place(request: pytest.FixtureRequest, short_path: Path) -> Place:
    return Place(request.param, short_path)


@pytest.fixture
async def backend(place: Place) -> AsyncIterator[Backend]:
    async with place.open() as backend:
        yield backend
        await backend.stop_all(grace_s=5)
        assert await backend.observe() == []


async def next_exit(backend: Backend) -> ReplicaExit:
    async def look() -> ReplicaExit | None:
        exits = await backend.take_exits()
        assert len(exits) <= 1
        return exits[0] if exits else None

    return await until(look)


async def until_listening(replica: ObservedReplica) -> None:
    await until(lambda: Path(replica.address.removeprefix("unix:")).exists())


async def test_what_was_started_is_observed(place: Place, backend: Backend) -> None:
    spec = place.make_spec()

    started = await backend.start(ReplicaPlan(spec=spec, ordinal=0))

    assert await backend.observe() == [started]
    assert (started.name, started.function, started.uid) == ("echo-g1-0", "echo", "uid-echo")
    assert (started.generation, started.ordinal, started.digest) == (1, 0, replica_digest(spec))
    assert (started.stopping, started.adopted, started.grace_s) == (False, False, 100.0)
    await until_listening(started)


async def test_starting_a_replica_that_is_there_changes_nothing(place: Place, backend: Backend) -> None:
    plan = ReplicaPlan(spec=place.make_spec(), ordinal=0)
    first = await backend.start(plan)

    assert await backend.start(plan) == first
    assert len(await backend.observe()) == 1


async def test_a_missing_image_is_said_at_once(place: Place, backend: Backend) -> None:
    with pytest.raises(ImageNotFoundError, match="dcf function build"):
        await backend.start(ReplicaPlan(spec=make_spec("echo", "bundle:echo@ffffffffffff"), ordinal=0))
    with pytest.raises(ImageNotFoundError, match="dcf function build"):
        await backend.start(ReplicaPlan(spec=make_spec("echo", "registry/echo:latest"), ordinal=0))

    assert await backend.observe() == []


async def test_a_replica_that_is_stopped_drains_and_is_gone(place: Place, backend: Backend) -> None:
    replica = await backend.start(ReplicaPlan(spec=place.make_spec(), ordinal=0))
    await until_listening(replica)

    await backend.stop(replica.name, grace_s=20)

    assert [one.stopping for one in await backend.observe()] in ([True], [])
    ended = await next_exit(backend)
    assert (ended.replica.name, ended.replica.stopping) == ("echo-g1-0", True)
    assert await backend.observe() == []
    assert await backend.take_exits() == []
    assert not (place.state / "replicas" / replica.name).exists()


async def test_stopping_what_is_not_there_changes_nothing(place: Place, backend: Backend) -> None:
    await backend.stop(ReplicaPlan(spec=place.make_spec(), ordinal=7).name, grace_s=1)


async def test_a_replica_that_does_not_drain_is_killed_when_its_grace_ends(place: Place, backend: Backend) -> None:
    replica = await backend.start(ReplicaPlan(spec=place.make_spec(source=TERM_IS_IGNORED), ordinal=0))
    pid = place.pid(replica.name)
    await until(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")

    await backend.stop(replica.name, grace_s=30)
    assert is_alive(pid)
    await backend.stop(replica.name, grace_s=0.1)

    ended = await next_exit(backend)
    assert (ended.code, ended.replica.stopping, ended.cause) == (-signal.SIGKILL, True, "killed by SIGKILL")


async def test_an_end_that_nobody_asked_for_wakes_the_loop_and_names_its_cause(place: Place, backend: Backend) -> None:
    replica = await backend.start(ReplicaPlan(spec=place.make_spec(), ordinal=0))
    await until_listening(replica)

    os.kill(place.pid(replica.name), signal.SIGKILL)

    ended = await next_exit(backend)
    assert place.woken == 1
    assert (ended.code, ended.replica.stopping, ended.cause) == (-signal.SIGKILL, False, "killed by SIGKILL")


async def test_a_handler_that_cannot_be_loaded_is_explained_by_its_log(place: Place, backend: Backend) -> None:
    await backend.start(ReplicaPlan(spec=place.make_spec(source=RAISES), ordinal=0))

    ended = await next_exit(backend)

    assert ended.code == 1
    assert "ValueError: no weights" in ended.cause
    assert not ended.cause.startswith("dcf:")
    assert "loading the model" in ended.log_tail
    assert len(list((place.state / "replicas" / ".failed").iterdir())) == 1


async def test_the_log_of_a_running_replica_can_be_read(place: Place, backend: Backend) -> None:
    replica = await backend.start(
        ReplicaPlan(spec=place.make_spec(source='\n    print("hello", flush=True)\n' + ECHO), ordinal=0)
    )

    async def look() -> str | None:
        return next((line for line in await backend.log_tail(replica.name) if line == "hello"), None)

    seen: str = await until(look)
    assert seen == "hello"


async def test_replicas_outlive_a_backend_and_the_next_one_adopts_them(place: Place) -> None:
    spec = place.make_spec()
    async with place.open() as first:
        started = await first.start(ReplicaPlan(spec=spec, ordinal=0))
    pid = place.pid(started.name)

    async with place.open() as second:
        [adopted] = await second.observe()
        assert dataclasses.replace(adopted, adopted=False) == started
        assert place.pid(started.name) == pid
        again = await second.start(ReplicaPlan(spec=spec, ordinal=0))
        assert again == adopted

        await until_listening(started)
        await second.stop(started.name, grace_s=20)
        assert (await next_exit(second)).replica.stopping


async def test_a_stop_that_was_begun_is_carried_on_by_the_next_backend(place: Place) -> None:
    spec = place.make_spec(source=TERM_IS_IGNORED)
    async with place.open() as first:
        replica = await first.start(ReplicaPlan(spec=spec, ordinal=0))
        pid = place.pid(replica.name)
        await until(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
        await first.stop(replica.name, grace_s=1.0)

    async with place.open() as second:
        await second.observe()
        ended = await next_exit(second)

    assert (ended.replica.name, ended.replica.stopping) == (replica.name, True)
    assert not is_alive(pid)


async def test_what_died_while_nobody_looked_is_cleared_away(place: Place) -> None:
    async with place.open() as first:
        replica = await first.start(ReplicaPlan(spec=place.make_spec(), ordinal=0))
    pid = place.pid(replica.name)
    os.kill(pid, signal.SIGKILL)
    await until(lambda: os.waitpid(pid, os.WNOHANG) != (0, 0))

    async with place.open() as second:
        assert await second.observe() == []
        assert await second.take_exits() == []
    assert not (place.state / "replicas" / replica.name).exists()


async def test_a_record_whose_pid_is_another_process_by_now_touches_nobody(place: Place) -> None:
    async with place.open() as first:
        replica = await first.start(ReplicaPlan(spec=place.make_spec(), ordinal=0))
    pid = place.pid(replica.name)
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


async def test_stop_all_ends_everything_also_what_hangs(place: Place) -> None:
    async with place.open() as first:
        await first.start(ReplicaPlan(spec=place.make_spec(), ordinal=0))
        hanging = await first.start(ReplicaPlan(spec=place.make_spec("hang", TERM_IS_IGNORED), ordinal=0))
        pids = [place.pid("echo-g1-0"), place.pid("hang-g1-0")]
        await until_listening(hanging)

    async with place.open() as second:
        assert await second.stop_all(grace_s=0.5) == 2

    assert not any(is_alive(pid) for pid in pids)
