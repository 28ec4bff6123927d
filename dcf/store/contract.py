"""What each process may read and write: one kind of writer for each key family.

A module is given only the half that it needs, so a write against the stream
is a type error. `redis_store.RedisStore` is the one implementation; it
satisfies all of these.

Every method raises StoreUnavailableError while Redis does not answer.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NewType, Protocol

from dcf.domain.function import FunctionSpec
from dcf.domain.load import FunctionLoad, LoadReport
from dcf.domain.scaling import ScaleDecision
from dcf.domain.stats import Totals
from dcf.domain.status import Endpoint, FunctionStatus, NodeStatus

Fence = NewType("Fence", int)
"""Grows with every change of leader; writes under an older one are refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangedKey:
    """A hint that something changed; a reader also reads everything again now and then."""

    family: str
    """spec, endpoints, status or load"""
    function: str
    """"" with every new connection to the store: anything of this family may have changed meanwhile."""


class SpecReader(Protocol):
    """Gateway and scheduler."""

    async def read_specs(self) -> dict[str, FunctionSpec]:
        """All specs by function name."""
        ...

    async def read_spec(self, function: str) -> FunctionSpec | None:
        """One spec, None where the function is not deployed."""
        ...


class SpecWriter(SpecReader, Protocol):
    """gateway.admin"""

    async def write_spec(self, spec: FunctionSpec, *, expected_revision: int) -> bool:
        """Store `spec` if the stored revision is `expected_revision` (0: none is stored); whether it was."""
        ...

    async def delete_spec(self, function: str) -> bool:
        """Remove the spec and its counts, all slices; whether there was one."""
        ...


class CountReader(Protocol):
    """Gateway (list) and scheduler."""

    async def read_counts(self) -> dict[str, dict[str, Totals]]:
        """uid of a function -> slice -> running totals."""
        ...


class CountWriter(CountReader, Protocol):
    """gateway.stats_publisher: its own slice."""

    async def write_counts(self, slice_name: str, totals: Mapping[tuple[str, str], Totals]) -> None:
        """Store running totals by (function, uid). Never lowers one; drops those whose function is gone."""
        ...


class LoadReader(Protocol):
    """Scheduler, and gateway (what people are shown)."""

    async def read_load(self) -> list[LoadReport]:
        """Every gateway process's last report, with its age; also of those that are gone for a while."""
        ...


class LoadWriter(Protocol):
    """gateway.load_publisher: its own slice."""

    async def write_load(self, slice_name: str, functions: Mapping[str, FunctionLoad], *, urgent: bool) -> None:
        """Replace the slice's report; `urgent`: the scheduler is woken."""
        ...

    async def clear_load(self, slice_name: str) -> None:
        """The slice reports no more."""
        ...


class DecisionReader(Protocol):
    """gateway.admin"""

    async def read_decisions(self, function: str) -> tuple[ScaleDecision, ...]:
        """The last decisions on a function's number, oldest first; none where it is fixed."""
        ...


class EndpointReader(Protocol):
    """gateway.endpoint_sync"""

    async def read_endpoints(self) -> dict[str, tuple[Endpoint, ...]]:
        """Endpoints of all functions by name."""
        ...

    async def read_statuses(self) -> dict[str, FunctionStatus]:
        """Statuses of all functions by name."""
        ...


class NodeReader(Protocol):
    """gateway.admin"""

    async def read_nodes(self) -> list[NodeStatus]:
        """The machines, as the scheduler saw them last; none before it has looked."""
        ...


class Changes(Protocol):
    """Hints, for whoever sleeps between two looks."""

    def changes(self) -> AsyncIterator[ChangedKey]:
        """Yields hints as they come; ends only by cancellation; reconnects by itself."""
        ...


class LeaseKeeper(Protocol):
    """scheduler.leader"""

    async def acquire_lease(self, owner: str, *, ttl_s: float) -> Fence | None:
        """The fence if nobody or `owner` itself holds the lease; None while another does.

        Taking it again as the same owner (a scheduler that was killed and
        started again) gives a new fence: the old process can write no more.
        """
        ...

    async def renew_lease(self, owner: str, fence: Fence, *, ttl_s: float) -> None:
        """Raises LeaseLostError where another has it."""
        ...

    async def release_lease(self, owner: str, fence: Fence) -> None:
        """Give it up, if it is still ours."""
        ...


class SchedulerWriter(SpecReader, LoadReader, Protocol):
    """scheduler.control_loop. Each write raises LeaseLostError under an old fence."""

    async def write_endpoints(self, fence: Fence, function: str, endpoints: Sequence[Endpoint]) -> None:
        """Replace a function's endpoints; an empty list removes the key."""
        ...

    async def write_statuses(
        self, fence: Fence, statuses: Sequence[FunctionStatus], *, quiet: Sequence[FunctionStatus] = ()
    ) -> None:
        """Replace the statuses of functions; the `quiet` ones, in which nothing has changed, without a hint."""
        ...

    async def write_nodes(self, fence: Fence, nodes: Sequence[NodeStatus]) -> None:
        """Replace what is known of the machines."""
        ...

    async def write_decisions(self, fence: Fence, function: str, decisions: Sequence[ScaleDecision]) -> None:
        """Replace a function's last decisions."""
        ...

    async def delete_status(self, fence: Fence, function: str) -> None:
        """Remove status, endpoints and decisions of a function that is gone."""
        ...

    async def read_endpoints(self) -> dict[str, tuple[Endpoint, ...]]:
        """What a new leader finds."""
        ...

    async def read_statuses(self) -> dict[str, FunctionStatus]:
        """What a new leader finds."""
        ...
