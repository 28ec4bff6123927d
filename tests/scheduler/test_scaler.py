"""What one leadership decides for all functions together, and what it keeps of its decisions, in virtual time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcf.domain.function import FunctionSpec
from dcf.domain.load import FunctionLoad, LoadReport
from dcf.domain.names import FunctionName, ReplicaName
from dcf.domain.scaling import ScaleDecision, ScalingPolicy
from dcf.domain.status import NodeStatus
from dcf.scheduler.reconciler import ReplicaView
from dcf.scheduler.scaler import KEPT, Present, Scaler

NOW = 20_000.0


def function(name: str = "echo", **other: Any) -> FunctionSpec:
    """One call a replica; `scaling` is what differs from that."""
    scaling = {"target": 1.0, "utilization": 1.0, **other.pop("scaling", {})}
    fields: dict[str, Any] = {"uid": f"{name}-1", "image": "x", "scaling": ScalingPolicy(**scaling)}
    return FunctionSpec(name=FunctionName(name), **{**fields, **other})


def model(name: str, **other: Any) -> FunctionSpec:
    """One whose replicas take a GPU each."""
    return function(name, **{"limits": {"gpu": "1"}, **other})


def view(name: str, number: int, **other: Any) -> ReplicaView:
    fields: dict[str, Any] = {
        "name": ReplicaName(f"{name}-g1-{number}"), "uid": f"{name}-1", "generation": 1, "digest": "",
        "ordinal": number, "address": "", "state": "ready", "stopping": False, "was_ready": True,
        "started_at": 0.0, "grace_s": 1.0,
    }  # fmt: skip
    return ReplicaView(**{**fields, **other})


def machine(gpus: int, used: int, **other: Any) -> NodeStatus:
    devices = tuple(f"gpu{number}" for number in range(gpus))
    fields = {"name": "m1", "ready": True, "cpus": 8.0, "memory_bytes": 10**11}
    return NodeStatus(**{**fields, "gpus": devices, "gpus_used": devices[:used], **other})


def load(name: str = "echo", busy_s: float = 0.0, arrivals: int = 0, **other: Any) -> FunctionLoad:
    return FunctionLoad(**{"uid": f"{name}-1", "busy_s": busy_s, "arrivals": arrivals, **other})


class World:
    """A scaler, and what it is shown: replicas are there as soon as they are asked for."""

    def __init__(self, *specs: FunctionSpec, gpus: int = 0) -> None:
        self.scaler = Scaler()
        self.specs = {spec.name: spec for spec in specs}
        self.there: dict[str, int] = {}
        self.was: dict[str, int | None] = {}
        self.draining: dict[str, int] = {}
        self.failed: set[str] = set()
        self.gpus = gpus
        self.at = NOW

    def turn(self, *loads: FunctionLoad, after_s: float = 1.0, heard: bool = True) -> dict[str, int]:
        """One decision; `loads` are one gateway's word."""
        self.at += after_s
        by_name = {one.uid.rpartition("-")[0]: one for one in loads}
        report = LoadReport(slice_name="a", age_s=0.0 if heard else 60.0, functions=by_name)
        decided = self.scaler.decide_all(self.specs, [report], self._present(), self._nodes(), self.at)
        self.there = {name: spec.desired for name, spec in decided.items()}
        self.was = dict(self.there)
        return dict(self.there)

    def decisions(self, name: str = "echo") -> Sequence[ScaleDecision]:
        return self.scaler.decisions_of(name)

    def records(self, name: str = "echo") -> list[tuple[int, int, str]]:
        return [(one.before, one.replicas, one.limit) for one in self.decisions(name)]

    def _present(self) -> Mapping[str, Present]:
        present = {}
        for name in {*self.specs, *self.draining}:
            there, draining = self.there.get(name, 0), self.draining.get(name, 0)
            views = [view(name, number, stopping=number >= there) for number in range(there + draining)]
            present[name] = Present(views=views, failed=name in self.failed, was=self.was.get(name))
        return present

    def _nodes(self) -> list[NodeStatus]:
        with_gpu = [name for name, spec in self.specs.items() if spec.gpu_count]
        used = sum(self.there.get(name, 0) + self.draining.get(name, 0) for name in with_gpu)
        return [machine(self.gpus, min(self.gpus, used))]


# --- beginnings


def test_a_new_function_begins_with_its_initial_number() -> None:
    many = function("many", scaling={"initial_replicas": 4, "min_replicas": 2})
    none = function("none", scaling={"initial_replicas": 0, "min_replicas": 0})
    least = function("least", scaling={"min_replicas": 3})
    sleepy = function("sleepy", scaling={"min_replicas": 0})

    assert World(many, none, least, sleepy).turn() == {"many": 4, "none": 0, "least": 3, "sleepy": 1}


