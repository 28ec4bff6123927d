"""Pass a connection on to another server: bytes in both directions, no faster than they are taken."""

from __future__ import annotations

import asyncio
import socket
from typing import cast


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


def begin_pipe(transport: asyncio.Transport) -> Pipe:
    """Take a connection over; nothing is read from it until `connect_pipe`."""
    front = Pipe(transport)
    transport.set_protocol(front)
    transport.pause_reading()
    return front


async def connect_pipe(front: Pipe, data: bytes, name: str) -> None:
    """Connect it with a server.

    Args:
        data: what was read from it already.
        name: of the server's Unix socket, abstract where it begins with a NUL.

    Raises:
        OSError: nobody is there; the connection is open still.
    """
    assert front.transport
    back = await _dial(front, name)
    assert back.transport
    if front.transport.is_closing():
        back.transport.close()
        return
    front.other = back
    back.transport.write(data)
    front.transport.resume_reading()


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
