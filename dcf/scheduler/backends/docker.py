"""Replicas as containers of one Docker engine.

In:   plans; images, networks and containers of the engine, known by labels.
Out:  containers that outlive the scheduler and are adopted by the next one.
All that must be remembered is in the engine: labels, and for a replica that
drains the end of its grace in the container's name, the one thing of it that
can still be changed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from dcf.domain.image import FORMAT, FORMAT_LABEL
from dcf.domain.names import ReplicaName, parse_bundle_reference
from dcf.domain.status import NodeStatus
from dcf.errors import BackendError, ImageNotFoundError, ImagePendingError
from dcf.scheduler.backends import container
from dcf.scheduler.backends.contract import ObservedReplica, ReplicaExit, ReplicaPlan
from dcf.scheduler.backends.docker_containers import Buried, Containers, Found, image_labels, kill, read_tail
from dcf.scheduler.backends.docker_engine import DockerEngine
from dcf.scheduler.backends.gpu_source import find_gpus
from dcf.scheduler.backends.image_fetcher import ImageFetcher

log = logging.getLogger(__name__)

INFO_S = 60.0
"""Machines do not grow; GPUs are looked for as rarely."""
KILL_AGAIN_S = 5.0
"""After the end of its grace: the engine was away when it was to be killed."""
POLL_S = 0.05


@dataclass(slots=True)
class _Replica:
    """Touched only by the event loop of the scheduler."""

    id: str
    observed: ObservedReplica
    labels: Mapping[str, str]
    kill_at: float | None
    kill_timer: asyncio.TimerHandle | None = None


class DockerBackend:
    """The ReplicaBackend of one engine. Touched only by the event loop of the scheduler."""

    def __init__(self, engine: DockerEngine, fetcher: ImageFetcher, containers: Containers, *, gpus: str) -> None:
        self._engine = engine
        self._fetcher = fetcher
        self._containers = containers
        self._gpus_setting = gpus
        self._opened_at = time.time()
        self._replicas: dict[str, _Replica] = {}
        self._ended: dict[str, _Replica] = {}
        """By container id: seen to be gone, and not buried yet."""
        self._adopting = True
        self._node: NodeStatus | None = None
        self._node_at = 0.0

    async def observe(self) -> list[ObservedReplica]:
        """One question to the engine; also finds what an earlier scheduler started."""
        seen = await self._engine.run(self._containers.find)
        # A paused one is there, and silent, which is for its Watch stream to say.
        there = [one for one in seen if one.state in {"running", "paused"} and one.ip]
        running = {one.labels[container.REPLICA]: one for one in there}
        for name in self._replicas.keys() - running.keys():
            gone = self._replicas.pop(name)
            self._let_go(gone)
            # An ended container has no address any more, and its end is told by the one that it had.
            self._ended[gone.id] = gone
        for name, one in running.items():
            known = self._replicas.get(name)
            if known is None or known.id != one.id:
                if known is not None:
                    self._let_go(known)
                self._keep(_Replica(one.id, self._observed(one), one.labels, one.kill_at))
            elif known.kill_at is None and one.kill_at is not None:
                # Another scheduler, which led for a while, has begun to stop it.
                known.kill_at = one.kill_at
                self._set_kill_timer(known)
        self._adopting = False
        for replica in self._replicas.values():
            if replica.kill_at is not None and time.time() > replica.kill_at + KILL_AGAIN_S:
                self._kill(replica.id)
        return [self._shown(replica) for replica in self._replicas.values()]

    async def start(self, plan: ReplicaPlan) -> ObservedReplica:
        """A third of a second. An image that is not here is fetched meanwhile: ImagePendingError."""
        if plan.name in self._replicas:
            return self._shown(self._replicas[plan.name])
        await self._require_image(plan)
        gpus = (await self._look_at_node()).gpus if plan.spec.gpu_count else ()
        if plan.spec.secrets:
            raise BackendError(
                f"secrets ({', '.join(plan.spec.secrets)}) are kept by a Swarm: this cluster runs on one engine without"
            )
        one, adopted = await self._engine.run(lambda api: self._containers.start(api, plan, gpus))
        replica = _Replica(one.id, replace(self._observed(one), adopted=adopted), one.labels, one.kill_at)
        self._keep(replica)
        return self._shown(replica)

    async def stop(self, name: ReplicaName, *, grace_s: float) -> None:
        """SIGTERM now, SIGKILL later; the container's name says when, for the next scheduler."""
        replica = self._replicas.get(name)
        if replica is None:
            return
        kill_at = time.time() + grace_s
        if replica.kill_at is not None and replica.kill_at <= kill_at:
            return
        # First the word, then the note of it: one that the engine did not take is said again.
        await self._engine.run(lambda api: self._containers.tell_to_drain(api, replica.id, name, kill_at))
        replica.kill_at = kill_at
        self._set_kill_timer(replica)

    async def take_exits(self) -> list[ReplicaExit]:
        """Removes the containers; called by the acting scheduler alone."""
        return [self._exit(one) for one in await self._engine.run(self._containers.bury)]

    def _exit(self, one: Buried) -> ReplicaExit:
        name = one.found.labels[container.REPLICA]
        known = self._ended.pop(one.found.id, None)
        if known is None and name in self._replicas and self._replicas[name].id == one.found.id:
            # It ended since the last look; what it held is free now.
            known = self._replicas.pop(name)
            self._let_go(known)
        observed = known.observed if known is not None else self._observed(one.found)
        return ReplicaExit(
            replica=replace(observed, stopping=one.found.kill_at is not None),
            code=one.code,
            cause=one.cause,
            log_tail=one.tail.lines,
            found_dead=known is None and one.found.created_at < self._opened_at,
        )

    async def log_tail(self, name: ReplicaName) -> tuple[str, ...]:
        """From the container's log."""
        replica = self._replicas.get(name)
        if replica is None:
            return ()
        try:
            return (await self._engine.run(lambda api: read_tail(api, replica.id))).lines
        except BackendError:
            return ()

    async def nodes(self) -> list[NodeStatus]:
        """The engine's machine."""
        node = await self._look_at_node()
        labels = [replica.labels for replica in self._replicas.values()]
        return [
            replace(
                node,
                cpus_used=sum(float(one.get(container.CPU) or 0) for one in labels),
                memory_used_bytes=sum(int(one.get(container.MEMORY) or 0) for one in labels),
                gpus_used=tuple(sorted(gpu for one in self._replicas.values() for gpu in one.observed.gpus)),
                replicas=len(labels),
            )
        ]

    async def stop_all(self, *, grace_s: float) -> int:
        """Also what an earlier scheduler left, and the network if it is ours."""
        names = {replica.name for replica in await self.observe()}
        for name in names:
            await self.stop(name, grace_s=grace_s)
        deadline = asyncio.get_running_loop().time() + grace_s + 10.0
        # For those alone: a scheduler that still acts may start others meanwhile.
        while names & {replica.name for replica in await self.observe()}:
            if asyncio.get_running_loop().time() > deadline:
                break
            await asyncio.sleep(POLL_S)  # a one-shot at the end of a cluster: nothing else waits for this loop
        await self.take_exits()
        await self._engine.run(self._containers.remove_rest)
        return len(names)

    def close(self) -> None:
        """Let go of everything; the replicas live on."""
        for replica in self._replicas.values():
            self._let_go(replica)
        self._replicas.clear()

    # --- the life of one replica, on the event loop

    def _keep(self, replica: _Replica) -> None:
        self._replicas[replica.observed.name] = replica
        if replica.kill_at is not None:
            self._set_kill_timer(replica)

    def _shown(self, replica: _Replica) -> ObservedReplica:
        return replace(replica.observed, stopping=replica.kill_at is not None)

    def _observed(self, one: Found) -> ObservedReplica:
        labels = one.labels
        return ObservedReplica(
            name=ReplicaName(labels[container.REPLICA]),
            function=labels[container.FUNCTION],
            uid=labels[container.UID],
            generation=int(labels[container.GENERATION]),
            digest=labels[container.DIGEST],
            ordinal=int(labels[container.ORDINAL]),
            address=f"{one.ip}:{labels[container.PORT]}",
            started_at=one.created_at,
            grace_s=container.grace_of(labels),
            stopping=one.kill_at is not None,
            adopted=self._adopting,
            gpus=one.gpus,
        )

    def _let_go(self, replica: _Replica) -> None:
        if replica.kill_timer is not None:
            replica.kill_timer.cancel()

    def _set_kill_timer(self, replica: _Replica) -> None:
        self._let_go(replica)
        left_s = max(0.0, (replica.kill_at or 0.0) - time.time())
        loop = asyncio.get_running_loop()
        replica.kill_timer = loop.call_later(left_s, self._kill, replica.id)

    def _kill(self, container_id: str) -> None:
        self._engine.run_later(lambda api: kill(api, container_id))

    async def _require_image(self, plan: ReplicaPlan) -> None:
        image = plan.spec.image
        if parse_bundle_reference(image) is not None:
            raise ImageNotFoundError(
                f"{image} is a bundle, and this cluster runs functions as containers: "
                "run `dcf function build --backend docker`, then deploy"
            )
        labels = await self._engine.run(lambda api: image_labels(api, image))
        if labels is None:
            progress = self._fetcher.fetch(image, plan.spec.registry_auth)
            raise ImagePendingError(f"image {image} is being fetched: {progress}")
        if labels.get(FORMAT_LABEL) != FORMAT:
            raise ImageNotFoundError(
                f"image {image} is no function of this release's kind (label {FORMAT_LABEL}="
                f"{labels.get(FORMAT_LABEL, '')!r}, expected {FORMAT!r}): run `dcf function build`, then deploy"
            )

    async def _look_at_node(self) -> NodeStatus:
        now = time.monotonic()
        if self._node is None or now - self._node_at > INFO_S:
            info = await self._engine.run(lambda api: api.info())
            advertised = _advertised_gpus(info)
            gpus = await asyncio.to_thread(find_gpus, self._gpus_setting, advertised)
            self._node = NodeStatus(
                name=str(info.get("Name", "")),
                ready=True,
                cpus=float(info.get("NCPU", 0)),
                memory_bytes=int(info.get("MemTotal", 0)),
                gpus=gpus,
            )
            self._node_at = now
        return self._node


def _advertised_gpus(info: Mapping[str, Any]) -> list[str]:
    """What the daemon was told of in `node-generic-resources`."""
    found: Iterable[Mapping[str, Any]] = info.get("GenericResources") or []
    named = [one["NamedResourceSpec"] for one in found if "NamedResourceSpec" in one]
    return [one["Value"] for one in named if "gpu" in str(one.get("Kind", "")).lower()]


@asynccontextmanager
async def open_docker_backend(
    *, cluster: str, network: str, gpus: str, environ: Mapping[str, str], on_change: Callable[[], None]
) -> AsyncIterator[DockerBackend]:
    """A backend for the block; its replicas live on afterwards."""
    engine = DockerEngine(environ)
    fetcher = ImageFetcher(environ, on_change)
    backend = DockerBackend(engine, fetcher, Containers(cluster, network), gpus=gpus)
    filters = {"type": "container", "label": f"{container.CLUSTER}={cluster}", "event": ["die", "oom", "destroy"]}
    try:
        async with engine.listening(filters, on_change):
            yield backend
    finally:
        backend.close()
        fetcher.close()
        engine.close()
