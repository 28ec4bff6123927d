"""Replicas as containers of one Docker engine.

In:   plans; images, networks and containers of the engine, known by labels.
Out:  containers that outlive the scheduler and are adopted by the next one.
All that must be remembered is in the engine: labels, and for a replica that
drains the end of its grace in the container's name, the one thing of it that
can still be changed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import docker.errors
from docker.types import DeviceRequest

from dcf.domain.function import replica_digest
from dcf.domain.image import FORMAT, FORMAT_LABEL, PIDS_LIMIT, SHM_BYTES, STOP_SIGNAL, TMP_OPTIONS
from dcf.domain.names import ReplicaName, parse_bundle_reference
from dcf.domain.status import NodeStatus
from dcf.errors import BackendConflictError, BackendError, ImageNotFoundError, ImagePendingError
from dcf.scheduler.backends import container
from dcf.scheduler.backends.contract import ObservedReplica, ReplicaExit, ReplicaPlan
from dcf.scheduler.backends.docker_engine import Api, DockerEngine
from dcf.scheduler.backends.gpu_ledger import choose_gpus
from dcf.scheduler.backends.gpu_source import find_gpus
from dcf.scheduler.backends.image_fetcher import ImageFetcher
from dcf.scheduler.backends.log_lines import TAIL_LINES, LogTail, read_lines

log = logging.getLogger(__name__)

UNFINISHED_AFTER_S = 60.0
"""A container that was made and not started belongs to a start under way, or to one that was killed."""
INFO_S = 60.0
"""Machines do not grow; GPUs are looked for as rarely."""
POLL_S = 0.05
_DRAINING = re.compile(r"\.until-(?P<at>\d+)$")


@dataclass(slots=True)
class _Replica:
    """Touched only by the event loop of the scheduler."""

    id: str
    observed: ObservedReplica
    labels: Mapping[str, str]
    kill_at: float | None
    kill_timer: asyncio.TimerHandle | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """One container of ours, as the engine lists it."""

    id: str
    name: str
    state: str
    created_at: float
    labels: Mapping[str, str] = field(default_factory=dict)
    ip: str = ""

    @property
    def kill_at(self) -> float | None:
        found = _DRAINING.search(self.name)
        return int(found["at"]) / 1000 if found else None


class DockerBackend:
    """The ReplicaBackend of one engine. Touched only by the event loop of the scheduler."""

    def __init__(
        self,
        engine: DockerEngine,
        fetcher: ImageFetcher,
        *,
        cluster: str,
        network: str,
        gpus: str,
        on_change: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._fetcher = fetcher
        self._cluster = cluster
        self._network = network
        self._gpus_setting = gpus
        self._on_change = on_change
        self._replicas: dict[str, _Replica] = {}
        self._adopting = True
        self._node: NodeStatus | None = None
        self._node_at = 0.0
        self._ended: dict[str, _Replica] = {}
        """By container id: seen to be gone, and not buried yet."""

    async def observe(self) -> list[ObservedReplica]:
        """One question to the engine; also finds what an earlier scheduler started."""
        seen = await self._engine.run(self._list)
        running = {one.labels.get(container.REPLICA, ""): one for one in seen if one.state == "running" and one.ip}
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
        return [self._shown(replica) for replica in self._replicas.values()]

    async def start(self, plan: ReplicaPlan) -> ObservedReplica:
        """A third of a second. An image that is not here is fetched meanwhile: ImagePendingError."""
        if plan.name in self._replicas:
            return self._shown(self._replicas[plan.name])
        await self._require_image(plan)
        gpus: tuple[str, ...] = ()
        if plan.spec.gpu_count:
            node = await self._look_at_node()
            held = {name: one.observed.gpus for name, one in self._replicas.items()}
            gpus = choose_gpus(node.gpus, held, plan.spec.gpu_count)
        if plan.spec.secrets:
            raise BackendError(
                f"secrets ({', '.join(plan.spec.secrets)}) are kept by a Swarm: this cluster runs on one engine without"
            )
        one, adopted = await self._engine.run(lambda api: self._create(api, plan, gpus))
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
        replica.kill_at = kill_at
        self._set_kill_timer(replica)
        await self._engine.run(lambda api: self._tell_to_drain(api, replica.id, name, kill_at))

    async def take_exits(self) -> list[ReplicaExit]:
        """Removes the containers; called by the acting scheduler alone."""
        ended = await self._engine.run(self._bury_all)
        for container_id, exit_ in ended:
            # It may have ended since the last look; what it held is free now.
            known = self._replicas.get(exit_.replica.name)
            if known is not None and known.id == container_id:
                self._let_go(self._replicas.pop(exit_.replica.name))
        return [exit_ for _, exit_ in ended]

    async def log_tail(self, name: ReplicaName) -> tuple[str, ...]:
        """From the container's log."""
        replica = self._replicas.get(name)
        if replica is None:
            return ()
        try:
            return (await self._engine.run(lambda api: _read_tail(api, replica.id))).lines
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
        names = [replica.name for replica in await self.observe()]
        for name in names:
            await self.stop(name, grace_s=grace_s)
        deadline = asyncio.get_running_loop().time() + grace_s + 10.0
        while await self.observe() and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(POLL_S)  # a one-shot at the end of a cluster: nothing else waits for this loop
        await self.take_exits()
        await self._engine.run(self._remove_network)
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

    def _observed(self, one: _Seen) -> ObservedReplica:
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
            gpus=tuple(gpu for gpu in labels.get(container.GPUS, "").split(",") if gpu),
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
        self._engine.run_later(lambda api: _kill(api, container_id))

    async def _require_image(self, plan: ReplicaPlan) -> None:
        image = plan.spec.image
        if parse_bundle_reference(image) is not None:
            raise ImageNotFoundError(
                f"{image} is a bundle, and this cluster runs functions as containers: "
                "run `dcf function build --backend docker`, then deploy"
            )
        labels = await self._engine.run(lambda api: _image_labels(api, image))
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

    # --- in the engine's thread

    def _list(self, api: Api) -> list[_Seen]:
        ours = {"label": [f"{container.CLUSTER}={self._cluster}", container.REPLICA]}
        seen = []
        for one in api.containers(all=True, filters=ours):
            networks = (one.get("NetworkSettings") or {}).get("Networks") or {}
            seen.append(
                _Seen(
                    id=one["Id"],
                    name=one["Names"][0].lstrip("/") if one.get("Names") else "",
                    state=one["State"],
                    created_at=float(one["Created"]),
                    labels=one["Labels"],
                    ip=(networks.get(self._network) or {}).get("IPAddress", ""),
                )
            )
        return seen

    def _container_name(self, name: ReplicaName) -> str:
        return f"{self._cluster}-{name}"

    def _create(self, api: Api, plan: ReplicaPlan, gpus: tuple[str, ...]) -> tuple[_Seen, bool]:
        """The container, and whether somebody else had made this very replica already."""
        self._make_network(api)
        name = self._container_name(plan.name)
        arguments = self._arguments(plan, gpus)
        try:
            made = api.create_container_from_config(arguments(api), name)
        except docker.errors.APIError as error:
            if error.status_code != 409:
                raise
            return self._adopt(api, plan, name)
        try:
            api.start(made["Id"])
        except BaseException:
            with contextlib.suppress(docker.errors.APIError):
                api.remove_container(made["Id"], force=True, v=True)
            raise
        return self._inspect(api, made["Id"]), False

    def _adopt(self, api: Api, plan: ReplicaPlan, name: str) -> tuple[_Seen, bool]:
        """The container of that name, if it is this replica and runs; else it is in the way and goes."""
        facts = api.inspect_container(name)
        labels = facts["Config"]["Labels"] or {}
        if labels.get(container.CLUSTER) != self._cluster:
            raise BackendError(f"a container named {name} is there, and is not of this cluster: remove or rename it")
        if facts["State"]["Running"] and labels.get(container.DIGEST) == replica_digest(plan.spec):
            return self._inspect(api, facts["Id"]), True
        api.remove_container(facts["Id"], force=True, v=True)
        raise BackendConflictError(f"a container named {name} of an earlier start was in the way, and is removed now")

    def _inspect(self, api: Api, container_id: str) -> _Seen:
        facts = api.inspect_container(container_id)
        networks = facts["NetworkSettings"]["Networks"] or {}
        return _Seen(
            id=facts["Id"],
            name=facts["Name"].lstrip("/"),
            state=facts["State"]["Status"],
            created_at=time.time(),
            labels=facts["Config"]["Labels"],
            ip=(networks.get(self._network) or {}).get("IPAddress", ""),
        )

    def _arguments(self, plan: ReplicaPlan, gpus: tuple[str, ...]) -> Callable[[Api], dict[str, Any]]:
        spec, limits = plan.spec, container.Limits.of(plan.spec)
        # Another port for every start: addresses of containers are given out again, and must not be taken for them.
        port = 20_000 + secrets.randbelow(40_000)
        labels = container.function_labels(spec, self._cluster, grace_s=plan.grace_s) | {
            container.REPLICA: plan.name,
            container.ORDINAL: str(plan.ordinal),
            container.PORT: str(port),
            container.GPUS: ",".join(gpus),
        }

        def arguments(api: Api) -> dict[str, Any]:
            host = api.create_host_config(
                network_mode=self._network,
                read_only=True,
                tmpfs={"/tmp": TMP_OPTIONS},
                security_opt=["no-new-privileges"],
                cap_drop=["ALL"],
                pids_limit=PIDS_LIMIT,
                shm_size=SHM_BYTES,
                mem_limit=limits.memory_bytes,
                memswap_limit=limits.memory_bytes,
                mem_reservation=limits.memory_reserved_bytes,
                nano_cpus=round(limits.cpus * 1e9) if limits.cpus else None,
                restart_policy={"Name": "no"},
                log_config={"type": "json-file", "config": {"max-size": "8m", "max-file": "2"}},
                device_requests=[DeviceRequest(device_ids=list(gpus), capabilities=[["gpu"]])] if gpus else None,
            )
            config: dict[str, Any] = api.create_container_config(
                image=spec.image,
                command=None,
                labels=labels,
                environment=container.container_environment(spec, replica=plan.name, port=port, gpus=gpus),
                hostname=_hostname(plan.name),
                host_config=host,
                stop_signal=STOP_SIGNAL,
                networking_config=api.create_networking_config({self._network: api.create_endpoint_config()}),
            )
            return config

        return arguments

    def _make_network(self, api: Api) -> None:
        try:
            api.inspect_network(self._network)
        except docker.errors.NotFound:
            with contextlib.suppress(docker.errors.APIError):  # another scheduler was faster
                api.create_network(
                    self._network, driver="bridge", check_duplicate=True, labels={container.CLUSTER: self._cluster}
                )

    def _remove_network(self, api: Api) -> None:
        with contextlib.suppress(docker.errors.APIError):  # others are in it, or it is gone
            facts = api.inspect_network(self._network)
            if (facts.get("Labels") or {}).get(container.CLUSTER) == self._cluster:
                api.remove_network(self._network)

    def _tell_to_drain(self, api: Api, container_id: str, name: ReplicaName, kill_at: float) -> None:
        with contextlib.suppress(docker.errors.APIError):  # it has just ended by itself
            api.rename(container_id, f"{self._container_name(name)}.until-{kill_at * 1000:.0f}")
            api.kill(container_id, STOP_SIGNAL)

    def _bury_all(self, api: Api) -> list[tuple[str, ReplicaExit]]:
        exits = []
        for one in self._list(api):
            if one.state == "created" and time.time() - one.created_at > UNFINISHED_AFTER_S:
                _remove(api, one.id)
            elif one.state in {"exited", "dead"}:
                try:
                    exits.append((one.id, self._bury(api, one)))
                except docker.errors.APIError as error:
                    # Somebody removes it, or could not: the others have their ends to tell all the same.
                    log.debug("container could not be buried", extra={"container": one.name, "error": str(error)})
        return exits

    def _bury(self, api: Api, one: _Seen) -> ReplicaExit:
        state = api.inspect_container(one.id)["State"]
        tail = _read_tail(api, one.id)
        _remove(api, one.id)
        known = self._ended.pop(one.id, None) or self._replicas.get(one.labels[container.REPLICA])
        observed = known.observed if known is not None and known.id == one.id else self._observed(one)
        code = state.get("ExitCode")
        cause = container.explain_exit(
            code,
            out_of_memory=bool(state.get("OOMKilled")),
            limit=one.labels.get(container.MEMORY, ""),
            said=state.get("Error") or tail.said,
        )
        observed = replace(observed, stopping=one.kill_at is not None)
        return ReplicaExit(replica=observed, code=_signed(code), cause=cause, log_tail=tail.lines)


