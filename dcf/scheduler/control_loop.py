"""Make what runs what is wanted, and publish how it is.

In:   specs from the store, replicas from the backend, their Watch streams.
Out:  starts and stops in the backend; endpoints and status in the store.
The only place that changes replicas; how, is replica_mover.py's or
service_mover.py's, as the backend is.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import NoReturn, Protocol

from dcf.domain.function import FunctionSpec
from dcf.domain.load import LoadReport
from dcf.domain.scaling import ColdStart
from dcf.domain.status import SERVING, Endpoint, FunctionStatus, NodeStatus
from dcf.errors import BackendError, StoreUnavailableError
from dcf.lifecycle import open_task_set, running
from dcf.scheduler.backends.contract import ObservedReplica, ReplicaBackend, ReplicaExit, ServiceBackend
from dcf.scheduler.backoff import PROVEN_AFTER_S
from dcf.scheduler.function_memory import FunctionMemory, Steady, made_of
from dcf.scheduler.reconciler import ReplicaView
from dcf.scheduler.replica_mover import ReplicaMover
from dcf.scheduler.scaler import Present, Scaler
from dcf.scheduler.service_mover import ServiceMover
from dcf.scheduler.status_report import describe, gist
from dcf.scheduler.watcher_watch import Report, WatcherWatch
from dcf.store.contract import Changes, Fence, SchedulerWriter

log = logging.getLogger(__name__)

REFRESH_S = 5.0
"""Least time between two writes of a status in which only calls and memory differ."""
REREAD_S = 10.0
"""After so long the store is asked what is published: a Redis that crashed has lost its last second."""
PARTED_S = 60.0
"""After so long nobody tells the end of a replica that is gone."""
PAUSE_S = 0.02
"""Between two turns: hints that come together are one turn."""


class SchedulerStore(SchedulerWriter, Changes, Protocol):
    """The half of the store that the control loop is given."""


class ControlLoop:
    """One leadership's view of all functions. Touched only by the event loop of the scheduler."""

    def __init__(
        self, store: SchedulerWriter, backend: ReplicaBackend | ServiceBackend, watches: WatcherWatch, fence: Fence
    ) -> None:
        self._store = store
        self._backend = backend
        self._mover = open_mover(backend)
        self._watches = watches
        self._fence = fence
        self._functions: dict[str, FunctionMemory] = {}
        self._published: dict[str, tuple[Endpoint, ...]] = {}
        self._reread_at = 0.0
        self._nodes: list[NodeStatus] | None = None
        self._scaler = Scaler()
        self._unwritten: list[tuple[FunctionMemory, FunctionStatus, bool]] = []
        """Statuses of this turn, and whether nothing but their age is new."""
        self._desired: dict[str, tuple[str, int]] = {}
        """uid and number that were decided last, by function; at first those of an earlier leader."""
        self._parted: dict[str, tuple[float, Report]] = {}
        """By address: when a replica was there no more, and what it had said last."""

    async def turn(self) -> float | None:
        """Look at everything once and act; unix seconds of the next start that waits for its back-off, if any.

        Raises LeaseLostError, StoreUnavailableError or BackendUnavailableError;
        what was not done then is done by a later turn.
        """
        # The store first: while it is away, the backend keeps its exits for later.
        specs = await self._store.read_specs()
        reports = await self._store.read_load()
        await self._read_published()
        observed = await self._backend.observe()
        exits = await self._backend.take_exits()
        gone = {one.replica.address for one in exits}
        observed = [replica for replica in observed if replica.address not in gone]
        now_s = time.time()
        for name, spec in specs.items():
            self._functions.setdefault(name, FunctionMemory()).meet(spec, now_s)
        for one in exits:
            await self._on_exit(one)
        self._watches.follow(observed)
        for address in self._watches.addresses() - {replica.address for replica in observed}:
            # Its end may be told later than it is seen: a Swarm's logs take their time.
            self._parted[address] = (now_s, await self._watches.forget(address))
        self._parted = {key: one for key, one in self._parted.items() if now_s - one[0] < PARTED_S}

        replicas: dict[str, list[ObservedReplica]] = {}
        for replica in observed:
            self._functions.setdefault(replica.function, FunctionMemory())
            replicas.setdefault(replica.function, []).append(replica)
        views = {name: self._look_again(name, here) for name, here in replicas.items()}
        for name in self._mover.functions():
            self._functions.setdefault(name, FunctionMemory())
        nodes = await self._backend.nodes()
        specs = self._scale(specs, reports, views, nodes, now_s)
        try:
            for name in list(self._functions):
                if not self._is_steady(name, specs.get(name), views.get(name), now_s):
                    await self._turn_one(name, specs.get(name), replicas.get(name, []), now_s)
        finally:
            await self._write_statuses()  # of those that were looked at before the backend went away
        await self._write_nodes(nodes)
        for name in self._scaler.changed():
            await self._store.write_decisions(self._fence, name, self._scaler.decisions_of(name))
            self._scaler.stored(name)
        if any(function.unfinished for function in self._functions.values()):
            return now_s
        waiting = [function.backoff.next_at for function in self._functions.values() if function.backoff.failures]
        return min((at for at in waiting if at > now_s), default=None)

    def _scale(
        self,
        specs: Mapping[str, FunctionSpec],
        reports: Sequence[LoadReport],
        views: Mapping[str, Sequence[ReplicaView]],
        nodes: Sequence[NodeStatus],
        now_s: float,
    ) -> dict[str, FunctionSpec]:
        """The specs with the numbers that shall run now."""
        present = {}
        for name in {*specs, *views}:
            here = views.get(name, ())
            spec, (uid, number) = specs.get(name), self._desired.get(name, ("", 0))
            serving = [view for view in here if view.serving]
            hopeless = self._functions[name].hopeless
            present[name] = Present(
                views=here,
                failed=hopeless and not serving,
                # A version that cannot start must not outlive the one before it.
                needed=hopeless and bool(serving),
                was=number if spec is not None and spec.uid == uid else None,
            )
        decided = self._scaler.decide_all(specs, reports, present, nodes, time.monotonic(), at=now_s)
        for name, spec in decided.items():
            was = present[name].was
            self._functions[name].ask(was or 0, spec.desired, now_s)
            if spec.elastic and was is not None and was != spec.desired:
                reason = self._scaler.decisions_of(name)[-1].reason
                log.info(
                    "replicas changed",
                    extra={"function": name, "before": was, "replicas": spec.desired, "reason": reason},
                )
        self._desired = {name: (spec.uid, spec.desired) for name, spec in decided.items()}
        return decided

    async def _read_published(self) -> None:
        now = time.monotonic()
        if now < self._reread_at:
            return
        published = await self._store.read_endpoints()
        statuses = await self._store.read_statuses()
        for name in {*published, *statuses}:
            self._functions.setdefault(name, FunctionMemory()).deleted = False
        for name, function in self._functions.items():
            if name not in statuses:
                function.written = None
        for name, status in statuses.items():
            self._desired.setdefault(name, (status.uid, status.desired))
        self._published = dict(published)
        self._reread_at = now + REREAD_S

    async def _on_exit(self, one: ReplicaExit) -> None:
        replica = one.replica
        _, report = self._parted.pop(replica.address, (0.0, None))
        report = report or await self._watches.forget(replica.address)
        if report.state == "failed" and report.note and not one.log_tail:
            # What it said of itself: a Swarm cannot read the logs of a node that was away and is back (moby 20.10).
            one = replace(one, cause=report.note)
        fields = {"function": replica.function, "replica": replica.name, "code": one.code}
        if replica.stopping:
            log.info("replica has stopped", extra=fields)
            return
        log.warning("replica ended", extra={**fields, "cause": one.cause})
        function = self._functions.get(replica.function)
        if function is None or function.made_of != made_of(replica) or one.found_dead:
            return
        ready_for_s = time.monotonic() - report.ready_since if report.ready_since is not None else 0.0
        function.on_exit(one, ready_for_s=ready_for_s, now_s=time.time())

    def _view(self, replica: ObservedReplica) -> ReplicaView:
        now = time.monotonic()
        report = self._watches.report(replica.address)
        function = self._functions[replica.function]
        self._note_start(replica, report, function)
        proven = report.ready_since is not None and now - report.ready_since >= PROVEN_AFTER_S
        if proven and function.made_of == made_of(replica):
            function.backoff = function.backoff.after_proof(started_at=replica.started_at)
        silent = report.is_silent(now)
        # A start that fails says the same on its way out; that one is for the back-off, not to be replaced at once.
        leaving = report.state == "draining" and report.ready_since is not None
        return ReplicaView(
            name=replica.name,
            uid=replica.uid,
            generation=replica.generation,
            digest=replica.digest,
            ordinal=replica.ordinal,
            address=replica.address,
            state="starting" if silent else report.state,
            stopping=replica.stopping or leaving,
            was_ready=report.ready_since is not None,
            started_at=replica.started_at,
            grace_s=replica.grace_s,
            in_flight=report.in_flight,
            memory_bytes=report.memory_bytes,
            worker_restarts=report.worker_restarts,
            silent=silent,
            note=report.note,
            node=replica.node,
            gpus=replica.gpus,
        )

    def _note_start(self, replica: ObservedReplica, report: Report, function: FunctionMemory) -> None:
        """How long the last start took, once it is done."""
        asked_at, first_heard_at = function.asked_at, report.first_heard_at
        if report.ready_since is None or first_heard_at is None or replica.adopted:
            return
        # Docker's times are whole seconds; and one that replaces another was not asked for by anybody's calls.
        if not asked_at or replica.started_at < asked_at - 1.0:
            return
        since = time.time() - time.monotonic() - asked_at
        function.cold_start = ColdStart(
            container_s=round(max(0.0, replica.started_at - asked_at), 3),
            watcher_s=round(since + first_heard_at, 3),
            loaded_s=round(since + report.ready_since, 3),
        )

    def _look_again(self, name: str, replicas: list[ObservedReplica]) -> list[ReplicaView]:
        """Views of a function's replicas; those of an earlier turn where only what they do now has changed since."""
        steady, now = self._functions[name].steady, time.monotonic()
        if steady is not None and steady.replicas == replicas:
            reports = [self._watches.report(replica.address) for replica in replicas]
            if all(report.state in SERVING and not report.is_silent(now) for report in reports):
                return steady.views
        return [self._view(replica) for replica in replicas]

    def _is_steady(
        self, name: str, spec: FunctionSpec | None, views: Sequence[ReplicaView] | None, now_s: float
    ) -> bool:
        """Whether nothing is new since a turn that had nothing to do; now and then all is looked at all the same."""
        function = self._functions[name]
        steady, written = function.steady, function.written
        if spec is None or steady is None or written is None or steady.spec is not spec or steady.views is not views:
            return False
        return now_s - written.updated_at < REFRESH_S and self._mover.is_at_rest(spec)

    async def _turn_one(
        self, name: str, spec: FunctionSpec | None, replicas: list[ObservedReplica], now_s: float
    ) -> None:
        function = self._functions[name]
        function.steady, function.unfinished = None, False
        views = [self._view(replica) for replica in replicas]
        if spec is None:
            if not function.deleted:
                await self._store.delete_status(self._fence, name)
                self._published.pop(name, None)
                function.forget()
            if await self._mover.remove(name, views, function, now_s=now_s):
                del self._functions[name]
            return
        before = views
        views = await self._mover.move(
            spec, views, function, publish=partial(self._publish, spec), look=self._look_at, now_s=now_s
        )
        status = describe(
            spec,
            views,
            function.backoff,
            function.failure,
            hopeless=function.hopeless,
            waiting=function.waiting,
            held_back=self._scaler.held_back(name),
            scaled=self._scaler.last_reason(name),
            cold_start=function.cold_start,
        )
        self._note_status(function, status)
        if status.settled:
            function.asked_at = 0.0
        if status.settled and not status.reason and not function.backoff.failures:
            function.steady = Steady(spec=spec, replicas=replicas, views=before)

    def _look_at(self, started: list[ObservedReplica]) -> list[ReplicaView]:
        views = [self._view(replica) for replica in started]
        self._watches.follow(started)
        return views

    async def _publish(self, spec: FunctionSpec, views: Sequence[ReplicaView]) -> None:
        endpoints = tuple(
            Endpoint(replica=view.name, address=view.address, generation=view.generation)
            for view in sorted(views, key=lambda view: (view.generation, view.ordinal))
            if view.uid == spec.uid and not view.stopping
        )
        if endpoints != self._published.get(spec.name, ()):
            await self._store.write_endpoints(self._fence, spec.name, endpoints)
            self._published[spec.name] = endpoints

    def _note_status(self, function: FunctionMemory, status: FunctionStatus) -> None:
        """To be written at the end of the turn, where there is news or it is old."""
        written = function.written
        if written is not None:
            quiet = gist(written) == gist(status)
            # An unchanged one is written again too: its age tells the gateways that a scheduler is at work.
            if quiet and time.time() - written.updated_at < REFRESH_S:
                return
            if (written.ready, written.failed, written.settled) != (status.ready, status.failed, status.settled):
                self._log_change(status)
        else:
            quiet = False
            self._log_change(status)
        self._unwritten.append((function, replace(status, updated_at=time.time()), quiet))

    async def _write_statuses(self) -> None:
        unwritten, self._unwritten = self._unwritten, []
        if unwritten:
            news = [status for _, status, quiet in unwritten if not quiet]
            same = [status for _, status, quiet in unwritten if quiet]
            try:
                await self._store.write_statuses(self._fence, news, quiet=same)
            except BaseException:
                for function, _, _ in unwritten:
                    function.steady = None  # there is still something to say
                raise
        for function, status, _ in unwritten:
            function.written = status

    async def _write_nodes(self, nodes: list[NodeStatus]) -> None:
        if nodes != self._nodes:
            await self._store.write_nodes(self._fence, nodes)
            self._nodes = nodes

    def _log_change(self, status: FunctionStatus) -> None:
        log.info(
            "function has changed",
            extra={
                "function": status.name,
                "ready": status.ready,
                "desired": status.desired,
                "failed": status.failed,
                "reason": status.reason,
            },
        )


