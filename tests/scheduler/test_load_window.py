"""What gateways report as running totals becomes means over two windows, whatever is missed, restarted or gone."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcf.domain.load import REPORT_TTL_S, FunctionLoad, LoadReport, load_from_json, load_to_json
from dcf.domain.scaling import LoadFacts
from dcf.scheduler.load_window import LoadWindow

NOW = 5_000.0


def said(busy_s: float = 0.0, arrivals: int = 0, **other: Any) -> FunctionLoad:
    return FunctionLoad(**{"uid": "u1", "busy_s": busy_s, "arrivals": arrivals, **other})


def window() -> LoadWindow:
    return LoadWindow("u1", stable_s=60.0, burst_s=6.0)


def hear(one: LoadWindow, at: float, **loads: FunctionLoad | None) -> LoadFacts:
    """Each gateway's word at that second, and the facts that follow."""
    one.add(list(loads.items()), NOW + at)
    return one.facts(ready=3, slots=1)


def steady(one: LoadWindow, seconds: range, busy: float, arrivals: int, gateway: str = "a") -> LoadFacts:
    """A report at each of these seconds, with totals that grew evenly since second 0."""
    facts = LoadFacts()
    for at in seconds:
        facts = hear(one, at, **{gateway: said(busy * at, arrivals * at)})
    return facts


def means(facts: LoadFacts) -> tuple[float, float, float, float]:
    return tuple(round(one, 6) for one in (facts.in_flight, facts.burst, facts.per_s, facts.burst_per_s))  # type: ignore[return-value]


# --- means


def test_an_even_load_is_its_own_mean_in_both_windows() -> None:
    one = window()

    assert means(steady(one, range(4), 2.5, 4)) == (2.5, 2.5, 4.0, 4.0)
    assert means(steady(one, range(4, 200), 2.5, 4)) == (2.5, 2.5, 4.0, 4.0)


def test_a_step_is_in_the_burst_window_after_6_s_and_in_the_stable_one_after_60() -> None:
    one = window()
    steady(one, range(101), 0.0, 0)

    after = {at: means(hear(one, 100 + at, a=said(12.0 * at, 6 * at))) for at in range(1, 62)}

    assert after[1] == (0.2, 2.0, 0.1, 1.0)
    assert after[3] == (0.6, 6.0, 0.3, 3.0)
    assert after[6] == (1.2, 12.0, 0.6, 6.0)
    assert after[30] == (6.0, 12.0, 3.0, 6.0)
    assert after[60] == after[61] == (12.0, 12.0, 6.0, 6.0)


def test_what_is_over_leaves_the_windows() -> None:
    one = window()
    steady(one, range(101), 3.0, 1)

    after = {at: means(hear(one, 100 + at, a=said(300.0, 100))) for at in range(1, 62)}

    assert after[3][:2] == (2.85, 1.5)
    assert after[6][:2] == (2.7, 0.0)
    assert after[60] == (0.0, 0.0, 0.0, 0.0)


def test_what_a_gateway_counted_before_it_was_heard_is_no_growth() -> None:
    one = window()

    assert means(hear(one, 0, a=said(9_000.0, 4_000))) == (0.0, 0.0, 0.0, 0.0)
    assert means(hear(one, 2, a=said(9_004.0, 4_010))) == (2.0, 2.0, 5.0, 5.0)


def test_two_reports_in_quick_succession_are_no_storm() -> None:
    one = window()
    hear(one, 0, a=said(0.0, 0))

    # A tenth of a second is no span to divide by.
    assert means(hear(one, 0.1, a=said(0.1, 3))) == (0.1, 0.1, 3.0, 3.0)


def test_many_wake_ups_change_no_mean_and_make_no_long_history() -> None:
    one = window()
    facts = LoadFacts()

    for step in range(50 * 200):
        at = step / 50
        facts = hear(one, at, a=said(2.0 * at, int(10 * at)))

    assert facts.in_flight == pytest.approx(2.0)
    assert facts.burst == pytest.approx(2.0)
    assert facts.burst_per_s == pytest.approx(10.0, abs=0.2)
    assert len(one._slices["a"].points) <= 60 / 0.25


def test_a_step_between_many_wake_ups_is_seen_in_time() -> None:
    one = window()
    facts = LoadFacts()

    for step in range(50 * 106 + 1):
        at = step / 50
        facts = hear(one, at, a=said(12.0 * max(0.0, at - 100.0)))

    assert facts.burst == pytest.approx(12.0, rel=0.05)
    assert facts.in_flight == pytest.approx(1.2, rel=0.05)


def test_what_is_now_is_of_the_last_reports_alone() -> None:
    one = window()
    hear(one, 0, a=said(1.0, 9, in_flight=8, queued=7, oldest_wait_s=5.0, slots=4))

    facts = hear(one, 1, a=said(2.0, 9, in_flight=2, queued=1, oldest_wait_s=0.5))

    assert (facts.now, facts.queued, facts.ready) == (2, 1, 3)
    assert (one.oldest_wait_s, one.slots) == (0.5, 4)


