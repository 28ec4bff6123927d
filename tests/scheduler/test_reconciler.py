"""What starts and stops, and when: every rule of the reconciler, and an update under random events."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import pytest

from dcf.domain.function import FunctionSpec, replica_digest
from dcf.domain.names import FunctionName, replica_name
from dcf.domain.status import ReplicaState
from dcf.scheduler.backoff import Backoff
from dcf.scheduler.reconciler import SURGE, Decision, ReplicaView, reconcile

NOW = 1_000.0


def spec_of(replicas: int = 1, **other: Any) -> FunctionSpec:
    fields: dict[str, Any] = {"uid": "u1", "generation": 1, "image": "bundle:echo@0123456789ab", **other}
    return FunctionSpec(name=FunctionName("echo"), replicas=replicas, **fields)


def view(spec: FunctionSpec, ordinal: int, state: ReplicaState = "ready", **other: Any) -> ReplicaView:
    fields: dict[str, Any] = {
        "name": replica_name("echo", spec.generation, ordinal),
        "uid": spec.uid,
        "generation": spec.generation,
        "digest": replica_digest(spec),
        "ordinal": ordinal,
        "address": f"unix:/{ordinal}",
        "state": state,
        "stopping": False,
        "was_ready": state in ("ready", "busy"),
        "started_at": NOW - 1,
        "grace_s": 100.0,
    }
    return ReplicaView(**{**fields, **other})


def decide(spec: FunctionSpec | None, *replicas: ReplicaView, backoff: Backoff | None = None) -> Decision:
    return reconcile(spec, replicas, backoff or Backoff(), now_s=NOW)


def ordinals(decision: Decision) -> list[int]:
    return [one.ordinal for one in decision.starts]


def stopped(decision: Decision) -> list[str]:
    return [one.name for one in decision.stops]


def test_all_replicas_of_a_new_function_start_at_once() -> None:
    assert ordinals(decide(spec_of(3))) == [0, 1, 2]


def test_nothing_happens_where_all_is_as_wanted() -> None:
    spec = spec_of(2)

    assert decide(spec, view(spec, 0), view(spec, 1, "busy")) == Decision()


def test_a_starting_replica_counts_as_there() -> None:
    spec = spec_of(1)

    assert decide(spec, view(spec, 0, "starting")) == Decision()


def test_a_replica_that_is_gone_is_replaced_with_the_lowest_free_ordinal() -> None:
    spec = spec_of(3)

    assert ordinals(decide(spec, view(spec, 0), view(spec, 2))) == [1]


def test_a_draining_replica_is_replaced_and_keeps_its_ordinal() -> None:
    spec = spec_of(1)

    assert ordinals(decide(spec, view(spec, 0, "draining", stopping=True))) == [1]


def test_a_new_function_does_not_take_the_name_of_a_draining_replica_of_its_namesake() -> None:
    gone, spec = spec_of(1, uid="u0"), spec_of(1)

    assert ordinals(decide(spec, view(gone, 0, stopping=True))) == [1]


def test_replicas_of_a_deleted_function_drain_with_the_grace_that_they_were_started_with() -> None:
    spec = spec_of(2)

    decision = decide(None, view(spec, 0, grace_s=700.0), view(spec, 1, stopping=True))

    assert [(one.name, one.grace_s) for one in decision.stops] == [("echo-g1-0", 700.0)]
    assert not decision.starts


def test_replicas_of_an_earlier_uid_are_stopped_and_do_not_count() -> None:
    gone, spec = spec_of(1, uid="u0"), spec_of(1)

    decision = decide(spec, view(gone, 0))

    assert stopped(decision) == ["echo-g1-0"]
    assert ordinals(decision) == [1]


def test_scaling_to_zero_stops_all() -> None:
    spec = spec_of(0)

    assert stopped(decide(spec, view(spec, 0), view(spec, 1, "busy"))) == ["echo-g1-0", "echo-g1-1"]


def test_a_pinned_number_wins() -> None:
    assert ordinals(decide(spec_of(1, pinned_replicas=2))) == [0, 1]


@pytest.mark.parametrize(
    ("states", "victim"),
    [
        ([("ready", 0), ("starting", 0), ("ready", 0)], 1),
        ([("ready", 0), ("busy", 1), ("busy", 1)], 0),
        ([("ready", 0), ("ready", 2), ("ready", 0)], 2),
        ([("busy", 1), ("busy", 1), ("busy", 1)], 2),
        ([("failed", 0), ("ready", 0), ("ready", 0)], 0),
    ],
)
def test_scale_down_takes_what_serves_least(states: list[tuple[ReplicaState, int]], victim: int) -> None:
    spec = spec_of(2)
    replicas = [view(spec, number, state, in_flight=calls) for number, (state, calls) in enumerate(states)]

    assert stopped(decide(spec, *replicas)) == [f"echo-g1-{victim}"]


def test_a_silent_replica_is_neither_stopped_nor_replaced() -> None:
    spec = spec_of(1)

    assert decide(spec, view(spec, 0, "starting", was_ready=True, silent=True, started_at=0.0)) == Decision()


def test_a_start_that_never_ends_is_killed_and_nothing_starts_in_the_same_breath() -> None:
    spec = spec_of(1, start_timeout_s=5.0)

    [stop] = decide(spec, view(spec, 0, "starting", started_at=NOW - 15.1)).stops

    assert (stop.overdue, stop.grace_s, stop.reason) == (True, 0.0, "it was not ready within 15 s")
    assert decide(spec, view(spec, 0, "starting", started_at=NOW - 14.9)) == Decision()
    assert decide(spec, view(spec, 0, "starting", started_at=NOW - 99, was_ready=True)) == Decision()


def test_no_start_before_the_back_off_ends() -> None:
    waiting = Backoff(failures=1, next_at=NOW + 0.1)

    assert decide(spec_of(2), backoff=waiting) == Decision()


def test_after_a_failure_one_replica_at_a_time_tries() -> None:
    spec, over = spec_of(3), Backoff(failures=2, next_at=NOW)

    assert ordinals(decide(spec, backoff=over)) == [0]
    assert ordinals(decide(spec, view(spec, 0, "starting"), backoff=over)) == []
    assert ordinals(decide(spec, view(spec, 0), backoff=over)) == [1]


# --- updates


def test_an_update_begins_with_one_new_replica_and_stops_none() -> None:
    old, new = spec_of(2), spec_of(2, generation=2)

    decision = decide(new, view(old, 0), view(old, 1))

    assert (ordinals(decision), stopped(decision)) == ([0], [])


def test_an_update_waits_while_the_new_replica_starts() -> None:
    old, new = spec_of(2), spec_of(2, generation=2)

    assert decide(new, view(old, 0), view(old, 1), view(new, 0, "starting")) == Decision()


def test_a_ready_new_replica_lets_one_old_one_go_and_the_next_new_one_start() -> None:
    old, new = spec_of(2), spec_of(2, generation=2)

    decision = decide(new, view(old, 0), view(old, 1), view(new, 0))

    assert (stopped(decision), ordinals(decision)) == (["echo-g1-1"], [1])


def test_an_update_ends_with_the_last_old_replica() -> None:
    old, new = spec_of(2), spec_of(2, generation=2)

    assert stopped(decide(new, view(old, 0), view(new, 0), view(new, 1))) == ["echo-g1-0"]


def test_old_replicas_serve_on_while_the_new_generation_fails() -> None:
    old, new = spec_of(2), spec_of(2, generation=2)

    assert decide(new, view(old, 0), view(old, 1), backoff=Backoff(failures=4, next_at=NOW + 8)) == Decision()


def test_an_old_replica_that_never_served_goes_at_once() -> None:
    old, new = spec_of(1), spec_of(1, generation=2)

    decision = decide(new, view(old, 0, "starting"))

    assert (stopped(decision), ordinals(decision)) == (["echo-g1-0"], [0])


def test_an_old_replica_that_died_makes_room_for_new_ones() -> None:
    old, new = spec_of(3), spec_of(3, generation=2)

    assert ordinals(decide(new, view(old, 0))) == [0, 1, 2]


def test_fewer_replicas_and_an_update_at_once_keep_as_many_old_ones_as_are_wanted() -> None:
    old, new = spec_of(3), spec_of(1, generation=2)

    decision = decide(new, *(view(old, number) for number in range(3)))

    assert (stopped(decision), ordinals(decision)) == (["echo-g1-2", "echo-g1-1"], [0])


def test_a_generation_number_that_was_given_twice_is_told_apart() -> None:
    """Redis lost the write of a generation that runs already; the next deployment got the same number."""
    lost, new = spec_of(1, generation=2, image="bundle:echo@aaaaaaaaaaaa"), spec_of(1, generation=2)

    assert ordinals(decide(new, view(lost, 0))) == [1]
    assert stopped(decide(new, view(lost, 0), view(new, 1))) == ["echo-g2-0"]


@pytest.mark.parametrize("seed", range(60))
def test_an_update_never_serves_with_fewer_than_wanted_and_never_exceeds_its_surge(seed: int) -> None:
    chance = random.Random(seed)
    desired = chance.randint(1, 5)
    old = spec_of(desired)
    new = dataclasses.replace(old, generation=2)
    replicas = {one.name: one for one in (view(old, number) for number in range(desired))}

    for _ in range(400):
        decision = reconcile(new, list(replicas.values()), Backoff(), now_s=NOW)
        for victim in decision.stops:
            replicas[victim.name] = dataclasses.replace(replicas[victim.name], stopping=True)
        for start in decision.starts:
            fresh = view(new, start.ordinal, "starting")
            assert fresh.name not in replicas
            replicas[fresh.name] = fresh
        staying = [one for one in replicas.values() if not one.stopping]
        assert sum(one.serving for one in staying) >= desired
        assert len(staying) <= desired + SURGE

        for one in list(replicas.values()):
            if one.stopping and chance.random() < 0.3:
                del replicas[one.name]
            elif one.state == "starting" and chance.random() < 0.4:
                replicas[one.name] = dataclasses.replace(one, state="ready", was_ready=True)
            elif one.serving:
                state: ReplicaState = chance.choice(("ready", "busy"))
                replicas[one.name] = dataclasses.replace(one, state=state, in_flight=int(state == "busy"))

    assert {one.generation for one in replicas.values()} == {2}
    assert len(replicas) == desired


@pytest.mark.parametrize("seed", range(60))
def test_whatever_happens_it_comes_to_rest_with_what_is_wanted(seed: int) -> None:
    """Replicas die, wishes change; once that ends, what is wanted runs and nothing else."""
    chance = random.Random(seed)
    spec = spec_of(chance.randint(0, 4))
    replicas: dict[str, ReplicaView] = {}

    for step in range(300):
        quiet = step > 150
        if not quiet and chance.random() < 0.1:
            spec = dataclasses.replace(
                spec, generation=spec.generation + chance.randint(0, 1), replicas=chance.randint(0, 4)
            )
        before = sum(one.serving for one in replicas.values())
        decision = reconcile(spec, list(replicas.values()), Backoff(), now_s=NOW)
        for victim in decision.stops:
            replicas[victim.name] = dataclasses.replace(replicas[victim.name], stopping=True)
        for start in decision.starts:
            fresh = view(spec, start.ordinal, "starting")
            assert fresh.name not in replicas
            replicas[fresh.name] = fresh
        assert sum(one.serving for one in replicas.values()) >= min(before, spec.desired)

        for one in list(replicas.values()):
            if (one.stopping and chance.random() < 0.5) or (not quiet and chance.random() < 0.1):
                del replicas[one.name]
            elif one.state == "starting" and chance.random() < 0.5:
                replicas[one.name] = dataclasses.replace(one, state="ready", was_ready=True)

    assert {one.generation for one in replicas.values()} <= {spec.generation}
    assert len(replicas) == spec.desired
