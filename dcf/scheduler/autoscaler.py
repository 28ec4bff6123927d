"""Decide how many replicas a function needs.

In:   LoadFacts (what gateways saw; None: nothing is known), the policy, what
      was decided before (ScaleMemory), now.
Out:  a Wish: the number that the calls ask for within the function's own
      limits, and why; supply.py says what of it can be placed.
Pure: no I/O, no clock, no randomness.

Windows and rates are Knative's (pkg/autoscaler/scaling), with three changes:
what waits counts at its present number, a change must be worth more than the
tolerance (Kubernetes' HPA), and going down follows the highest recommendation
of the last window (OpenFaaS).
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

from dcf.domain.quantity import format_duration
from dcf.domain.scaling import LoadFacts, ScalingPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingRules:
    """What is the same for all functions."""

    stable_window_s: float = 60.0
    burst_window_s: float = 6.0
    burst_threshold: float = 2.0
    """A burst: it asks for so many times the replicas that are ready."""
    tolerance: float = 0.1
    """A difference of less is noise, except from and to zero."""
    growth: float = 10.0
    """At most so many times as many within a tick, and at least one more."""
    shrinkage: float = 2.0
    """At most down to the so-many-th part within a tick."""
    scale_down_window_s: float = 60.0
    tick_s: float = 1.0


RULES = ScalingRules()


@dataclass(slots=True)
class ScaleMemory:
    """What one function's decisions leave for the next one."""

    replicas: int
    """Decided last."""
    since: float
    """When this memory began: before that nothing is known of the calls."""
    burst_until: float = 0.0
    active_at: float = 0.0
    """When there was a call last, or the function began."""
    tick_at: float = -math.inf
    tick_replicas: int = 0
    """At the beginning of the tick: rates are of it."""
    unmet: int = 0
    """What was wanted when the rate held it back; the next step goes on with it, though the line looks shorter."""
    unmet_at: float = -math.inf
    recommended: deque[tuple[float, int]] = field(default_factory=deque)
    """(when, how many), those of the scale-down window, falling: the first is the highest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What one function asks for."""

    before: int
    wanted: int
    """By its calls alone."""
    replicas: int
    """Within its rates, min and max."""
    limit: str
    """What held it back, as ScaleDecision says it; "" where nothing did."""
    policy: ScalingPolicy
    seen: LoadFacts | None
    per_replica: float = 0.0
    """What is aimed at for each replica."""
    failed: bool = False

    @property
    def reason(self) -> str:
        """One sentence. Made when it is asked for: most decisions change nothing, and nobody reads why."""
        if self.seen is None:
            return f"held at {self.replicas}: no gateway has reported for a while"
        if self.failed and self.before and not self.replicas:
            return f"down from {self.before} to 0: it cannot be started, and no call waits (min: 0)"
        seen = _seen(self.seen, self.policy, self.per_replica)
        return _reason(
            seen, self.policy, before=self.before, replicas=self.replicas, wanted=self.wanted, limit=self.limit
        )


def decide(
    load: LoadFacts | None,
    policy: ScalingPolicy,
    memory: ScaleMemory,
    *,
    slots: int,
    now_s: float,
    failed: bool = False,
    needed: bool = False,
    rules: ScalingRules = RULES,
) -> Wish:
    """Return how many replicas the calls ask for now; `memory` is moved on.

    Args:
        load: None where no gateway has a fresh word: nothing changes then, but min and max hold.
        slots: handlers that run at once in a replica, for a policy without a target; > 0.
        now_s: seconds of a clock that nobody sets; never less than in the call before.
        failed: no replica can be started now, so that there is none to keep warm.
        needed: those that are there could not be started again.

    Returns:
        `replicas` within [min, max]; 0 where min is 0 and the function is idle.
    """
    before = memory.replicas
    if load is None:
        # Unless the user moved the range: 0 is right only where it was right before.
        memory.since = now_s  # and what the calls ask for has to be seen for a while again
        kept = memory.replicas = before if before == 0 == policy.min_replicas else _clamp(before, policy)
        return Wish(before=before, wanted=before, replicas=kept, limit="silence", policy=policy, seen=None)
    if load.queued or load.now or load.came:
        memory.active_at = now_s
    if now_s - memory.tick_at >= rules.tick_s:
        memory.tick_at, memory.tick_replicas = now_s, before
    target = policy.target or float(slots)
    per_replica = target * policy.utilization
    stable, burst = _means(load, policy)
    # What waits is there in full, and needs slots, not headroom: one call at zero is one replica.
    raw, raw_burst = (mean / per_replica + load.pressing / target for mean in (stable, burst))
    if _ceil(raw_burst) >= rules.burst_threshold * max(1, load.ready):
        memory.burst_until = now_s + rules.stable_window_s
    bursting = now_s < memory.burst_until
    if before == 0:
        # Means are of the past, in which there may have been replicas: now there is what waits.
        raw = (load.queued + load.now) / target
    elif bursting:
        raw = max(raw, raw_burst)
    if now_s - memory.unmet_at <= 2 * rules.tick_s:
        raw = max(raw, float(memory.unmet))
    wanted = _ceil(raw)
    asleep = policy.min_replicas == 0 and not needed and _is_idle(load, policy, memory, now_s, failed=failed)
    replicas, limit = _step(wanted, raw, policy, memory, rules, now_s, bursting=bursting, asleep=asleep)
    memory.replicas = replicas
    return Wish(
        before=before,
        wanted=wanted,
        replicas=replicas,
        limit=limit,
        policy=policy,
        seen=load,
        per_replica=per_replica,
        failed=failed,
    )


