"""Count invocations: this process's slice, as running totals.

Counted is a call whose answer, a result or the handler's own error, was
handed to its caller. Refusals are no invocations.
"""

from __future__ import annotations

import asyncio


class Stats:
    """Touched only by the event loop of the gateway."""

    def __init__(self, slice_name: str) -> None:
        self.slice_name = slice_name
        self.changed = asyncio.Event()
        self._totals: dict[tuple[str, str], int] = {}
        self._by_uid: dict[str, int] = {}

    def resume(self, counts: dict[str, dict[str, int]]) -> None:
        """Go on from what an earlier process of this slice has stored."""
        for uid, slices in counts.items():
            if stored := slices.get(self.slice_name):
                self._by_uid[uid] = self._by_uid.get(uid, 0) + stored

    def count(self, function: str, uid: str) -> None:
        """One more invocation."""
        total = self._by_uid.get(uid, 0) + 1
        self._by_uid[uid] = total
        self._totals[function, uid] = total
        if not self.changed.is_set():
            self.changed.set()

    def total(self, uid: str) -> int:
        """Of this slice, also what is not published yet."""
        return self._by_uid.get(uid, 0)

    def take(self) -> dict[tuple[str, str], int]:
        """Totals that changed since the last take."""
        totals, self._totals = self._totals, {}
        return totals

    def give_back(self, totals: dict[tuple[str, str], int]) -> None:
        """`totals` were not stored; newer ones win."""
        self._totals = totals | self._totals
        self.changed.set()

    def forget(self, function: str, uid: str) -> None:
        """The function was deleted."""
        self._by_uid.pop(uid, None)
        self._totals.pop((function, uid), None)
