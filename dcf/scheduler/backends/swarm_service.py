"""Write a function as a Swarm service, whole.

In:   a spec, the cluster, the network's id, what the API of the engine can.
Out:  the JSON of `POST /services/create` and `/services/{id}/update`.
Pure: no I/O. The SDK's own rendering is not used: it adds fields that were
not there, and Swarm takes that for a change and restarts every replica.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dcf.domain.function import FunctionSpec
from dcf.domain.image import PIDS_LIMIT, SHM_BYTES, STOP_SIGNAL, WATCHER_PORT
from dcf.domain.names import ReplicaName
from dcf.scheduler.backends import container
from dcf.scheduler.backends.contract import ReplicaPlan
from dcf.scheduler.reconciler import START_MARGIN_S

MAX_NAME = 63
"""Of a service: it is a DNS label."""
ID_DIGITS = 5
"""Of the task's id in a replica's name: with its slot, enough to tell it from every earlier one."""
SPREAD = "spread="
"""A constraint that begins so is a preference: `spread=node.labels.rack`."""
GPU_KIND = "NVIDIA-GPU"
"""What Docker's and NVIDIA's manuals call the resource; where the nodes say something else, that is asked for."""

STATE_FILE = "/tmp/dcf-state.json"
HEALTH_CHECK = ("CMD", "/opt/dcf/bin/python3", "-I", "-S", "/opt/dcf/health.py")
PROBE_S = 2.0
"""Between two looks. On engines before API 1.44 it is also how long a new replica waits for its first."""
LATER_PROBE_S = 10.0
"""Where the first looks have a rhythm of their own: one costs the node about as much CPU as a call."""
FIRST_PROBE_S = 0.5
PROBE_TIMEOUT_S = 30.0
"""Generous: on a node that is short of CPU a look takes seconds, and three that fail end the replica."""
RETRIES = 3
RESTART_DELAY_S = 2.0
"""Swarm's own back-off is this constant: a replica that cannot start costs a start each 2 s."""
MONITOR_S = 3.0
"""A new replica that ends within it after being healthy fails the update too; what comes later is no update's fault."""
ANCHOR_DELAY_S = 30.0
"""A node that cannot fetch the image is asked again as rarely."""
_SLEEP = (
    "/opt/dcf/bin/python3", "-I", "-S", "-c",
    "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit()); signal.pause()",
)  # fmt: skip
LOG_OPTIONS = {"max-size": "8m", "max-file": "2"}

_NO_NEW_PRIVILEGES_API = (1, 44)
_START_INTERVAL_API = (1, 44)
_TMPFS_OPTIONS_API = (1, 46)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServicePlace:
    """Where a service is made, and what of it only Swarm knows."""

    cluster: str
    network_id: str
    api: tuple[int, int] = (1, 41)
    """Version of the engine's API."""
    gpu_kind: str = GPU_KIND
    secret_ids: Mapping[str, str] = field(default_factory=dict)
    """By name, all of the spec's."""
    force_update: int = 0
    """The counter of the service as it is: `docker service update --force` counts it, and it must not go back."""


def service_name(cluster: str, function: str) -> str:
    """What `docker service ls` shows; a name that is too long is cut, and a digest tells it from its like."""
    name = f"{cluster}_{function}"
    if len(name) <= MAX_NAME:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{name[: MAX_NAME - len(digest) - 1].rstrip('-_')}_{digest}"


def anchor_spec(cluster: str, network_id: str, image: str, *, force_update: int = 0) -> dict[str, Any]:
    """A service that sleeps on every node, so that none leaves or joins the network while GPUs are in use.

    Swarm rejects a task with a generic resource, also one that runs, whenever its node's record changes while the
    resource is there: its check is the wrong way round (ConstraintEnforcer, seen in 20.10). The first task of a network
    on a node changes that record, so a GPU's own task never gets there; behind an anchor it does.
    """
    return {
        "Name": anchor_name(cluster),
        "Labels": {container.CLUSTER: cluster},
        "TaskTemplate": {
            "ContainerSpec": {
                "Image": image,
                "Command": list(_SLEEP),
                "ReadOnly": True,
                "CapabilityDrop": ["ALL"],
                "StopGracePeriod": _ns(1),
                "HealthCheck": {"Test": ["NONE"]},
            },
            "Resources": {"Limits": {"Pids": 16, "MemoryBytes": 64 * 1024**2}},
            "RestartPolicy": {"Condition": "any", "Delay": _ns(ANCHOR_DELAY_S)},
            "Networks": [{"Target": network_id}],
            "ForceUpdate": force_update,
        },
        "Mode": {"Global": {}},
        "EndpointSpec": {"Mode": "dnsrr"},
    }


def anchor_name(cluster: str) -> str:
    """No function's service is called so: theirs have an underscore."""
    return f"{cluster}-anchor"


def task_replica_name(function: str, generation: int, slot: int, task_id: str) -> ReplicaName:
    """The name of a task's replica; `_replica_template` makes the same inside its container."""
    return ReplicaName(f"{function}-g{generation}-{slot}-{task_id[:ID_DIGITS]}")


