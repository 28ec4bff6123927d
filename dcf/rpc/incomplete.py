"""Keep the parts of something that is not whole yet, and join them once.

A large frame comes in many reads: joined at each of them, it would be copied as often as it has parts.
"""

from __future__ import annotations

Buffer = bytes | memoryview
"""What was read; a view where it is large, so that cutting it copies nothing."""

VIEW_BYTES = 16 * 1024
"""Over this a view earns its making."""


class Incomplete:
    """Empty, or the beginning of something."""

    __slots__ = ("_missing", "parts")

    def __init__(self) -> None:
        self.parts: list[Buffer] = []
        self._missing = 0

    def keep(self, data: Buffer, missing: int) -> None:
        """It is not whole before so many bytes more."""
        self.parts.append(data)
        self._missing = missing

    def complete(self, data: Buffer) -> bytes | None:
        """All that was kept, with `data` after it; None while there is still something missing."""
        self.parts.append(data)
        self._missing -= len(data)
        if self._missing > 0:
            return None
        whole = b"".join(self.parts)
        self.parts.clear()
        return whole
