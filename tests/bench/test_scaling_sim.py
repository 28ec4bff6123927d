"""The simulator's figures are sane: its optimum, its queue, its count of what was used."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture
def sim(monkeypatch: pytest.MonkeyPatch) -> dict[str, ModuleType]:
    """Its parts; a bench is run as a script, so that its folder is the first to be looked in."""
    monkeypatch.syspath_prepend(str(BENCH))
    return {name: importlib.import_module(f"scaling.{name}") for name in ("traces", "cluster", "rules", "report")}


class Still:
    """Never changes anything."""

    name = "still"
    next_at = float("inf")

    def act(self, now_s: float, cluster: object) -> None: ...

    def on_queue(self, now_s: float, cluster: object) -> None: ...

    def on_ready(self, now_s: float, cluster: object) -> None: ...


def test_optimum_keeps_the_aim_and_one_replica(sim: dict[str, ModuleType]) -> None:
    trace = sim["traces"].Trace(name="t", says="", levels=(0.0, 0.7, 0.71, 7.0))

    assert sim["report"].optimum(trace, 0.7) == [1, 1, 2, 10]


def test_optimum_costs_one_and_nobody_waits(sim: dict[str, ModuleType]) -> None:
    trace = sim["traces"].Trace(name="t", says="", levels=(7.0,) * 30)
    model = sim["cluster"].Model()

    run = sim["cluster"].play(trace, Still(), model, replicas=10)

    figures = sim["report"].figures_of(run, model, 0.7)
    assert figures.cost == pytest.approx(1.0)
    assert (figures.waited, figures.refused, figures.reversals_per_h) == (0, 0, 0)
    assert run.calls == pytest.approx(2100, rel=0.1)


@pytest.mark.parametrize("coarse", [False, True])
def test_calls_beyond_the_replicas_wait_and_then_are_refused(sim: dict[str, ModuleType], coarse: bool) -> None:
    trace = sim["traces"].Trace(name="t", says="", levels=(2.0,) * 20, coarse=coarse)
    model = sim["cluster"].Model(queue=50, poisson=False)

    run = sim["cluster"].play(trace, Still(), model, replicas=1)

    # Ten a second are too many: fifty of the two hundred of them wait, and the others are refused.
    assert run.calls == pytest.approx(400, abs=2)
    assert run.refused == pytest.approx(150, abs=5)
    assert run.waited > 100


def test_dcf_follows_clients_up_and_down(sim: dict[str, ModuleType]) -> None:
    trace = sim["traces"].Trace(
        name="t", says="", levels=(1.0,) * 70 + (10.0,) * 20 + (1.0,) * 140, jump_s=70.0, callers=True
    )
    model = sim["cluster"].Model()

    run = sim["cluster"].play(trace, sim["rules"].Dcf(), model, replicas=2)

    figures = sim["report"].figures_of(run, model, 0.7)
    assert figures.load_s is not None
    # None waits for long meanwhile: a line that is gone within a second is no reason to hurry.
    assert figures.load_s < 16.0
    assert run.waited == 0
    assert run.desired[-1][1] <= 3
    assert figures.reversals_per_h == pytest.approx(3600 / 230)


@pytest.mark.parametrize("number", range(4))
def test_every_rule_plays_a_short_trace(sim: dict[str, ModuleType], number: int) -> None:
    trace = sim["traces"].make("trickle", short=True, seed=1)
    rule = sim["rules"].rule_sets()[number]

    run = sim["cluster"].play(trace, rule, sim["cluster"].Model(service_s=0.5), replicas=3)

    assert run.calls == pytest.approx(2400, rel=0.1)
    assert run.used_s >= 600