def _signed(code: int | None) -> int | None:
    """Docker's 128 + n for a signal, as the process backend says it."""
    return 128 - code if code is not None and code > 128 else code


def _hostname(name: str) -> str:
    return name.replace("_", "-")[:63].rstrip("-")


def _kill(api: Api, container_id: str) -> None:
    with contextlib.suppress(docker.errors.APIError):  # it has ended
        api.kill(container_id, "SIGKILL")


def _remove(api: Api, container_id: str) -> None:
    with contextlib.suppress(docker.errors.APIError):  # somebody else is removing it
        api.remove_container(container_id, force=True, v=True)


def _read_tail(api: Api, container_id: str) -> LogTail:
    def lines(*, stdout: bool) -> list[str]:
        text = api.logs(container_id, stdout=stdout, stderr=not stdout, tail=TAIL_LINES)
        return str(text.decode(errors="replace")).splitlines()

    return read_lines(lines(stdout=True), lines(stdout=False))


def _image_labels(api: Api, image: str) -> Mapping[str, str] | None:
    """None where the engine has no such image."""
    try:
        return (api.inspect_image(image).get("Config") or {}).get("Labels") or {}
    except docker.errors.ImageNotFound:
        return None


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
    backend = DockerBackend(engine, fetcher, cluster=cluster, network=network, gpus=gpus, on_change=on_change)
    filters = {"type": "container", "label": f"{container.CLUSTER}={cluster}", "event": ["die", "oom", "destroy"]}
    try:
        async with engine.listening(filters, on_change):
            yield backend
    finally:
        backend.close()
        fetcher.close()
        engine.close()
