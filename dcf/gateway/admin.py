"""Deploy, delete, scale and show functions: what HTTP and gRPC share.

In:   plain requests. Out: views (function_view.py), or an InvocationError.
Writes specs alone; what follows from them is the scheduler's. The router is
told at once, so that a call right after its deployment finds the function.
"""

from __future__ import annotations

import asyncio
import dataclasses
import difflib
import logging
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from dcf import __version__
from dcf.domain.function import FunctionSpec, parse_spec, succeed
from dcf.domain.load import FunctionLoad
from dcf.domain.scaling import MAX_REPLICAS, ScalingPolicy, parse_scaling, scaling_to_request
from dcf.domain.stats import CallTotals, Totals
from dcf.domain.status import FunctionStatus
from dcf.errors import (
    ClusterUnavailableError,
    FunctionNotFoundError,
    InvalidInputError,
    InvocationError,
    StoreUnavailableError,
)
from dcf.gateway.function_log import LogLine, ReplicaLogs
from dcf.gateway.function_view import view, view_node, view_with_spec
from dcf.gateway.router import FunctionEntry, Router
from dcf.gateway.settings import GatewaySettings
from dcf.gateway.stats import Stats
from dcf.store.contract import CountReader, DecisionReader, EndpointReader, LoadReader, NodeReader, SpecWriter

log = logging.getLogger(__name__)

WRITE_TRIES = 20
"""Each lost try means that somebody else's write was done; so many in a row is a script run wild."""

STORE_RETRY_S = 2.0
"""Redis is started again within a second or two."""


class AdminStore(SpecWriter, CountReader, EndpointReader, NodeReader, LoadReader, DecisionReader, Protocol):
    """What this module reads and writes."""