def test_a_new_leader_takes_over_the_number_of_the_one_before() -> None:
    world = World(function())
    world.was, world.there = {"echo": 7}, {"echo": 2}

    assert world.turn() == {"echo": 7}


def test_a_new_leader_takes_over_zero() -> None:
    world = World(function(scaling={"min_replicas": 0}))
    world.was = {"echo": 0}

    assert world.turn() == {"echo": 0}


def test_a_leader_that_knows_no_number_goes_on_with_what_runs() -> None:
    world = World(function())
    world.there, world.draining = {"echo": 5}, {"echo": 3}

    assert world.turn() == {"echo": 5}


def test_a_new_leader_holds_for_a_minute_and_then_follows_the_calls() -> None:
    world = World(function())
    world.was = {"echo": 8}

    numbers = [world.turn(load())["echo"] for _ in range(70)]

    assert numbers[:60] == [8] * 60
    assert numbers[60:64] == [4, 2, 1, 1]


def test_a_new_leader_puts_nobody_to_sleep_before_the_idle_time_is_over() -> None:
    world = World(function(scaling={"min_replicas": 0, "idle_s": 90.0}))
    world.was = {"echo": 1}

    numbers = [world.turn(load(arrivals=0))["echo"] for _ in range(92)]

    assert numbers == [1] * 90 + [0] * 2


def test_a_function_that_was_made_again_begins_anew() -> None:
    world = World(function())
    for at in range(5):
        world.turn(load(busy_s=6.0 * at, arrivals=at))
    world.specs = {"echo": function(uid="echo-2", scaling={"initial_replicas": 3})}
    world.there, world.was = {}, {}

    assert world.turn(load(busy_s=600.0, arrivals=50, queued=40)) == {"echo": 3}
    assert len(world.decisions()) == 1


# --- what counts


def test_replicas_follow_what_the_gateways_report() -> None:
    world = World(function())

    numbers = [world.turn(load(busy_s=6.0 * at, arrivals=at, in_flight=6))["echo"] for at in range(8)]

    assert numbers[0] == 1
    assert numbers[-1] == 6


def test_slots_are_those_of_the_spec_else_those_that_replicas_say_else_one() -> None:
    said = World(function(scaling={"target": None}), function("fixed", concurrency=10, scaling={"target": None}))

    first = said.turn(load(queued=8), load("fixed", queued=20))
    second = World(function(scaling={"target": None})).turn(load(queued=8, slots=4))

    assert first == {"echo": 8, "fixed": 2}
    assert second == {"echo": 2}


def test_a_gateway_that_is_silent_changes_nothing_and_is_said() -> None:
    world = World(function())
    world.turn(load(queued=5))

    assert world.turn(heard=False) == {"echo": 5}
    assert world.decisions()[-1].limit == "silence"
    assert world.turn(heard=False, after_s=500.0) == {"echo": 5}


def test_only_replicas_that_serve_are_ready() -> None:
    scaler = Scaler()
    views = [view("echo", 0), view("echo", 1, state="starting"), view("echo", 2, stopping=True)]
    report = LoadReport(slice_name="a", age_s=0.0, functions={})

    scaler.decide_all({"echo": function()}, [report], {"echo": Present(views=views, failed=False, was=3)}, [], NOW)

    assert scaler.decisions_of("echo")[-1].seen.ready == 1


def test_a_function_that_failed_and_has_no_calls_goes_at_once() -> None:
    world = World(function(scaling={"min_replicas": 0}))
    world.turn()
    world.failed = {"echo"}

    assert world.turn() == {"echo": 0}


def test_a_fixed_or_pinned_function_is_left_alone() -> None:
    fixed = FunctionSpec(name=FunctionName("fixed"), uid="fixed-1", image="x", replicas=3)
    pinned = function("pinned", pinned_replicas=2)
    world = World(fixed, pinned, function())

    decided = world.turn(load("fixed", queued=50), load("pinned", queued=50), load(queued=4))

    assert decided == {"fixed": 3, "pinned": 2, "echo": 4}
    assert (world.decisions("fixed"), world.decisions("pinned")) == ((), ())


def test_a_function_that_is_pinned_meanwhile_has_no_decisions_and_begins_with_the_pin_later() -> None:
    world = World(function())
    world.turn(load(queued=4))

    world.specs = {"echo": function(pinned_replicas=9)}
    assert world.turn(load(queued=4)) == {"echo": 9}
    assert world.decisions() == ()
    assert world.scaler.changed() == []

    world.specs = {"echo": function()}
    assert world.turn(load()) == {"echo": 9}


def test_a_range_that_is_changed_live_holds_at_once_and_the_calls_stay_known() -> None:
    world = World(function())
    world.turn(load())

    world.specs = {"echo": function(scaling={"min_replicas": 4})}
    assert world.turn(load()) == {"echo": 4}
    world.specs = {"echo": function(scaling={"min_replicas": 1, "max_replicas": 2})}
    assert world.turn(load()) == {"echo": 2}


