"""How many replicas a function's calls ask for: each rule alone, and all of them under any load, in virtual time."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcf.domain.load import FunctionLoad
from dcf.domain.scaling import LoadFacts, ScalingPolicy
from dcf.scheduler.autoscaler import RULES, ScaleMemory, ScalingRules, Wish, decide
from dcf.scheduler.load_window import LoadWindow

NOW = 10_000.0
AT_ONCE = ScalingRules(scale_down_window_s=0.5)
"""For the rules that the scale-down window would hide."""


def policy(**other: Any) -> ScalingPolicy:
    """One call a replica, so that calls are replicas."""
    return ScalingPolicy(**{"max_replicas": 1000, "target": 1.0, "utilization": 1.0, **other})


def memory(replicas: int, **other: Any) -> ScaleMemory:
    """Of a function that has been known for long."""
    return ScaleMemory(**{"replicas": replicas, "since": NOW - 1e6, "active_at": NOW, **other})


def calls(in_flight: float, *, ready: int = 1000, **other: Any) -> LoadFacts:
    """As many in both windows, and now; many ready replicas, so that it is no burst."""
    now = math.ceil(in_flight)
    fields = {"in_flight": in_flight, "burst": in_flight, "now": now, "came": now > 0, "ready": ready}
    fields["pressing"] = float(other.get("queued", 0))
    return LoadFacts(**{**fields, **other})


NO_CALLS = calls(0.0)


def ask(load: LoadFacts | None, before: ScaleMemory | int, at: float = 0.0, **other: Any) -> Wish:
    """One decision, `at` seconds from now on."""
    kept = memory(before) if isinstance(before, int) else before
    return decide(load, **{"policy": policy(), "memory": kept, "slots": 1, "now_s": NOW + at, **other})


def over_time(
    loads: Sequence[tuple[float, LoadFacts | None]], kept: ScaleMemory, **other: Any
) -> list[tuple[int, str]]:
    """Replicas and limit at each of these moments."""
    wishes = [ask(load, kept, at, **other) for at, load in loads]
    return [(one.replicas, one.limit) for one in wishes]


# --- what the calls ask for


@pytest.mark.parametrize(
    ("target", "utilization", "slots", "in_flight", "replicas"),
    [
        (2.0, 1.0, 1, 10.0, 5),
        (2.0, 0.7, 1, 7.0, 5),
        (0.5, 1.0, 8, 4.0, 8),
        (None, 1.0, 4, 10.0, 3),
        (None, 0.5, 4, 10.0, 5),
        (1.0, 1.0, 1, 4.01, 5),
        # 2.1 / 0.7 is a little more than 3 as a float.
        (1.0, 0.7, 1, 2.1, 3),
    ],
)
def test_a_replica_takes_its_share_of_the_target_or_of_its_slots(
    target: float | None, utilization: float, slots: int, in_flight: float, replicas: int
) -> None:
    wish = ask(calls(in_flight), 1, policy=policy(target=target, utilization=utilization), slots=slots)

    assert (wish.wanted, wish.replicas, wish.limit) == (replicas, replicas, "")


def test_what_waits_counts_in_full_beside_the_mean() -> None:
    assert ask(calls(2.0, queued=5), 2).replicas == 7


def test_what_waits_needs_slots_and_no_headroom() -> None:
    roomy = policy(utilization=0.5)

    assert ask(calls(0.0, queued=6), 1, policy=roomy).replicas == 6
    assert ask(calls(2.0, queued=6), 1, policy=roomy).replicas == 10


def test_without_a_burst_the_stable_window_decides() -> None:
    assert ask(calls(5.0, burst=9.0, ready=5), 5).replicas == 5
    assert ask(calls(8.0, burst=0.0, ready=5), 5).replicas == 8


def test_with_rps_the_calls_that_come_count_and_those_in_flight_do_not() -> None:
    by_rate = policy(metric="rps", target=10.0)

    assert ask(calls(500.0, per_s=30.0, burst_per_s=40.0), 1, policy=by_rate).replicas == 3
    assert ask(calls(0.0, per_s=30.0, burst_per_s=40.0, queued=20), 1, policy=by_rate).replicas == 5
    assert ask(calls(0.0, per_s=30.0, burst_per_s=60.0, ready=3), 3, policy=by_rate).replicas == 6


def test_the_reason_says_what_was_seen() -> None:
    up = ask(calls(4.0, queued=2), 1, policy=policy(utilization=0.7, target=2.0))
    rate = ask(calls(0.0, per_s=12.0), 1, policy=policy(metric="rps", target=4.0))
    capped = ask(calls(9.0), 1, policy=policy(max_replicas=3))

    assert up.reason == "up from 1 to 4: 4.0 in flight, 2 waiting, 1.4 a replica"
    assert rate.reason == "up from 1 to 3: 12.0 calls/s, 0 waiting, 4 a replica"
    assert capped.reason == "up from 1 to 3: 9.0 in flight, 0 waiting, 1 a replica; 9 are wanted, max is 3"


# --- bursts


def test_a_burst_is_twice_what_is_ready_and_follows_the_burst_window() -> None:
    assert ask(calls(5.0, burst=10.0, ready=5), 5).replicas == 10
    assert ask(calls(5.0, burst=10.0, ready=6), 5).replicas == 5


def test_what_waits_makes_a_burst_too() -> None:
    assert ask(calls(5.0, burst=6.0, queued=4, ready=5), 5).replicas == 10


def test_replicas_that_are_asked_for_and_not_ready_do_not_end_a_burst() -> None:
    assert ask(calls(5.0, burst=10.0, ready=5), 8).replicas == 10


def test_with_none_ready_two_replicas_worth_of_calls_are_a_burst() -> None:
    assert ask(calls(0.5, burst=2.0, ready=0), 1).replicas == 2
    assert ask(calls(0.5, burst=1.0, ready=0), 1).replicas == 1


def test_nothing_goes_down_for_a_stable_window_after_the_last_sign_of_a_burst() -> None:
    kept = memory(5)
    quiet = calls(1.0)

    seen = over_time(
        [(0, calls(5.0, burst=10.0, ready=5)), (20, calls(5.0, burst=20.0, ready=10)), (21, quiet), (79.9, quiet)],
        kept,
        rules=AT_ONCE,
    )
    after = over_time([(80, quiet)], kept, rules=AT_ONCE)

    assert seen == [(10, ""), (20, ""), (20, "burst"), (20, "burst")]
    assert [replicas for replicas, _ in after] == [10]


def test_during_a_burst_the_burst_window_counts_where_it_is_more() -> None:
    kept = memory(5)

    seen = over_time(
        [(0, calls(5.0, burst=10.0, ready=5)), (30, calls(9.0, burst=14.0, ready=10)), (60, calls(9.0, burst=19.0))],
        kept,
    )

    assert [replicas for replicas, _ in seen] == [10, 14, 14]


# --- tolerance


@pytest.mark.parametrize(
    ("before", "in_flight", "replicas", "limit"),
    [
        (20, 22.0, 20, "tolerance"),
        (20, 22.1, 23, ""),
        (20, 18.0, 20, "tolerance"),
        (20, 17.0, 19, ""),
        (1, 1.09, 1, "tolerance"),
        (1, 1.2, 2, ""),
        (2, 1.0, 2, "tolerance"),
        (2, 0.9, 1, ""),
    ],
)
def test_a_change_needs_more_than_a_tenth_of_difference(
    before: int, in_flight: float, replicas: int, limit: str
) -> None:
    wish = ask(calls(in_flight), before, rules=AT_ONCE)

    assert (wish.replicas, wish.limit) == (replicas, limit)


def test_no_tolerance_keeps_a_function_from_waking_or_from_sleeping() -> None:
    wide = ScalingRules(tolerance=5.0)
    sleepy = policy(min_replicas=0)

    assert ask(calls(0.0, queued=1), 0, policy=sleepy, rules=wide).replicas == 1
    assert ask(NO_CALLS, 1, 300.0, policy=sleepy, rules=wide).replicas == 0


def test_no_tolerance_keeps_a_number_outside_of_the_range() -> None:
    assert ask(calls(20.0), 20, policy=policy(max_replicas=19)).replicas == 19
    assert ask(calls(20.0), 20, policy=policy(min_replicas=21)).replicas == 21


# --- rates


def test_it_grows_ten_fold_at_most_in_a_tick_however_often_it_is_asked() -> None:
    many = calls(0.0, queued=500)

    seen = over_time([(at, many) for at in (0.0, 0.1, 0.5, 0.99, 1.0, 1.2, 2.0)], memory(1))

    assert seen == [(10, "rate")] * 4 + [(100, "rate")] * 2 + [(500, "")]


def test_it_grows_from_zero_as_from_one() -> None:
    many = calls(0.0, queued=500)

    assert over_time([(0, many), (1, many)], memory(0), policy=policy(min_replicas=0)) == [(10, "rate"), (100, "rate")]


def test_it_grows_by_one_at_least() -> None:
    many, slow = calls(9.0), ScalingRules(growth=1.0)

    assert over_time([(0, many), (0.5, many), (1, many)], memory(3), rules=slow) == [(4, "rate")] * 2 + [(5, "rate")]


def test_with_a_factor_a_step_is_that_percentage_of_max() -> None:
    many = calls(500.0)

    seen = over_time([(0, many), (0.9, many), (1, many)], memory(3), policy=policy(factor=10, max_replicas=50))

    assert seen == [(8, "rate")] * 2 + [(13, "rate")]


def test_a_step_of_a_factor_is_rounded_up_and_may_be_larger_than_ten_fold() -> None:
    assert ask(calls(500.0), 3, policy=policy(factor=1, max_replicas=20)).replicas == 4
    assert ask(calls(500.0), 3, policy=policy(factor=11, max_replicas=50)).replicas == 9
    assert ask(calls(500.0), 1, policy=policy(factor=100, max_replicas=50)).replicas == 50


def test_it_goes_down_to_half_at_most_in_a_tick_however_often_it_is_asked() -> None:
    kept = memory(40)

    seen = over_time([(at, NO_CALLS) for at in (0.0, 0.1, 0.9, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0)], kept)

    assert [replicas for replicas, _ in seen] == [20, 20, 20, 10, 10, 5, 2, 1, 1]


def test_half_is_named_as_the_limit_of_a_way_down() -> None:
    assert ask(NO_CALLS, 40).limit == "rate"


# --- down


def test_it_goes_down_to_the_most_that_was_wanted_within_the_last_minute() -> None:
    kept = memory(10)
    few = calls(2.0)

    seen = over_time(
        [
            (0, calls(10.0)), (1, few), (30, calls(8.0)), (31, few), (60, few), (61, few), (89, few), (90, few),
            (91, few), (92, few),
        ],
        kept,
    )  # fmt: skip

    assert seen[:5] == [(10, ""), (10, "window"), (10, "window"), (10, "window"), (10, "window")]
    # With the tolerance on top: 8.8 are 9, 2.2 are 3.
    assert [replicas for replicas, _ in seen[5:8]] == [9, 9, 9]
    assert [replicas for replicas, _ in seen[8:]] == [4, 3]


def test_a_new_leader_does_not_go_down_for_a_minute() -> None:
    kept = memory(10, since=NOW)
    few = calls(2.0)

    seen = over_time([(0, few), (30, few), (59.9, few), (60, few), (61, few)], kept)

    assert seen[:3] == [(10, "young")] * 3
    assert [replicas for replicas, _ in seen[3:]] == [5, 3]


def test_a_new_leader_goes_up_at_once() -> None:
    assert ask(calls(12.0), memory(10, since=NOW)).replicas == 12


# --- min and max


def test_min_and_max_hold_whatever_the_calls_ask_for() -> None:
    narrow = policy(min_replicas=3, max_replicas=5)

    low, high = ask(NO_CALLS, 3, policy=narrow), ask(calls(400.0), 5, policy=narrow)

    assert (low.replicas, low.limit, low.wanted) == (3, "min", 0)
    assert (high.replicas, high.limit, high.wanted) == (5, "max", 400)


def test_a_range_that_was_moved_holds_at_once() -> None:
    assert ask(NO_CALLS, 1, policy=policy(min_replicas=40)).replicas == 40
    assert ask(calls(100.0), 100, policy=policy(max_replicas=3)).replicas == 3
    assert ask(NO_CALLS, 0, policy=policy(min_replicas=1)).replicas == 1


def test_without_calls_one_replica_stays_where_min_is_one() -> None:
    assert ask(NO_CALLS, 1, 1e6, policy=policy(min_replicas=1)).replicas == 1


# --- to zero


def test_an_idle_function_ends_when_no_call_has_come_for_its_idle_time() -> None:
    seen = over_time(
        [(0, calls(1.0)), (1, NO_CALLS), (299.9, NO_CALLS), (300, NO_CALLS), (301, NO_CALLS)],
        memory(1),
        policy=policy(min_replicas=0),
    )

    assert [replicas for replicas, _ in seen] == [1, 1, 1, 0, 0]
    assert seen[3:] == [(0, "idle")] * 2


def test_to_zero_waits_neither_for_the_window_nor_for_the_rate_nor_for_a_burst() -> None:
    kept = memory(5, since=NOW)
    sleepy = policy(min_replicas=0, idle_s=10.0)

    seen = over_time(
        [(0, calls(40.0, ready=5)), (9, calls(30.0, now=0, came=False)), (10, calls(30.0, now=0, came=False))],
        kept,
        policy=sleepy,
    )

    assert [replicas for replicas, _ in seen] == [40, 40, 0]


@pytest.mark.parametrize("load", [calls(0.0, queued=1), calls(0.0, now=1), calls(0.0, came=True)])
def test_a_call_that_waits_or_runs_or_came_keeps_a_function_from_zero(load: LoadFacts) -> None:
    kept = memory(1)
    sleepy = policy(min_replicas=0)

    seen = over_time([(299, load), (400, load), (401, NO_CALLS), (699, NO_CALLS), (700, NO_CALLS)], kept, policy=sleepy)

    assert [replicas for replicas, _ in seen] == [1, 1, 1, 1, 0]


def test_a_long_call_keeps_its_function_from_zero_though_none_comes() -> None:
    long_one = calls(1.0, came=False)

    seen = over_time([(at, long_one) for at in range(0, 1000, 10)], memory(1), policy=policy(min_replicas=0))

    assert {replicas for replicas, _ in seen} == {1}


def test_a_function_that_failed_is_kept_warm_for_nobody() -> None:
    sleepy = policy(min_replicas=0)

    assert ask(NO_CALLS, 3, policy=sleepy, failed=True).replicas == 0
    assert ask(calls(0.0, queued=2), 3, policy=sleepy, failed=True, rules=AT_ONCE).replicas == 3
    assert ask(calls(0.0, now=1), 1, policy=sleepy, failed=True).replicas == 1
    assert ask(NO_CALLS, 3, policy=policy(min_replicas=3), failed=True).replicas == 3


def test_the_reason_of_a_failed_function_at_zero_is_not_that_no_call_came_for_long() -> None:
    assert "no call for" not in ask(NO_CALLS, 1, policy=policy(min_replicas=0), failed=True).reason


def test_the_reason_names_the_min_that_the_user_wrote() -> None:
    assert "min is 1" not in ask(NO_CALLS, 1, policy=policy(min_replicas=0)).reason


# --- from zero


@pytest.mark.parametrize(("held", "replicas"), [(1, 1), (2, 2), (5, 5), (12, 10)])
def test_calls_that_are_held_at_zero_start_as_many_as_they_need(held: int, replicas: int) -> None:
    assert ask(calls(0.0, queued=held, ready=0), 0, policy=policy(min_replicas=0)).replicas == replicas


def test_one_held_call_starts_one_replica_whatever_the_utilization() -> None:
    assert ask(calls(0.0, queued=1, ready=0), 0, policy=policy(min_replicas=0, utilization=0.1)).replicas == 1


def test_held_calls_share_the_slots_of_a_replica() -> None:
    several = policy(min_replicas=0, target=None)

    assert ask(calls(0.0, queued=12, ready=0), 0, policy=several, slots=4).replicas == 3
    assert ask(calls(0.0, queued=1, ready=0), 0, policy=several, slots=100).replicas == 1


def test_the_means_of_calls_that_are_over_wake_nobody_and_add_nothing() -> None:
    sleepy = policy(min_replicas=0)

    assert ask(calls(5.0, now=0, came=False), 0, policy=sleepy).replicas == 0
    assert ask(calls(5.0, burst=8.0, now=0, queued=1), 0, policy=sleepy).replicas == 1


def test_calls_that_still_run_at_draining_replicas_count_at_zero() -> None:
    sleepy = policy(min_replicas=0, utilization=0.5)

    assert ask(calls(0.1, now=2, queued=1, ready=0), 0, policy=sleepy).replicas == 3


# --- no data


def test_without_data_nothing_changes() -> None:
    kept = memory(7)

    seen = over_time([(0, None), (60, None), (1000, None)], kept, policy=policy(min_replicas=0))

    assert seen == [(7, "silence")] * 3


@pytest.mark.parametrize(
    ("before", "low", "high", "replicas"),
    [(7, 9, 20, 9), (7, 1, 5, 5), (0, 0, 5, 0), (0, 2, 5, 2), (1, 0, 5, 1)],
)
def test_without_data_the_range_holds(before: int, low: int, high: int, replicas: int) -> None:
    kept = memory(before)

    wish = ask(None, kept, policy=policy(min_replicas=low, max_replicas=high))

    assert (wish.replicas, kept.replicas) == (replicas, replicas)


def test_after_a_silence_it_goes_down_only_when_the_calls_are_known_for_a_minute() -> None:
    kept = memory(10)
    nothing_known = calls(0.0, queued=1)

    seen = over_time(
        [(0, calls(10.0)), *((at, None) for at in range(1, 100)), (100, nothing_known), (101, nothing_known)], kept
    )

    assert [replicas for replicas, _ in seen[-2:]] == [10, 10]


# --- under any load

numbers = st.floats(0.0, 200.0, allow_nan=False).map(lambda number: round(number, 3))


@st.composite
def policies(draw: st.DrawFn) -> ScalingPolicy:
    low = draw(st.integers(0, 6))
    return ScalingPolicy(
        min_replicas=low,
        max_replicas=draw(st.integers(max(1, low), 60)),
        target=draw(st.sampled_from([None, 0.5, 1.0, 8.0])) if (by_calls := draw(st.booleans())) else 10.0,
        utilization=draw(st.sampled_from([0.3, 0.7, 1.0])),
        metric="concurrency" if by_calls else "rps",
        idle_s=draw(st.sampled_from([1.0, 30.0, 300.0])),
        factor=draw(st.sampled_from([None, 1, 30, 100])),
    )


@st.composite
def loads(draw: st.DrawFn) -> LoadFacts:
    if draw(st.booleans()):
        return NO_CALLS
    queued = draw(st.sampled_from([0, 0, 1, 40]))
    return LoadFacts(
        in_flight=draw(numbers),
        burst=draw(numbers),
        now=draw(st.integers(0, 50)),
        queued=queued,
        pressing=queued * draw(st.sampled_from([0.0, 0.4, 1.0])),
        per_s=draw(numbers),
        burst_per_s=draw(numbers),
        came=draw(st.booleans()),
        ready=draw(st.integers(0, 60)),
    )


steps = st.tuples(st.sampled_from([0.0, 0.3, 1.0, 7.0, 59.0, 400.0]), st.none() | loads(), st.booleans())


@st.composite
def histories(draw: st.DrawFn) -> tuple[ScalingPolicy, ScaleMemory, float]:
    """A policy, and a memory that any history has left."""
    allowed = draw(policies())
    kept = ScaleMemory(replicas=draw(st.integers(0, 70)), since=NOW, active_at=NOW)
    at = NOW
    for wait_s, load, failed in draw(st.lists(steps, max_size=12)):
        at += wait_s
        wish = decide(load, allowed, kept, slots=2, now_s=at, failed=failed)

        assert kept.replicas == wish.replicas
        _within_its_range(wish, allowed, load)
    return allowed, kept, at + draw(st.sampled_from([0.0, 0.3, 1.0, 61.0]))


def _within_its_range(wish: Wish, allowed: ScalingPolicy, load: LoadFacts | None) -> None:
    if wish.replicas or allowed.min_replicas:
        assert max(1, allowed.min_replicas) <= wish.replicas <= allowed.max_replicas
    elif load is not None:
        assert not load.queued
        assert not load.now


@settings(max_examples=100, deadline=None)
@given(histories())
def test_the_number_is_always_within_its_range(history: tuple[ScalingPolicy, ScaleMemory, float]) -> None:
    """The assertions are where the history is made."""
    assert history


@settings(max_examples=100, deadline=None)
@given(histories(), loads(), numbers, numbers, st.sampled_from([0, 1, 25]), st.booleans())
def test_more_calls_never_give_fewer_replicas(
    history: tuple[ScalingPolicy, ScaleMemory, float],
    load: LoadFacts,
    more: float,
    more_now: float,
    waiting: int,
    failed: bool,
) -> None:
    allowed, kept, at = history
    larger = LoadFacts(
        in_flight=load.in_flight + more,
        burst=load.burst + more_now,
        now=load.now,
        queued=load.queued + waiting,
        pressing=load.pressing + waiting,
        per_s=load.per_s + more,
        burst_per_s=load.burst_per_s + more_now,
        came=load.came,
        ready=load.ready,
    )

    few = decide(load, allowed, copy.deepcopy(kept), slots=2, now_s=at, failed=failed)
    many = decide(larger, allowed, copy.deepcopy(kept), slots=2, now_s=at, failed=failed)

    assert many.replicas >= few.replicas
    assert many.wanted >= few.wanted


@settings(max_examples=100, deadline=None)
@given(histories(), st.integers(1, 5))
def test_without_data_nothing_changes_after_any_history(
    history: tuple[ScalingPolicy, ScaleMemory, float], silences: int
) -> None:
    allowed, kept, at = history
    decide(None, allowed, kept, slots=2, now_s=at)  # the history may be empty, and its number out of range
    before = kept.replicas

    for second in range(silences):
        assert decide(None, allowed, kept, slots=2, now_s=at + 100.0 * second).replicas == before


@settings(max_examples=100, deadline=None)
@given(histories(), loads())
def test_a_step_is_never_larger_than_its_rate(
    history: tuple[ScalingPolicy, ScaleMemory, float], load: LoadFacts
) -> None:
    allowed, kept, at = history
    decide(None, allowed, kept, slots=2, now_s=at)
    at, before = at + 1.0, kept.replicas

    numbers = [decide(load, allowed, kept, slots=2, now_s=at + part).replicas for part in (0.0, 0.2, 0.4, 0.9)]

    most = max(1, before) * 10
    if allowed.factor is not None:
        most = before + math.ceil(allowed.max_replicas * allowed.factor / 100)
    for number in numbers:
        assert number <= max(most, allowed.min_replicas)
        assert number == 0 or number >= before // 2


# --- an hour of the same load


def over_an_hour(mean: float, *, noise: float, slots: int, seed: int, seconds: int = 3600) -> list[int]:
    """Replicas at each second; those that are asked for are ready 3 s later, and calls without a slot wait."""
    chance, window = random.Random(seed), LoadWindow("u1", stable_s=60.0, burst_s=6.0)
    allowed = ScalingPolicy(max_replicas=1000, utilization=0.7)
    kept = ScaleMemory(replicas=1, since=NOW, active_at=NOW)
    numbers = [1]
    busy_s, arrivals = 0.0, 0
    for second in range(seconds):
        ready = min(numbers[-4:])
        demand = max(0.0, mean * (1.0 + noise * chance.uniform(-1.0, 1.0)))
        served = min(demand, float(ready * slots))
        busy_s += served
        arrivals += math.ceil(demand)
        load = FunctionLoad(
            uid="u1", busy_s=busy_s, arrivals=arrivals, in_flight=round(served), queued=math.ceil(demand - served)
        )
        now_s = NOW + second
        window.add([("gateway", load)], now_s)
        numbers.append(decide(window.facts(ready=ready, slots=1), allowed, kept, slots=slots, now_s=now_s).replicas)
    return numbers


def reversals(numbers: Sequence[int]) -> int:
    """How often the number turned from growing to falling, or back."""
    ways = [after > before for before, after in pairwise(numbers) if after != before]
    return sum(one != other for one, other in pairwise(ways))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mean", "slots"),
    [*((mean, 1) for mean in (0.3, 0.7, 1.0, 1.4, 2.1, 5.0, 7.0, 14.0, 35.0, 70.0, 300.0)), (2.8, 4), (14.0, 4)],
)
def test_a_constant_load_with_noise_turns_the_number_once_at_most_in_an_hour(mean: float, slots: int) -> None:
    numbers = over_an_hour(mean, noise=0.1, slots=slots, seed=5)

    assert reversals(numbers) <= 1
    assert len(set(numbers[300:])) <= 2
    needed = mean / (0.7 * slots)
    assert needed * 0.9 - 1 <= numbers[-1] <= needed * 1.1 + 1


@pytest.mark.parametrize("mean", [0.3, 1.0, 7.0, 33.0, 300.0])
def test_a_constant_load_without_noise_is_reached_and_stays(mean: float) -> None:
    numbers = over_an_hour(mean, noise=0.0, slots=1, seed=0, seconds=600)

    assert reversals(numbers) <= 1
    assert len(set(numbers[150:])) == 1
    assert mean / 0.7 * 0.9 <= numbers[-1] <= mean / 0.7 * 1.1 + 1


def test_the_rules_are_those_of_the_manual() -> None:
    assert (RULES.stable_window_s, RULES.burst_window_s, RULES.scale_down_window_s, RULES.tick_s) == (60, 6, 60, 1)
    assert (RULES.burst_threshold, RULES.tolerance, RULES.growth, RULES.shrinkage) == (2.0, 0.1, 10, 2)
