"""Show a function to people and programs: the JSON form of dcf.v1.Function.

In:   its spec, its status, what was counted, now.
Out:  a dict in camelCase, numbers as numbers. HTTP dumps it, gRPC parses it.
Pure: no I/O, no clock. Never shown: `registryAuth`.
"""

from __future__ import annotations

import math
from typing import Any

from dcf.domain.function import FunctionSpec, spec_to_request
from dcf.domain.stats import QUEUE_WAIT_S, CallTotals
from dcf.domain.status import FunctionStatus, NodeStatus, ReplicaStatus

STALE_S = 15.0
"""The scheduler writes a status again every few seconds; three times missed is no scheduler."""


def view(
    spec: FunctionSpec,
    status: FunctionStatus | None,
    totals: CallTotals,
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
        "replicas": spec.desired,
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
        "settled": bool(status and current and status.settled and status.desired == spec.desired),
        "calls": {
            "queueWaitMeanS": round(totals.queue_wait.mean, 6),
            "queueWaitP99S": _finite(totals.queue_wait.quantile(0.99)),
            "batches": totals.batch_size.count,
            "batchSizeMean": round(totals.batch_size.mean, 2),
        },
        "updatedAt": status.updated_at if status else 0.0,
    }


def _finite(bound: float) -> float:
    """JSON has no infinity: over the last bound is said as that bound."""
    return bound if bound < math.inf else QUEUE_WAIT_S[-2]


def view_with_spec(shown: dict[str, Any], spec: FunctionSpec, *, environment: bool) -> dict[str, Any]:
    """`shown` with the deploy request that made it; without `environment` its values stay hidden."""
    request = spec_to_request(spec)
    if not environment:
        request["envVars"] = dict.fromkeys(request["envVars"], "(hidden: needs the token)")
    return {**shown, "spec": request}


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