def service_spec(spec: FunctionSpec, place: ServicePlace) -> dict[str, Any]:
    """The whole ServiceSpec."""
    plan = ReplicaPlan(spec=spec, ordinal=0)
    labels = container.function_labels(spec, place.cluster, grace_s=plan.grace_s)
    constraints = [one for one in spec.constraints if not one.startswith(SPREAD)]
    spreads = [one.removeprefix(SPREAD) for one in spec.constraints if one.startswith(SPREAD)]
    return {
        "Name": service_name(place.cluster, spec.name),
        "Labels": labels,
        "TaskTemplate": {
            "ContainerSpec": _container_spec(spec, place, labels, grace_s=plan.grace_s),
            "Resources": _resources(spec, place.gpu_kind),
            "RestartPolicy": {"Condition": "any", "Delay": _ns(RESTART_DELAY_S)},
            "Placement": {
                "Constraints": constraints,
                "Preferences": [{"Spread": {"SpreadDescriptor": one}} for one in spreads],
            },
            "Networks": [{"Target": place.network_id}],
            "LogDriver": {"Name": "json-file", "Options": LOG_OPTIONS},
            "ForceUpdate": place.force_update,
            "Runtime": "container",
        },
        "Mode": {"Replicated": {"Replicas": spec.desired}},
        "UpdateConfig": _update_config(spec, failure_action="rollback"),
        # What cannot be rolled back either stays as it is; the old replicas that are left go on.
        "RollbackConfig": _update_config(spec, failure_action="pause"),
        "EndpointSpec": {"Mode": "dnsrr"},
    }


def _container_spec(
    spec: FunctionSpec, place: ServicePlace, labels: Mapping[str, str], *, grace_s: float
) -> dict[str, Any]:
    made: dict[str, Any] = {
        "Image": spec.image,
        "Labels": dict(labels),
        "Hostname": f"{spec.name.replace('_', '-')[:50].rstrip('-')}-{{{{.Task.Slot}}}}",
        "Env": _environment(spec),
        "ReadOnly": True,
        "Mounts": [_tmpfs("/tmp", place.api), _tmpfs("/dev/shm", place.api, size=SHM_BYTES)],
        "CapabilityDrop": ["ALL"],
        "StopSignal": STOP_SIGNAL,
        "StopGracePeriod": _ns(grace_s),
        "HealthCheck": _health_check(spec, place.api),
    }
    if place.api >= _NO_NEW_PRIVILEGES_API:
        made["Privileges"] = {"NoNewPrivileges": True}
    if spec.secrets:
        made["Secrets"] = [
            {
                "File": {"Name": name, "UID": "0", "GID": "0", "Mode": 0o444},
                "SecretID": place.secret_ids[name],
                "SecretName": name,
            }
            for name in spec.secrets
        ]
    return made


def _environment(spec: FunctionSpec) -> list[str]:
    """Swarm expands Go templates in all of it, so what the user wrote is written as one that yields it."""
    given = container.container_environment(spec, replica="", port=WATCHER_PORT)
    fixed = [one.replace("{{", '{{"{{"}}') for one in given if not one.startswith("DCF_REPLICA=")]
    return [*fixed, f"DCF_REPLICA={_replica_template(spec)}", f"DCF_STATE_FILE={STATE_FILE}"]


def _replica_template(spec: FunctionSpec) -> str:
    return f'{spec.name}-g{spec.generation}-{{{{.Task.Slot}}}}-{{{{printf "%.{ID_DIGITS}s" .Task.ID}}}}'


def _tmpfs(target: str, api: tuple[int, int], *, size: int = 0) -> dict[str, Any]:
    options: dict[str, Any] = {"Mode": 0o1777}
    if size:
        options["SizeBytes"] = size
    if api >= _TMPFS_OPTIONS_API:
        # For what compiles kernels at run time; older engines always mount with noexec.
        options["Options"] = [["exec"]]
    return {"Type": "tmpfs", "Target": target, "TmpfsOptions": options}


def _health_check(spec: FunctionSpec, api: tuple[int, int]) -> dict[str, Any]:
    check: dict[str, Any] = {
        "Test": list(HEALTH_CHECK),
        "Interval": _ns(PROBE_S),
        "Timeout": _ns(PROBE_TIMEOUT_S),
        # The watcher itself ends when its handler does not load in time.
        "StartPeriod": _ns(spec.start_timeout_s + START_MARGIN_S),
        "Retries": RETRIES,
    }
    if api >= _START_INTERVAL_API:
        check |= {"Interval": _ns(LATER_PROBE_S), "StartInterval": _ns(FIRST_PROBE_S)}
    return check


def _resources(spec: FunctionSpec, gpu_kind: str) -> dict[str, Any]:
    amounts = container.Limits.of(spec)
    limits: dict[str, Any] = {"Pids": PIDS_LIMIT}
    if amounts.cpus is not None:
        limits["NanoCPUs"] = _ns(amounts.cpus)
    if amounts.memory_bytes is not None:
        limits["MemoryBytes"] = amounts.memory_bytes
    reserved: dict[str, Any] = {}
    if amounts.cpus_reserved is not None:
        reserved["NanoCPUs"] = _ns(amounts.cpus_reserved)
    if amounts.memory_reserved_bytes is not None:
        reserved["MemoryBytes"] = amounts.memory_reserved_bytes
    if spec.gpu_count:
        # A service takes no device requests: a GPU is a resource that the node's administrator has named.
        wanted = {"Kind": gpu_kind, "Value": spec.gpu_count}
        reserved["GenericResources"] = [{"DiscreteResourceSpec": wanted}]
    return {"Limits": limits, "Reservations": reserved}


def _update_config(spec: FunctionSpec, *, failure_action: str) -> dict[str, Any]:
    return {
        "Parallelism": 1,
        "FailureAction": failure_action,
        "Monitor": _ns(MONITOR_S),
        "MaxFailureRatio": 0,
        # With the new one first an update would wait for a GPU that only the old one can give back.
        "Order": "stop-first" if spec.gpu_count else "start-first",
    }


def _ns(seconds: float) -> int:
    """Nanoseconds, the API's unit of time; and its unit of CPUs, a thousand-millionth."""
    return round(seconds * 1e9)
