"""The scaling block of a deploy request becomes a policy, and policies and decisions go through the store."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcf.domain.scaling import (
    DEFAULT_MAX_REPLICAS,
    METRICS,
    LoadFacts,
    ScaleDecision,
    ScalingPolicy,
    decision_from_json,
    decision_to_json,
    from_labels,
    parse_scaling,
    scaling_from_json,
    scaling_to_request,
)
from dcf.errors import InvalidInputError

FULL: dict[str, Any] = {
    "min": 0, "max": 8, "target": 2, "utilization": 0.5, "metric": "rps", "idle": "90s", "initial": 3, "factor": 25,
}  # fmt: skip


# --- the block


def test_an_empty_block_has_the_defaults() -> None:
    policy = parse_scaling({})

    assert policy == ScalingPolicy()
    assert (policy.min_replicas, policy.max_replicas, policy.target, policy.factor) == (1, 20, None, None)
    assert (policy.utilization, policy.metric, policy.idle_s, policy.initial) == (0.7, "concurrency", 300.0, 1)


def test_what_is_none_or_empty_is_as_left_out() -> None:
    assert parse_scaling({**dict.fromkeys(FULL), "idle": "", "metric": ""}) == ScalingPolicy()


def test_a_full_block_reads_and_shows_the_same() -> None:
    policy = parse_scaling(FULL)

    assert policy == ScalingPolicy(
        min_replicas=0, max_replicas=8, target=2.0, utilization=0.5, metric="rps", idle_s=90.0, initial_replicas=3,
        factor=25,
    )  # fmt: skip
    assert scaling_to_request(policy) == FULL


def test_a_min_above_the_default_max_raises_it() -> None:
    assert parse_scaling({"min": 30}).max_replicas == 30
    assert parse_scaling({"min": 3}).max_replicas == DEFAULT_MAX_REPLICAS


@pytest.mark.parametrize(
    ("low", "initial", "begins_with"), [(0, None, 1), (1, None, 1), (4, None, 4), (0, 0, 0), (2, 5, 5)]
)
def test_a_function_begins_with_initial_else_with_min_and_at_least_one(
    low: int, initial: int | None, begins_with: int
) -> None:
    assert parse_scaling({"min": low, "initial": initial}).initial == begins_with


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"mni": 1}, "scaling: unknown field 'mni'; expected one of factor, idle, initial, max, metric, min, target, "),
        ({"min": -1}, "scaling.min: -1 is not a whole number from 0 to 1000"),
        ({"min": 1001}, "scaling.min: 1001 is not"),
        ({"min": True}, "scaling.min: True is not"),
        ({"min": 1.0}, "scaling.min: 1.0 is not"),
        ({"min": "1"}, "scaling.min: '1' is not"),
        ({"max": 0}, "scaling.max: 0 is not a whole number from 1 to 1000"),
        ({"max": 1001}, "scaling.max: 1001 is not"),
        ({"min": 3, "max": 2}, "scaling.max: 2 is not allowed: expected at least min, which is 3"),
        ({"target": 0}, "scaling.target: 0 is not a number above 0"),
        ({"target": -1.5}, "scaling.target: -1.5 is not"),
        ({"target": math.nan}, "scaling.target: nan is not"),
        ({"target": math.inf}, "scaling.target: inf is not"),
        ({"target": True}, "scaling.target: True is not"),
        ({"target": "2"}, "scaling.target: '2' is not"),
        ({"utilization": 0}, "scaling.utilization: 0 is not a number above 0 up to 1"),
        ({"utilization": 1.01}, "scaling.utilization: 1.01 is not a number above 0 up to 1"),
        ({"utilization": 70}, "scaling.utilization: 70 is not"),
        ({"metric": "cpu", "target": 1}, "scaling.metric: 'cpu' is neither concurrency nor rps"),
        ({"metric": ["rps"], "target": 1}, "scaling.metric: ['rps'] is neither"),
        ({"metric": "rps"}, "scaling.target: missing; metric rps needs it"),
        ({"idle": "soon"}, "scaling.idle: 'soon' is not a duration"),
        ({"idle": "0s"}, "scaling.idle: '0s' must be above 0"),
        ({"initial": 21}, "scaling.initial: 21 is not allowed: expected 1 to 20"),
        ({"initial": 0}, "scaling.initial: 0 is not allowed: expected 1 to 20"),
        ({"min": 2, "max": 4, "initial": 1}, "scaling.initial: 1 is not allowed: expected 2 to 4"),
        ({"factor": 0}, "scaling.factor: 0 is not a whole number from 1 to 100"),
        ({"factor": 101}, "scaling.factor: 101 is not a whole number from 1 to 100"),
    ],
)
def test_a_wrong_block_is_refused_and_the_field_is_named(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        parse_scaling(wrong)

    assert refused.value.message.startswith(message)


# --- labels of the original's successor


@pytest.mark.parametrize(
    ("labels", "block"),
    [
        ({}, {}),
        ({"app": "x", "scale_min": " "}, {}),
        ({"scale_min": "2"}, {"min": 2}),
        ({"scale_min": "0", "scale_max": " 7 ", "scale_factor": "20"}, {"min": 0, "max": 7, "factor": 20}),
        # 0 percent is the successor's way to say: do not scale.
        ({"scale_factor": "0"}, {"min": 1, "max": 1, "factor": 100}),
        ({"scale_min": "3", "scale_max": "9", "scale_factor": "0"}, {"min": 3, "max": 3, "factor": 100}),
        ({"scale_min": "0", "scale_factor": "0"}, {"min": 1, "max": 1, "factor": 100}),
    ],
)
def test_labels_stand_for_a_block(labels: dict[str, str], block: dict[str, int]) -> None:
    assert from_labels(labels) == block
    parse_scaling(from_labels(labels))


@pytest.mark.parametrize("text", ["two", "-1", "1.5", "²", "0x1"])
def test_a_label_that_is_no_number_is_refused_and_named(text: str) -> None:
    with pytest.raises(InvalidInputError, match=f"labels: scale_max={text!r} is not a whole number"):
        from_labels({"scale_max": text})


# --- the store


@st.composite
def blocks(draw: st.DrawFn) -> dict[str, Any]:
    low = draw(st.integers(0, 1000))
    high = draw(st.integers(max(1, low), 1000))
    metric = draw(st.sampled_from(METRICS))
    targets = st.floats(0.001, 1e6)
    block = {
        "min": low,
        "max": high,
        "metric": metric,
        "target": draw(targets if metric == "rps" else st.none() | targets),
        "utilization": draw(st.none() | st.floats(0.001, 1.0)),
        "idle": draw(st.none() | st.just("250ms") | st.integers(1, 10**6).map(lambda number: f"{number}s")),
        "initial": draw(st.none() | st.integers(low, high)),
        "factor": draw(st.none() | st.integers(1, 100)),
    }
    return {key: value for key, value in block.items() if value is not None}


@settings(max_examples=100, deadline=None)
@given(blocks())
def test_every_policy_is_read_back_from_the_request_and_from_the_store(block: dict[str, Any]) -> None:
    policy = parse_scaling(block)
    stored = {name: getattr(policy, name) for name in ScalingPolicy.__dataclass_fields__}

    assert parse_scaling(json.loads(json.dumps(scaling_to_request(policy)))) == policy
    assert scaling_from_json(json.loads(json.dumps({**stored, "of_a_newer_release": 1}))) == policy
    assert policy.min_replicas <= policy.max_replicas
    assert policy.initial <= policy.max_replicas


def test_the_block_that_an_older_release_stored_is_a_policy() -> None:
    assert scaling_from_json({"min": 2, "max": 5}) == ScalingPolicy(min_replicas=2, max_replicas=5)
    assert scaling_from_json({}) == ScalingPolicy()


def test_a_decision_is_read_back_from_the_store() -> None:
    seen = LoadFacts(in_flight=1.5, burst=4.0, now=3, queued=2, per_s=7.0, burst_per_s=9.0, came=True, ready=1)
    decision = ScaleDecision(at=12.5, seen=seen, before=1, wanted=9, replicas=4, reason="because", limit="supply")
    stored = json.loads(json.dumps(decision_to_json(decision)))

    newer = {**stored, "more": 1, "seen": {**stored["seen"], "more": 1}}

    assert decision_from_json(stored) == decision_from_json(newer) == decision


def test_a_decision_of_an_older_release_has_the_defaults_of_what_it_lacks() -> None:
    stored = {"at": 1.0, "seen": {"queued": 2}, "before": 1, "wanted": 2, "replicas": 2, "reason": "x"}

    decision = decision_from_json(stored)

    assert (decision.limit, decision.seen) == ("", LoadFacts(queued=2))


@pytest.mark.parametrize(("before", "replicas", "held"), [(1, 1, True), (1, 2, False), (2, 1, False), (0, 0, True)])
def test_a_decision_is_held_where_nothing_was_changed(before: int, replicas: int, held: bool) -> None:
    decision = ScaleDecision(at=0.0, seen=LoadFacts(), before=before, wanted=9, replicas=replicas, reason="")

    assert decision.held is held


def test_a_block_of_an_earlier_release_that_would_be_refused_now_stops_nobody() -> None:
    # It was kept as it was written then, and read by every gateway and the scheduler ever since.
    assert scaling_from_json({"metric": "rps"}) == ScalingPolicy()
    assert scaling_from_json({"min": 2, "max": 5}) == ScalingPolicy(min_replicas=2, max_replicas=5)


def test_a_label_that_is_out_of_range_is_named_as_the_user_wrote_it() -> None:
    with pytest.raises(InvalidInputError, match="scale_max='0' is not a whole number from 1 to 1000"):
        from_labels({"scale_max": "0"})
    with pytest.raises(InvalidInputError, match="scale_factor='101' is not a whole number from 0 to 100"):
        from_labels({"scale_factor": "101"})
