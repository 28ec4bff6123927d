"""Serve HTTP and gRPC on one port.

A gRPC connection begins with the HTTP/2 preface. By that the listener hands
each to the protocol that it is for, which then owns the transport.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from dcf.errors import ConfigError
from dcf.gateway.trusted_peers import TrustedPeers
from dcf.rpc.first_bytes import FirstBytes, hand_over
from dcf.rpc.grpc_server import GrpcServer
from dcf.rpc.http2 import PREFACE

UNSENT_BYTES = 128 * 1024
"""Kept by the kernel for a connection beyond what its peer has taken. By default that grows to some MiB, which a
reader that stalls would hold, and which its stream would be busy filling."""
SILENT_S = 30
"""A peer whose machine was switched off breaks no connection by itself: it is asked after this, and gone after as long
again without an answer."""
_TCP_NOTSENT_LOWAT = 25
"""Linux's number; Python 3.11 has no name for it."""


class _Connection(FirstBytes):
    """Of a client, of which nothing is known yet."""

    def __init__(self, listener: Listener) -> None:
        super().__init__()
        self._listener = listener

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if sys.platform == "linux" and (sock := transport.get_extra_info("socket")):
            sock.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, UNSENT_BYTES)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, SILENT_S)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, SILENT_S // 3)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
        super().connection_made(transport)

    def decide(self, transport: asyncio.Transport, data: bytes) -> bool:
        if len(data) < len(PREFACE) and PREFACE.startswith(data):
            return False
        if data.startswith(PREFACE):
            server = self._listener.grpc.of(transport.get_extra_info("peername"))
            hand_over(transport, server.connection(), data)
        else:
            hand_over(transport, self._listener.http_protocol(), data)
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpcServers:
    """Which gRPC server answers a connection."""

    trusted: GrpcServer
    others: GrpcServer
    """Of those that may call functions and manage nothing; the same where `who` is everybody."""
    who: TrustedPeers

    def of(self, peer: object) -> GrpcServer:
        """The one for a peer; `peer` is what the transport says of it."""
        host = peer[0] if isinstance(peer, tuple) else None
        return self.trusted if self.who.include(host) else self.others


class Listener:
    """Touched only by the event loop of the gateway."""

    def __init__(self, http_protocol: Callable[[], asyncio.Protocol], grpc: GrpcServers) -> None:
        self.http_protocol = http_protocol
        self.grpc = grpc


@asynccontextmanager
async def open_listener(listener: Listener, *, host: str, port: int, descriptor: int | None) -> AsyncIterator[None]:
    """Accept connections for the life of the block; those that are open stay.

    Args:
        descriptor: a listening socket that the parent made; else one is made on host and port.
    """
    if descriptor is not None:
        sock = socket.socket(fileno=descriptor)
        sock.setblocking(False)
    else:
        sock = _listen(host, port)
    server = await asyncio.get_running_loop().create_server(lambda: _Connection(listener), sock=sock)
    try:
        yield
    finally:
        # Not wait_closed(): open connections end in their own time, while their servers drain.
        server.close()


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise ConfigError(f"DCF_LISTEN={host}:{port}: cannot listen there: {error.strerror}") from error