# --- records


def test_changes_are_kept_and_what_is_held_between_them_is_one_record() -> None:
    world = World(function())
    for _ in range(10):
        world.turn(load())
    world.turn(load(queued=3))
    for _ in range(30):
        world.turn(load())

    assert world.records() == [(1, 1, "min"), (1, 3, ""), (3, 3, "burst")]
    assert [one.at for one in world.decisions()] == [NOW + 1, NOW + 11, NOW + 12]


def test_a_record_of_what_is_held_is_as_of_now() -> None:
    world = World(function())
    world.turn(load())
    world.turn(load(busy_s=1.0, arrivals=5))

    [only] = world.decisions()

    assert only.at == NOW + 1
    assert only.seen.per_s == 5.0
    assert only.reason.startswith("held at 1: 1.0 in flight")


def test_a_limit_that_lasts_has_a_record_of_its_own() -> None:
    world = World(function(scaling={"max_replicas": 3}))
    world.turn(load())
    for queued in (9, 9, 9):
        world.turn(load(queued=queued))
    for _ in range(3):
        world.turn(heard=False)
    world.turn(load(queued=9))

    assert world.records() == [(1, 1, "min"), (1, 3, "max"), (3, 3, "silence"), (3, 3, "max")]


def test_limits_that_come_and_go_with_the_load_share_a_record() -> None:
    world = World(function())
    world.was = {"echo": 20}
    busy = 0.0
    for at in range(40):
        busy += 20.0 if at % 2 else 18.0
        world.turn(load(busy_s=busy, arrivals=at, in_flight=20))

    assert len(world.records()) == 1


def test_the_last_20_records_are_kept() -> None:
    world = World(function())

    for number in range(2, 32):
        world.specs = {"echo": function(scaling={"min_replicas": number, "max_replicas": number})}
        world.turn(load())

    assert KEPT == 20
    assert [one.replicas for one in world.decisions()] == list(range(12, 32))


def test_a_function_has_something_to_store_until_it_is_stored() -> None:
    world = World(function(), function("other"))
    world.turn(load())
    assert sorted(world.scaler.changed()) == ["echo", "other"]

    world.scaler.stored("echo")
    assert world.scaler.changed() == ["other"]
    world.turn(load())
    assert world.scaler.changed() == ["other"]
    world.turn(load(queued=6))
    assert sorted(world.scaler.changed()) == ["echo", "other"]


def test_a_function_that_is_gone_is_forgotten() -> None:
    world = World(function())
    world.turn()
    world.specs = {}

    assert world.turn() == {}
    assert (world.decisions(), world.scaler.changed(), world.scaler.held_back("echo")) == ((), [], "")


# --- supply


def test_what_the_machines_cannot_place_is_not_asked_for_and_said() -> None:
    world = World(model("model"), gpus=2)

    assert world.turn(load("model", queued=6)) == {"model": 2}

    last = world.decisions("model")[-1]
    assert (last.wanted, last.replicas, last.limit) == (6, 2, "supply")
    what = "no GPU free: 0 of 2 are held, each replica asks for 1"
    assert last.reason == world.scaler.held_back("model") == f"2 instead of 6: {what}"


def test_the_supply_is_asked_again_at_every_turn() -> None:
    world = World(model("model"), gpus=2)
    world.turn(load("model", queued=6))
    world.turn(load("model", queued=6))

    world.gpus = 4

    assert world.turn(load("model", queued=6)) == {"model": 4}
    # What was wanted within the last minute is wanted still.
    assert world.turn(load("model", queued=0)) == {"model": 4}
    assert world.scaler.held_back("model").startswith("4 instead of 6")


def test_a_replica_that_drains_holds_its_gpu_and_does_not_count_as_there() -> None:
    world = World(model("model"), gpus=2)
    world.turn(load("model", queued=2))
    world.there, world.draining = {"model": 1}, {"model": 1}

    assert world.turn(load("model", queued=2)) == {"model": 1}
    world.draining = {}
    assert world.turn(load("model", queued=2)) == {"model": 2}


def test_a_lasting_lack_is_one_record_that_names_the_holders() -> None:
    world = World(model("model"), gpus=2)
    for _ in range(9):
        world.turn(load("model", queued=6))

    assert world.records("model") == [(1, 2, "supply")]


def test_free_gpus_are_shared_by_the_calls_that_wait() -> None:
    world = World(
        model("busy", scaling={"min_replicas": 0, "initial_replicas": 0}),
        model("calm", scaling={"min_replicas": 0, "initial_replicas": 0}),
        gpus=6,
    )

    assert world.turn(load("busy", queued=8), load("calm", queued=4)) == {"busy": 4, "calm": 2}


