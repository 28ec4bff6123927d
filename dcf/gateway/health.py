"""What a gateway process says about itself."""

from __future__ import annotations

import asyncio


class Health:
    """Live as long as it answers; ready once the store was read, until it stops."""

    def __init__(self, synced: asyncio.Event, stopping: asyncio.Event) -> None:
        self._synced = synced
        self._stopping = stopping

    def not_ready(self) -> str:
        """Why it is not ready; "" when it is."""
        if self._stopping.is_set():
            return "the gateway is stopping"
        if not self._synced.is_set():
            return "the store has not been read yet"
        return ""
