"""Read what Swarm says of a cluster's services, tasks and nodes.

In:   the JSON of `/services`, `/tasks` and `/nodes`, asked one after the other.
Out:  a Picture; swarm_words.py says what is in it as the scheduler wants it.
Pure: no I/O, no clock.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from dcf.domain.image import WATCHER_PORT
from dcf.domain.names import ReplicaName
from dcf.scheduler.backends import container
from dcf.scheduler.backends.swarm_service import task_replica_name

_LIVE = frozenset({"starting", "running"})
"""Its container is there. With a health check Swarm says "starting" until the handler is loaded."""
_ENDED = frozenset({"complete", "shutdown", "failed", "rejected", "remove", "orphaned"})
_TO_RUN = frozenset({"new", "pending", "assigned", "accepted", "preparing", "ready", "starting", "running"})
_NOT_OURS = ("assigned node no longer meets constraints", "node is missing network attachments")
"""Swarm placed a task where it could not go, and places it again by itself: no failed start."""
_IMAGE_MISSING = re.compile(
    r"no such image|pull access denied|manifest unknown|manifest for .* not found|repository does not exist"
    r"|not found: manifest|unauthorized|no basic auth credentials|failed to resolve reference",
    re.I,
)
_EXIT_CODE = re.compile(r"non-zero exit \((\d+)\)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One task of a function's service, and what the container in it was made from."""

    id: str
    function: str
    uid: str
    generation: int
    digest: str
    grace_s: float
    slot: int
    node_id: str
    state: str
    desired: str
    error: str
    exit_code: int | None
    status_at: float
    image: str
    address: str = ""
    gpus: tuple[str, ...] = ()
    cpus: float = 0.0
    memory_bytes: int = 0

    @property
    def name(self) -> ReplicaName:
        """The same as in its container."""
        return task_replica_name(self.function, self.generation, self.slot, self.id)

    @property
    def is_live(self) -> bool:
        """Whether its container was there when its node was last heard of."""
        return self.state in _LIVE and bool(self.address)

    @property
    def has_ended(self) -> bool:
        """Whether it runs no more, or never will."""
        return self.state in _ENDED

    @property
    def is_stopping(self) -> bool:
        """Whether Swarm, or a user of it, wants it to end."""
        return self.desired not in _TO_RUN

    @property
    def was_called_off(self) -> bool:
        """Whether it ended because Swarm told it to; one that failed by itself is marked to be stopped too."""
        return self.state in {"shutdown", "remove"}

    @property
    def was_misplaced(self) -> bool:
        """It never ran, and that says nothing of the function."""
        return self.state in {"rejected", "orphaned"} and any(words in self.error for words in _NOT_OURS)

    @property
    def image_missing(self) -> bool:
        """Whether its node had no image to start it from."""
        return self.state in {"rejected", "failed"} and _IMAGE_MISSING.search(self.error) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One machine of the Swarm."""

    id: str
    name: str
    is_up: bool
    takes_tasks: bool
    note: str
    cpus: float
    memory_bytes: int
    gpus: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Ids by the kind of resource that they are advertised as."""

    @property
    def gpu_ids(self) -> tuple[str, ...]:
        """Of all kinds."""
        return tuple(gpu for ids in self.gpus.values() for gpu in ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One function's service, with the spec as Swarm has it: what is posted back must be that, to the letter."""

    id: str
    version: int
    function: str
    uid: str
    generation: int
    digest: str
    replicas: int
    update_state: str
    spec: Mapping[str, Any]

    @property
    def gpu_count(self) -> int:
        """GPUs that each replica reserves."""
        reserved = self._resources("Reservations").get("GenericResources") or []
        wanted = (one.get("DiscreteResourceSpec") or {} for one in reserved)
        return sum(int(one.get("Value", 0)) for one in wanted if "gpu" in str(one.get("Kind", "")).lower())

    @property
    def force_update(self) -> int:
        """How often somebody typed `docker service update --force`."""
        return int(self.spec["TaskTemplate"].get("ForceUpdate") or 0)

    @property
    def is_moving(self) -> bool:
        """Whether Swarm replaces its tasks now."""
        return self.update_state in {"updating", "rollback_started"}

    def reserved_text(self) -> str:
        """What each replica reserves beside GPUs; "" for nothing."""
        reserved = self._resources("Reservations")
        parts = []
        if cpus := reserved.get("NanoCPUs"):
            parts.append(f"{cpus / 1e9:g} CPUs")
        if memory := reserved.get("MemoryBytes"):
            parts.append(f"{memory / 1024**2:.0f} MiB")
        return " and ".join(parts)

    def constraints(self) -> tuple[str, ...]:
        """As the user wrote them, without preferences."""
        return tuple((self.spec["TaskTemplate"].get("Placement") or {}).get("Constraints") or ())

    def _resources(self, which: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = (self.spec["TaskTemplate"].get("Resources") or {}).get(which) or {}
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """The cluster at one moment."""

    services: Mapping[str, Service] = field(default_factory=dict)
    """By function."""
    tasks: Mapping[str, Task] = field(default_factory=dict)
    """By id; those of a service that was removed too, while they drain."""
    nodes: Mapping[str, Node] = field(default_factory=dict)

    def node_name(self, node_id: str) -> str:
        """Its host name; its id where it has left the Swarm."""
        node = self.nodes.get(node_id)
        return node.name if node else node_id

    def is_there(self, task: Task) -> bool:
        """Whether its container is there and can be reached; a machine that is down has none."""
        node = self.nodes.get(task.node_id)
        return task.is_live and node is not None and node.is_up

    def is_moving(self) -> bool:
        """Whether it will look otherwise in a moment, without anybody's doing."""
        running = dict.fromkeys(self.services, 0)
        for task in self.tasks.values():
            if self.is_there(task):
                if task.is_stopping or task.state != "running":
                    return True
                running[task.function] = running.get(task.function, 0) + 1
        return any(one.is_moving or one.replicas != running[one.function] for one in self.services.values())


def read_picture(
    services: Sequence[Mapping[str, Any]],
    tasks: Sequence[Mapping[str, Any]],
    nodes: Sequence[Mapping[str, Any]],
    *,
    network: str,
) -> Picture:
    """All of it; `network` by its name."""
    return Picture(
        services={one.function: one for one in map(_read_service, services) if one.function},
        tasks={one.id: one for raw in tasks if (one := _read_task(raw, network)) is not None},
        nodes={one.id: one for one in map(_read_node, nodes)},
    )


def _read_service(raw: Mapping[str, Any]) -> Service:
    spec = raw["Spec"]
    labels = spec.get("Labels") or {}
    return Service(
        id=raw["ID"],
        version=int(raw["Version"]["Index"]),
        function=labels.get(container.FUNCTION, ""),
        uid=labels.get(container.UID, ""),
        generation=int(labels.get(container.GENERATION) or 0),
        digest=labels.get(container.DIGEST, ""),
        replicas=int(((spec.get("Mode") or {}).get("Replicated") or {}).get("Replicas") or 0),
        update_state=(raw.get("UpdateStatus") or {}).get("State") or "",
        spec=spec,
    )


def _read_task(raw: Mapping[str, Any], network: str) -> Task | None:
    made_from = raw["Spec"].get("ContainerSpec") or {}
    labels = made_from.get("Labels") or {}
    if container.FUNCTION not in labels:
        return None
    status = raw["Status"]
    return Task(
        id=raw["ID"],
        function=labels[container.FUNCTION],
        uid=labels.get(container.UID, ""),
        generation=int(labels.get(container.GENERATION) or 0),
        digest=labels.get(container.DIGEST, ""),
        grace_s=container.grace_of(labels),
        slot=int(raw.get("Slot") or 0),
        node_id=raw.get("NodeID") or "",
        state=status["State"],
        desired=raw["DesiredState"],
        error=" ".join(str(status.get("Err") or "").split()),
        exit_code=_exit_code(status),
        status_at=_unix(status["Timestamp"]),
        image=str(made_from.get("Image") or ""),
        address=_address(raw, network),
        gpus=_gpu_ids(raw.get("GenericResources") or ()),
        cpus=float(labels.get(container.CPU) or 0),
        memory_bytes=int(labels.get(container.MEMORY) or 0),
    )


def _exit_code(status: Mapping[str, Any]) -> int | None:
    if found := _EXIT_CODE.search(str(status.get("Err") or "")):
        return int(found[1])
    if status["State"] == "complete":
        return int((status.get("ContainerStatus") or {}).get("ExitCode") or 0)
    return None


def _address(raw: Mapping[str, Any], network: str) -> str:
    for one in raw.get("NetworksAttachments") or ():
        if one["Network"]["Spec"]["Name"] == network and one.get("Addresses"):
            return f"{one['Addresses'][0].split('/')[0]}:{WATCHER_PORT}"
    return ""


def _gpu_ids(resources: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    return tuple(gpu for ids in _gpus_by_kind(resources).values() for gpu in ids)


def _gpus_by_kind(resources: Iterable[Mapping[str, Any]]) -> dict[str, tuple[str, ...]]:
    """A number of GPUs without ids (DiscreteResourceSpec) gives the watcher nothing to check: it says so itself."""
    found: dict[str, tuple[str, ...]] = {}
    for one in resources:
        named = one.get("NamedResourceSpec") or {}
        if "gpu" in (kind := str(named.get("Kind", ""))).lower():
            found[kind] = (*found.get(kind, ()), str(named["Value"]))
    return found


def _read_node(raw: Mapping[str, Any]) -> Node:
    description, spec = raw["Description"], raw["Spec"]
    resources = description.get("Resources") or {}
    state, availability = raw["Status"]["State"], spec.get("Availability", "active")
    notes = [str(spec.get("Role", "worker"))]
    if (raw.get("ManagerStatus") or {}).get("Leader"):
        notes = ["leader"]
    if availability != "active":
        notes.append(availability)
    if state != "ready":
        notes.append("lost" if state == "down" else state)
        if message := raw["Status"].get("Message"):
            notes.append(str(message))
    return Node(
        id=raw["ID"],
        name=description.get("Hostname", ""),
        is_up=state != "down",
        takes_tasks=state == "ready" and availability == "active",
        note=", ".join(notes),
        cpus=float(resources.get("NanoCPUs") or 0) / 1e9,
        memory_bytes=int(resources.get("MemoryBytes") or 0),
        gpus=_gpus_by_kind(resources.get("GenericResources") or ()),
    )


def _unix(text: str) -> float:
    """Unix seconds of a time as Go writes it: nanoseconds are more than datetime takes."""
    whole, _, rest = text.rstrip("Z").partition(".")
    seconds = datetime.fromisoformat(f"{whole}+00:00").timestamp()
    return seconds + float(f"0.{rest or 0}") if seconds > 0 else 0.0
