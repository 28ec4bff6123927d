"""The verdicts of the call path's benchmark: ratios of neighbours, what is met, what was not measured."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> dict[str, ModuleType]:
    """Its parts; a bench is run as a script, so that its folder is the first to be looked in."""
    monkeypatch.syspath_prepend(str(BENCH))
    return {name: importlib.import_module(f"calls.{name}") for name in ("lines", "measure", "plan")}


def run(calls: dict[str, ModuleType], side: str, per_s: float, number: int = 0, **others: Any) -> Any:
    facts: dict[str, Any] = {
        "block": "echo/peer", "load": "100 B x 64", "mb_per_s": 0.0, "p50_ms": 1.0, "p99_ms": 2.0, "cpu_us": 10.0,
        "memory_mib": 1.0, "gateway_peak_mib": 0.0, "cpu_us_by_role": {}, "others": 0.0,
    }  # fmt: skip
    return calls["measure"].Run(side=side, per_s=per_s, round=number, **(facts | others))


def test_a_ratio_is_the_median_of_the_rounds_own(calls: dict[str, ModuleType]) -> None:
    runs = [run(calls, "dcf", rate, number) for number, rate in enumerate((20.0, 300.0, 40.0))]
    runs += [run(calls, "peer", rate, number) for number, rate in enumerate((10.0, 100.0, 10.0))]

    assert calls["lines"].against("echo/peer", "100 B x 64", "per_s")(runs) == 3.0
    assert calls["lines"].against("echo/peer", "100 B x 64", "per_s", other_first=True)(runs) == pytest.approx(1 / 3)


def test_a_round_that_only_one_side_has_counts_for_nothing(calls: dict[str, ModuleType]) -> None:
    runs = [run(calls, "dcf", 20.0, 0), run(calls, "dcf", 90.0, 1), run(calls, "peer", 10.0, 0)]

    assert calls["lines"].against("echo/peer", "100 B x 64", "per_s")(runs) == 2.0


def test_our_own_figure_is_of_all_blocks_of_its_workload_alone(calls: dict[str, ModuleType]) -> None:
    runs = [
        run(calls, "dcf", 1.0, p50_ms=11.0, block="sleep/one", load="500 a second"),
        run(calls, "dcf", 1.0, p50_ms=13.0, block="sleep", load="500 a second"),
        run(calls, "dcf", 1.0, p50_ms=99.0, block="echo/one", load="500 a second"),
    ]

    assert calls["lines"].ours("sleep", "500 a second", "p50_ms", 10.0)(runs) == 2.0


def test_one_limit_that_is_met_is_enough(calls: dict[str, ModuleType]) -> None:
    lines = calls["lines"]
    low = lines.Limit(value=lambda runs: 1.0, must=2, aim=None, unit="/s")
    high = lines.Limit(value=lambda runs: 3.0, must=2, aim=4, unit="x")

    verdict = lines.judge(lines.Line(says="", limits=(low, high)), [])

    assert (verdict.must_met, verdict.aim_met) == (True, False)


def test_at_most_is_met_from_below(calls: dict[str, ModuleType]) -> None:
    lines = calls["lines"]
    limit = lines.Limit(value=lambda runs: 0.3, must=0.5, aim=0.2, unit="x", at_most=True)

    verdict = lines.judge(lines.Line(says="", limits=(limit,)), [])

    assert (verdict.must_met, verdict.aim_met) == (True, False)


def test_what_was_not_measured_is_neither_met_nor_missed(calls: dict[str, ModuleType]) -> None:
    for line in calls["lines"].LINES:
        verdict = calls["lines"].judge(line, [])
        assert (verdict.must_met, verdict.aim_met) == (None, None)


def test_every_line_is_measured_by_the_whole_plan(calls: dict[str, ModuleType]) -> None:
    runs = [
        run(calls, side, 1.0, number, block=block.name, load=load.name, mb_per_s=1.0)
        for block in calls["plan"].plan(short=False).blocks
        for load in block.loads
        for side in ("dcf", block.other)
        for number in range(2)
    ]

    assert [line.says for line in calls["lines"].LINES if calls["lines"].judge(line, runs).must_met is None] == []