def open_mover(backend: ReplicaBackend | ServiceBackend) -> ReplicaMover | ServiceMover:
    """The mover for this kind of backend."""
    if isinstance(backend, ServiceBackend):
        return ServiceMover(backend)
    return ReplicaMover(backend)


async def run_control_loop(
    store: SchedulerStore,
    backend: ReplicaBackend | ServiceBackend,
    fence: Fence,
    *,
    wake: asyncio.Event,
    tick_s: float,
) -> NoReturn:
    """Turn whenever something may have changed, and every `tick_s`; raises LeaseLostError."""
    async with open_task_set() as tasks, running(hints=_run_hints(store, wake)):
        loop = ControlLoop(store, backend, WatcherWatch(tasks, wake.set), fence)
        away = ""
        while True:
            wake.clear()
            wait_s = tick_s
            try:
                next_at = await loop.turn()
                if next_at is not None:
                    wait_s = min(tick_s, max(0.0, next_at - time.time()))
                if away:
                    log.info("store and backend answer again")
                    away = ""
            except (StoreUnavailableError, BackendError) as error:
                if not away:
                    log.warning("replicas are kept as they are", extra={"reason": str(error)})
                away = str(error)
            await asyncio.sleep(PAUSE_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await wake.wait()


async def _run_hints(store: Changes, wake: asyncio.Event) -> None:
    async for changed in store.changes():
        if changed.family in {"spec", "load"}:  # the rest is what this loop wrote itself
            wake.set()
