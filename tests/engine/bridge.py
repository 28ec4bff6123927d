"""The cable between the host, the registry and the pretend machines.

In:   nothing. Out: a bridge at 10.77.0.1/24 that carries packets whatever the host's firewall says.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from tests.engine.commands import missing, run
from tests.engine.leftovers import BRIDGE, MARK, remove_bridge
from tests.engine.machine import Machine

HOST_ADDRESS = "10.77.0.1"

PROGRAMS = {"ip": "iproute2", "iptables": "iptables"}


def can_bridge() -> bool:
    """Whether this run may make a bridge here."""
    return os.geteuid() == 0 and all(shutil.which(program) for program in PROGRAMS)


@contextmanager
def bridge() -> Iterator[str]:
    """The bridge for the length of the block; gives the host's address on it."""
    if not can_bridge():
        missing(f"a bridge needs root, and the packages {sorted(PROGRAMS.values())}")
    try:
        run("ip", "link", "add", BRIDGE, "type", "bridge")
        run("ip", "address", "add", f"{HOST_ADDRESS}/24", "dev", BRIDGE)
        run("ip", "link", "set", BRIDGE, "up")
        # Docker has bridged packets pass the firewall too, and sets FORWARD to drop.
        _accept("FORWARD", "-i", BRIDGE, "-o", BRIDGE)
        _accept("INPUT", "-i", BRIDGE)
        yield HOST_ADDRESS
    finally:
        remove_bridge()


def plug_in(machine: Machine, address: str) -> None:
    """Connect a machine that is on: eth0 inside, at `address`."""
    port = port_of(machine)
    # A network whose cable was pulled outlives its machine while the kernel still sends what was in flight.
    run("ip", "link", "delete", port, check=False)
    run("ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", str(machine.pid))
    run("ip", "link", "set", port, "master", BRIDGE, "up")
    machine.run("ip", "address", "add", f"{address}/24", "dev", "eth0")
    machine.run("ip", "link", "set", "eth0", "up")


def set_cable(machine: Machine, *, connected: bool) -> None:
    """Pull the cable of a machine, or plug it in again."""
    run("ip", "link", "set", port_of(machine), "up" if connected else "down")


def port_of(machine: Machine) -> str:
    """The host's end of a machine's cable; at most 15 letters, which is Linux's limit."""
    return f"{BRIDGE}.{machine.name}"


def _accept(chain: str, *match: str) -> None:
    run("iptables", "-w", "-I", chain, *match, "-m", "comment", "--comment", MARK, "-j", "ACCEPT")
