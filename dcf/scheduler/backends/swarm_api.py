"""Ask a Swarm's manager, and write to it, through one engine.

In:   service specs as JSON, versions, ids.
Out:  a Picture; services as they are written; errors in our words. The
      overlay network that replicas are on.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import docker.errors
from docker.utils import convert_filters

from dcf.errors import BackendConflictError, BackendError, BackendUnavailableError
from dcf.scheduler.backends import container
from dcf.scheduler.backends.docker_engine import Api, DockerEngine, Work
from dcf.scheduler.backends.log_lines import TAIL_LINES, LogTail, read_lines, split_streams
from dcf.scheduler.backends.swarm_picture import Picture, Service, read_picture
from dcf.scheduler.backends.swarm_service import anchor_name, anchor_spec

T = TypeVar("T")

_NO_LEADER = ("does not have a leader", "code = Unavailable", "DeadlineExceeded")
NO_TAIL = LogTail(lines=(), last_own="", last_stderr="")


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What must be asked before a service can be written."""

    network_id: str
    api: tuple[int, int]
    """Version of the engine's API."""
    secret_ids: Mapping[str, str]
    """By name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnchorTask:
    """What became of the anchor on a node."""

    state: str
    """As Swarm calls it."""
    error: str

    @property
    def rank(self) -> int:
        """Of a node's several tasks the highest counts: what runs, else what has failed, as the next will too."""
        outcomes = ("rejected", "failed", "running")
        return outcomes.index(self.state) if self.state in outcomes else -1


