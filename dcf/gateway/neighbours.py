"""Tell containers beside the gateway's own from everybody else.

In:   a peer's address; the kernel's routes, read once.
Out:  whether it is a neighbour: on one of this machine's networks, and not
      their way out. Docker shows the host, and whom it lets in through a
      published port of loopback, as that way out: the bridge itself.

A gateway that has no token because its port is published on the host's
loopback is still reached by every container on its network, functions among
them. Those may call functions, and manage nothing.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROUTES = Path("/proc/net/route")
"""IPv4 only, as the networks that Docker makes unless it is told otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbours:
    """Nobody, unless it is made from routes."""

    networks: Sequence[ipaddress.IPv4Network] = ()
    ways_out: frozenset[ipaddress.IPv4Address] = frozenset()

    @classmethod
    def from_routes(cls, text: str) -> Neighbours:
        """Read what /proc/net/route says."""
        networks, ways_out = [], set()
        for line in text.splitlines()[1:]:
            fields = line.split()
            if len(fields) < 8:
                continue
            destination, gateway, mask = (_address(fields[index]) for index in (1, 2, 7))
            if int(gateway):
                ways_out.add(gateway)
            elif int(mask):
                networks.append(ipaddress.IPv4Network((int(destination), int(mask).bit_count())))
        return cls(networks=tuple(networks), ways_out=frozenset(ways_out))

    @classmethod
    def of_this_machine(cls) -> Neighbours:
        """As the kernel has it now; a container's networks are there before its process."""
        return cls.from_routes(ROUTES.read_text())

    def include(self, peer: str | None) -> bool:
        """Whether `peer`, an IP address, is one of them; None and other addresses are not."""
        try:
            address = ipaddress.ip_address(peer or "")
        except ValueError:
            return False
        if isinstance(address, ipaddress.IPv6Address):
            mapped = address.ipv4_mapped
            if mapped is None:
                return False
            address = mapped
        return address not in self.ways_out and any(address in network for network in self.networks)


def _address(text: str) -> ipaddress.IPv4Address:
    # The kernel prints the bytes of the address as a number of this machine.
    return ipaddress.IPv4Address(struct.pack("=L", int(text, 16)))
