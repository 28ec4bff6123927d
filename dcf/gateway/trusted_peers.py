"""Say whose management calls a gateway takes that has no token.

In:   a peer's address; the kernel's routes, read once.
Out:  whether it is trusted: everybody, or this host alone.

A gateway that has no token because its port is published on the host's
loopback is reached by others all the same: by every container on its network,
functions among them, and, on engines before 28, by machines that route to the
container's own address. They may call functions, and manage nothing. Docker
shows the host, and whom it lets in through a published port of loopback, as
the bridge itself, which is the container's way out.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass
from pathlib import Path

ROUTES = Path("/proc/net/route")
"""IPv4 only, as the networks that Docker makes unless it is told otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustedPeers:
    """Everybody, unless it is made from routes."""

    everybody: bool = True
    ways_out: frozenset[ipaddress.IPv4Address] = frozenset()

    @classmethod
    def from_routes(cls, text: str) -> TrustedPeers:
        """Loopback and the ways out, read from what /proc/net/route says."""
        ways_out = set()
        for line in text.splitlines()[1:]:
            fields = line.split()
            if len(fields) >= 8 and int(fields[2], 16):
                ways_out.add(_address(fields[2]))
        return cls(everybody=False, ways_out=frozenset(ways_out))

    @classmethod
    def of_this_host(cls) -> TrustedPeers:
        """As the kernel has it now; a container's networks are there before its process."""
        return cls.from_routes(ROUTES.read_text())

    def include(self, peer: str | None) -> bool:
        """Whether `peer`, an IP address, is one of them; what is no address is not, unless everybody is."""
        if self.everybody:
            return True
        try:
            address = ipaddress.ip_address(peer or "")
        except ValueError:
            return False
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return address.is_loopback or address in self.ways_out


def _address(text: str) -> ipaddress.IPv4Address:
    # The kernel prints the bytes of the address as a number of this machine.
    return ipaddress.IPv4Address(struct.pack("=L", int(text, 16)))
