"""Keep each function's number of replicas, and say why it is what it is.

In:   specs, what gateways report, the replicas that are there, the machines.
Out:  a number for each function: the spec's own where it is fixed, else what
      autoscaler.py wishes for and supply.py grants; the decisions of late.
It remembers; the arithmetic is in those two rooms.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from dcf.domain.function import FunctionSpec
from dcf.domain.load import LoadReport
from dcf.domain.scaling import LoadFacts, ScaleDecision, ScalingPolicy
from dcf.domain.status import NodeStatus
from dcf.scheduler.autoscaler import RULES, ScaleMemory, ScalingRules, Wish, decide
from dcf.scheduler.load_window import LoadWindow
from dcf.scheduler.reconciler import ReplicaView
from dcf.scheduler.supply import Claim, Grant, Need, need_of, share

KEPT = 20
"""Decisions of a function that are remembered."""
REFRESH_S = 5.0
"""The figures of a record that goes on to hold are renewed so often."""
FIRST_SLOTS = 1
"""Handlers that run at once in a replica, until one has said: that of a sync handler."""


LASTING = frozenset({"max", "supply", "silence"})
"""Limits that are worth a record of their own while they hold; the others come and go with every breath of the load."""


@dataclass(slots=True)
class _Function:
    uid: str
    window: LoadWindow
    memory: ScaleMemory
    decisions: deque[ScaleDecision] = field(default_factory=lambda: deque(maxlen=KEPT))
    changed: bool = False
    """A record was added that is not stored yet."""
    noted_at: float = 0.0
    """When the last record was made, or had its figures renewed."""
    base: FunctionSpec | None = None
    scaled: FunctionSpec | None = None
    """What `scale` made last, and of what."""

    def scale(self, base: FunctionSpec, replicas: int) -> FunctionSpec:
        """The spec with its number; the same object as before where nothing is new."""
        if self.scaled is None or base is not self.base or self.scaled.desired != replicas:
            self.base, self.scaled = base, base.scaled_to(replicas)
        return self.scaled

    def note(self, wish: Wish, grant: Grant | None, replicas: int, *, at: float, now_s: float) -> None:
        """Keep each change and each limit that lasts; what is held for the same reason is one record."""
        limit = "supply" if replicas != wish.replicas else wish.limit
        before = wish.before if self.scaled is None else self.scaled.desired
        last, held = self.decisions[-1] if self.decisions else None, replicas == before
        if last is not None and held and limit == last.limit and (not last.held or now_s - self.noted_at < REFRESH_S):
            return
        reason = wish.reason
        if limit == "supply" and grant is not None:
            reason = f"{replicas} instead of {wish.replicas}: {grant.reason}"
        made = ScaleDecision(
            at=at,
            seen=wish.seen or LoadFacts(),
            before=before,
            wanted=wish.wanted,
            replicas=replicas,
            reason=reason,
            limit=limit,
        )
        self.noted_at = now_s
        if last is not None and held and last.held and (limit == last.limit or not {limit, last.limit} & LASTING):
            self.decisions[-1] = replace(made, at=last.at)
            self.changed = self.changed or reason != last.reason
            return
        self.decisions.append(made)
        self.changed = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Present:
    """What is there of one function."""

    views: Sequence[ReplicaView]
    failed: bool
    """No replica serves, and none can be started now."""
    was: int | None
    """The number that was right last: of an earlier leader, or pinned by hand; None: not known."""
    needed: bool = False
    """Older replicas serve, and the newest version cannot be started."""


class Scaler:
    """One leadership's. Touched only by the control loop."""

    def __init__(self, rules: ScalingRules = RULES) -> None:
        self._rules = rules
        self._functions: dict[str, _Function] = {}

    def decide_all(
        self,
        specs: Mapping[str, FunctionSpec],
        reports: Sequence[LoadReport],
        present: Mapping[str, Present],
        nodes: Sequence[NodeStatus],
        now_s: float,
        *,
        at: float | None = None,
    ) -> dict[str, FunctionSpec]:
        """The specs, each with the number of replicas that shall run; `decisions_of` has what was decided.

        Args:
            now_s: of a clock that nobody sets.
            at: unix seconds, for people; None: the same.
        """
        at = now_s if at is None else at
        elastic = {name: spec for name, spec in specs.items() if spec.elastic}
        for name in self._functions.keys() - elastic.keys():
            del self._functions[name]
        heard = [report for report in reports if report.is_fresh]
        wishes = {name: self._wish(spec, heard, present[name], now_s) for name, spec in elastic.items()}
        grants: Mapping[str, Grant] = {}
        if any(spec.limits or spec.requests for spec in elastic.values()):
            grants = share(nodes, _claims(specs, wishes, present))
        done = dict(specs)
        for name, wish in wishes.items():
            function, grant = self._functions[name], grants.get(name)
            number = wish.replicas if grant is None else grant.replicas
            if grant is not None and grant.asleep:
                function.memory.replicas = 0  # it wants none any more; else the wish stays, and what it has seen
            function.note(wish, grant, number, at=at, now_s=now_s)
            done[name] = function.scale(elastic[name], number)
        return done

    def decisions_of(self, name: str) -> Sequence[ScaleDecision]:
        """The last ones, oldest first; of a function whose number is fixed none."""
        function = self._functions.get(name)
        return tuple(function.decisions) if function else ()

    def changed(self) -> list[str]:
        """Functions of which a decision is not `stored` yet."""
        return [name for name, one in self._functions.items() if one.changed]

    def stored(self, name: str) -> None:
        """What `decisions_of` says is in the store."""
        self._functions[name].changed = False

    def last_reason(self, name: str) -> str:
        """Of the last change, or of the limit that has held it since; "" where there was none."""
        telling = (one.reason for one in reversed(self.decisions_of(name)) if not one.held or one.limit in LASTING)
        return next(telling, "")

    def held_back(self, name: str) -> str:
        """Why it has fewer replicas than its calls ask for, where the machines are the reason; else ""."""
        function = self._functions.get(name)
        last = function.decisions[-1] if function and function.decisions else None
        return last.reason if last is not None and last.limit == "supply" else ""

    def _wish(self, spec: FunctionSpec, heard: Sequence[LoadReport], present: Present, now_s: float) -> Wish:
        """What its calls ask for, within its own limits."""
        policy = spec.scaling
        assert policy is not None
        function = self._functions.get(spec.name)
        if function is None or function.uid != spec.uid:
            function = self._functions[spec.name] = self._begin(spec, policy, present, now_s)
        load = None
        if heard:
            said = [(one.slice_name, one.functions.get(spec.name)) for one in heard]
            function.window.add(said, now_s, ages_s={one.slice_name: one.age_s for one in heard})
        # What the replicas say themselves: how a handler batches, or whether it is an async one, nobody else knows.
        slots = function.window.slots or max(spec.concurrency or FIRST_SLOTS, spec.batch_max_size)
        if heard:
            load = function.window.facts(ready=_ready(present, spec.uid), slots=slots)
        return decide(
            load,
            policy,
            function.memory,
            slots=slots,
            now_s=now_s,
            failed=present.failed,
            needed=present.needed,
            rules=self._rules,
        )

    def _begin(self, spec: FunctionSpec, policy: ScalingPolicy, present: Present, now_s: float) -> _Function:
        """A function that is new, or new to this leader: what runs goes on."""
        there = sum(view.uid == spec.uid and not view.stopping for view in present.views)
        replicas = present.was if present.was is not None else there or policy.initial
        window = LoadWindow(spec.uid, stable_s=self._rules.stable_window_s, burst_s=self._rules.burst_window_s)
        memory = ScaleMemory(replicas=replicas, since=now_s, active_at=now_s)
        return _Function(uid=spec.uid, window=window, memory=memory)


