"""What a gateway process tells the scheduler of its calls."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from dcf.domain.function import FunctionSpec
from dcf.domain.load import FunctionLoad
from dcf.domain.names import FunctionName
from dcf.domain.scaling import ScalingPolicy
from dcf.errors import NoReplicaError
from dcf.gateway.call_meter import CallMeter
from dcf.gateway.invoke import Invoker
from dcf.gateway.links import Links
from dcf.gateway.load_publisher import SILENT_AFTER_S, LoadPublisher
from dcf.gateway.router import Router
from dcf.gateway.stats import Stats
from dcf.lifecycle import open_task_set


class Nowhere:
    """A store of which nothing is asked here."""

    async def write_load(self, slice_name: str, functions: Mapping[str, FunctionLoad], *, urgent: bool) -> None:
        raise AssertionError("nothing was to be written")

    async def clear_load(self, slice_name: str) -> None:
        raise AssertionError("nothing was to be written")


def sleeping(router: Router) -> None:
    scaling = ScalingPolicy(min_replicas=0)
    router.apply_spec(FunctionSpec(name=FunctionName("echo"), image="x", uid="u1", scaling=scaling))


async def test_who_asks_what_kind_of_handler_it_is_wakes_it_too() -> None:
    router = Router()
    load = LoadPublisher(Nowhere(), router, Stats("gateway-0"))
    sleeping(router)
    invoker = Invoker(router)

    asks = asyncio.ensure_future(invoker.is_bidirectional(router.functions["echo"], timeout_s=0.3))
    await asyncio.sleep(0)

    report = load.report(100.0)
    assert (report["echo"].queued, report["echo"].held) == (1, 1)
    with pytest.raises(NoReplicaError):
        await asks
    assert router.functions["echo"].meter.held_at is None, "nobody waits for a first replica any more"


async def test_a_held_call_whose_time_is_over_starts_no_cold_start_of_a_later_one() -> None:
    router, stats = Router(), Stats("gateway-0")
    sleeping(router)
    invoker = Invoker(router)
    async with open_task_set() as tasks:
        invoker.on_end = Links(router, stats, invoker.invoke, tasks).count_end
        entry = router.functions["echo"]

        with pytest.raises(NoReplicaError):
            await invoker.call(entry, b"x", encoded=b"", timeout_s=0.05)

    assert entry.meter.held_at is None
    assert stats.totals("u1")["code/503"] == 1


async def test_a_silent_function_is_left_out_and_its_rate_begins_anew() -> None:
    router = Router()
    load = LoadPublisher(Nowhere(), router, Stats("gateway-0"))
    sleeping(router)
    meter = router.functions["echo"].meter
    meter.arrivals = 10

    first = load.report(100.0)["echo"]
    assert load.report(100.0 + SILENT_AFTER_S)["echo"].arrivals == 10
    assert load.report(101.0 + SILENT_AFTER_S) == {}
    meter.arrivals += 20
    load.report(500.0)
    meter.arrivals += 20
    again = load.report(501.0)["echo"]

    assert first.per_s == 10.0
    assert again.per_s == pytest.approx(20.0)


async def test_nothing_is_kept_of_a_function_that_was_deleted() -> None:
    router, stats = Router(), Stats("gateway-0")
    load = LoadPublisher(Nowhere(), router, stats)
    sleeping(router)
    invoker = Invoker(router)
    async with open_task_set() as tasks:
        invoker.on_end = Links(router, stats, invoker.invoke, tasks).count_end
        call = asyncio.ensure_future(invoker.call(router.functions["echo"], b"x", encoded=b"", timeout_s=30.0))
        await asyncio.sleep(0)
        assert load.report(100.0)

        router.remove("echo")
        stats.forget("u1")

        assert isinstance((await asyncio.gather(call, return_exceptions=True))[0], Exception)
        assert load.report(101.0) == {}
        assert stats.totals("u1") == {}
        assert not load._recent
        assert not load._urged


def test_a_meter_integrates_what_is_at_replicas() -> None:
    meter = CallMeter()

    meter.move(1, 10.0)
    meter.move(1, 11.0)
    meter.move(-2, 13.0)

    assert meter.busy_s(20.0) == 1.0 + 2 * 2.0
    assert meter.at_replicas == 0
