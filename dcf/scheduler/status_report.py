"""Say how a function is, in one status that people can read.

In:   the spec, its replicas as they are after this turn, the back-off, the last failure.
Out:  a FunctionStatus, without `updated_at`.
Pure: no I/O, no clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dcf.domain.function import FunctionSpec
from dcf.domain.scaling import NO_COLD_START, ColdStart
from dcf.domain.status import SERVING, FunctionStatus, ReplicaState, ReplicaStatus
from dcf.scheduler.backoff import Backoff
from dcf.scheduler.reconciler import ReplicaView, is_current

ASLEEP = "asleep: the next call starts a replica"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """What a generation's last failed start said."""

    replica: str
    cause: str
    log_tail: tuple[str, ...] = ()


def describe(
    spec: FunctionSpec,
    replicas: Sequence[ReplicaView],
    backoff: Backoff,
    failure: Failure | None,
    *,
    hopeless: bool | None = None,
    waiting: str = "",
    held_back: str = "",
    scaled: str = "",
    cold_start: ColdStart = NO_COLD_START,
) -> FunctionStatus:
    """Return the status of `spec`'s function.

    Args:
        hopeless: held calls should fail where no replica serves; None: as the back-off says.
        waiting: why no more replicas can be placed now; "" where nothing is in the way.
        held_back: why fewer are to run than its calls ask for; "" where that is not so.
        scaled: why it has as many replicas as it has.
        cold_start: of the replica that became ready last.
    """
    current = [replica for replica in replicas if is_current(spec, replica)]
    serving = sum(replica.serving for replica in current)
    older = [replica for replica in replicas if not is_current(spec, replica)]
    whole = serving == spec.desired == sum(not replica.stopping for replica in current)
    return FunctionStatus(
        name=spec.name,
        uid=spec.uid,
        generation=spec.generation,
        desired=spec.desired,
        ready=sum(replica.serving for replica in replicas if replica.uid == spec.uid),
        replicas=tuple(_show(replica) for replica in sorted(replicas, key=lambda r: (-r.generation, r.ordinal))),
        failed=(backoff.given_up if hopeless is None else hopeless) and serving == 0 and spec.desired > 0,
        settled=whole and not older,
        reason=_reason(spec, current, older, backoff, failure, waiting, held_back),
        log_tail=failure.log_tail if failure is not None and serving < spec.desired else (),
        elastic=spec.elastic,
        scaled=scaled,
        cold_start=cold_start,
    )


def gist(status: FunctionStatus) -> tuple[object, ...]:
    """`status` less what changes all the time; two with the same gist need not both be written."""
    return (
        status.uid,
        status.generation,
        status.desired,
        status.ready,
        status.failed,
        status.settled,
        status.reason,
        status.log_tail,
        status.elastic,
        status.cold_start,
        [
            (one.name, "ready" if one.state in SERVING else one.state, one.generation, one.address, one.node, one.gpus)
            for one in status.replicas
        ],
    )


def _show(replica: ReplicaView) -> ReplicaStatus:
    state: ReplicaState = replica.state
    if replica.stopping:
        state = "draining"
    return ReplicaStatus(
        name=replica.name,
        state=state,
        generation=replica.generation,
        address=replica.address,
        in_flight=replica.in_flight,
        memory_bytes=replica.memory_bytes,
        worker_restarts=replica.worker_restarts,
        started_at=replica.started_at,
        node=replica.node,
        gpus=replica.gpus,
    )


def _reason(
    spec: FunctionSpec,
    current: Sequence[ReplicaView],
    older: Sequence[ReplicaView],
    backoff: Backoff,
    failure: Failure | None,
    waiting: str,
    held_back: str,
) -> str:
    staying = [replica for replica in current if not replica.stopping]
    serving = sum(replica.serving for replica in staying)
    if spec.desired == 0:
        return held_back or (ASLEEP if spec.elastic else "scaled to 0 replicas")
    if serving < spec.desired and backoff.failures and failure is not None:
        return _failure_reason(backoff, failure, under_way=any(not replica.serving for replica in staying))
    if serving < spec.desired and waiting:
        return f"{serving} of {spec.desired} replicas ready; {waiting}"
    for replica in staying:
        if replica.silent:
            return f"replica {replica.name} does not report any more, though its process is there"
    if any(not replica.stopping for replica in older):
        return f"updating: {serving} of {spec.desired} replicas run generation {spec.generation}"
    if serving < spec.desired:
        noted = next((f": {replica.note}" for replica in staying if replica.note), "")
        return f"starting: {serving} of {spec.desired} replicas ready{noted}"
    if older:
        return f"updating: older replicas finish their last calls ({len(older)} left)"
    return held_back


def _failure_reason(backoff: Backoff, failure: Failure, *, under_way: bool) -> str:
    if backoff.image_missing:
        return failure.cause
    times = "failed" if backoff.failures == 1 else f"failed {backoff.failures} times"
    then = "it is tried again now" if under_way or backoff.delay_s == 0 else f"next try in {backoff.delay_s:g} s"
    return f"replica {failure.replica} {times}: {failure.cause}; {then}"