def _ready(present: Present, uid: str) -> int:
    return sum(view.serving and view.uid == uid for view in present.views)


def _claims(
    specs: Mapping[str, FunctionSpec], wishes: Mapping[str, Wish], present: Mapping[str, Present]
) -> list[Claim]:
    """Of all that have replicas, those of a function that was deleted too: they hold what they have."""
    claims = []
    for name, one in present.items():
        held: dict[str, int] = {}
        for view in one.views:
            held[view.node] = held.get(view.node, 0) + 1
        spec, wish = specs.get(name), wishes.get(name)
        seen = (wish.seen if wish else None) or LoadFacts()
        is_idle = not (seen.queued or seen.now or seen.burst)
        claims.append(
            Claim(
                function=name,
                # Of a deleted one only its devices are known.
                need=need_of(spec) if spec else Need(gpus=max((len(view.gpus) for view in one.views), default=0)),
                wish=wish.replicas if wish else 0,
                held=held,
                staying=sum(not view.stopping for view in one.views),
                waiting=float(seen.queued + seen.now),
                floor=max(1, spec.scaling.min_replicas) if wish and spec and spec.scaling and _is_free(spec) else 0,
                may_sleep=is_idle and bool(spec and spec.scaling and spec.scaling.min_replicas == 0),
                elastic=wish is not None,
            )
        )
    return claims


def _is_free(spec: FunctionSpec) -> bool:
    """Whether nothing but its memory's limit speaks against another replica: a limit promises nothing."""
    return not spec.gpu_count and not spec.requests
