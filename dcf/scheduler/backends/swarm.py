"""Replicas as tasks of a Docker Swarm: one service per function.

In:   specs; services, tasks and nodes of the Swarm, known by labels.
Out:  services that outlive the scheduler and are adopted by the next one.
Swarm moves the replicas; this says what and how many, sees how they are, and
tells why one ended. Tasks on other nodes send no events, so it looks often
while something moves, and seldom while nothing does.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from dcf.domain.function import FunctionSpec, replica_digest
from dcf.domain.names import ReplicaName, parse_bundle_reference
from dcf.domain.status import NodeStatus
from dcf.errors import BackendConflictError, BackendError, CapacityError, ImageNotFoundError
from dcf.lifecycle import running
from dcf.scheduler.backends.contract import ObservedReplica, ReplicaExit, ServiceState
from dcf.scheduler.backends.docker_engine import DockerEngine
from dcf.scheduler.backends.log_lines import LogTail
from dcf.scheduler.backends.swarm_api import NO_TAIL, SwarmApi
from dcf.scheduler.backends.swarm_picture import Picture, Service, Task
from dcf.scheduler.backends.swarm_service import ServicePlace, anchor_name, service_spec
from dcf.scheduler.backends.swarm_words import explain_end, gpu_kind, node_statuses, observed_replica, service_state

MOVING_POLL_S = 0.15
"""Between two looks while something moves: an endpoint is published within twice of it."""
QUIET_POLL_S = 1.0
MOVES_FOR_S = 5.0
"""After a write: Swarm takes a moment to begin."""
FRESH_S = 0.05
"""A look of this age is as good as a new one: the poll and the control loop look one after the other."""
LOG_S = 2
"""For one look at a task's log; that of a node that cannot be reached never comes."""
LAST_WORDS_S = 2.0
"""For what a task said last: its cause is worth waiting for, but until its end is told it counts as no failed start."""
_COMING = frozenset({"new", "pending", "assigned", "accepted", "preparing", "ready", "starting"})
NETWORK_S = 5.0
"""Swarm frees a network a moment after its last task."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _End:
    task: Task
    replica: ObservedReplica
    lost_with: str = ""
    """Name of the node that is lost."""
    vanished: bool = False
    """Swarm removed it when it had stopped."""


class SwarmBackend:
    """The ServiceBackend of one Swarm. Touched only by the event loop of the scheduler."""

    def __init__(self, swarm: SwarmApi, *, cluster: str, on_change: Callable[[], None]) -> None:
        self._swarm = swarm
        self._cluster = cluster
        self._on_change = on_change
        self._lock = asyncio.Lock()
        self._hint = asyncio.Event()
        self._picture: Picture | None = None
        self._looked_at = 0.0
        self._wrote_at = 0.0
        self._told: object = None
        """What of the picture the control loop has seen."""
        self._states: dict[str, ServiceState] = {}
        self._live: dict[str, ObservedReplica] = {}
        """By task id."""
        self._ended: set[str] = set()
        """Ids of tasks that Swarm still lists, and whose end was told."""
        self._ends: asyncio.Queue[_End] = asyncio.Queue()
        """What ended, and has its last words to say."""
        self._exits: list[ReplicaExit] = []
        self._anchored_with: tuple[str, str] | None = None
        """Image and login that the anchor was given anew last."""

    async def observe(self) -> list[ObservedReplica]:
        """Three questions to the engine, some ten milliseconds."""
        picture = await self._look()
        self._told = _face(picture)
        return list(self._live.values())

    async def take_exits(self) -> list[ReplicaExit]:
        """Those whose last words are read. Nothing is cleaned up: Swarm keeps a few ended tasks, and forgets them."""
        exits, self._exits = self._exits, []
        return exits

    async def run_last_words(self) -> NoReturn:
        """Read what each task said last, one after the other, while the control loop goes on."""
        while True:
            end = await self._ends.get()
            tail = NO_TAIL
            if not (end.replica.stopping or end.lost_with or end.task.state == "rejected"):
                tail = await self._read_last_words(end.task.id)
            self._exits.append(self._exit(end, tail))
            self._on_change()

    async def _read_last_words(self, task_id: str) -> LogTail:
        """Again where there are none yet: a log comes from the task's node by way of the manager."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORDS_S):
                while not (tail := await self._swarm.read_tail(task_id)).lines:
                    await asyncio.sleep(MOVING_POLL_S)
                return tail
        return NO_TAIL

    async def log_tail(self, name: ReplicaName) -> tuple[str, ...]:
        """From the task's log, wherever it runs."""
        for task_id, replica in self._live.items():
            if replica.name == name:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOG_S):
                        return (await self._swarm.read_tail(task_id)).lines
        return ()

    async def nodes(self) -> list[NodeStatus]:
        """Of the whole Swarm, as the last look saw them."""
        return node_statuses(self._picture or await self._look())

    async def stop_all(self, *, grace_s: float) -> int:
        """Remove the services. How long a replica drains is in its service: none is killed before that."""
        picture = await self._look(anew=True)
        number = len(self._live)
        for function in list(picture.services):
            await self.remove(function)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + grace_s + 10.0
        while any(not task.has_ended for task in (await self._look(anew=True)).tasks.values()):
            if loop.time() > deadline:
                break
            await asyncio.sleep(MOVING_POLL_S)  # a one-shot at the end of a cluster: nothing else waits for this loop
        self._exits.clear()
        deadline = loop.time() + NETWORK_S
        while not await self._swarm.remove_network() and loop.time() < deadline:
            await asyncio.sleep(MOVING_POLL_S)
        return number

    # --- services

    def services(self) -> Mapping[str, ServiceState]:
        """By function."""
        return self._states

    async def create(self, spec: FunctionSpec) -> None:
        """One that is there already is updated, if it is of this cluster."""
        if self._known(spec.name) is None:
            await self._swarm.create(await self._write(spec, force_update=0), auth=spec.registry_auth)
            self._note_write(spec)
            self._stir()
        else:
            await self.update(spec)

    async def update(self, spec: FunctionSpec) -> None:
        """The version that was read goes along: who read an older one is refused."""
        service = self._require(spec.name)
        written = await self._write(spec, force_update=service.force_update)
        try:
            await self._swarm.update(service, written, auth=spec.registry_auth)
        finally:
            self._stir()
        self._note_write(spec)

    async def scale(self, function: str, replicas: int) -> None:
        """Post back what was read, with another number."""
        service = self._require(function)
        same: dict[str, Any] = copy.deepcopy(dict(service.spec))
        same["Mode"]["Replicated"]["Replicas"] = replicas
        try:
            await self._swarm.update(service, same, auth="")
        finally:
            self._stir()
        self._states[function] = replace(self._states[function], replicas=replicas)

    async def remove(self, function: str) -> None:
        """Its tasks are seen until they have drained."""
        service = self._known(function)
        if service is not None:
            await self._swarm.remove(service)
            self._stir()
        self._states.pop(function, None)

    def on_event(self) -> None:
        """Something changed on this engine, or in the Swarm's services and nodes: look now."""
        self._looked_at = 0.0
        self._hint.set()

    async def run_poll(self) -> NoReturn:
        """Look again and again, and tell when the picture is another one."""
        while True:
            self._hint.clear()
            wait_s = QUIET_POLL_S
            # Whoever calls `observe` is told what is wrong; here it is looked again.
            with contextlib.suppress(BackendError):
                picture = await self._look()
                if _face(picture) != self._told:
                    self._told = _face(picture)
                    self._on_change()
                if picture.is_moving() or time.monotonic() - self._wrote_at < MOVES_FOR_S:
                    wait_s = MOVING_POLL_S
            await asyncio.sleep(FRESH_S)  # events come in flocks
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._hint.wait()

    # --- the picture

    async def _look(self, *, anew: bool = False) -> Picture:
        async with self._lock:
            now = time.monotonic()
            if self._picture is None or anew or now - self._looked_at > FRESH_S:
                picture = await self._swarm.read()
                self._looked_at = now
                self._take(picture)
            assert self._picture is not None
            return self._picture

    def _take(self, picture: Picture) -> None:
        """Tell what is there now from what ended since the last picture."""
        first = self._picture is None
        self._picture = picture
        self._states = {name: service_state(one, picture) for name, one in picture.services.items()}
        before, self._live = self._live, {}
        for task in picture.tasks.values():
            known = before.get(task.id)
            if picture.is_there(task):
                self._ended.discard(task.id)  # its node was lost, and is back
                started_at = known.started_at if known else task.status_at if first else time.time()
                adopted = known.adopted if known else first
                self._live[task.id] = observed_replica(task, picture, started_at=started_at, adopted=adopted)
            elif task.has_ended and task.id not in self._ended:
                self._ended.add(task.id)
                # One that was called off or misplaced before it ran was never a replica.
                never_was = known is None and (task.was_called_off or task.was_misplaced)
                if not first and not never_was:
                    self._ends.put_nowait(self._end(task, known, picture))
            elif known is not None and task.id not in self._ended:
                self._ended.add(task.id)
                self._ends.put_nowait(_End(task=task, replica=known, lost_with=picture.node_name(task.node_id)))
        for task_id in before.keys() - picture.tasks.keys() - self._ended:
            gone = replace(before[task_id], stopping=True)
            self._ends.put_nowait(_End(task=_stand_in(task_id, gone), replica=gone, vanished=True))
        self._ended &= picture.tasks.keys()

    def _end(self, task: Task, known: ObservedReplica | None, picture: Picture) -> _End:
        """The end of a task; Swarm marks one that failed as to be stopped too, so what was asked counts before it."""
        replica = known or observed_replica(task, picture, started_at=task.status_at, adopted=False)
        asked = task.was_called_off or (known is not None and known.stopping)
        return _End(task=task, replica=replace(replica, stopping=asked))

    def _exit(self, end: _End, tail: LogTail) -> ReplicaExit:
        picture = self._picture or Picture()
        if end.lost_with:
            cause = f"its node {end.lost_with} is lost"
        elif end.vanished or end.replica.stopping:
            cause = "it was stopped"
        else:
            cause = explain_end(end.task, picture, tail)
        code = end.task.exit_code
        return ReplicaExit(
            replica=end.replica,
            code=128 - code if code is not None and code > 128 else code,
            cause=cause,
            log_tail=tail.lines,
            image_missing=end.task.image_missing,
        )

    # --- writing

    async def _write(self, spec: FunctionSpec, *, force_update: int) -> dict[str, Any]:
        if parse_bundle_reference(spec.image) is not None:
            raise ImageNotFoundError(
                f"{spec.image} is a bundle, and this cluster runs functions as containers: "
                "run `dcf function build --backend swarm`, then deploy"
            )
        findings = await self._swarm.find_out(spec.secrets)
        if spec.gpu_count:
            await self._drop_anchor(spec, findings.network_id)
        place = ServicePlace(
            cluster=self._cluster,
            network_id=findings.network_id,
            api=findings.api,
            gpu_kind=gpu_kind((self._picture or Picture()).nodes.values()),
            secret_ids=findings.secret_ids,
            force_update=force_update,
        )
        return service_spec(spec, place)

    async def _drop_anchor(self, spec: FunctionSpec, network_id: str) -> None:
        """Raises CapacityError while the machines with GPUs are not all on the network, as far as they can be."""
        tasks = await self._swarm.anchor(spec.image, network_id, auth=spec.registry_auth)
        nodes = [node for node in (self._picture or Picture()).nodes.values() if node.takes_tasks and node.gpu_ids]
        held = [node for node in nodes if node.id in tasks and tasks[node.id].state == "running"]
        coming = [node for node in nodes if node.id not in tasks or tasks[node.id].state in _COMING]
        image_and_login = (spec.image, spec.registry_auth)
        if not coming and len(held) < len(nodes) and self._anchored_with != image_and_login:
            # What it was made with may be gone from the registry since, and would keep every GPU function waiting.
            self._anchored_with = image_and_login
            await self._swarm.renew_anchor(spec.image, network_id, auth=spec.registry_auth)
            coming = [node for node in nodes if node not in held]
        if nodes and (coming or not held):
            names = ", ".join(sorted(node.name for node in coming or nodes))
            error = next((task.error for task in tasks.values() if task.error), "")
            self._stir()
            raise CapacityError(
                f"no GPU free yet: {names} must join the cluster's network first, with a sleeping container of image "
                f"{spec.image}; `docker service ps {anchor_name(self._cluster)}` shows how far that is"
                + (f", and says: {error}" if error else "")
            )

    def _known(self, function: str) -> Service | None:
        return self._picture.services.get(function) if self._picture else None

    def _require(self, function: str) -> Service:
        """As the last look saw it: its version is what makes a late act of another leader fail."""
        service = self._known(function)
        if service is None:
            raise BackendConflictError(f"function {function} has no service any more")
        return service

    def _note_write(self, spec: FunctionSpec) -> None:
        self._states[spec.name] = ServiceState(
            function=spec.name,
            uid=spec.uid,
            generation=spec.generation,
            digest=replica_digest(spec),
            replicas=spec.desired,
            updating=self._known(spec.name) is not None,
            rolling_back=False,
            waiting="",
        )

    def _stir(self) -> None:
        """A write: what was read is out of date, and something will move."""
        self._wrote_at = time.monotonic()
        self.on_event()