# --- what goes wrong with reports


def test_a_report_that_was_missed_changes_nothing() -> None:
    whole, gappy = window(), window()
    steady(whole, range(100), 2.5, 4)
    steady(gappy, range(90), 2.5, 4)

    hear(gappy, 95, a=said(2.5 * 95, 4 * 95))
    hear(gappy, 96, a=None)
    hear(gappy, 97, a=said(2.5 * 95, 4 * 95))  # the same word, read once more
    seen = hear(gappy, 99, a=said(2.5 * 99, 4 * 99))

    assert seen.in_flight == pytest.approx(whole.facts(ready=3, slots=1).in_flight)
    assert seen.per_s == pytest.approx(4.0)
    assert seen.burst == pytest.approx(2.5)


def test_a_long_silence_is_filled_evenly() -> None:
    one = window()
    steady(one, range(100), 2.0, 3)

    assert means(hear(one, 300, a=said(600.0, 900))) == (2.0, 2.0, 3.0, 3.0)


@pytest.mark.parametrize("again", [said(0.0, 0), said(3.0, 2), said(0.5, 900), said(900.0, 2)])
def test_a_gateway_that_began_anew_counts_from_there_and_never_below_zero(again: FunctionLoad) -> None:
    one = window()
    steady(one, range(100), 5.0, 5)

    first = hear(one, 100, a=again)
    second = hear(one, 101, a=said(again.busy_s + 4.0, again.arrivals + 2))

    assert means(first) == (0.0, 0.0, 0.0, 0.0)
    assert means(second) == (4.0, 4.0, 2.0, 2.0)


def test_gateways_add_up() -> None:
    one = window()
    for at in range(80):
        facts = hear(
            one, at, a=said(2.0 * at, at, in_flight=2, queued=1), b=said(0.5 * at, 4 * at, in_flight=1, queued=5)
        )

    assert means(facts) == (2.5, 2.5, 5.0, 5.0)
    assert (facts.now, facts.queued) == (3, 6)


def test_the_oldest_wait_is_that_of_any_gateway() -> None:
    one = window()

    hear(one, 0, a=said(oldest_wait_s=1.0), b=said(oldest_wait_s=7.0), c=said(oldest_wait_s=2.0))

    assert one.oldest_wait_s == 7.0


def test_a_gateway_that_is_gone_stops_counting() -> None:
    one = window()
    for at in range(80):
        hear(one, at, a=said(2.0 * at, at), b=said(8.0 * at, 4 * at, in_flight=8, queued=3))

    facts = hear(one, 80, a=said(160.0, 80))

    assert means(facts) == (2.0, 2.0, 1.0, 1.0)
    assert (facts.now, facts.queued) == (0, 0)


def test_a_gateway_that_is_back_brings_no_growth_of_its_absence() -> None:
    one = window()
    hear(one, 0, a=said(0.0, 0), b=said(10.0, 10))
    hear(one, 1, a=said(0.0, 0))

    assert means(hear(one, 2, a=said(0.0, 0), b=said(500.0, 600))) == (0.0, 0.0, 0.0, 0.0)


def test_the_calls_of_an_earlier_function_of_that_name_do_not_count() -> None:
    one = window()
    hear(one, 0, a=said(0.0, 0))

    facts = hear(one, 1, a=said(50.0, 70, uid="u0", in_flight=9, queued=9, oldest_wait_s=9.0, slots=9))

    assert facts == LoadFacts(ready=3)
    assert (one.oldest_wait_s, one.slots) == (0.0, 0)


def test_nobody_heard_is_nothing() -> None:
    assert window().facts(ready=3, slots=1) == LoadFacts(ready=3)


def test_a_function_that_a_gateway_leaves_out_stands_still() -> None:
    one = window()
    steady(one, range(100), 2.0, 1)

    facts = LoadFacts()
    for at in range(100, 131):
        facts = hear(one, at, a=None)

    assert means(facts)[:2] == (round(2.0 * 29 / 60, 6), 0.0)
    assert (facts.now, facts.queued, facts.came) == (0, 0, False)


def test_the_first_call_after_a_long_quiet_is_one_call() -> None:
    one = window()
    steady(one, range(100), 2.0, 1)
    for at in range(100, 1000):
        hear(one, at, a=None)

    facts = hear(one, 1000, a=said(198.5, 100))

    assert facts.burst == pytest.approx(0.5 / 6)
    assert facts.burst_per_s == pytest.approx(1 / 6)


def test_the_first_call_that_a_new_leader_sees_of_a_quiet_function_is_not_its_whole_life() -> None:
    one = window()
    # LoadPublisher leaves out a function without calls for 15 s, and goes on with its totals later.
    hear(one, 0, a=None)
    hear(one, 1, a=None)

    facts = hear(one, 2, a=said(9_000.5, 40_001, in_flight=1))

    assert facts.burst <= 1.0
    assert facts.burst_per_s <= 1.0
    assert facts.came


# --- whether a call came


