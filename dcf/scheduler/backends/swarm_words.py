"""Say what a picture of the Swarm shows, as the scheduler and people want it.

In:   a Picture; the last lines of a task that ended.
Out:  replicas, service states, machines; why a task waits, why one ended.
Pure: no I/O, no clock.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from dcf.domain.status import NodeStatus
from dcf.scheduler.backends import container
from dcf.scheduler.backends.contract import ObservedReplica, ServiceState
from dcf.scheduler.backends.gpu_ledger import MAX_NAMES
from dcf.scheduler.backends.log_lines import LogTail
from dcf.scheduler.backends.swarm_picture import Node, Picture, Service, Task
from dcf.scheduler.backends.swarm_service import GPU_KIND, RETRIES

_UNHEALTHY = "unhealthy container"


def observed_replica(task: Task, picture: Picture, *, started_at: float, adopted: bool) -> ObservedReplica:
    """The replica in a task."""
    return ObservedReplica(
        name=task.name,
        function=task.function,
        uid=task.uid,
        generation=task.generation,
        digest=task.digest,
        ordinal=task.slot,
        address=task.address,
        started_at=started_at,
        grace_s=task.grace_s,
        stopping=task.is_stopping,
        adopted=adopted,
        node=picture.node_name(task.node_id),
        gpus=task.gpus,
    )


def service_state(service: Service, picture: Picture) -> ServiceState:
    """The service as the mover sees it."""
    return ServiceState(
        function=service.function,
        uid=service.uid,
        generation=service.generation,
        digest=service.digest,
        replicas=service.replicas,
        updating=service.update_state == "updating",
        # A roll-back that is paused never goes on by itself, and is no reason to wait.
        rolling_back=service.update_state == "rollback_started",
        waiting=_why_waiting(service, picture),
    )


def node_statuses(picture: Picture) -> list[NodeStatus]:
    """The machines by name; what is used is what was given to replicas."""
    statuses = []
    for node in picture.nodes.values():
        here = [task for task in picture.tasks.values() if task.node_id == node.id and picture.is_there(task)]
        statuses.append(
            NodeStatus(
                name=node.name,
                ready=node.takes_tasks,
                note=node.note,
                cpus=node.cpus,
                cpus_used=sum(task.cpus for task in here),
                memory_bytes=node.memory_bytes,
                memory_used_bytes=sum(task.memory_bytes for task in here),
                gpus=node.gpu_ids,
                gpus_used=tuple(sorted(gpu for task in here for gpu in task.gpus)),
                replicas=len(here),
            )
        )
    return sorted(statuses, key=lambda one: one.name)


def gpu_kind(nodes: Iterable[Node]) -> str:
    """What the machines call their GPUs; most of them, where they differ."""
    kinds = [kind for node in nodes for kind in node.gpus]
    return GPU_KIND if GPU_KIND in kinds or not kinds else max(sorted(set(kinds)), key=kinds.count)


def _why_waiting(service: Service, picture: Picture) -> str:
    tasks = [
        task
        for task in picture.tasks.values()
        # Not those of an older version that an update replaces.
        if (task.function, task.uid, task.digest) == (service.function, service.uid, service.digest)
        and not task.is_stopping
        and not task.has_ended
    ]
    for task in tasks:
        if task.state == "pending" and task.error:
            return _why_pending(service, task.error, picture)
    for task in tasks:
        if task.state == "preparing":
            return f"node {picture.node_name(task.node_id)} fetches image {task.image}, or makes its container"
    return ""


def _why_pending(service: Service, error: str, picture: Picture) -> str:
    if "insufficient resources" in error:
        if service.gpu_count and (words := _why_no_gpu(service, picture)):
            return words
        reserves = f"; each replica reserves {text} (requests)" if (text := service.reserved_text()) else ""
        return f"no node has room: {_inner(error)}{reserves}"
    if "constraints not satisfied" in error:
        return f"no node fits the constraints ({', '.join(service.constraints())}): {_inner(error)}"
    return f"no node takes it: {_inner(error)}"


def _inner(error: str) -> str:
    found = re.fullmatch(r"no suitable node \((.*)\)", error)
    return found[1] if found else error


def _why_no_gpu(service: Service, picture: Picture) -> str:
    """Empty where there are enough on some node, and CPUs or memory may be what there is too little of."""
    count = service.gpu_count
    gpus = {node.id: node.gpu_ids for node in picture.nodes.values() if node.takes_tasks}
    total = sum(map(len, gpus.values()))
    if not total:
        return (
            "no GPU free: no node of this Swarm offers any; list them in each node's daemon.json, "
            f'"node-generic-resources": ["{GPU_KIND}=GPU-<uuid>", ...] (nvidia-smi -L prints the ids), '
            "and restart its engine"
        )
    if count > max(map(len, gpus.values())):
        return f"no GPU free: each replica asks for {count}, and no node has more than {max(map(len, gpus.values()))}"
    holders = [task for task in picture.tasks.values() if task.gpus and task.node_id in gpus and not task.has_ended]
    held = {(task.node_id, gpu) for task in holders for gpu in task.gpus}
    names = sorted({task.name for task in holders})
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    by = f"{len(held)} of {total} are held by {', '.join(names[:MAX_NAMES])}{more}" if names else f"{total} are there"
    if any(sum((node, gpu) not in held for gpu in ids) >= count for node, ids in gpus.items()):
        if service.reserved_text():
            return ""
        return f"no GPU free: {by}; the rest has come free this moment, or is held by what is not this cluster's"
    return f"no GPU free: {by}"


def explain_end(task: Task, picture: Picture, tail: LogTail) -> str:
    """One clause: why a task ended."""
    if task.image_missing:
        return (
            f"node {picture.node_name(task.node_id)} could not fetch image {task.image} ({task.error}): can that node "
            "reach the registry, is the image pushed, and was it deployed with --registry-auth where a login is needed?"
        )
    if task.was_misplaced:
        # Swarm does so to tasks with GPUs at any change of their node's record (anchor_spec says why).
        return f"Swarm took it off node {picture.node_name(task.node_id)}, which had changed: {task.error}"
    if _UNHEALTHY in task.error:
        said = tail.said or "the watcher did not answer"
        return f"its health check failed {RETRIES} times, and Swarm stopped it: {said}"
    code = task.exit_code
    if code == 137:
        # Swarm does not tell a kernel that was out of memory from a kill by hand.
        allowed = f"its limit is {task.memory_bytes / 1024**2:.0f} MiB, limits.memory" if task.memory_bytes else ""
        return f"killed by SIGKILL, most likely because memory ran out ({allowed or 'it has no limits.memory'})"
    if code is None and task.error:
        return task.error.removeprefix("task: ")
    return container.explain_exit(code, out_of_memory=False, limit="", said=tail.said)
