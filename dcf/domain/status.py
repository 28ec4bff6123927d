"""What is observed of a function: replicas, readiness, and why not."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from dcf.domain.scaling import NO_COLD_START, ColdStart

ReplicaState = Literal["starting", "ready", "busy", "draining", "failed"]
SERVING: frozenset[str] = frozenset({"ready", "busy"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where a gateway reaches a replica; there from the moment its process is up."""

    replica: str
    address: str
    """A gRPC target: `unix:/path` or `host:port`."""
    generation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaStatus:
    """One replica as the scheduler sees it."""

    name: str
    state: ReplicaState
    generation: int
    address: str = ""
    in_flight: int = 0
    memory_bytes: int = 0
    worker_restarts: int = 0
    started_at: float = 0.0
    node: str = ""
    """Host name of its machine; "" where there is only one."""
    gpus: tuple[str, ...] = ()
    """Ids of the devices that are its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionStatus:
    """One function as the scheduler sees it. Written by the control loop alone."""

    name: str
    uid: str
    generation: int = 0
    """Of the spec that this status is about."""
    desired: int = 0
    ready: int = 0
    replicas: tuple[ReplicaStatus, ...] = ()
    failed: bool = False
    """Given up on for now (three starts failed, or the image is missing): held calls fail at once."""
    settled: bool = False
    """The newest generation is what runs, in full, and nothing of an older one is left."""
    reason: str = ""
    """One sentence: why it is not ready, or what is under way; "" when all is well."""
    log_tail: tuple[str, ...] = ()
    """Last lines of the replica that failed last, oldest first."""
    updated_at: float = 0.0
    elastic: bool = False
    """Its number follows its calls."""
    scaled: str = ""
    """Why it has as many replicas as it has: the reason of the last change."""
    cold_start: ColdStart = NO_COLD_START
    """Of the replica that became ready last."""

    @property
    def asleep(self) -> bool:
        """Scaled to zero for want of calls; the next one starts a replica."""
        return self.elastic and self.desired == 0 and not self.failed

    @property
    def label(self) -> str:
        """The original's two words; one that the next call wakes is ready for it."""
        return "Ready" if self.ready > 0 or self.asleep else "Not Ready"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStatus:
    """One machine that replicas run on; `used` is what was given to replicas, not what they use."""

    name: str
    ready: bool
    note: str = ""
    """Its role, or what is wrong with it."""
    cpus: float = 0.0
    cpus_used: float = 0.0
    memory_bytes: int = 0
    memory_used_bytes: int = 0
    gpus: tuple[str, ...] = ()
    gpus_used: tuple[str, ...] = ()
    replicas: int = 0


def node_to_json(node: NodeStatus) -> dict[str, Any]:
    """The store's form."""
    return dataclasses.asdict(node)


def node_from_json(data: dict[str, Any]) -> NodeStatus:
    """The inverse of `node_to_json`; keys of a newer release are ignored."""
    known = _known(NodeStatus, data)
    return NodeStatus(**{**known, "gpus": tuple(known["gpus"]), "gpus_used": tuple(known["gpus_used"])})


def status_to_json(status: FunctionStatus) -> dict[str, Any]:
    """The store's form."""
    data = _plain(status)
    data["replicas"] = [_plain(replica) for replica in status.replicas]
    data["cold_start"] = _plain(status.cold_start)
    return data


def status_from_json(data: dict[str, Any]) -> FunctionStatus:
    """The inverse of `status_to_json`; keys of a newer release are ignored."""
    known = _known(FunctionStatus, data)
    known["replicas"] = tuple(_replica_from_json(replica) for replica in known.get("replicas", ()))
    known["log_tail"] = tuple(known.get("log_tail", ()))
    known["cold_start"] = ColdStart(**_known(ColdStart, known.get("cold_start", {})))
    return FunctionStatus(**known)


def _replica_from_json(data: dict[str, Any]) -> ReplicaStatus:
    known = _known(ReplicaStatus, data)
    return ReplicaStatus(**{**known, "gpus": tuple(known.get("gpus", ()))})


def _plain(value: Any) -> dict[str, Any]:
    """Its fields as they are; much faster than `dataclasses.asdict`, and a scheduler writes hundreds a second."""
    return {name: getattr(value, name) for name in value.__slots__}


def _known(cls: type[Any], data: dict[str, Any]) -> dict[str, Any]:
    names = {field.name for field in dataclasses.fields(cls)}
    return {key: value for key, value in data.items() if key in names}
