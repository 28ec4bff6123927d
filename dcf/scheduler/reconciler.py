"""Decide which replicas of one function start and stop.

In:   the spec (None: deleted), what is observed, the back-off, now.
Out:  a Decision. control_loop.py acts on it, and asks again when it changed something.
Pure: no I/O, no clock, no randomness.

An update surges by one: at most desired + 1 replicas run, and an old one goes
only when enough new ones serve, so an update that fails leaves the old ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dcf.domain.function import FunctionSpec, replica_digest
from dcf.domain.names import ReplicaName
from dcf.domain.status import SERVING, ReplicaState
from dcf.scheduler.backoff import Backoff

SURGE = 1
START_MARGIN_S = 10.0
"""On top of `start_timeout_s`, after which the watcher itself gives up: this is for a watcher that hangs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaView:
    """One replica: what the backend and its Watch stream say of it, together."""

    name: ReplicaName
    uid: str
    generation: int
    digest: str
    ordinal: int
    address: str
    state: ReplicaState
    stopping: bool
    """Told to drain, or draining of its own accord: it is on its way out."""
    was_ready: bool
    """It has been ready at some time."""
    started_at: float
    grace_s: float
    """How long it may drain."""
    in_flight: int = 0
    memory_bytes: int = 0
    worker_restarts: int = 0
    """Workers that died, or were ended for a handler that did not end, and were replaced."""
    silent: bool = False
    """Its process lives, and it has stopped reporting."""
    note: str = ""
    """What it says of itself."""
    node: str = ""
    gpus: tuple[str, ...] = ()

    @property
    def serving(self) -> bool:
        """Whether calls go to it."""
        return self.state in SERVING and not self.stopping


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Start a replica of the newest generation."""

    ordinal: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """Drain a replica; with no grace, kill it."""

    name: ReplicaName
    reason: str
    grace_s: float
    overdue: bool = False
    """It never became ready in its time: a failed start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What to do, stops first."""

    stops: tuple[Stop, ...] = ()
    starts: tuple[Start, ...] = ()


def is_current(spec: FunctionSpec, replica: ReplicaView) -> bool:
    """Whether `replica` is what `spec` asks for."""
    return (replica.uid, replica.generation, replica.digest) == (spec.uid, spec.generation, replica_digest(spec))


def reconcile(
    spec: FunctionSpec | None, replicas: Sequence[ReplicaView], backoff: Backoff, *, now_s: float
) -> Decision:
    """Return what brings `replicas` nearer to `spec`; nothing where all is as it should be.

    Args:
        replicas: all of the function, also those that drain and those of an earlier uid.
        backoff: of the spec's generation.
        now_s: unix seconds.
    """
    staying = [replica for replica in replicas if not replica.stopping]
    if spec is None:
        return Decision(
            stops=tuple(Stop(name=r.name, reason="the function was deleted", grace_s=r.grace_s) for r in staying)
        )
    stops: list[Stop] = []

    def stop(replica: ReplicaView, reason: str) -> None:
        stops.append(Stop(name=replica.name, reason=reason, grace_s=replica.grace_s))

    for replica in staying:
        if replica.uid != spec.uid:
            stop(replica, "its function was deleted and made again")
        elif not replica.was_ready and not replica.serving and _is_overdue(spec, replica, now_s):
            reason = f"it was not ready within {spec.start_timeout_s + START_MARGIN_S:g} s"
            stops.append(Stop(name=replica.name, reason=reason, grace_s=0.0, overdue=True))
    gone = {one.name for one in stops}
    current = [r for r in staying if r.name not in gone and is_current(spec, r)]
    old = [r for r in staying if r.name not in gone and not is_current(spec, r)]

    for replica in _victims(current, len(current) - spec.desired):
        stop(replica, f"{spec.desired} of {len(current)} replicas are wanted")
        current.remove(replica)
    serving = sum(replica.serving for replica in current)
    for replica in _victims(old, len(old) - max(0, spec.desired - serving)):
        stop(replica, f"generation {spec.generation} replaces it")
        old.remove(replica)
    for replica in [r for r in old if not r.was_ready and not r.serving]:
        # It would serve code that nobody wants any more, and nobody relies on it yet.
        stop(replica, f"generation {spec.generation} replaces it")
        old.remove(replica)

    if any(one.overdue for one in stops):
        return Decision(stops=tuple(stops))  # a failure: the back-off that follows from it decides on the next start
    taken = {replica.ordinal for replica in replicas if replica.generation == spec.generation}
    missing = min(
        spec.desired - len(current),
        spec.desired + (SURGE if old else 0) - len(current) - len(old),
        _allowed_starts(current, backoff, now_s),
    )
    reason = _start_reason(spec, current, old, backoff)
    starts = [Start(ordinal=ordinal, reason=reason) for ordinal in _lowest_free(taken, missing)]
    return Decision(stops=tuple(stops), starts=tuple(starts))


def _is_overdue(spec: FunctionSpec, replica: ReplicaView, now_s: float) -> bool:
    return now_s - replica.started_at > spec.start_timeout_s + START_MARGIN_S


def _victims(replicas: Sequence[ReplicaView], number: int) -> list[ReplicaView]:
    """Not ready first, then idle before busy, then the highest ordinal."""

    def worth(replica: ReplicaView) -> tuple[bool, bool, int, int]:
        return replica.serving, replica.in_flight > 0 or replica.state == "busy", replica.generation, -replica.ordinal

    return sorted(replicas, key=worth)[: max(0, number)]


def _allowed_starts(current: Sequence[ReplicaView], backoff: Backoff, now_s: float) -> int:
    if backoff.failures == 0:
        return 1000
    if now_s < backoff.next_at:
        return 0
    # After a failure one at a time tries whether it works again: ten that fail at once tell no more than one.
    return 0 if any(not replica.serving for replica in current) else 1


def _start_reason(
    spec: FunctionSpec, current: Sequence[ReplicaView], old: Sequence[ReplicaView], backoff: Backoff
) -> str:
    if backoff.failures:
        return f"trying again after {backoff.failures} failed starts"
    if old:
        return f"generation {spec.generation} replaces {len(old)} older replicas"
    return f"{spec.desired} replicas are wanted, {len(current)} are there"


def _lowest_free(taken: set[int], number: int) -> list[int]:
    found: list[int] = []
    ordinal = 0
    while len(found) < number:
        if ordinal not in taken:
            found.append(ordinal)
        ordinal += 1
    return found