def test_an_idle_function_is_put_to_sleep_for_one_that_waits_which_then_starts() -> None:
    world = World(
        model("lazy", scaling={"min_replicas": 0}),
        model("eager", scaling={"min_replicas": 0, "initial_replicas": 0}),
        gpus=1,
    )
    world.turn()
    waiting = load("eager", queued=1)

    assert world.turn(waiting) == {"lazy": 0, "eager": 0}
    assert world.decisions("lazy")[-1].reason == "0 instead of 1: idle, and eager waits for a GPU"
    world.draining = {"lazy": 1}
    assert world.turn(waiting) == {"lazy": 0, "eager": 0}
    world.draining = {}
    assert world.turn(waiting) == {"lazy": 0, "eager": 1}


@pytest.mark.parametrize("active", [{"in_flight": 1}, {"queued": 1}, {"busy_s": 2.0, "arrivals": 1}])
def test_a_function_with_calls_now_or_in_the_last_seconds_is_not_put_to_sleep(active: dict[str, Any]) -> None:
    world = World(
        model("used", scaling={"min_replicas": 0}),
        model("eager", scaling={"min_replicas": 0, "initial_replicas": 0}),
        gpus=1,
    )
    world.turn(load("used"))

    assert world.turn(load("used", **active), load("eager", queued=1)) == {"used": 1, "eager": 0}


def test_a_function_with_min_1_is_not_put_to_sleep() -> None:
    world = World(model("kept"), model("eager", scaling={"min_replicas": 0, "initial_replicas": 0}), gpus=1)
    world.turn()

    assert world.turn(load("eager", queued=1)) == {"kept": 1, "eager": 0}


def test_a_fixed_function_keeps_its_gpus_and_is_named() -> None:
    fixed = FunctionSpec(name=FunctionName("fixed"), uid="fixed-1", image="x", replicas=1, limits={"gpu": "1"})
    world = World(fixed, model("eager", scaling={"min_replicas": 0, "initial_replicas": 0}), gpus=1)
    world.there = {"fixed": 1}

    assert world.turn(load("eager", queued=1)) == {"fixed": 1, "eager": 0}
    assert "1 of 1 are held by fixed" in world.scaler.held_back("eager")


def test_nobody_sleeps_while_a_deleted_function_gives_back_its_gpu() -> None:
    scaler = Scaler()
    specs = {
        "lazy": model("lazy", scaling={"min_replicas": 0}),
        "eager": model("eager", scaling={"min_replicas": 0, "initial_replicas": 0}),
    }
    present = {
        "lazy": Present(views=[view("lazy", 0, node="m1", gpus=("gpu0",))], failed=False, was=1),
        "eager": Present(views=[], failed=False, was=0),
        "gone": Present(views=[view("gone", 0, node="m1", gpus=("gpu1",), stopping=True)], failed=False, was=None),
    }
    report = LoadReport(slice_name="a", age_s=0.0, functions={"eager": load("eager", queued=1)})

    decided = scaler.decide_all(specs, [report], present, [machine(2, 2)], NOW)

    assert decided["lazy"].desired == 1


def test_the_first_call_after_a_change_of_leader_does_not_start_all() -> None:
    world = World(function())
    world.was = {"echo": 1}
    for _ in range(30):
        world.turn()

    assert world.turn(load(busy_s=9_000.5, arrivals=40_001, in_flight=1)) == {"echo": 1}


# --- any load on few GPUs

seconds = st.tuples(
    st.sampled_from([1.0, 0.2, 10.0, 100.0]),
    *(st.tuples(st.integers(0, 12), st.integers(0, 12)) for _ in range(3)),
    st.booleans(),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(seconds, min_size=1, max_size=15), st.integers(1, 6), st.integers(0, 2))
def test_every_number_is_within_min_and_max_and_all_are_within_the_supply(
    history: list[Any], gpus: int, lowest: int
) -> None:
    ranges = {"a": (0, 4), "b": (lowest, 6), "c": (lowest, 20)}
    world = World(
        *(
            model(name, scaling={"min_replicas": low, "max_replicas": high, "idle_s": 30.0})
            for name, (low, high) in ranges.items()
        ),
        gpus=gpus,
    )
    busy = dict.fromkeys(ranges, 0.0)

    for after_s, *per_function, heard in history:
        loads = []
        for name, (in_flight, queued) in zip(ranges, per_function, strict=True):
            busy[name] += in_flight * after_s
            loads.append(load(name, busy[name], in_flight=in_flight, queued=queued))
        decided = world.turn(*loads, after_s=after_s, heard=heard)

        assert sum(decided.values()) <= gpus
        for name, (low, high) in ranges.items():
            assert decided[name] <= high
            last = world.decisions(name)[-1]
            assert decided[name] >= low or last.limit == "supply"
            assert last.replicas == decided[name]
