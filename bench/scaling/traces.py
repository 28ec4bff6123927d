"""Give the loads that the rules of scaling are tried on.

In:   a seed, and whether they shall be short.
Out:  Trace: how many calls would run at every instant if none ever waited.
Pure: the same seed makes the same load.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

DAY_S = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """One load. It is constant within a step, so that calls can be drawn from it exactly."""

    name: str
    says: str
    levels: tuple[float, ...]
    """Calls in flight that it amounts to (calls per second times seconds of a call), one a step, >= 0."""
    step_s: float = 1.0
    jump_s: float | None = None
    """When it jumps from little to much; None: it does not, and there is no time to capacity."""
    coarse: bool = False
    """Too long for call by call: it is computed in steps of one call's length."""
    callers: bool = False
    """So many clients that each call again once they are answered, instead of calls that come whatever happens."""

    @property
    def length_s(self) -> float:
        """Of the whole."""
        return len(self.levels) * self.step_s

    def at(self, now_s: float) -> float:
        """The level at `now_s`; after the end the last one."""
        return self.levels[min(int(now_s / self.step_s), len(self.levels) - 1)]


def arrivals(trace: Trace, service_s: float, chance: random.Random | None) -> Iterator[float]:
    """When calls come, ascending: a Poisson process of the trace's rate, or evenly spaced where `chance` is None."""
    need = chance.expovariate(1.0) if chance else 1.0
    for number, level in enumerate(trace.levels):
        rate, at, end = level / service_s, number * trace.step_s, (number + 1) * trace.step_s
        # A unit process, in time that the rate stretches: what is left of a gap goes over to the next step.
        while rate > 0.0 and at + need / rate < end:
            at += need / rate
            yield at
            need = chance.expovariate(1.0) if chance else 1.0
        need -= max(0.0, end - at) * rate


def _step(short: bool, seed: int) -> Trace:
    before, high, after = (70, 150, 150) if short else (120, 480, 600)
    return Trace(
        name="step",
        says="1, then 100 calls in flight, then 1; calls come at their rate, whether answered or not",
        levels=(1.0,) * before + (100.0,) * high + (1.0,) * after,
        jump_s=float(before),
    )


def _clients(short: bool, seed: int) -> Trace:
    before, high, after = (70, 150, 150) if short else (120, 480, 600)
    return Trace(
        name="clients",
        says="1, then 100, then 1 client that calls again once answered",
        levels=(1.0,) * before + (100.0,) * high + (1.0,) * after,
        jump_s=float(before),
        callers=True,
    )


def _ramp(short: bool, seed: int) -> Trace:
    way_s = 120 if short else 600
    up = tuple(1.0 + 99.0 * second / way_s for second in range(way_s))
    return Trace(name="ramp", says=f"1 to 100 in {way_s} s, and back", levels=up + (100.0,) * 120 + up[::-1])


def _spikes(short: bool, seed: int) -> Trace:
    chance = random.Random(f"{seed} spikes")
    levels: list[float] = []
    while len(levels) < (400 if short else 3600):
        levels += [5.0] * chance.randrange(90, 240) + [50.0] * 10
    return Trace(name="spikes", says="5, and 50 for 10 s every 90 to 240 s", levels=tuple(levels))


def _sine(short: bool, seed: int) -> Trace:
    day_s = 3600 if short else DAY_S
    levels = tuple(50.0 - 45.0 * math.cos(2 * math.pi * second / day_s) for second in range(day_s))
    return Trace(name="sine", says=f"5 to 95 and back in {day_s / 3600:.0f} h", levels=levels, coarse=True)


def _noise(short: bool, seed: int) -> Trace:
    return _noisy("noise", 20.0, short, seed)


def _trickle(short: bool, seed: int) -> Trace:
    return _noisy("trickle", 2.0, short, seed)


def _noisy(name: str, level: float, short: bool, seed: int) -> Trace:
    chance = random.Random(f"{seed} {name}")
    # Ten seconds each: drawn anew every second it would be nothing in the mean of a minute.
    levels = tuple(max(0.0, level * (1.0 + chance.gauss(0.0, 0.1))) for _ in range(60 if short else 360))
    return Trace(name=name, says=f"{level:g} with 10 % of noise, drawn every 10 s", levels=levels, step_s=10.0)


def _sawtooth(short: bool, seed: int) -> Trace:
    tooth = tuple(5.0 + 30.0 * second / 60 for second in range(60))
    return Trace(name="sawtooth", says="5 to 35 in 60 s, again and again", levels=tooth * (6 if short else 30))


def _bursty(short: bool, seed: int) -> Trace:
    """Sources that are on and off for times with a Pareto tail (shape 1.5): bursts on every scale of time."""
    chance = random.Random(f"{seed} bursty")
    length = 600 if short else 3600
    levels = [0.0] * length
    for _ in range(40):
        # Begins long before, so that the trace does not begin with all of them at one point of their lives.
        at, on = -3600.0 * chance.random() - 600.0, chance.random() < 0.25
        while at < length:
            lasts_s = (5.0 if on else 15.0) * chance.paretovariate(1.5)
            if on:
                for second in range(max(0, math.ceil(at)), min(length, math.ceil(at + lasts_s))):
                    levels[second] += 1.0
            at, on = at + lasts_s, not on
    return Trace(name="bursty", says="40 sources, on and off for Pareto times; 10 in the mean", levels=tuple(levels))


MAKERS: dict[str, Callable[[bool, int], Trace]] = {
    "step": _step,
    "clients": _clients,
    "ramp": _ramp,
    "spikes": _spikes,
    "noise": _noise,
    "trickle": _trickle,
    "sawtooth": _sawtooth,
    "bursty": _bursty,
    "sine": _sine,
}
"""By name, in the order of the table."""


def make(name: str, *, short: bool, seed: int) -> Trace:
    """The trace of that name."""
    return MAKERS[name](short, seed)
