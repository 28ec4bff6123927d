"""Who gets what the machines still have, who lets go of a GPU for another one, and what people read of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcf.domain.function import FunctionSpec
from dcf.domain.names import FunctionName
from dcf.domain.status import NodeStatus
from dcf.scheduler.supply import Claim, Grant, Need, need_of, rooms_of, share

GB = 10**9


def machine(name: str = "m1", gpus: int = 0, used: int = 0, **other: Any) -> NodeStatus:
    """One with so many GPUs, of which the first `used` are given out."""
    devices = tuple(f"{name}-gpu{number}" for number in range(gpus))
    fields = {"ready": True, "cpus": 64.0, "memory_bytes": 512 * GB, "gpus": devices, "gpus_used": devices[:used]}
    return NodeStatus(**{"name": name, **fields, **other})


def claim(function: str, wish: int, held: Mapping[str, int] | None = None, **other: Any) -> Claim:
    """A function whose replicas take a GPU each, and all stay."""
    there = sum((held or {}).values())
    fields = {"need": Need(gpus=1), "held": held or {}, "staying": there, "waiting": 0.0}
    return Claim(**{"function": function, "wish": wish, **fields, **other})


def numbers(nodes: list[NodeStatus], *claims: Claim) -> dict[str, int]:
    return {name: grant.replicas for name, grant in share(nodes, claims).items()}


def spec(**other: Any) -> FunctionSpec:
    return FunctionSpec(name=FunctionName("echo"), image="x", **other)


# --- what a replica needs


def test_what_is_requested_counts_and_a_limit_of_memory_where_nothing_is() -> None:
    both = spec(limits={"memory": "2G", "cpu": "4", "gpu": "2"}, requests={"memory": "1G", "cpu": "500m"})
    limits = spec(limits={"memory": "2G", "cpu": "4"})

    assert need_of(both) == Need(gpus=2, cpus=0.5, memory_bytes=GB)
    # A limit of CPUs only slows down.
    assert need_of(limits) == Need(memory_bytes=2 * GB)
    assert need_of(spec()).is_nothing
    assert need_of(spec(limits={"cpu": "4", "gpu": "0"})).is_nothing


# --- what fits


def test_a_function_that_needs_nothing_gets_its_wish_on_no_machine_at_all() -> None:
    assert share([], [claim("echo", 50, need=Need())]) == {"echo": Grant(replicas=50)}


def test_a_fixed_number_is_given_nothing_here() -> None:
    assert share([machine(gpus=1)], [claim("fixed", 0, elastic=False)]) == {}


def test_there_are_no_more_replicas_than_free_gpus_on_all_machines() -> None:
    nodes = [machine("m1", gpus=2), machine("m2", gpus=2, used=1)]

    assert numbers(nodes, claim("model", 5)) == {"model": 3}
    assert numbers(nodes, claim("model", 2)) == {"model": 2}


def test_what_runs_counts_beside_what_is_free() -> None:
    assert numbers([machine(gpus=4, used=2)], claim("model", 9, {"m1": 2})) == {"model": 4}


def test_a_gpu_that_something_else_holds_is_not_given_out() -> None:
    assert numbers([machine(gpus=4, used=3)], claim("model", 4)) == {"model": 1}


def test_the_gpus_of_a_replica_are_on_one_machine() -> None:
    pair = claim("pair", 9, need=Need(gpus=2))

    assert numbers([machine("m1", gpus=3), machine("m2", gpus=3)], pair) == {"pair": 2}


def test_a_machine_that_is_not_ready_gives_nothing() -> None:
    nodes = [machine("m1", gpus=2), machine("m2", gpus=2, ready=False)]

    assert numbers(nodes, claim("model", 4)) == {"model": 2}


def test_memory_is_what_the_machine_has_without_what_its_replicas_are_promised() -> None:
    nodes = [machine("m1", memory_bytes=10 * GB), machine("m2", memory_bytes=10 * GB)]
    fat, thin = Need(memory_bytes=4 * GB), Need(memory_bytes=3 * GB)

    # m1 has 4 GB left beside two thin ones, m2 all ten.
    assert numbers(nodes, claim("fat", 9, need=fat), claim("thin", 2, {"m1": 2}, need=thin)) == {"fat": 3, "thin": 2}


def test_cpus_that_are_requested_are_reserved() -> None:
    half = Need(cpus=0.1)

    assert numbers([machine(cpus=0.3)], claim("small", 9, need=half)) == {"small": 3}
    assert numbers([machine(cpus=0.3)], claim("small", 9, {"m1": 1}, need=half)) == {"small": 3}
    assert numbers([machine(cpus=0.29)], claim("small", 9, need=half)) == {"small": 2}


def test_what_runs_is_left_even_where_it_is_more_than_the_machine_has() -> None:
    large = claim("large", 3, {"m1": 3}, need=Need(memory_bytes=5 * GB))

    assert share([machine(memory_bytes=6 * GB)], [large]) == {"large": Grant(replicas=3)}


def test_the_replicas_of_the_only_machine_have_no_name_of_it() -> None:
    mine = claim("mine", 9, {"": 2}, need=Need(memory_bytes=4 * GB))

    assert numbers([machine(memory_bytes=13 * GB)], mine) == {"mine": 3}


def test_a_fixed_function_holds_its_room() -> None:
    fixed = claim("fixed", 0, {"m1": 2}, need=Need(memory_bytes=4 * GB), elastic=False)

    assert numbers([machine(memory_bytes=13 * GB)], fixed, claim("free", 9, need=Need(memory_bytes=GB))) == {"free": 5}


def test_a_wish_for_fewer_is_granted() -> None:
    assert share([machine(gpus=2, used=2)], [claim("model", 1, {"m1": 2})]) == {"model": Grant(replicas=1)}


def test_small_ones_are_packed_so_that_a_large_one_still_fits() -> None:
    nodes = [machine("m1", gpus=2), machine("m2", gpus=1)]
    small, large = claim("a-small", 1), claim("b-large", 1, need=Need(gpus=2))

    assert numbers(nodes, small, large) == {"a-small": 1, "b-large": 1}


def test_rooms_of_all_gpus_do_not_ask_who_holds_them() -> None:
    [free], [whole] = rooms_of([machine(gpus=4, used=3)], ()), rooms_of([machine(gpus=4, used=3)], (), all_gpus=True)

    assert (free.gpus, whole.gpus) == (1, 4)


# --- fairness


def test_free_gpus_go_by_the_calls_that_wait_for_each_replica() -> None:
    nodes = [machine(gpus=6)]

    shared = numbers(nodes, claim("busy", 6, waiting=8.0), claim("calm", 6, waiting=4.0))

    assert shared == {"busy": 4, "calm": 2}


def test_who_has_replicas_already_waits_for_who_has_fewer() -> None:
    nodes = [machine(gpus=5, used=3)]

    shared = numbers(nodes, claim("many", 6, {"m1": 3}, waiting=9.0), claim("none", 6, waiting=8.0))

    assert shared == {"many": 3, "none": 2}


def test_calls_that_wait_for_a_first_replica_go_before_any_number_for_a_further_one() -> None:
    nodes = [machine(gpus=2, used=1)]

    assert numbers(nodes, claim("a", 2, {"m1": 1}, waiting=5_000.0), claim("b", 1, waiting=1.0)) == {"a": 1, "b": 1}


def test_equals_are_served_by_name_and_one_each() -> None:
    nodes = [machine(gpus=3)]

    first, second = claim("a", 3, waiting=2.0), claim("b", 3, waiting=2.0)

    assert numbers(nodes, first, second) == numbers(nodes, second, first) == {"a": 2, "b": 1}


def test_who_does_not_fit_keeps_nobody_else_from_fitting() -> None:
    nodes = [machine("m1", gpus=2, used=1), machine("m2", gpus=2, used=1)]

    shared = numbers(nodes, claim("large", 1, need=Need(gpus=2), waiting=9.0), claim("small", 2, waiting=1.0))

    assert shared == {"large": 0, "small": 2}


# --- draining


def test_a_draining_replica_holds_its_gpu_until_it_is_gone() -> None:
    draining = claim("model", 2, {"m1": 2}, staying=1)

    assert numbers([machine(gpus=2, used=2)], draining) == {"model": 1}
    assert numbers([machine(gpus=2, used=1)], claim("model", 2, {"m1": 1})) == {"model": 2}


def test_a_draining_replica_holds_its_memory_too() -> None:
    leaving = claim("old", 0, {"m1": 1}, staying=0, need=Need(memory_bytes=6 * GB))
    coming = claim("new", 2, need=Need(memory_bytes=3 * GB))

    assert numbers([machine(memory_bytes=10 * GB)], leaving, coming) == {"old": 0, "new": 1}


# --- idle functions let go


def idle(function: str, number: int = 1, **other: Any) -> Claim:
    return claim(function, number, {"m1": number}, **{"may_sleep": True, **other})


def test_an_idle_function_sleeps_when_another_one_waits_for_a_gpu() -> None:
    granted = share([machine(gpus=1, used=1)], [idle("lazy"), claim("busy", 1, waiting=3.0)])

    assert granted["lazy"] == Grant(replicas=0, reason="idle, and busy waits for a GPU", asleep=True)
    # What it holds comes free when it has drained.
    assert granted["busy"].replicas == 0


def test_an_idle_function_stays_awake_while_there_is_a_free_gpu() -> None:
    assert numbers([machine(gpus=2, used=1)], idle("lazy"), claim("busy", 1, waiting=3.0)) == {"lazy": 1, "busy": 1}


def test_nobody_sleeps_for_a_function_that_has_what_it_wants() -> None:
    held = claim("busy", 1, {"m1": 1}, waiting=3.0)

    assert numbers([machine(gpus=2, used=2)], idle("lazy"), held) == {"lazy": 1, "busy": 1}


@pytest.mark.parametrize(("wanted", "asleep"), [(1, ["c"]), (3, ["a", "c"]), (6, ["a", "b", "c"])])
def test_only_as_many_sleep_as_are_needed_the_smallest_first(wanted: int, asleep: list[str]) -> None:
    lazy = [idle("a", 2), idle("b", 3), idle("c", 1)]

    shared = numbers([machine(gpus=6, used=6)], *lazy, claim("busy", wanted, waiting=3.0))

    assert sorted(name for name, number in shared.items() if not number and name != "busy") == asleep


def test_the_smallest_is_the_one_with_the_fewest_gpus() -> None:
    heavy, light = idle("a", 1, need=Need(gpus=4)), idle("b", 2)

    assert numbers([machine(gpus=6, used=6)], heavy, light, claim("busy", 1, waiting=1.0))["b"] == 0
    assert numbers([machine(gpus=6, used=6)], heavy, light, claim("busy", 1, waiting=1.0))["a"] == 1


def test_nobody_sleeps_while_enough_drains_already() -> None:
    nodes, busy = [machine(gpus=3, used=3)], claim("busy", 1, waiting=3.0)

    own = claim("busy", 1, {"m1": 1}, staying=0, waiting=3.0)
    other = claim("other", 1, {"m1": 2}, staying=1)
    fixed = claim("fixed", 0, {"m1": 2}, staying=1, elastic=False)

    assert numbers(nodes, idle("lazy", 2), own)["lazy"] == 2
    assert numbers(nodes, idle("lazy"), other, busy)["lazy"] == 1
    assert numbers(nodes, idle("lazy"), fixed, busy)["lazy"] == 1


def test_nobody_sleeps_while_enough_is_about_to_drain() -> None:
    shrinking = claim("other", 1, {"m1": 2})

    assert numbers([machine(gpus=3, used=3)], idle("lazy"), shrinking, claim("busy", 1, waiting=3.0))["lazy"] == 1


def test_what_drains_is_set_off_against_what_is_lacking() -> None:
    leaving = claim("other", 0, {"m1": 1}, staying=0)

    shared = numbers([machine(gpus=3, used=3)], idle("a"), idle("b"), leaving, claim("busy", 2, waiting=3.0))

    assert (shared["a"], shared["b"]) == (0, 1)


def test_who_waits_for_memory_puts_nobody_to_sleep() -> None:
    nodes = [machine(gpus=1, used=1, memory_bytes=10 * GB)]
    fat = Need(memory_bytes=8 * GB)

    shared = numbers(nodes, idle("lazy"), claim("full", 1, {"m1": 1}, need=fat), claim("hungry", 1, need=fat))

    assert shared == {"lazy": 1, "full": 1, "hungry": 0}


def test_neither_a_busy_one_nor_a_fixed_one_nor_one_without_gpu_is_put_to_sleep() -> None:
    nodes = [machine(gpus=2, used=2)]
    claims = [
        claim("busy", 1, {"m1": 1}, may_sleep=False),
        claim("fixed", 1, {"m1": 1}, may_sleep=True, elastic=False),
        idle("plain", 1, need=Need(memory_bytes=GB)),
        claim("starved", 1, waiting=9.0),
    ]

    assert numbers(nodes, *claims) == {"busy": 1, "plain": 1, "starved": 0}


def test_what_no_machine_could_ever_hold_is_left_to_the_backend() -> None:
    nodes = [machine("m1", gpus=2, used=2), machine("m2", gpus=2)]

    granted = share(nodes, [idle("lazy", 2), claim("huge", 3, need=Need(gpus=4), waiting=9.0)])

    assert granted == {"huge": Grant(replicas=3), "lazy": Grant(replicas=2)}
    assert share([], [claim("model", 3)]) == {"model": Grant(replicas=3)}


def test_a_gpu_that_is_free_already_needs_nobody_to_sleep() -> None:
    shared = numbers([machine(gpus=3, used=2)], idle("a"), idle("b"), claim("pair", 1, need=Need(gpus=2), waiting=1.0))

    assert (shared["a"], shared["b"]) == (0, 1)


def test_nobody_sleeps_in_vain() -> None:
    nodes = [machine("m1", gpus=2, used=2), machine("m2", gpus=2, used=2)]
    others = [claim(name, 1, {name: 1}) for name in ("m1", "m2")]
    lazy = [claim("a", 1, {"m1": 1}, may_sleep=True), claim("b", 1, {"m2": 1}, may_sleep=True)]

    shared = numbers(nodes, *others, *lazy, claim("pair", 1, need=Need(gpus=2), waiting=1.0))

    assert (shared["a"], shared["b"]) == (1, 1)


def test_an_idle_function_is_not_put_to_sleep_for_itself() -> None:
    # Of its two GPUs one is gone, with its machine.
    nodes = [machine("m1", gpus=1, used=1), machine("m2", gpus=1, used=1, ready=False)]

    assert numbers(nodes, claim("lazy", 2, {"m1": 1}, may_sleep=True)) == {"lazy": 1}


def test_nobody_with_a_gpu_sleeps_for_a_function_that_lacks_memory_alone() -> None:
    nodes = [machine(gpus=2, used=1, memory_bytes=10 * GB)]
    full = claim("full", 1, {"m1": 1}, need=Need(memory_bytes=8 * GB))

    shared = numbers(nodes, idle("lazy"), full, claim("hungry", 1, need=Need(gpus=1, memory_bytes=4 * GB), waiting=1.0))

    assert shared["lazy"] == 1


# --- reasons


def test_the_reason_names_who_holds_the_gpus() -> None:
    nodes = [machine("m1", gpus=2, used=2), machine("m2", gpus=1, used=1)]
    holders = [claim("second", 1, {"m2": 1}), claim("first", 0, {"m1": 1}, elastic=False)]

    granted = share(
        nodes, [*holders, claim("none", 2), claim("more", 1, {"m1": 1}), claim("plain", 1, {"m1": 1}, need=Need())]
    )

    what = "no GPU free: 3 of 3 are held by first, more, second, each replica asks for 1"
    assert granted["none"] == Grant(replicas=0, reason=f"{what}")


def test_the_reason_says_that_others_than_functions_hold_the_gpus() -> None:
    granted = share([machine(gpus=2, used=2)], [claim("model", 1, need=Need(gpus=2))])

    assert granted["model"].reason == "no GPU free: 2 of 2 are held, each replica asks for 2"


def test_the_reason_names_memory_and_cpus_where_they_are_short() -> None:
    nodes = [machine(cpus=4.0, memory_bytes=10 * GB)]

    granted = share(nodes, [claim("model", 9, need=Need(cpus=1.5, memory_bytes=4 * GB))])

    what = "no machine has room for more, each replica is promised 1.5 CPUs and 4.0 GB"
    assert granted["model"] == Grant(replicas=2, reason=f"{what}")


def test_the_reason_does_not_blame_the_gpus_where_one_is_free() -> None:
    nodes = [machine(gpus=2, memory_bytes=10 * GB)]

    granted = share(nodes, [claim("model", 2, need=Need(gpus=1, memory_bytes=8 * GB))])

    assert granted["model"].replicas == 1
    assert "no GPU free" not in granted["model"].reason


# --- any picture


@st.composite
def pictures(draw: st.DrawFn) -> tuple[list[NodeStatus], list[Claim]]:
    """Machines, and functions whose replicas are on them as far as they fit."""
    claims: list[Claim] = []
    gpus = {name: draw(st.integers(0, 5)) for name in ("m1", "m2", "m3")[: draw(st.integers(1, 3))]}
    memory = {name: draw(st.integers(0, 20)) for name in gpus}
    free_gpus, free_memory = dict(gpus), dict(memory)
    for function in "abcd"[: draw(st.integers(1, 4))]:
        need = Need(gpus=draw(st.integers(0, 2)), memory_bytes=draw(st.integers(0, 3)) * GB)
        held: dict[str, int] = {}
        for name in draw(st.lists(st.sampled_from(sorted(gpus)), max_size=4)):
            if need.gpus <= free_gpus[name] and need.memory_bytes <= free_memory[name] * GB:
                free_gpus[name] -= need.gpus
                free_memory[name] -= need.memory_bytes // GB
                held[name] = held.get(name, 0) + 1
        there = sum(held.values())
        claims.append(
            Claim(
                function=function,
                need=need,
                wish=draw(st.integers(0, 8)),
                held=held,
                staying=draw(st.integers(0, there)),
                waiting=draw(st.sampled_from([0.0, 1.0, 30.0])),
                may_sleep=draw(st.booleans()),
                elastic=draw(st.sampled_from([True, True, False])),
            )
        )
    nodes = [
        machine(name, gpus[name], gpus[name] - free_gpus[name], memory_bytes=memory[name] * GB) for name in sorted(gpus)
    ]
    return nodes, claims


@settings(max_examples=100, deadline=None)
@given(pictures())
def test_no_more_is_given_out_than_there_is(picture: tuple[list[NodeStatus], list[Claim]]) -> None:
    nodes, claims = picture

    granted = share(nodes, claims)

    assert granted.keys() == {one.function for one in claims if one.elastic}
    ever = [one for one in claims if one.elastic and any(_fits_empty(one.need, node) for node in nodes)]
    new = {one.function: max(0, granted[one.function].replicas - one.staying) for one in ever}
    free_gpus = sum(len(node.gpus) - len(node.gpus_used) for node in nodes)
    free_memory = sum(node.memory_bytes for node in nodes) - sum(one.there * one.need.memory_bytes for one in claims)
    assert sum(new[one.function] * one.need.gpus for one in ever) <= free_gpus
    assert sum(new[one.function] * one.need.memory_bytes for one in ever) <= free_memory
    for one in claims:
        if one.elastic:
            grant = granted[one.function]
            slept = grant.replicas == 0 and one.may_sleep and one.staying > 0
            assert slept or min(one.wish, one.staying) <= grant.replicas <= one.wish
            assert bool(grant.reason) == (grant.replicas != one.wish)


@settings(max_examples=100, deadline=None)
@given(pictures())
def test_nobody_is_refused_what_is_free(picture: tuple[list[NodeStatus], list[Claim]]) -> None:
    nodes, [first, *others] = picture
    alone = replace(first, elastic=True, may_sleep=False)
    claims = [alone, *(replace(one, elastic=False) for one in others)]

    granted = share(nodes, claims)[alone.function]

    fitting = 0.0
    for node in nodes:
        memory_bytes = node.memory_bytes - sum(one.held.get(node.name, 0) * one.need.memory_bytes for one in claims)
        limits = [math.inf]
        if alone.need.gpus:
            limits.append((len(node.gpus) - len(node.gpus_used)) // alone.need.gpus)
        if alone.need.memory_bytes:
            limits.append(memory_bytes // alone.need.memory_bytes)
        fitting += min(limits)
    if any(_fits_empty(alone.need, node) for node in nodes):
        assert granted.replicas == min(alone.wish, max(alone.staying, alone.staying + fitting))
    else:
        assert granted == Grant(replicas=alone.wish)


def _fits_empty(need: Need, node: NodeStatus) -> bool:
    return need.gpus <= len(node.gpus) and need.memory_bytes <= node.memory_bytes