def _means(load: LoadFacts, policy: ScalingPolicy) -> tuple[float, float]:
    """What is measured, over the stable and the burst window."""
    if policy.metric == "rps":
        return load.per_s, load.burst_per_s
    return load.in_flight, load.burst


def _step(
    wanted: int,
    raw: float,
    policy: ScalingPolicy,
    memory: ScaleMemory,
    rules: ScalingRules,
    now_s: float,
    *,
    bursting: bool,
    asleep: bool,
) -> tuple[int, str]:
    """The number within all limits, and which of them decided."""
    before = memory.replicas
    # With the tolerance on top, or a load between two numbers would be followed up and down.
    enough = _ceil(raw * (1 + rules.tolerance))
    _recommend(memory, enough, rules, now_s)
    if asleep:
        return 0, "idle"
    number, why = wanted, ""
    highest = memory.recommended[0][1]
    if number < before:
        if bursting:
            number, why = before, "burst"
        elif enough >= before:
            number, why = before, "tolerance"
        elif highest >= before:
            number, why = before, "window"
        elif now_s - memory.since < rules.scale_down_window_s:
            number, why = before, "young"
        else:
            least = math.floor(memory.tick_replicas / rules.shrinkage)
            number = max(number, highest)
            if number < least:
                number, why = least, "rate"
    elif number > before > 0 and raw - before <= rules.tolerance * before:
        number, why = before, "tolerance"
    most = max(math.floor(max(1, memory.tick_replicas) * rules.growth), memory.tick_replicas + 1)
    if policy.factor is not None:
        most = memory.tick_replicas + max(1, math.ceil(policy.max_replicas * policy.factor / 100))
    if number > most:
        memory.unmet, memory.unmet_at = number, now_s
        number, why = most, "rate"
    if wanted < number == before <= max(1, policy.min_replicas):
        why = "min"
    clamped = _clamp(number, policy)
    if clamped != number:
        number, why = clamped, "max" if clamped < number else "min"
    return number, why


def _recommend(memory: ScaleMemory, wanted: int, rules: ScalingRules, now_s: float) -> None:
    recommended = memory.recommended
    while recommended and now_s - recommended[0][0] > rules.scale_down_window_s:
        recommended.popleft()
    while recommended and recommended[-1][1] <= wanted:
        recommended.pop()
    recommended.append((now_s, wanted))


def _is_idle(load: LoadFacts, policy: ScalingPolicy, memory: ScaleMemory, now_s: float, *, failed: bool) -> bool:
    if load.queued or load.now:
        return False
    return memory.replicas == 0 or failed or now_s - memory.active_at >= policy.idle_s


def _clamp(number: int, policy: ScalingPolicy) -> int:
    """Within min and max; 0 is the idle rule's alone."""
    return min(max(number, policy.min_replicas, 1), policy.max_replicas)


def _ceil(number: float) -> int:
    """Up, but not for what is a rounding error of the mean."""
    return math.ceil(number - 1e-6)


def _seen(load: LoadFacts, policy: ScalingPolicy, per_replica: float) -> str:
    if policy.metric == "rps":
        measured, unit = max(load.per_s, load.burst_per_s), "calls/s"
    else:
        measured, unit = max(load.in_flight, load.burst), "in flight"
    # Else nobody would understand why what waits changes nothing.
    soon = " (gone within a second)" if load.queued and load.pressing < load.queued / 2 else ""
    return f"{measured:.1f} {unit}, {load.queued} waiting{soon}, {per_replica:g} a replica"


def _reason(seen: str, policy: ScalingPolicy, *, before: int, replicas: int, wanted: int, limit: str) -> str:
    if replicas == 0:
        idle = format_duration(policy.idle_s)
        return f"down from {before} to 0: no call for {idle} (idle, min: 0)" if before else "asleep: no calls (min: 0)"
    if replicas != before:
        way = "from zero" if before == 0 else f"{'up' if replicas > before else 'down'} from {before}"
        verb = "are wanted" if wanted > replicas else "would do"
        words = {
            "rate": f"; {wanted} {verb}, and the next steps go on",
            "max": f"; {wanted} are wanted, max is {policy.max_replicas}",
            "min": f"; min is {max(1, policy.min_replicas)}",
        }
        return f"{way} to {replicas}: {seen}{words.get(limit, '')}"
    words = {
        "burst": f"; {wanted} would do, but not so soon after a burst",
        "window": f"; {wanted} would do, but more were needed within the last minute",
        "young": f"; {wanted} would do, but the calls are not known for a minute yet",
        "tolerance": f"; {wanted} is within the tolerance",
        "max": f"; {wanted} are wanted, max is {policy.max_replicas}",
        "min": f"; {wanted} would do, min is {policy.min_replicas}"
        if policy.min_replicas
        else f"; the last one ends after {format_duration(policy.idle_s)} without a call (min: 0)",
        "rate": f"; {wanted} are wanted, and the next steps go on",
    }
    return f"held at {replicas}: {seen}{words.get(limit, '')}"