def _face(picture: Picture) -> object:
    """What of a picture the control loop would act on, or show."""
    return (
        {(task.id, task.desired, task.state, task.address, task.error) for task in picture.tasks.values()},
        {(one.id, one.generation, one.digest, one.replicas, one.update_state) for one in picture.services.values()},
        {(node.id, node.is_up, node.note) for node in picture.nodes.values()},
    )


def _stand_in(task_id: str, replica: ObservedReplica) -> Task:
    """For a task that Swarm lists no more: what is known of it."""
    return Task(
        id=task_id,
        function=replica.function,
        uid=replica.uid,
        generation=replica.generation,
        digest=replica.digest,
        grace_s=replica.grace_s,
        slot=replica.ordinal,
        node_id="",
        state="remove",
        desired="remove",
        error="",
        exit_code=None,
        status_at=0.0,
        image="",
    )


@asynccontextmanager
async def open_swarm_backend(
    *, cluster: str, network: str, environ: Mapping[str, str], on_change: Callable[[], None]
) -> AsyncIterator[SwarmBackend]:
    """A backend for the block; its replicas live on afterwards."""
    engine, log_engine = DockerEngine(environ), DockerEngine(environ, answer_s=LOG_S)
    swarm = SwarmApi(engine, log_engine, cluster=cluster, network=network)
    backend = SwarmBackend(swarm, cluster=cluster, on_change=on_change)
    # Not the health checks, which every container has each few seconds.
    filters = {
        "type": ["service", "node", "container"],
        "event": ["create", "update", "remove", "start", "die"],
    }
    try:
        async with (
            engine.listening(filters, backend.on_event),
            running(poll=backend.run_poll(), last_words=backend.run_last_words()),
        ):
            yield backend
    finally:
        engine.close()
        log_engine.close()
