"""Look at what a connection begins with, and then hand it to whom it is for."""

from __future__ import annotations

import asyncio
from typing import cast

DECIDE_S = 30.0
"""A connection that has not said what it is by then is closed."""


class FirstBytes(asyncio.Protocol):
    """The protocol of a connection until it is decided."""

    def __init__(self) -> None:
        self._data = b""
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None

    def decide(self, transport: asyncio.Transport, data: bytes) -> bool:
        """Hand the connection over with all that came; False: more is needed to tell to whom."""
        raise NotImplementedError

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It begins."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are no subclasses
        self._timer = asyncio.get_running_loop().call_later(DECIDE_S, self._transport.abort)

    def data_received(self, data: bytes) -> None:
        """Its first bytes, or some of them."""
        self._data += data
        assert self._transport
        if self.decide(self._transport, self._data) and self._timer:
            self._timer.cancel()

    def connection_lost(self, error: Exception | None) -> None:
        """It ended before it was decided."""
        if self._timer:
            self._timer.cancel()


def hand_over(transport: asyncio.Transport, protocol: asyncio.Protocol, data: bytes) -> None:
    """Make a connection that is open another protocol's, with what came already."""
    transport.set_protocol(protocol)
    protocol.connection_made(transport)
    protocol.data_received(data)
