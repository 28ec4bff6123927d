"""A real scheduler, real watchers and a real Redis, with things going wrong."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from pathlib import Path

import pytest

from dcf.domain.status import FunctionStatus
from dcf.store.embedded import find_redis_server
from dcf.store.redis_store import open_store
from tests.conftest import RedisServer
from tests.scheduler.processes import (
    ECHO,
    NEVER_LOADS,
    RAISES,
    Cluster,
    children,
    is_alive,
    make_bundle,
    make_spec,
    until,
)

pytestmark = pytest.mark.slow


async def test_a_function_that_is_deployed_becomes_ready_and_its_endpoints_are_published(cluster: Cluster) -> None:
    image = make_bundle(cluster.bundles, "echo", ECHO)
    cluster.start_scheduler()

    await cluster.deploy(make_spec("echo", image, replicas=2))

    status = await cluster.status_when("echo", lambda seen: seen.settled)
    assert (status.ready, status.desired, status.failed, status.reason) == (2, 2, False, "")
    assert [one.name for one in status.replicas] == ["echo-g1-0", "echo-g1-1"]
    endpoints = (await cluster.store.read_endpoints())["echo"]
    assert [one.replica for one in endpoints] == ["echo-g1-0", "echo-g1-1"]
    assert all(Path(one.address.removeprefix("unix:")).is_socket() for one in endpoints)


async def test_a_watcher_that_is_killed_is_replaced(cluster: Cluster) -> None:
    image = make_bundle(cluster.bundles, "echo", ECHO)
    cluster.start_scheduler()
    await cluster.deploy(make_spec("echo", image, replicas=2))
    await cluster.status_when("echo", lambda seen: seen.settled)
    before = cluster.pids("echo")
    workers = children(before["echo-g1-0"])
    assert workers

    os.kill(before["echo-g1-0"], signal.SIGKILL)

    await until(lambda: cluster.pids("echo").get("echo-g1-0") not in (None, before["echo-g1-0"]))
    status = await cluster.status_when("echo", lambda seen: seen.settled)
    assert status.ready == 2
    assert cluster.pids("echo")["echo-g1-1"] == before["echo-g1-1"]
    assert "killed by SIGKILL" in cluster.log()
    await until(lambda: not any(is_alive(worker) for worker in workers))


async def test_a_scheduler_that_is_killed_is_succeeded_by_one_that_adopts_the_replicas(cluster: Cluster) -> None:
    image = make_bundle(cluster.bundles, "echo", ECHO)
    first = cluster.start_scheduler()
    spec = await cluster.deploy(make_spec("echo", image, replicas=2))
    await cluster.status_when("echo", lambda seen: seen.settled)
    before, endpoints = cluster.pids("echo"), await cluster.store.read_endpoints()

    first.kill()
    first.wait()
    assert cluster.pids("echo") == before
    cluster.start_scheduler()
    await cluster.deploy(dataclasses.replace(spec, replicas=3, revision=2))

    await cluster.status_when("echo", lambda seen: seen.settled and seen.ready == 3)
    after = cluster.pids("echo")
    assert before.items() < after.items()
    assert set(endpoints["echo"]) < set((await cluster.store.read_endpoints())["echo"])

    # The end of one that was adopted is noticed too, though it is nobody's child here.
    os.kill(before["echo-g1-1"], signal.SIGKILL)
    await until(lambda: cluster.pids("echo").get("echo-g1-1") not in (None, before["echo-g1-1"]))
    await cluster.status_when("echo", lambda seen: seen.settled and seen.ready == 3)


async def test_replicas_of_a_function_that_went_while_no_scheduler_ran_are_stopped(cluster: Cluster) -> None:
    image = make_bundle(cluster.bundles, "echo", ECHO)
    first = cluster.start_scheduler()
    await cluster.deploy(make_spec("echo", image))
    await cluster.status_when("echo", lambda seen: seen.settled)
    [pid] = cluster.pids("echo").values()
    first.kill()
    first.wait()
    await cluster.store.delete_spec("echo")

    cluster.start_scheduler()

    await until(lambda: not is_alive(pid))
    await until(lambda: not cluster.folders())
    assert await cluster.status("echo") is None


async def test_replicas_live_on_when_the_scheduler_is_stopped_in_order(cluster: Cluster) -> None:
    image = make_bundle(cluster.bundles, "echo", ECHO)
    scheduler = cluster.start_scheduler()
    await cluster.deploy(make_spec("echo", image))
    await cluster.status_when("echo", lambda seen: seen.settled)
    before = cluster.pids("echo")

    scheduler.terminate()

    assert scheduler.wait(5) == 0
    assert cluster.pids("echo") == before
    # The lease is free at once.
    assert await cluster.store.acquire_lease("another", ttl_s=0.2) is not None


async def test_a_constructor_that_raises_ends_in_a_failed_status_with_its_cause(cluster: Cluster) -> None:
    image = make_bundle(cluster.bundles, "broken", RAISES)
    cluster.start_scheduler()

    await cluster.deploy(make_spec("broken", image))

    status = await cluster.status_when("broken", lambda seen: seen.failed)
    assert status.ready == 0
    assert "broken-g1-0 failed 3 times" in status.reason
    assert "ValueError: no weights" in status.reason
    assert any("ValueError: no weights" in line for line in status.log_tail)
    assert "loading the model" in status.log_tail
    assert len(status.log_tail) <= 20
    assert cluster.log().count("replica was started") == 3


async def test_a_constructor_that_never_ends_is_a_failed_start(cluster: Cluster) -> None:
    image = make_bundle(cluster.bundles, "slow", NEVER_LOADS)
    cluster.start_scheduler()

    await cluster.deploy(make_spec("slow", image, start_timeout_s=2.0))

    status = await cluster.status_when("slow", lambda seen: seen.reason and "failed" in seen.reason)
    assert "start" in status.reason
    assert "loading for ever" in status.log_tail


async def test_a_bundle_that_is_missing_fails_at_once_and_starts_when_it_is_there(cluster: Cluster) -> None:
    cluster.start_scheduler()

    await cluster.deploy(make_spec("echo", "bundle:echo@0123456789ab"))

    status = await cluster.status_when("echo", lambda seen: seen.failed, within_s=3)
    assert status.reason == (
        f"bundle bundle:echo@0123456789ab is not in {cluster.bundles}: run `dcf function build`, then deploy"
    )
    make_bundle(cluster.bundles, "echo", ECHO)
    await cluster.status_when("echo", lambda seen: seen.settled and not seen.failed)


async def test_an_update_replaces_every_replica_and_never_serves_with_fewer(cluster: Cluster) -> None:
    image = make_bundle(cluster.bundles, "echo", ECHO)
    newer = make_bundle(cluster.bundles, "echo", ECHO, digest="aaaaaaaaaaaa")
    cluster.start_scheduler()
    spec = await cluster.deploy(make_spec("echo", image, replicas=2))
    await cluster.status_when("echo", lambda seen: seen.settled)
    seen_ready: list[int] = []

    await cluster.deploy(dataclasses.replace(spec, image=newer, generation=2, revision=2))

    def look(seen: FunctionStatus) -> bool:
        seen_ready.append(seen.ready)
        return seen.settled and seen.generation == 2

    status = await cluster.status_when("echo", look)
    assert {one.name for one in status.replicas} == {"echo-g2-0", "echo-g2-1"}
    assert min(seen_ready) >= 2
    assert max(seen_ready) <= 3
    assert set(cluster.pids("echo")) == {"echo-g2-0", "echo-g2-1"}


async def test_an_update_that_fails_leaves_the_old_replicas_serving(cluster: Cluster) -> None:
    image = make_bundle(cluster.bundles, "echo", ECHO)
    broken = make_bundle(cluster.bundles, "echo", RAISES, digest="bbbbbbbbbbbb")
    cluster.start_scheduler()
    spec = await cluster.deploy(make_spec("echo", image))
    await cluster.status_when("echo", lambda seen: seen.settled)
    before = cluster.pids("echo")

    await cluster.deploy(dataclasses.replace(spec, image=broken, generation=2, revision=2))

    status = await cluster.status_when("echo", lambda seen: seen.failed)
    assert (status.ready, status.settled) == (1, False)
    assert "ValueError: no weights" in status.reason
    assert before.items() <= cluster.pids("echo").items()


async def test_a_function_that_is_deleted_leaves_nothing_behind(cluster: Cluster) -> None:
    image = make_bundle(cluster.bundles, "echo", ECHO)
    cluster.start_scheduler()
    await cluster.deploy(make_spec("echo", image, replicas=2))
    await cluster.status_when("echo", lambda seen: seen.settled)
    pids = cluster.pids("echo").values()
    sockets = [Path(one.address.removeprefix("unix:")) for one in (await cluster.store.read_endpoints())["echo"]]

    await cluster.store.delete_spec("echo")

    await until(lambda: not any(is_alive(pid) for pid in pids))
    await until(lambda: not cluster.folders())
    assert not any(socket.exists() for socket in sockets)
    assert await cluster.store.read_endpoints() == {}
    assert await cluster.store.read_statuses() == {}


async def test_scaling_to_zero_and_back(cluster: Cluster) -> None:
    image = make_bundle(cluster.bundles, "echo", ECHO)
    cluster.start_scheduler()
    spec = await cluster.deploy(make_spec("echo", image))
    await cluster.status_when("echo", lambda seen: seen.settled)

    spec = await cluster.deploy(dataclasses.replace(spec, pinned_replicas=0, revision=2))
    status = await cluster.status_when("echo", lambda seen: not seen.replicas)
    assert (status.ready, status.desired, status.reason) == (0, 0, "scaled to 0 replicas")

    await cluster.deploy(dataclasses.replace(spec, pinned_replicas=None, revision=3))
    await cluster.status_when("echo", lambda seen: seen.settled and seen.ready == 1)


async def test_a_status_that_does_not_change_is_still_refreshed(cluster: Cluster) -> None:
    image = make_bundle(cluster.bundles, "echo", ECHO)
    cluster.start_scheduler()
    await cluster.deploy(make_spec("echo", image, replicas=0))
    first = await cluster.status_when("echo", lambda seen: seen.settled)

    later = await cluster.status_when("echo", lambda seen: seen.updated_at > first.updated_at)

    assert dataclasses.replace(later, updated_at=0.0) == dataclasses.replace(first, updated_at=0.0)


async def test_stop_replicas_ends_what_a_killed_cluster_left(cluster: Cluster) -> None:
    image = make_bundle(cluster.bundles, "echo", ECHO)
    scheduler = cluster.start_scheduler()
    await cluster.deploy(make_spec("echo", image, replicas=2))
    await cluster.status_when("echo", lambda seen: seen.settled)
    pids = cluster.pids("echo").values()
    scheduler.kill()
    scheduler.wait()

    cluster.close()

    assert not any(is_alive(pid) for pid in pids)


async def test_a_second_scheduler_waits_and_takes_over(cluster: Cluster) -> None:
    image = make_bundle(cluster.bundles, "echo", ECHO)
    first = cluster.start_scheduler("a")
    spec = await cluster.deploy(make_spec("echo", image))
    await cluster.status_when("echo", lambda seen: seen.settled)
    before = cluster.pids("echo")
    cluster.start_scheduler("b")
    await until(lambda: "waiting for the lease" in cluster.log("b"))

    first.kill()
    first.wait()
    await cluster.deploy(dataclasses.replace(spec, replicas=2, revision=2))

    await cluster.status_when("echo", lambda seen: seen.settled and seen.ready == 2)
    assert before.items() < cluster.pids("echo").items()
    records = [json.loads(path.read_text()) for path in cluster.state.glob("replicas/*/replica.json")]
    assert len(records) == 2


async def test_a_watcher_that_hangs_is_shown_as_not_ready_and_is_left_alone(cluster: Cluster) -> None:
    image = make_bundle(cluster.bundles, "echo", ECHO)
    cluster.start_scheduler()
    await cluster.deploy(make_spec("echo", image))
    await cluster.status_when("echo", lambda seen: seen.settled)
    before = cluster.pids("echo")

    os.kill(before["echo-g1-0"], signal.SIGSTOP)

    status = await cluster.status_when("echo", lambda seen: seen.ready == 0)
    assert status.reason == "replica echo-g1-0 does not report any more, though its process is there"
    os.kill(before["echo-g1-0"], signal.SIGCONT)
    await cluster.status_when("echo", lambda seen: seen.settled)
    assert cluster.pids("echo") == before


async def test_while_redis_is_away_what_runs_is_kept_and_then_all_goes_on(short_path: Path) -> None:
    server = RedisServer(find_redis_server())
    try:
        async with open_store(server.url) as store:
            await outlive(server, Cluster(short_path, store, server.url))
    finally:
        server.close()


async def outlive(server: RedisServer, cluster: Cluster) -> None:
    image = make_bundle(cluster.bundles, "echo", ECHO)
    scheduler = cluster.start_scheduler()
    try:
        spec = await cluster.deploy(make_spec("echo", image))
        await cluster.status_when("echo", lambda seen: seen.settled)
        before = cluster.pids("echo")

        server.kill()
        await until(lambda: "replicas are kept as they are" in cluster.log())
        # Longer than the lease: another may have it by now.
        await until(lambda: "lease was lost" in cluster.log())
        assert cluster.pids("echo") == before
        server.restart()

        await cluster.deploy(dataclasses.replace(spec, replicas=2, revision=2))
        await cluster.status_when("echo", lambda seen: seen.settled and seen.ready == 2)
        assert before.items() < cluster.pids("echo").items()
        assert cluster.log().count("replicas are kept as they are") == 1
        assert scheduler.poll() is None
    finally:
        cluster.close()
