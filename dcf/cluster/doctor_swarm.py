"""Examine a Swarm: is it one, do its nodes stand, can they talk, is there a place for Redis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dcf.cluster.doctor import Check, missing, ok, warning
from dcf.cluster.doctor_gpu import KIND, Named, advertised_gpus
from dcf.cluster.doctor_host import can_connect
from dcf.cluster.engine import EngineFacts, ask_nodes, try_overlay
from dcf.errors import BackendUnavailableError

REDIS_LABEL = "dcf.redis"
GOSSIP_PORT = 7946
CONNECT_S = 1.0
PORTS = "TCP 2377, TCP and UDP 7946, UDP 4789"
IPVS = Path("/proc/net/ip_vs")
Node = Mapping[str, Any]


def check_swarm(engine: EngineFacts, environ: Mapping[str, str]) -> list[Check]:
    """Of a manager all; of another node that it is none."""
    state = check_membership(engine)
    checks = [state]
    if engine.is_manager:
        try:
            nodes = ask_nodes(environ)
        except BackendUnavailableError as error:
            mend = "bring back a majority of the managers, or docker swarm init --force-new-cluster on one"
            return [*checks, missing("swarm nodes", f"the Swarm does not answer: {error}", mend, backend="swarm")]
        checks += [check_nodes(nodes), check_managers(nodes), check_redis_place(nodes), check_talk(engine, nodes)]
        checks += check_gpus(nodes)
        checks.append(check_overlay(try_overlay(environ)))
        checks.append(check_ipvs(exists=IPVS.exists()))
    return checks


def check_membership(engine: EngineFacts) -> Check:
    """Active, and a manager."""
    state = str(engine.swarm.get("LocalNodeState") or "inactive")
    if state == "inactive":
        mend = "make one: docker swarm init (--advertise-addr ADDRESS where the machine has several)"
        return missing("swarm", "this engine is in no Swarm", mend, backend="swarm")
    if state != "active":
        why = str(engine.swarm.get("Error") or "")
        mend = "docker swarm unlock where it is locked; else look at the engine's log"
        return missing("swarm", f"{state}{f': {why}' if why else ''}", mend, backend="swarm")
    if not engine.is_manager:
        where = ", ".join(str(one.get("Addr")) for one in engine.swarm.get("RemoteManagers") or [])
        mend = f"run this on a manager ({where}), or docker node promote this node there"
        return missing("swarm", "this node is a worker", mend, backend="swarm")
    return ok("swarm", f"active, manager {engine.swarm.get('NodeAddr', '')}", backend="swarm")


def check_nodes(nodes: Sequence[Node]) -> Check:
    """All ready, all take work."""
    off = [f"{name_of(node)} is {node['Status']['State']}" for node in nodes if node["Status"]["State"] != "ready"]
    idle = [
        f"{name_of(node)} is set to {node['Spec']['Availability']}"
        for node in nodes
        if node["Spec"].get("Availability") != "active"
    ]
    if off or idle:
        mend = "docker node ls; docker node update --availability active NODE, or docker node rm NODE where it is gone"
        return warning("swarm nodes", "; ".join([*off, *idle]), mend, backend="swarm")
    return ok("swarm nodes", f"{len(nodes)} ready: {', '.join(sorted(map(name_of, nodes)))}", backend="swarm")


def check_managers(nodes: Sequence[Node]) -> Check:
    """How many may be lost."""
    managers = [node for node in nodes if node["Spec"].get("Role") == "manager"]
    number = len(managers)
    if number % 2 == 0:
        mend = "docker node promote one more, or demote one: an even number bears no more losses than one less"
        return warning("swarm managers", f"{number} managers", mend, backend="swarm")
    lost = (number - 1) // 2
    return ok("swarm managers", f"{number}, of which {lost} may be lost", backend="swarm")


def check_redis_place(nodes: Sequence[Node]) -> Check:
    """The label that keeps Redis with its volume."""
    marked = [name_of(node) for node in nodes if (node["Spec"].get("Labels") or {}).get(REDIS_LABEL) == "true"]
    if not marked:
        mend = (
            f"`dcf up --backend swarm` marks this node; by hand: docker node update --label-add {REDIS_LABEL}=true NODE"
        )
        return warning("place for Redis", f"no node has the label {REDIS_LABEL}=true", mend, backend="swarm")
    if len(marked) > 1:
        mend = f"docker node update --label-rm {REDIS_LABEL} NODE for all but the one that has the volume"
        return warning("place for Redis", f"several nodes: {', '.join(sorted(marked))}", mend, backend="swarm")
    return ok("place for Redis", marked[0], backend="swarm")


def check_talk(engine: EngineFacts, nodes: Sequence[Node]) -> Check:
    """Whether the others are reached at the port of their gossip; UDP cannot be seen from here."""
    own = str(engine.swarm.get("NodeAddr") or "")
    others = {name_of(node): str(node["Status"].get("Addr") or "") for node in nodes}
    others = {name: address for name, address in others.items() if address and address != own}
    deaf = [
        f"{name} ({address})" for name, address in others.items() if not can_connect(address, GOSSIP_PORT, CONNECT_S)
    ]
    mend = f"open {PORTS} between all nodes"
    if deaf:
        return warning(
            "ports between nodes", f"TCP {GOSSIP_PORT} is closed at {', '.join(deaf)}", mend, backend="swarm"
        )
    if others:
        return ok("ports between nodes", f"TCP {GOSSIP_PORT} is open; {PORTS} must be", backend="swarm")
    return ok("ports between nodes", f"one node; more need {PORTS} open between them", backend="swarm")


def check_overlay(problem: str) -> Check:
    """An attachable overlay network, made and removed."""
    if problem:
        mend = "look at the engine's log; where address ranges meet: docker swarm init --default-addr-pool RANGE"
        return missing("overlay network", f"cannot be made: {problem}", mend, backend="swarm")
    return ok("overlay network", "can be made", backend="swarm")


def check_gpus(nodes: Sequence[Node]) -> list[Check]:
    """What the nodes say of their GPUs; whether their runtime is set up, only doctor on each of them sees."""
    found: dict[str, Named] = {
        name_of(node): advertised_gpus(node["Description"].get("Resources") or {}) for node in nodes
    }
    found = {name: kinds for name, kinds in found.items() if kinds}
    if not found:
        return []
    name = "gpus of nodes"
    odd = {node: kind for node, kinds in found.items() for kind in kinds if kind != KIND}
    if odd:
        text = ", ".join(f"{node} calls them {kind}" for node, kind in sorted(odd.items()))
        mend = f"call them {KIND} in node-generic-resources, or functions that ask for {KIND} get none"
        return [warning(name, text, mend, backend="swarm")]
    ids = [gpu for kinds in found.values() for values in kinds.values() for gpu in values]
    twice = sorted({gpu for gpu in ids if ids.count(gpu) > 1})
    if twice:
        mend = "each node lists its own, as nvidia-smi -L prints them there"
        return [warning(name, f"more than one node lists {', '.join(twice)}", mend, backend="swarm")]
    text = "; ".join(f"{node}: {', '.join(kinds[KIND])}" for node, kinds in sorted(found.items()))
    return [ok(name, f"{text} (dcf doctor on each says whether they are set up)", backend="swarm")]


def check_ipvs(*, exists: bool) -> Check:
    """Nothing of ours needs it; other people's stacks on the same Swarm may."""
    text = "in the kernel" if exists else "not in the kernel: DCF's services do without (dnsrr, host mode)"
    return ok("IPVS", text, backend="swarm")


def name_of(node: Node) -> str:
    """Its host name."""
    return str(node["Description"]["Hostname"])