class SwarmApi:
    """Touched only by the event loop of the scheduler."""

    def __init__(self, engine: DockerEngine, log_engine: DockerEngine, *, cluster: str, network: str) -> None:
        self._engine = engine
        self._log_engine = log_engine
        """Of its own: the log of a node that cannot be reached never comes."""
        self._cluster = cluster
        self._network = network

    async def read(self) -> Picture:
        """Raises BackendUnavailableError."""
        try:
            return await self._ask(self._read)
        except BackendUnavailableError:
            raise
        except BackendError as error:
            raise BackendUnavailableError(f"the Swarm does not answer: {error}") from error

    async def read_tail(self, task_id: str) -> LogTail:
        """Of a task, wherever it ran; empty where it cannot be had."""

        def work(api: Api) -> bytes:
            wanted = {"stdout": "1", "stderr": "1", "tail": str(TAIL_LINES)}
            answer = api._get(api._url("/tasks/{0}/logs", task_id), params=wanted)
            api._raise_for_status(answer)
            return bytes(answer.content)

        try:
            return read_lines(*split_streams(await self._log_engine.run(work)))
        except BackendError:
            return NO_TAIL

    async def find_out(self, secrets: tuple[str, ...]) -> Findings:
        """The network is made where there is none. Raises BackendError that names a secret that is not there."""

        def work(api: Api) -> Findings:
            major, minor = str(api.api_version).split(".")[:2]
            ids = _secret_ids(api, secrets)
            return Findings(network_id=self._make_network(api), api=(int(major), int(minor)), secret_ids=ids)

        return await self._ask(work)

    async def anchor(self, image: str, network_id: str, *, auth: str) -> Mapping[str, AnchorTask]:
        """The anchor's tasks by their node; it is made where there is none (swarm_service.py says why)."""

        def work(api: Api) -> Mapping[str, AnchorTask]:
            found = self._find_anchor(api)
            if found is None:
                _post(api, "/services/create", anchor_spec(self._cluster, network_id, image), auth=auth)
                return {}
            written = _force_update(api.inspect_service(found))
            tasks: dict[str, AnchorTask] = {}
            for one in _get(api, "/tasks", filters={"service": [found]}):
                if one["Spec"].get("ForceUpdate", 0) != written:
                    continue  # what it was before it was renewed
                task = AnchorTask(state=one["Status"]["State"], error=one["Status"].get("Err", ""))
                if task.rank >= 0 or one["DesiredState"] in {"running", "ready"}:
                    node = one.get("NodeID", "")
                    tasks[node] = max(tasks.get(node, task), task, key=lambda each: each.rank)
            return tasks

        return await self._ask(work)

    async def renew_anchor(self, image: str, network_id: str, *, auth: str) -> None:
        """Give it another image, or another login: with those that it has a node could not start it."""

        def work(api: Api) -> None:
            if found := self._find_anchor(api):
                service = api.inspect_service(found)
                spec = anchor_spec(self._cluster, network_id, image, force_update=_force_update(service) + 1)
                _post(api, f"/services/{found}/update", spec, auth=auth, version=service["Version"]["Index"])

        await self._ask(work)

    async def create(self, spec: Mapping[str, Any], *, auth: str) -> None:
        """Make a service; `auth` is what the registry wants, encoded as the CLI of Docker does."""
        try:
            await self._ask(lambda api: _post(api, "/services/create", spec, auth=auth))
        except BackendError as error:
            if "name conflicts" not in str(error):
                raise
            name = spec["Name"]
            raise BackendError(
                f"a service named {name} is there, and is not of this cluster: remove it (docker service rm {name})"
            ) from error

    async def update(self, service: Service, spec: Mapping[str, Any], *, auth: str) -> None:
        """Write a service anew, if it is still as it was read. Raises BackendConflictError where it is not."""
        path = f"/services/{service.id}/update"
        try:
            await self._ask(lambda api: _post(api, path, spec, auth=auth, version=service.version))
        except BackendError as error:
            if "not found" in str(error) and service.id in str(error):
                raise BackendConflictError(f"service {spec['Name']} was removed meanwhile") from error
            raise

    async def remove(self, service: Service) -> None:
        """One that is not there is as good as removed."""

        def work(api: Api) -> None:
            with contextlib.suppress(docker.errors.NotFound):
                api.remove_service(service.id)

        await self._ask(work)

    async def remove_network(self) -> bool:
        """And the anchor in it. Whether nothing of ours is left; false while somebody is in it."""
        return await self._ask(self._remove_network)

    async def _ask(self, work: Work[T]) -> T:
        """As DockerEngine.run; an engine that is no manager is away, for it may become one."""
        try:
            return await self._engine.run(work)
        except BackendUnavailableError:
            raise
        except BackendError as error:
            if "swarm manager" in str(error):
                raise BackendUnavailableError(
                    "this engine is not a manager of a Swarm: run `docker swarm init` on it, or let the scheduler use "
                    f"a manager's engine (docker node promote makes this one a manager): {error}"
                ) from error
            if any(words in str(error) for words in _NO_LEADER):
                raise BackendUnavailableError(f"the Swarm's managers do not answer: {error}") from error
            raise

    # --- in the engine's thread

    def _read(self, api: Api) -> Picture:
        ours = {"label": [f"{container.CLUSTER}={self._cluster}"]}
        services = _get(api, "/services", filters=ours)
        # By the labels of their service, which they keep when it is removed.
        tasks = _get(api, "/tasks", filters=ours)
        return read_picture(services, tasks, _get(api, "/nodes"), network=self._network)

    def _find_anchor(self, api: Api) -> str | None:
        name = anchor_name(self._cluster)
        ids = (one["ID"] for one in _get(api, "/services", filters={"name": [name]}) if one["Spec"]["Name"] == name)
        return next(ids, None)

    def _make_network(self, api: Api) -> str:
        """Its id; it is made where there is none."""
        for attempt in ("look", "look again"):
            same = [one for one in api.networks(names=[self._network]) if one["Name"] == self._network]
            for one in same:
                if one["Driver"] == "overlay" and one["Scope"] == "swarm":
                    return str(one["Id"])
            if same:
                raise BackendError(
                    f"network {self._network} is a {same[0]['Driver']} of one engine, and replicas on many nodes need "
                    f"an overlay: remove it (docker network rm {self._network}), or set DCF_NETWORK to another name"
                )
            if attempt == "look":
                with contextlib.suppress(docker.errors.APIError):  # another scheduler was faster
                    labels = {container.CLUSTER: self._cluster}
                    api.create_network(self._network, driver="overlay", attachable=True, labels=labels)
        raise BackendError(f"the overlay network {self._network} could not be made: docker network create says why")

    def _remove_network(self, api: Api) -> bool:
        """Whether nothing of ours is left; false while somebody is in it."""
        try:
            if anchor := self._find_anchor(api):
                api.remove_service(anchor)
            for one in api.networks(names=[self._network]):
                if one["Name"] == self._network and (one.get("Labels") or {}).get(container.CLUSTER) == self._cluster:
                    api.remove_network(one["Id"])
        except docker.errors.NotFound:
            return True
        except docker.errors.APIError:
            return False
        return True


def _force_update(service: Mapping[str, Any]) -> int:
    """How often it was renewed; its tasks say of which time they are."""
    return int(service["Spec"]["TaskTemplate"].get("ForceUpdate", 0))


def _secret_ids(api: Api, names: tuple[str, ...]) -> dict[str, str]:
    if not names:
        return {}
    ids = {one["Spec"]["Name"]: one["ID"] for one in api.secrets()}
    if missing := [name for name in names if name not in ids]:
        raise BackendError(
            f"this Swarm has no secret named {', '.join(missing)}: make it with "
            f"`docker secret create {missing[0]} FILE` on a manager"
        )
    return {name: ids[name] for name in names}


def _get(api: Api, path: str, **parameters: Any) -> list[dict[str, Any]]:
    filters = {key: convert_filters(value) for key, value in parameters.items()}
    found: list[dict[str, Any]] = api._result(api._get(api._url(path), params=filters), json=True)
    return found


def _post(api: Api, path: str, spec: Mapping[str, Any], *, auth: str, version: int | None = None) -> None:
    """The spec as it is; `auth` is what the registry wants, encoded as the CLI of Docker does."""
    headers = {"X-Registry-Auth": auth} if auth else {}
    parameters = {} if version is None else {"version": version}
    answer = api._post_json(api._url(path), data=spec, params=parameters, headers=headers)
    api._raise_for_status(answer)
