"""Play a load against a rule of scaling, in virtual time.

In:   a Trace, a Rule, and how calls and starts behave (Model).
Out:  Run: what was asked for and what was ready when, what waited, what it cost.
A replica computes one call at a time; all take from one queue, first come first
served; every call takes the same time. No I/O, no clock; no dcf: rules.py has it.

Two ways to the same Run: call by call, and, for traces of a day, in steps of one
call's length, in which the queue is `max(0, queue + came - ready)`. That is the same
queue, but for calls that begin within a step: it is blind to waits below a call's length.
"""

from __future__ import annotations

import math
import random
from collections import deque
from dataclasses import dataclass, field
from typing import Protocol

from scaling.traces import Trace, arrivals

LONG_WAIT_S = 1.0
"""Who waits longer is counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """How calls and starts behave, the same for all rules."""

    service_s: float = 0.1
    """A call at a replica, > 0."""
    start_s: float = 2.0
    """From the wish for a replica until it takes calls."""
    queue: int = 1000
    """More calls than that do not wait but are refused; the default of a DCF function."""
    poisson: bool = True
    seed: int = 1


class Rule(Protocol):
    """Decides how many replicas there shall be, by `cluster.scale`."""

    name: str
    next_at: float
    """When `act` is to be called next; math.inf: never."""

    def act(self, now_s: float, cluster: Cluster) -> None:
        """What was planned for now."""

    def on_queue(self, now_s: float, cluster: Cluster) -> None:
        """1, 2, 4, 8 ... calls wait."""

    def on_ready(self, now_s: float, cluster: Cluster) -> None:
        """Replicas have become ready."""


@dataclass(slots=True)
class Run:
    """What came of it."""

    trace: Trace
    rule: str
    calls: int = 0
    waited: int = 0
    """Longer than LONG_WAIT_S, and answered."""
    refused: int = 0
    """The queue was full."""
    used_s: float = 0.0
    """Replica-seconds, from the wish for a replica until it is gone."""
    desired: list[tuple[float, int]] = field(default_factory=list)
    """Each change: (when, how many from then on); the first at 0."""
    ready: list[tuple[float, int]] = field(default_factory=list)


class Cluster:
    """Replicas and what they have seen, as a rule may know it. Touched only by `play`."""

    def __init__(self, model: Model, run: Run, replicas: int) -> None:
        self.model = model
        self.run = run
        self.desired = self.ready = replicas
        self.starting: deque[float] = deque()
        """When each will be ready, ascending."""
        self.draining = 0
        """Replicas that go once the call that they have is answered; they are no more among `ready`."""
        self.running = 0
        """Calls at replicas."""
        self.queued = 0
        self.oldest_at = math.inf
        """When the one that has waited longest came; math.inf where none waits."""
        self.arrivals = self.answered = 0
        self.begun_s = 0.0
        """Sum of the times at which the running calls began."""
        self._since_s = 0.0
        run.desired.append((0.0, replicas))
        run.ready.append((0.0, replicas))

    def busy_s(self, now_s: float) -> float:
        """Integral of `running` over time."""
        return self.answered * self.model.service_s + self.running * now_s - self.begun_s

    @property
    def free(self) -> int:
        """Calls that could begin now."""
        return self.ready + self.draining - self.running

    def scale(self, replicas: int, now_s: float) -> None:
        """Ask for so many: down takes those that start first, then the idle ones, and of the busy ones any."""
        if replicas == self.desired:
            return
        self.count(now_s)
        more = replicas - self.desired
        self.desired = replicas
        self.run.desired.append((now_s, replicas))
        if more > 0:
            self.starting.extend([now_s + self.model.start_s] * more)
            return
        while more < 0 and self.starting:
            self.starting.pop()
            more += 1
        if more < 0:
            idle = min(self.free, -more)
            self.ready += more
            self.draining += -more - idle
            self.run.ready.append((now_s, self.ready))

    def admit(self, now_s: float) -> None:
        """Those whose start is over are ready."""
        self.count(now_s)
        while self.starting and self.starting[0] <= now_s:
            self.starting.popleft()
            self.ready += 1
        self.run.ready.append((now_s, self.ready))

    def count(self, now_s: float) -> None:
        """Add what the replicas that are there have cost; before each change of their number."""
        self.run.used_s += (self.ready + len(self.starting) + self.draining) * (now_s - self._since_s)
        self._since_s = now_s


def play(trace: Trace, rule: Rule, model: Model, *, replicas: int = 1) -> Run:
    """The whole trace, which `replicas` meet at its beginning."""
    run = Run(trace=trace, rule=rule.name)
    cluster = Cluster(model, run, replicas)
    if trace.coarse:
        _play_steps(trace, rule, model, cluster)
    elif trace.callers:
        _play_calls(trace, rule, model, cluster, callers=trace)
    else:
        _play_calls(trace, rule, model, cluster, callers=None)
    cluster.count(trace.length_s)
    run.calls = cluster.arrivals
    return run


def _play_calls(trace: Trace, rule: Rule, model: Model, cluster: Cluster, *, callers: Trace | None) -> None:
    """Call by call."""
    run, service_s, end_s = cluster.run, model.service_s, trace.length_s
    chance = random.Random(f"{model.seed} {trace.name} calls") if model.poisson else None
    coming = iter(()) if callers else arrivals(trace, service_s, chance)
    came_at: deque[float] = deque()  # of those that wait
    begun: deque[float] = deque()  # of those that run; all take as long, so that the first to begin ends first
    next_call = next(coming, math.inf)
    clients, next_look = 0, 0.0 if callers else math.inf
    while True:
        next_end = begun[0] + service_s if begun else math.inf
        next_ready = cluster.starting[0] if cluster.starting else math.inf
        now_s = min(next_call, next_end, next_ready, rule.next_at, next_look)
        if now_s >= end_s:
            return
        new = 0
        if now_s == next_end:
            cluster.begun_s -= begun.popleft()
            cluster.running -= 1
            cluster.answered += 1
            if cluster.draining:
                cluster.count(now_s)
                cluster.draining -= 1
            if callers:
                if clients <= callers.at(now_s):
                    new = 1
                else:
                    clients -= 1
        elif now_s == next_call:
            new = 1
            next_call = next(coming, math.inf)
        elif now_s == next_ready:
            cluster.admit(now_s)
            rule.on_ready(now_s, cluster)
        elif now_s == next_look:  # clients come at whole steps and leave when they are answered
            assert callers is not None
            new = max(0, int(callers.at(now_s)) - clients)
            clients, next_look = clients + new, now_s + trace.step_s
        else:
            rule.act(now_s, cluster)
        for _ in range(new):
            cluster.arrivals += 1
            if cluster.queued >= model.queue:
                run.refused += 1
                continue
            came_at.append(now_s)
            cluster.queued += 1
            if cluster.queued > cluster.free and cluster.queued & (cluster.queued - 1) == 0:
                rule.on_queue(now_s, cluster)
        while came_at and cluster.free > 0:
            cluster.queued -= 1
            if now_s - came_at.popleft() > LONG_WAIT_S:
                run.waited += 1
            begun.append(now_s)
            cluster.begun_s += now_s
            cluster.running += 1
        cluster.oldest_at = came_at[0] if came_at else math.inf


def _play_steps(trace: Trace, rule: Rule, model: Model, cluster: Cluster) -> None:
    """In steps of one call's length."""
    run, step_s = cluster.run, model.service_s
    chance = random.Random(f"{model.seed} {trace.name} calls")
    carry = 0.0
    for number in range(int(trace.length_s / step_s)):
        now_s = number * step_s
        cluster.answered += cluster.running
        cluster.running, cluster.begun_s = 0, 0.0
        if cluster.draining:
            cluster.count(now_s)
            cluster.draining = 0
        level = trace.at(now_s)
        # A Poisson number's normal stand-in; what is cut off by rounding goes over, so that the mean holds.
        drawn = carry + (chance.gauss(level, math.sqrt(level)) if model.poisson else level)
        came = max(0, round(drawn))
        carry = drawn - came
        before = cluster.queued
        running = min(cluster.ready, before + came)
        left = before + came - running
        refused = max(0, left - model.queue)
        cluster.arrivals += came
        run.refused += refused
        cluster.running, cluster.queued = running, left - refused
        cluster.begun_s = running * now_s
        oldest_s = step_s * cluster.queued / max(1, cluster.ready)
        cluster.oldest_at = now_s - oldest_s if cluster.queued else math.inf
        if oldest_s > LONG_WAIT_S:
            run.waited += came - refused  # the last of them waits so long; those of a step are one
        if cluster.queued.bit_length() > before.bit_length():
            rule.on_queue(now_s, cluster)
        while True:
            next_ready = cluster.starting[0] if cluster.starting else math.inf
            at = min(next_ready, rule.next_at)
            if at >= now_s + step_s:
                break
            if at == next_ready:
                cluster.admit(at)
                rule.on_ready(at, cluster)
            else:
                rule.act(at, cluster)