@dataclass(frozen=True, slots=True)
class _Known:
    """One look at the cluster."""

    specs: Mapping[str, FunctionSpec]
    statuses: Mapping[str, FunctionStatus]
    counts: Mapping[str, Mapping[str, Totals]]
    loads: Mapping[str, Sequence[FunctionLoad]]
    """By function, of every gateway process that reports."""
    store_answers: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What the metrics say of one function."""

    totals: CallTotals
    desired: int
    ready: int = 0
    gpus: int = 0
    memory_bytes: int = 0
    worker_restarts: int = 0


class Admin:
    """Touched only by the event loop of the gateway."""

    def __init__(
        self,
        store: AdminStore,
        router: Router,
        stats: Stats,
        settings: GatewaySettings,
        *,
        stopping: asyncio.Event | None = None,
    ) -> None:
        """`stopping` ends the logs that are followed; they would hold the gateway's stop up."""
        self._store = store
        self._router = router
        self._stats = stats
        self._settings = settings
        self.stopping = stopping or asyncio.Event()
        self._logs = ReplicaLogs(router, self.stopping)

    # what is written

    async def deploy(self, data: dict[str, Any], *, must_exist: bool | None = None) -> dict[str, Any]:
        """Create a function, or replace what it is made of; a number pinned by hand stays.

        Args:
            data: the JSON form of dcf.v1.DeployRequest.
            must_exist: an update: FunctionNotFoundError where there is none.

        Raises:
            InvalidInputError: names the field.
            FunctionNotFoundError, ClusterUnavailableError
        """
        new = parse_spec(data)
        uid = uuid.uuid4().hex

        def change(old: FunctionSpec | None) -> FunctionSpec:
            if old is None and must_exist:
                raise self._not_found(new.name)
            return succeed(old, new, uid=uid)

        return await self._write(new.name, change, "deployed")

    async def scale(self, name: str, replicas: int | None) -> dict[str, Any]:
        """Pin the replica number; None: the spec's own number again."""
        if replicas is not None and not 0 <= replicas <= MAX_REPLICAS:
            raise InvalidInputError(
                f"replicas: {replicas} is not a whole number from 0 to {MAX_REPLICAS}", function=name
            )

        def change(old: FunctionSpec | None) -> FunctionSpec:
            if old is None:
                raise self._not_found(name)
            return dataclasses.replace(old, pinned_replicas=replicas, revision=old.revision + 1)

        return await self._write(name, change, "scaled")

    async def set_range(self, name: str, lowest: int | None, highest: int | None) -> dict[str, Any]:
        """Change min, max or both of an elastic number; a fixed one becomes elastic, a pinned one is released.

        Raises:
            InvalidInputError: they are no range.
            FunctionNotFoundError, ClusterUnavailableError
        """

        def change(old: FunctionSpec | None) -> FunctionSpec:
            if old is None:
                raise self._not_found(name)
            return dataclasses.replace(
                old, scaling=_ranged(old, lowest, highest), pinned_replicas=None, revision=old.revision + 1
            )

        return await self._write(name, change, "given another range")

    async def delete(self, name: str) -> None:
        """Remove the function and its counts. Raises FunctionNotFoundError."""
        with _answering_store(name):
            spec = await self._store.read_spec(name)
            if not await self._store.delete_spec(name) or spec is None:
                raise self._not_found(name)
        self._router.remove(name)
        self._stats.forget(spec.uid)
        log.info("function was deleted", extra={"function": name})

    async def _write(
        self, name: str, change: Callable[[FunctionSpec | None], FunctionSpec], done: str
    ) -> dict[str, Any]:
        """Store what `change` makes of the spec; again where somebody else was faster."""
        with _answering_store(name):
            for _ in range(WRITE_TRIES):
                old = await self._store.read_spec(name)
                new = change(old)
                if await self._store.write_spec(new, expected_revision=old.revision if old else 0):
                    break
            else:
                raise ClusterUnavailableError(
                    f"the spec of {name} was changed by others {WRITE_TRIES} times while this change was tried",
                    function=name,
                    retry_after_s=1.0,
                )
        self._router.apply_spec(new)
        log.info(
            "function was " + done,
            extra={"function": name, "generation": new.generation, "image": new.image, "replicas": new.desired},
        )
        return self._view(new, await self._look())

    # what is shown

    async def list(self) -> list[dict[str, Any]]:
        """All functions by name; what this gateway knows while the store does not answer."""
        known = await self._look()
        return [self._view(spec, known) for _, spec in sorted(known.specs.items())]

    async def describe(self, name: str, *, environment: bool = True) -> dict[str, Any]:
        """One function with its spec; `environment`: also the values of its variables."""
        known = await self._look()
        spec = known.specs.get(name)
        if spec is None:
            raise self._not_found(name)
        decisions = await self._store.read_decisions(name) if known.store_answers else ()
        return view_with_spec(self._view(spec, known), spec, decisions, environment=environment)

    async def nodes(self) -> Sequence[dict[str, Any]]:
        """The machines that replicas run on. Raises ClusterUnavailableError."""
        with _answering_store(""):
            return [view_node(node) for node in await self._store.read_nodes()]

    def info(self) -> dict[str, Any]:
        """Version and facts of the cluster."""
        return {
            "version": __version__,
            "backend": self._settings.backend,
            "cluster": self._settings.cluster,
            "bundles": self._settings.bundles,
        }

    async def log(
        self, name: str, *, since_at: float = 0.0, tail: int | None = None, follow: bool = False
    ) -> AsyncGenerator[LogLine, None]:
        """Lines of all replicas; see ReplicaLogs.read. Raises FunctionNotFoundError before the first."""
        return self._logs.read(await self._entry(name), since_at=since_at, tail=tail, follow=follow)

    async def _entry(self, name: str) -> FunctionEntry:
        if name not in self._router.functions:
            # Deployed through another gateway a moment ago?
            with _answering_store(name):
                spec = await self._store.read_spec(name)
            if spec is None:
                raise self._not_found(name)
            self._router.apply_spec(spec)
        return self._router.functions[name]

    async def _look(self) -> _Known:
        try:
            specs = await self._store.read_specs()
            statuses = await self._store.read_statuses()
            # What this gateway has told somebody it still knows when the store is gone.
            for name in specs:
                self._router.apply_status(name, statuses.get(name))
            loads: dict[str, list[FunctionLoad]] = {}
            for report in await self._store.read_load():
                for name, load in report.functions.items() if report.is_fresh else ():
                    loads.setdefault(name, []).append(load)
            return _Known(specs, statuses, await self._store.read_counts(), loads, True)
        except StoreUnavailableError:
            entries = self._router.functions
            return _Known(
                {name: entry.spec for name, entry in entries.items()},
                {name: entry.status for name, entry in entries.items() if entry.status},
                {},
                {},
                False,
            )

    def _view(self, spec: FunctionSpec, known: _Known) -> dict[str, Any]:
        return view(
            spec,
            known.statuses.get(spec.name),
            self._totals(spec, known),
            [load for load in known.loads.get(spec.name, ()) if load.uid == spec.uid],
            now_s=time.time(),
            store_answers=known.store_answers,
        )

    def _totals(self, spec: FunctionSpec, known: _Known) -> CallTotals:
        slices = dict(known.counts.get(spec.uid, {}))
        # The own slice is younger here than in the store, except before this process has counted anything.
        if own := self._stats.totals(spec.uid):
            slices[self._stats.slice_name] = own
        return CallTotals.of(slices.values())

    async def measured(self) -> dict[str, Measured]:
        """What is counted and observed of every function, over all gateway processes, by name."""
        known = await self._look()
        return {name: self._measured(spec, known) for name, spec in sorted(known.specs.items())}

    def _measured(self, spec: FunctionSpec, known: _Known) -> Measured:
        status = known.statuses.get(spec.name)
        if status is None or status.uid != spec.uid:
            return Measured(totals=self._totals(spec, known), desired=spec.desired)
        return Measured(
            totals=self._totals(spec, known),
            desired=status.desired,
            ready=status.ready,
            gpus=sum(len(replica.gpus) for replica in status.replicas),
            memory_bytes=sum(replica.memory_bytes for replica in status.replicas),
            worker_restarts=sum(replica.worker_restarts for replica in status.replicas),
        )

    def _not_found(self, name: str) -> InvocationError:
        near = difflib.get_close_matches(name, self._router.functions, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return FunctionNotFoundError(f"no function {name!r} is deployed{hint}", function=name)


@contextmanager
def _answering_store(name: str) -> Iterator[None]:
    try:
        yield
    except StoreUnavailableError as error:
        raise ClusterUnavailableError(
            f"the store (Redis) does not answer, so nothing can be changed now ({error}); calls go on",
            function=name,
            retry_after_s=STORE_RETRY_S,
        ) from error


def _ranged(old: FunctionSpec, lowest: int | None, highest: int | None) -> ScalingPolicy:
    """The policy with another range. Raises InvalidInputError."""
    if lowest is None and highest is None:
        raise InvalidInputError("range: neither min nor max is given", function=old.name)
    block = scaling_to_request(old.scaling) if old.scaling else {"min": min(1, old.replicas)}
    block |= {key: number for key, number in (("min", lowest), ("max", highest)) if number is not None}
    # What was right for the old range may be none for the new one, and counted at the first deployment alone.
    block.pop("initial", None)
    try:
        return parse_scaling(block)
    except InvalidInputError as error:
        error.function = old.name
        raise
