"""That this gateway process stops, and how long its calls still have."""

from __future__ import annotations

import asyncio
import time


class Stopping(asyncio.Event):
    """Set once. One limit for all servers of the process, counted from that moment."""

    def __init__(self, drain_s: float) -> None:
        super().__init__()
        self._drain_s = drain_s
        self._end_at: float | None = None

    def set(self) -> None:
        """From now on nothing new is taken."""
        if self._end_at is None:
            self._end_at = time.monotonic() + self._drain_s
        super().set()

    def left_s(self) -> float:
        """Until what is in flight is cut off, >= 0; all of it before the stop."""
        return self._drain_s if self._end_at is None else max(0.0, self._end_at - time.monotonic())
