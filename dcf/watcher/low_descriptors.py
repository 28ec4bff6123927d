"""Hand sockets to a worker under low numbers.

Node.js marks what it inherits close-on-exec at its start, and can do so at no other
time: all numbers up to 15, and from there to the first gap. A socket under a higher
number would go on to every program that a handler starts.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from dcf.errors import ConfigError

LIMIT = 16
_FIRST = 3


class LowDescriptors:
    """Two numbers below LIMIT that nothing else uses. Made before anything opens many; touched by one event loop."""

    def __init__(self) -> None:
        self._null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        self.numbers = tuple(fcntl.fcntl(self._null, fcntl.F_DUPFD_CLOEXEC, _FIRST) for _ in range(2))
        self._lock = asyncio.Lock()
        if max(self.numbers) >= LIMIT:
            self.close()
            raise ConfigError(
                f"the watcher was started with all descriptors below {LIMIT} open: close what it inherits"
            )

    @asynccontextmanager
    async def lent_to(self, data: int, control: int) -> AsyncIterator[tuple[int, ...]]:
        """For the block, which starts a process, the numbers are copies of the two descriptors; for one at a time."""
        async with self._lock:
            for descriptor, number in zip((data, control), self.numbers, strict=True):
                os.dup2(descriptor, number, inheritable=False)
            try:
                yield self.numbers
            finally:
                for number in self.numbers:
                    os.dup2(self._null, number, inheritable=False)

    def close(self) -> None:
        """Give them back."""
        for number in (*self.numbers, self._null):
            os.close(number)
