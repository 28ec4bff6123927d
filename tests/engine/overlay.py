"""Let the host talk to replicas on an overlay network, as the gateways beside them do.

In:   the three engines, the network's name, the name of an image that sleeps.
Out:  a route on the host into the overlay: a container on node 1 is the door, and a cable leads from the host
      into its network namespace.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.engine.commands import run
from tests.engine.leftovers import BRIDGE
from tests.engine.three_engines import ThreeEngines

SUBNET = "10.88.0.0/24"
"""Of the overlay; nothing else on the host is called so."""
_HOST, _DOOR = "10.77.1.1", "10.77.1.2"
"""The two ends of the cable."""


@contextmanager
def reachable_overlay(engines: ThreeEngines, name: str, image: str) -> Iterator[None]:
    """The network for the length of the block; it carries no label, so no backend takes it for its own."""
    client = engines.manager
    network = client.networks.create(
        name,
        driver="overlay",
        attachable=True,
        ipam={"Driver": "default", "Config": [{"Subnet": SUBNET}]},  # type: ignore[arg-type]
    )
    try:
        door = client.containers.run(image, entrypoint=["sleep", "infinity"], network=name, detach=True)
        try:
            _lay_cable(_pid_on_host(door.id))
            yield
        finally:
            # With its namespace goes the cable, and with that the route.
            door.remove(force=True)
    finally:
        network.remove()


def _lay_cable(pid: int) -> None:
    port = f"{BRIDGE}.ov"
    run("ip", "link", "add", port, "type", "veth", "peer", "name", "host0", "netns", str(pid))
    run("ip", "address", "add", f"{_HOST}/30", "dev", port)
    run("ip", "link", "set", port, "up")
    inside = ("nsenter", f"--net=/proc/{pid}/ns/net", "--")
    run(*inside, "ip", "address", "add", f"{_DOOR}/30", "dev", "host0")
    run(*inside, "ip", "link", "set", "host0", "up")
    run(*inside, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
    # Replicas know no way back to the host: to them it is the door that calls.
    run(*inside, "iptables", "-t", "nat", "-A", "POSTROUTING", "-d", SUBNET, "-j", "MASQUERADE")
    run("ip", "route", "add", SUBNET, "via", _DOOR)


def _pid_on_host(container_id: str) -> int:
    """Its first process as the host counts; the node counts from its own first process."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if container_id in (folder / "cgroup").read_text() and (folder / "comm").read_text().strip() == "sleep":
                return int(folder.name)
    raise RuntimeError(f"no process of container {container_id} is seen on the host")
