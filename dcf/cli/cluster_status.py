"""What `dcf status` shows: the cluster, its functions in two numbers, its nodes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcf.cli.output import Form, say, write, write_facts, write_json, write_table
from dcf.errors import DcfError, GatewayUnreachableError

if TYPE_CHECKING:
    from dcf.client import ClusterInfo, Function, Node
    from dcf.cluster.stack import StackFacts
    from dcf.cluster.state import ClusterFacts

ANSWER_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """What the gateway said."""

    info: ClusterInfo | None = None
    functions: Sequence[Function] = ()
    nodes: Sequence[Node] = ()
    trouble: str = ""
    """Why it said nothing; "" where it did."""

    @property
    def ready(self) -> int:
        """Functions whose replicas are all there."""
        return sum(function.status == "Ready" for function in self.functions)


def show_cluster(facts: ClusterFacts, folder: Path, form: Form) -> str:
    """A cluster of this machine's processes; why its gateway does not answer, "" where it does."""
    seen = _ask(facts.address)
    if form is Form.JSON:
        write_json(
            {
                "running": True,
                "address": facts.address,
                "pid": facts.pid,
                "gatewayProcesses": facts.gateway_processes,
                "backend": facts.backend,
                "cluster": facts.cluster,
                "version": facts.version,
                "startedAt": facts.started_at,
                "state": str(folder),
                "bundles": facts.bundles,
                **_json(seen),
            }
        )
        return seen.trouble
    write_facts(
        [
            ("Address", f"http://{facts.address} (HTTP and gRPC)"),
            ("Pid", str(facts.pid)),
            ("Gateways", f"{facts.gateway_processes} process{'' if facts.gateway_processes == 1 else 'es'}"),
            ("Backend", facts.backend),
            ("Network", facts.cluster if facts.backend == "docker" else ""),
            ("Version", facts.version),
            ("Since", _time(facts.started_at)),
            ("State", str(folder)),
            ("Bundles", facts.bundles if facts.backend == "process" else ""),
            ("Functions", _numbers(seen)),
        ]
    )
    _show_nodes(seen.nodes)
    return seen.trouble


def show_stack(facts: StackFacts, form: Form) -> str:
    """A cluster on a Swarm; why the gateway of this node does not answer, "" where it does."""
    import os

    from dcf.cluster.stack import list_services

    services, trouble = [], ""
    try:
        services = list_services(facts.cluster, os.environ)
    except DcfError as error:
        trouble = str(error)
    seen = _ask(facts.address)
    if form is Form.JSON:
        write_json(
            {
                "running": bool(services),
                "address": facts.address,
                "backend": "swarm",
                "cluster": facts.cluster,
                "image": facts.image,
                "version": facts.version,
                "startedAt": facts.deployed_at,
                "services": dict(services),
                **_json(seen),
            }
        )
        return seen.trouble
    if trouble:
        say(f"dcf: {trouble}")
    write_facts(
        [
            ("Address", f"http://{facts.address} and every other manager (HTTP and gRPC)"),
            ("Backend", "swarm"),
            ("Stack", facts.cluster),
            ("Services", ", ".join(f"{name} {number}" for name, number in services)),
            ("Image", facts.image),
            ("Version", facts.version),
            ("Since", _time(facts.deployed_at)),
            ("Functions", _numbers(seen)),
        ]
    )
    _show_nodes(seen.nodes)
    return seen.trouble


def show_gateway(address: str, form: Form, *, is_asked_for: bool) -> bool:
    """A cluster of which only the gateway is known; whether there is one.

    Args:
        is_asked_for: somebody named it, so that its silence is an error.

    Raises:
        DcfError: it is asked for and does not answer.
    """
    seen = _ask(address)
    if seen.info is None:
        if is_asked_for:
            raise DcfError(f"the gateway at {address} does not answer: {seen.trouble}")
        return False
    info = seen.info
    if form is Form.JSON:
        facts = {"address": address, "backend": info.backend, "cluster": info.cluster, "version": info.version}
        write_json({"running": True, **facts, **_json(seen)})
        return True
    write_facts(
        [
            ("Address", f"http://{address} (HTTP and gRPC)"),
            ("Backend", info.backend),
            ("Cluster", info.cluster),
            ("Version", info.version),
            ("Functions", _numbers(seen)),
        ]
    )
    _show_nodes(seen.nodes)
    return True


def _ask(address: str) -> _Seen:
    from dcf.cli.gateway import read_token
    from dcf.client import Client

    with Client(address, token=read_token()) as client:
        try:
            info = client.info(timeout_s=ANSWER_S)
            return _Seen(info=info, functions=client.list(), nodes=client.nodes(timeout_s=ANSWER_S))
        except GatewayUnreachableError:
            return _Seen(trouble=f"nothing answers at {address}; see its logs")
        except DcfError as error:
            return _Seen(trouble=str(error))


def _json(seen: _Seen) -> dict[str, Any]:
    from dcf.client import to_json

    return {
        "answers": not seen.trouble,
        "functions": len(seen.functions),
        "ready": seen.ready,
        "nodes": [to_json(node) for node in seen.nodes],
    }


def _numbers(seen: _Seen) -> str:
    return "" if seen.trouble else f"{len(seen.functions)}, {seen.ready} ready"


def _show_nodes(nodes: Sequence[Node]) -> None:
    """Given to replicas of what is there; a machine alone without limits has nothing to tell."""
    if not nodes:
        return
    write("")
    columns = ("NODE", "STATE", "REPLICAS", "CPUS", "MEMORY", "GPUS")
    write_table(columns, [node_row(node) for node in nodes])


def node_row(node: Node) -> tuple[str, ...]:
    """What was given to replicas, of what there is."""
    state = "ready" if node.ready else "not ready"
    gib = 1024**3
    return (
        node.name,
        f"{state} ({node.note})" if node.note else state,
        str(node.replicas),
        f"{node.cpus_used:g} of {node.cpus:g}",
        f"{node.memory_used_bytes / gib:.1f} of {node.memory_bytes / gib:.1f} GiB",
        f"{len(node.gpus_used)} of {len(node.gpus)}" if node.gpus else "0",
    )


def _time(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
