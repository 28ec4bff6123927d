"""Pass a connection on to another server: bytes in both directions, no faster than they are taken."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import cast

from dcf.lifecycle import TaskSet

log = logging.getLogger(__name__)


class Pipe(asyncio.Protocol):
    """One end of a pipe: what arrives here is written to `other`."""

    def __init__(self, transport: asyncio.Transport | None = None, *, other: Pipe | None = None) -> None:
        self.transport = transport
        self.other = other

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is connected."""
        self.transport = cast("asyncio.Transport", transport)  # uvloop's are no subclasses

    def data_received(self, data: bytes) -> None:
        """Bytes for the other end."""
        if self.other and self.other.transport:
            self.other.transport.write(data)

    def pause_writing(self) -> None:
        """This end takes no more for now."""
        if self.other and self.other.transport:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        """It does again."""
        if self.other and self.other.transport and not self.other.transport.is_closing():
            self.other.transport.resume_reading()

    def eof_received(self) -> bool:
        """One end that closes its half closes both."""
        if self.other and self.other.transport:
            self.other.transport.close()
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """So does one that is gone."""
        if self.other and self.other.transport:
            self.other.transport.close()


class Pipes:
    """All of a process. Touched only by its event loop."""

    def __init__(self, tasks: TaskSet) -> None:
        self._tasks = tasks
        self._count = 0

    def start(self, transport: asyncio.Transport, data: bytes, name: str) -> None:
        """Take a connection over, and pass it on.

        Args:
            data: what was read from it already.
            name: of the server's Unix socket, abstract where it begins with a NUL.
        """
        front = Pipe(transport)
        transport.set_protocol(front)
        transport.pause_reading()
        # A task for each connection, not for each call; it ends within a moment.
        self._count += 1
        self._tasks.start(f"pipe-{self._count}", _connect(front, transport, data, name))


async def _connect(front: Pipe, transport: asyncio.Transport, data: bytes, name: str) -> None:
    try:
        back = await _dial(front, name)
    except OSError as error:
        log.warning("a gRPC connection could not be passed on", extra={"error": str(error)})
        transport.abort()
        return
    assert back.transport
    if transport.is_closing():
        back.transport.close()
        return
    front.other = back
    back.transport.write(data)
    transport.resume_reading()


async def _dial(front: Pipe, name: str) -> Pipe:
    # By hand, because uvloop dials no abstract address; that one is used so that a killed process leaves no file.
    loop = asyncio.get_running_loop()
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.setblocking(False)
        await loop.sock_connect(sock, name)
        # With its other end from the start: the server speaks first, and what it says must not get lost.
        _, pipe = await loop.create_unix_connection(lambda: Pipe(other=front), sock=sock)
    except BaseException:
        sock.close()
        raise
    return pipe