def test_came_is_whether_a_call_came_since_the_last_time() -> None:
    one = window()

    came = [
        hear(one, at, **loads).came
        for at, loads in enumerate(
            [
                {"a": said(0.0, 0)}, {"a": said(0.0, 1)}, {"a": said(9.0, 1)}, {"a": None},
                {"a": said(9.0, 1), "b": said(0.0, 0)}, {"a": said(9.0, 1), "b": said(0.0, 1)},
                {"a": said(9.0, 1), "b": said(0.0, 1)}, {"a": said(9.0, 5, uid="u0"), "b": said(0.0, 1)},
            ]
        )
    ]  # fmt: skip

    assert came == [False, True, False, False, False, True, False, False]


def test_a_gateway_that_is_heard_first_and_has_had_calls_says_that_one_came() -> None:
    assert hear(window(), 0, a=said(5.0, 3)).came
    assert not hear(window(), 0, a=said(0.0, 0)).came


def test_calls_of_a_gateway_that_began_anew_have_come() -> None:
    one = window()
    hear(one, 0, a=said(50.0, 70))

    assert hear(one, 1, a=said(0.2, 1)).came


# --- reports


def test_a_report_counts_for_as_long_as_it_is_fresh() -> None:
    reports = [LoadReport(slice_name=f"{age}", age_s=age, functions={}) for age in (0.0, REPORT_TTL_S, 5.001, 60.0)]

    assert [one.slice_name for one in reports if one.is_fresh] == ["0.0", "5.0"]


def test_a_load_is_read_back_from_the_store_without_what_is_nothing() -> None:
    full = said(
        2.5, 9, answered=7, errors=1, in_flight=2, queued=3, held=1, oldest_wait_s=0.25, slots=4, per_s=1.5,
        durations={3: 7, 11: 1}, first_answer_s=0.75,
    )  # fmt: skip

    assert load_from_json(json.loads(json.dumps({**load_to_json(full), "of_a_newer_release": 1}))) == full
    assert load_to_json(said()) == {"uid": "u1"}
    assert load_from_json({"uid": "u1"}) == said()


# --- any order of reports

words = st.tuples(
    st.sampled_from([0.0, 0.02, 0.4, 1.0, 5.0, 80.0]),
    st.dictionaries(
        st.sampled_from(["a", "b", "c"]),
        st.none() | st.builds(said, st.floats(0, 100).map(lambda busy: round(busy, 2)), st.integers(0, 50)),
    ),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(words, max_size=20))
def test_no_mean_is_ever_below_zero(heard: list[tuple[float, dict[str, FunctionLoad | None]]]) -> None:
    one, at = window(), 0.0

    for wait_s, loads in heard:
        at += wait_s
        facts = hear(one, at, **loads)

        assert min(means(facts)) >= 0.0
        assert len(one._slices) == len(loads)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.sampled_from([0.02, 0.4, 1.0, 1.3, 5.0, 30.0]), min_size=1, max_size=60),
    st.floats(0.01, 300.0),
)
def test_however_it_is_read_an_even_load_is_its_own_mean(waits: list[float], busy: float) -> None:
    one, at = window(), 0.0
    hear(one, at, a=said(7.0))

    for wait_s in [1.0, *waits]:
        at += wait_s
        facts = hear(one, at, a=said(7.0 + busy * at))

    assert facts.in_flight == pytest.approx(busy)
    assert facts.burst == pytest.approx(busy)


def pressing(*reports: FunctionLoad, ready: int = 1) -> float:
    window = LoadWindow("u1", stable_s=60.0, burst_s=6.0)
    window.add([(f"gateway-{number}", one) for number, one in enumerate(reports)], 1000.0)
    return window.facts(ready=ready, slots=2).pressing


def waiting(queued: int, wait_s: float, handler_s: float) -> FunctionLoad:
    return FunctionLoad(uid="u1", queued=queued, oldest_wait_s=wait_s, handler_s=handler_s)


def test_all_that_waits_presses_where_nothing_is_known_of_the_replicas() -> None:
    assert pressing(waiting(8, 5.0, 0.0)) == 8.0
    assert pressing(waiting(8, 5.0, 0.1), ready=0) == 8.0
    assert pressing(FunctionLoad(uid="u1")) == 0.0


def test_a_line_that_has_just_begun_presses_in_full() -> None:
    assert pressing(waiting(100, 0.02, 0.1)) == 100.0
    assert pressing(*[waiting(50, 0.02, 0.1)] * 2) == 100.0


def test_a_line_that_grows_is_the_load_that_comes_and_its_clearing() -> None:
    # 1 000 calls of 0.1 s in a second are a load of 100; to clear them within 2 s takes 50 more.
    assert pressing(waiting(1000, 1.0, 0.1)) == pytest.approx(150.0)


def test_a_line_that_is_gone_before_a_replica_could_start_hardly_presses() -> None:
    # 4 calls of 0.1 s at 2 slots are gone in 0.2 s: a fifth of them counts.
    assert pressing(waiting(4, 0.05, 0.1)) == pytest.approx(0.8)
