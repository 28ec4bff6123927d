"""Listen for gateways and everybody else on one address.

A connection that our gateways open begins in a way of its own: it is one stream.
Any other is the gRPC server's.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from dcf.errors import ConfigError
from dcf.rpc.first_bytes import FirstBytes, hand_over
from dcf.rpc.grpc_server import GrpcServer
from dcf.rpc.grpc_stream import is_ours
from dcf.rpc.http2 import PREFACE

BACKLOG = 128


class Listener:
    """Touched only by the event loop of the watcher."""

    def __init__(self, make_stream: Callable[[], asyncio.Protocol], grpc: GrpcServer) -> None:
        """`make_stream`: makes the protocol of a gateway's connection."""
        self.make_stream = make_stream
        self.grpc = grpc


class _Connection(FirstBytes):
    """Of a gateway, or of anybody else."""

    def __init__(self, listener: Listener) -> None:
        super().__init__()
        self._listener = listener

    def decide(self, transport: asyncio.Transport, data: bytes) -> bool:
        ours = is_ours(data)
        if ours is None:
            return False
        if ours:
            hand_over(transport, self._listener.make_stream(), data[len(PREFACE) :])
        else:
            hand_over(transport, self._listener.grpc.connection(), data)
        return True


@asynccontextmanager
async def open_listener(listener: Listener, listen: str) -> AsyncIterator[None]:
    """Accept connections for the life of the block. Raises ConfigError where that cannot be."""
    try:
        sock = _listen(listen)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"DCF_LISTEN={listen!r}: cannot listen there: {reason}") from error
    loop = asyncio.get_running_loop()
    serve = loop.create_unix_server if sock.family is socket.AF_UNIX else loop.create_server
    server = await serve(lambda: _Connection(listener), sock=sock)
    try:
        yield
    finally:
        server.close()


def _listen(listen: str) -> socket.socket:
    if listen.startswith("unix:"):
        path = listen.removeprefix("unix:")
        # A socket file of a killed predecessor would be in the way.
        Path(path).unlink(missing_ok=True)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.bind(path)
            sock.listen(BACKLOG)
            sock.setblocking(False)
        except BaseException:
            sock.close()
            raise
        return sock
    host, _, port = listen.rpartition(":")
    host = host.strip("[]")
    return socket.create_server(
        (host, int(port)), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=BACKLOG
    )
