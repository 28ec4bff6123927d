"""Make, find, end and bury the containers of one cluster on one engine.

In:   plans, container ids; the SDK's client, in the thread that it belongs to.
Out:  Found: a container as the engine has it now; the ends of those that are no more.
It remembers nothing: what it says is what the engine says.
"""

from __future__ import annotations

import contextlib
import logging
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import docker.errors
from docker.types import DeviceRequest

from dcf.domain.function import replica_digest
from dcf.domain.image import CONFINEMENT, STOP_SIGNAL
from dcf.domain.names import ReplicaName
from dcf.errors import BackendConflictError, BackendError
from dcf.scheduler.backends import container
from dcf.scheduler.backends.contract import ReplicaPlan
from dcf.scheduler.backends.docker_engine import Api
from dcf.scheduler.backends.gpu_ledger import choose_gpus
from dcf.scheduler.backends.log_lines import TAIL_LINES, LogTail, read_lines

log = logging.getLogger(__name__)

UNFINISHED_AFTER_S = 60.0
"""A container that was made and not started belongs to a start under way, or to one that was killed."""
ENDED = frozenset({"exited", "dead"})
_DRAINING = re.compile(r"\.until-(?P<at>\d+)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One container of ours."""

    id: str
    name: str
    state: str
    """As Docker calls it: created, running, paused, restarting, removing, exited, dead."""
    created_at: float
    labels: Mapping[str, str] = field(default_factory=dict)
    ip: str = ""
    """On the cluster's network; "" where it is on it no more."""

    @property
    def kill_at(self) -> float | None:
        """When its grace ends; None where it was not told to drain."""
        found = _DRAINING.search(self.name)
        return int(found["at"]) / 1000 if found else None

    @property
    def gpus(self) -> tuple[str, ...]:
        """Devices that it was given."""
        return tuple(gpu for gpu in self.labels.get(container.GPUS, "").split(",") if gpu)


@dataclass(frozen=True, slots=True, kw_only=True)
class Buried:
    """One that ended, and what it left to say."""

    found: Found
    code: int | None
    """Exit status, negative for a signal."""
    cause: str
    tail: LogTail


class Containers:
    """Touched only by the engine's thread."""

    def __init__(self, cluster: str, network: str) -> None:
        self._cluster = cluster
        self._network = network

    def find(self, api: Api) -> list[Found]:
        """All replicas of the cluster, in whatever state."""
        ours = {"label": [f"{container.CLUSTER}={self._cluster}", container.REPLICA]}
        return [self._read(one) for one in api.containers(all=True, filters=ours)]

    def start(self, api: Api, plan: ReplicaPlan, gpus: Sequence[str]) -> tuple[Found, bool]:
        """The container, and whether somebody else had made this very replica already.

        Args:
            gpus: all of the machine; the plan's share is chosen of those that no container of any cluster holds.

        Raises:
            CapacityError, BackendConflictError, BackendError
        """
        chosen = choose_gpus(gpus, self._gpu_holders(api), plan.spec.gpu_count)
        self._make_network(api)
        name = self._name(plan.name)
        try:
            made = api.create_container_from_config(self._config(api, plan, chosen), name)
        except docker.errors.APIError as error:
            if error.status_code != 409:
                raise
            return self._adopt(api, plan, name), True
        try:
            api.start(made["Id"])
        except BaseException:
            remove(api, made["Id"])
            raise
        return self._inspect(api, made["Id"]), False

    def tell_to_drain(self, api: Api, container_id: str, name: ReplicaName, kill_at: float) -> None:
        """SIGTERM; the container's name says from now on when its grace ends."""
        with contextlib.suppress(docker.errors.APIError):  # it has ended; or it keeps its name, and drains all the same
            api.rename(container_id, f"{self._name(name)}.until-{kill_at * 1000:.0f}")
        with _if_it_is_there():
            api.kill(container_id, STOP_SIGNAL)

    def bury(self, api: Api) -> list[Buried]:
        """Read the last words of those that ended, and remove them; what a killed start left goes too."""
        buried = []
        for one in self.find(api):
            if one.state == "created" and time.time() - one.created_at > UNFINISHED_AFTER_S:
                remove(api, one.id)
            elif one.state in ENDED:
                try:
                    buried.append(self._bury(api, one))
                except docker.errors.APIError as error:
                    # Somebody removes it, or could not: the others have their ends to tell all the same.
                    log.debug("container could not be buried", extra={"container": one.name, "error": str(error)})
        return buried

    def remove_rest(self, api: Api) -> None:
        """At the end of a cluster: whatever does not run, and the network if it is ours and empty."""
        for one in self.find(api):
            if one.state != "running":
                remove(api, one.id)
        with contextlib.suppress(docker.errors.APIError):  # others are in it, or it is gone
            facts = api.inspect_network(self._network)
            if (facts.get("Labels") or {}).get(container.CLUSTER) == self._cluster:
                api.remove_network(self._network)

    def _name(self, name: ReplicaName) -> str:
        return f"{self._cluster}-{name}"

    def _read(self, one: Mapping[str, Any]) -> Found:
        networks = (one.get("NetworkSettings") or {}).get("Networks") or {}
        return Found(
            id=one["Id"],
            name=one["Names"][0].lstrip("/") if one.get("Names") else "",
            state=one["State"],
            created_at=float(one["Created"]),
            labels=one["Labels"],
            ip=(networks.get(self._network) or {}).get("IPAddress", ""),
        )

    def _inspect(self, api: Api, container_id: str) -> Found:
        [one] = api.containers(all=True, filters={"id": container_id})
        found = self._read(one)
        if not found.ip:
            # Its end is told, with its cause, by whoever buries it.
            raise BackendConflictError(f"container {found.name} ended as soon as it was started")
        return found

    def _adopt(self, api: Api, plan: ReplicaPlan, name: str) -> Found:
        """The container of that name, if it is this replica and runs; else it is in the way and goes."""
        facts = api.inspect_container(name)
        labels = facts["Config"]["Labels"] or {}
        if labels.get(container.CLUSTER) != self._cluster:
            raise BackendError(f"a container named {name} is there, and is not of this cluster: remove or rename it")
        if facts["State"]["Status"] == "running" and labels.get(container.DIGEST) == replica_digest(plan.spec):
            return self._inspect(api, facts["Id"])
        remove(api, facts["Id"])
        raise BackendConflictError(f"a container named {name} of an earlier start was in the way, and is removed now")

    def _gpu_holders(self, api: Api) -> dict[str, tuple[str, ...]]:
        """By name: what all containers hold that are not ended, paused ones and other clusters' too."""
        holders = {}
        for one in api.containers(all=True, filters={"label": [container.GPUS]}):
            found = self._read(one)
            if found.gpus and found.state not in ENDED:
                ours = found.labels.get(container.CLUSTER) == self._cluster
                holders[found.labels[container.REPLICA] if ours else found.name] = found.gpus
        return holders

    def _config(self, api: Api, plan: ReplicaPlan, gpus: tuple[str, ...]) -> dict[str, Any]:
        spec, limits = plan.spec, container.Limits.of(plan.spec)
        # Another port for every start: addresses of containers are given out again, and must not be taken for them.
        port = 20_000 + secrets.randbelow(40_000)
        host = api.create_host_config(
            **CONFINEMENT,
            network_mode=self._network,
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
            labels=container.function_labels(spec, self._cluster, grace_s=plan.grace_s)
            | {
                container.REPLICA: plan.name,
                container.ORDINAL: str(plan.ordinal),
                container.PORT: str(port),
                container.GPUS: ",".join(gpus),
            },
            environment=container.container_environment(spec, replica=plan.name, port=port, gpus=gpus),
            hostname=plan.name.replace("_", "-")[:63].rstrip("-"),
            host_config=host,
            stop_signal=STOP_SIGNAL,
            networking_config=api.create_networking_config({self._network: api.create_endpoint_config()}),
        )
        return config

    def _make_network(self, api: Api) -> None:
        try:
            api.inspect_network(self._network)
        except docker.errors.NotFound:
            with contextlib.suppress(docker.errors.APIError):  # another scheduler was faster
                api.create_network(
                    self._network, driver="bridge", check_duplicate=True, labels={container.CLUSTER: self._cluster}
                )

    def _bury(self, api: Api, one: Found) -> Buried:
        state = api.inspect_container(one.id)["State"]
        # A dead one, which the engine failed to remove, has no log to read.
        tail = read_tail(api, one.id) if one.state != "dead" else read_lines((), ())
        remove(api, one.id)
        code = state.get("ExitCode")
        cause = container.explain_exit(
            code,
            out_of_memory=bool(state.get("OOMKilled")),
            limit=one.labels.get(container.MEMORY, ""),
            said=state.get("Error") or tail.said,
        )
        # Docker's 128 + n for a signal, as the process backend says it.
        signed = 128 - code if code is not None and code > 128 else code
        return Buried(found=one, code=signed, cause=cause, tail=tail)


def kill(api: Api, container_id: str) -> None:
    """SIGKILL to all of it."""
    with _if_it_is_there():
        api.kill(container_id, "SIGKILL")


def remove(api: Api, container_id: str) -> None:
    """Whatever state it is in."""
    with contextlib.suppress(docker.errors.APIError):  # it is not paused, or gone
        api.unpause(container_id)
    with contextlib.suppress(docker.errors.APIError):  # somebody else is removing it
        api.remove_container(container_id, force=True, v=True)


def read_tail(api: Api, container_id: str) -> LogTail:
    """Its last lines."""

    def lines(*, stdout: bool) -> list[str]:
        text = api.logs(container_id, stdout=stdout, stderr=not stdout, tail=TAIL_LINES)
        return str(text.decode(errors="replace")).splitlines()

    return read_lines(lines(stdout=True), lines(stdout=False))


def image_labels(api: Api, image: str) -> Mapping[str, str] | None:
    """None where the engine has no such image."""
    try:
        return (api.inspect_image(image).get("Config") or {}).get("Labels") or {}
    except docker.errors.ImageNotFound:
        return None


@contextlib.contextmanager
def _if_it_is_there() -> Any:
    """An engine says 404 or 409 of a container that has ended; anything else is worth another try."""
    try:
        yield
    except docker.errors.APIError as error:
        if error.status_code not in (404, 409):
            raise
