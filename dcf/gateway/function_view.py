"""Show a function to people and programs: the JSON form of dcf.v1.Function.

In:   its spec, its status, what was counted, what gateways see now, now.
Out:  a dict in camelCase, numbers as numbers. HTTP dumps it, gRPC parses it.
Pure: no I/O, no clock. Never shown: `registryAuth`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from dcf.domain.function import FunctionSpec, spec_to_request
from dcf.domain.load import FunctionLoad
from dcf.domain.scaling import NO_COLD_START, ScaleDecision
from dcf.domain.stats import DURATION_S, CallTotals, Histogram
from dcf.domain.status import FunctionStatus, NodeStatus, ReplicaStatus

STALE_S = 15.0
"""The scheduler writes a status again every few seconds; three times missed is no scheduler."""


def view(
    spec: FunctionSpec,
    status: FunctionStatus | None,
    totals: CallTotals,
    loads: Sequence[FunctionLoad],
    *,
    now_s: float,
    store_answers: bool = True,
) -> dict[str, Any]:
    """Everything but the spec."""
    if status is not None and status.uid != spec.uid:
        status = None  # of an earlier function of this name
    current = status is not None and status.generation == spec.generation
    return {
        "name": spec.name,
        "image": spec.image,
        "invocationCount": totals.invocations,
        "replicas": status.desired if spec.elastic and status else spec.desired,
        "elastic": spec.elastic,
        "scaled": status.scaled if status and spec.elastic else "",
        "availableReplicas": status.ready if status else 0,
        "annotations": spec.annotations,
        "labels": spec.labels,
        "status": status.label if status else "Not Ready",
        "description": spec.description,
        "maintainer": spec.maintainer,
        "reason": _reason(spec, status, now_s=now_s, store_answers=store_answers),
        "runtime": spec.runtime,
        "generation": spec.generation,
        "replicaStates": [_replica(replica) for replica in status.replicas] if status else [],
        # What is said of an older generation's failure is no news of this one.
        "logTail": list(status.log_tail) if status and current else [],
        "failed": bool(status and current and status.failed),
        "settled": bool(status and current and status.settled and (spec.elastic or status.desired == spec.desired)),
        "calls": {
            "queueWaitMeanS": round(totals.queue_wait.mean, 6),
            "queueWaitP99S": _finite(totals.queue_wait.quantile(0.99)),
            "batches": totals.batch_size.count,
            "batchSizeMean": round(totals.batch_size.mean, 2),
        },
        "load": _load(loads),
        "coldStart": _cold_start(status, loads),
        "updatedAt": status.updated_at if status else 0.0,
    }


def _load(loads: Sequence[FunctionLoad]) -> dict[str, Any]:
    """Of the last seconds, over all gateway processes."""
    ended = Histogram("seconds", DURATION_S)
    for load in loads:
        for index, number in load.durations.items():
            ended.counts[index] += number
    return {
        "inFlight": sum(load.in_flight for load in loads),
        "queued": sum(load.queued for load in loads),
        "oldestWaitS": max((load.oldest_wait_s for load in loads), default=0.0),
        "perS": round(sum(load.per_s for load in loads), 2),
        "p50S": _finite(ended.quantile(0.5)),
        "p99S": _finite(ended.quantile(0.99)),
    }


def _cold_start(status: FunctionStatus | None, loads: Sequence[FunctionLoad]) -> dict[str, Any]:
    took = status.cold_start if status else NO_COLD_START
    return {
        "containerS": took.container_s,
        "watcherS": took.watcher_s,
        "loadedS": took.loaded_s,
        "firstAnswerS": max((load.first_answer_s for load in loads), default=0.0),
    }


def _finite(bound: float) -> float:
    """JSON has no infinity: over the last bound is said as that bound."""
    return bound if bound < math.inf else DURATION_S[-2]


def view_with_spec(
    shown: dict[str, Any], spec: FunctionSpec, decisions: Sequence[ScaleDecision], *, environment: bool
) -> dict[str, Any]:
    """`shown` with the deploy request that made it, and with why it has as many replicas as it has.

    Args:
        environment: whether the values of its variables are shown.
    """
    request = spec_to_request(spec)
    if not environment:
        request["envVars"] = dict.fromkeys(request["envVars"], "(hidden: needs the token)")
    return {**shown, "spec": request, "decisions": [_decision(one) for one in decisions] if spec.elastic else []}


def _decision(one: ScaleDecision) -> dict[str, Any]:
    return {
        "at": one.at,
        "before": one.before,
        "wanted": one.wanted,
        "replicas": one.replicas,
        "reason": one.reason,
        "limit": one.limit,
        "inFlight": round(one.seen.in_flight, 3),
        "burst": round(one.seen.burst, 3),
        "queued": one.seen.queued,
        "perS": round(one.seen.per_s, 3),
        "ready": one.seen.ready,
    }


def _reason(spec: FunctionSpec, status: FunctionStatus | None, *, now_s: float, store_answers: bool) -> str:
    if not store_answers:
        return "the store (Redis) does not answer; this is what was known before"
    if status is None:
        return "the scheduler has not looked at it yet"
    age_s = now_s - status.updated_at
    if age_s > STALE_S:
        known = f"; before that: {status.reason}" if status.reason else ""
        return f"no scheduler is at work: the last word on this function is {age_s:.0f} s old{known}"
    if status.generation != spec.generation:
        return f"the update to generation {spec.generation} has not begun yet"
    return status.reason


def _replica(replica: ReplicaStatus) -> dict[str, Any]:
    return {
        "name": replica.name,
        "state": replica.state,
        "generation": replica.generation,
        "address": replica.address,
        "inFlight": replica.in_flight,
        "memoryBytes": replica.memory_bytes,
        "workerRestarts": replica.worker_restarts,
        "startedAt": replica.started_at,
        "node": replica.node,
        "gpus": list(replica.gpus),
    }


def view_node(node: NodeStatus) -> dict[str, Any]:
    """One machine."""
    return {
        "name": node.name,
        "ready": node.ready,
        "note": node.note,
        "cpus": node.cpus,
        "cpusUsed": node.cpus_used,
        "memoryBytes": node.memory_bytes,
        "memoryUsedBytes": node.memory_used_bytes,
        "gpus": list(node.gpus),
        "gpusUsed": list(node.gpus_used),
        "replicas": node.replicas,
    }
