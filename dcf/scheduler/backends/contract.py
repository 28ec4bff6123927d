"""What runs replicas, as the control loop sees it.

Every backend is a twin of the others: same methods, same order, same
outcomes, defined by tests/contracts/test_backends.py. There are two kinds:
what moves replicas is our reconciler (ReplicaBackend: process, docker) or the
backend itself (ServiceBackend: swarm).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from dcf.domain.function import FunctionSpec
from dcf.domain.names import ReplicaName, replica_name
from dcf.domain.status import NodeStatus

DRAIN_MARGIN_S = 10.0
"""On top of the longest a call may run: for a watcher that ends its last call at the last moment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaPlan:
    """One replica that shall run."""

    spec: FunctionSpec
    ordinal: int

    @property
    def name(self) -> ReplicaName:
        """Deterministic: planning the same replica twice names it the same."""
        return replica_name(self.spec.name, self.spec.generation, self.ordinal)

    @property
    def grace_s(self) -> float:
        """How long the replica may drain: its longest call, what that takes to be stopped, and a margin."""
        return self.spec.timeout_s + self.spec.kill_after_s + DRAIN_MARGIN_S


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedReplica:
    """One replica whose process or container is there."""

    name: ReplicaName
    function: str
    uid: str
    generation: int
    digest: str
    """`replica_digest` of the spec it was made from."""
    ordinal: int
    address: str
    """A gRPC target; another one for every start, so that no peer takes a new replica for a dead one."""
    started_at: float
    grace_s: float
    """Of its plan: how long it may drain."""
    stopping: bool
    """It was told to drain; it leaves by itself, or is killed when its grace ends."""
    adopted: bool
    """Found running, started by an earlier scheduler."""
    node: str = ""
    """Host name of the machine that it runs on; "" where there is only one."""
    gpus: tuple[str, ...] = ()
    """Devices that were reserved for it, as far as the backend knows them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaExit:
    """One replica that is no more."""

    replica: ObservedReplica
    """As it was; `stopping` says whether the end was asked for."""
    code: int | None
    """Exit status, negative for a signal; None where it cannot be known."""
    cause: str
    """One clause for people: why it ended."""
    log_tail: tuple[str, ...]
    """Its last lines, at most 20, oldest first."""
    image_missing: bool = False
    """It never ran: its image is not there, or its machine could not fetch it."""
    found_dead: bool = False
    """It had ended before this scheduler looked, as all do when a machine starts again: no failed start."""


class Backend(Protocol):
    """What all have. Touched only by the scheduler's event loop; each method but `stop_all` takes milliseconds."""

    async def observe(self) -> list[ObservedReplica]:
        """What is there now, also what an earlier scheduler started. Raises BackendUnavailableError."""
        ...

    async def take_exits(self) -> list[ReplicaExit]:
        """Replicas that ended since the last time, each once; what is left of them is cleaned up."""
        ...

    async def log_tail(self, name: ReplicaName) -> tuple[str, ...]:
        """Last lines of a replica that is there, at most 20; empty where there are none."""
        ...

    async def nodes(self) -> list[NodeStatus]:
        """The machines that replicas run on, by name; what is used is what was given to replicas."""
        ...

    async def stop_all(self, *, grace_s: float) -> int:
        """Stop every replica and wait for their ends, at most a little over `grace_s`; how many there were."""
        ...


class ReplicaBackend(Backend, Protocol):
    """Replicas come and go one by one, as reconciler.py decides."""

    async def start(self, plan: ReplicaPlan) -> ObservedReplica:
        """Start one replica; where one of that name is there already, return that one.

        Raises ImageNotFoundError, CapacityError, BackendUnavailableError or BackendError.
        """
        ...

    async def stop(self, name: ReplicaName, *, grace_s: float) -> None:
        """Let a replica drain; kill it with all its processes when `grace_s` is over. Does not wait.

        An unknown name, and a second stop, change nothing; a shorter grace counts.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceState:
    """One function's service, as `observe` saw it last or as it was written since."""

    function: str
    uid: str
    generation: int
    digest: str
    """Of the spec that it runs now; after a roll-back that is the one before."""
    replicas: int
    updating: bool
    """An update is under way; a scale now would be what a roll-back goes back to."""
    rolling_back: bool
    """An update could not start and is being undone: leave it alone until that is done."""
    waiting: str
    """Why a replica has no machine yet, such as "no GPU free: ..."; "" where each has one."""


@runtime_checkable
class ServiceBackend(Backend, Protocol):
    """A function is one service; the backend itself moves its replicas to what is written."""

    def services(self) -> Mapping[str, ServiceState]:
        """By function; what the last `observe` saw, and what was written since."""
        ...

    async def create(self, spec: FunctionSpec) -> None:
        """Make the service; one of that name that is there already is updated.

        This and the next three raise BackendConflictError, BackendUnavailableError or BackendError.
        """
        ...

    async def update(self, spec: FunctionSpec) -> None:
        """Replace what its replicas are made of, one after the other, the new one first where there is room."""
        ...

    async def scale(self, function: str, replicas: int) -> None:
        """Change the number and nothing else: no replica that stays is restarted."""
        ...

    async def remove(self, function: str) -> None:
        """Remove the service; its replicas drain. An unknown one changes nothing."""
        ...
