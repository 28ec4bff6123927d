"""Count invocations: this process's slice, as running totals.

An invocation is a call that the function answered: with a result, with its
own error, or with the first chunk of a stream. Refusals are none; they are
counted among the ends, by their status.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from dcf.domain.stats import DURATION_S, CallTotals, Totals


class Stats:
    """Touched only by the event loop of the gateway."""

    def __init__(self, slice_name: str) -> None:
        self.slice_name = slice_name
        self.changed = asyncio.Event()
        self._by_uid: dict[str, CallTotals] = {}
        self._unpublished: dict[str, str] = {}
        """uid -> function."""

    def resume(self, counts: Mapping[str, Mapping[str, Totals]]) -> None:
        """Go on from what an earlier process of this slice has stored."""
        for uid, slices in counts.items():
            if stored := slices.get(self.slice_name):
                self._of(uid).add(stored)

    def count(self, function: str, uid: str, wait_s: float, batch: int) -> None:
        """One more invocation; see CallTotals.count."""
        self._touch(function, uid).count(wait_s, batch)

    def count_end(self, function: str, uid: str, code: int, seconds: float) -> None:
        """A call ended, however it did; see CallTotals.count_end."""
        self._touch(function, uid).count_end(code, seconds)

    def count_cold_start(self, function: str, uid: str, seconds: float) -> None:
        """The first of the calls that were held has its answer."""
        self._touch(function, uid).cold_start.observe(seconds)

    def ended(self, uid: str) -> tuple[int, ...]:
        """Calls of this slice by how long they took: the buckets of DURATION_S."""
        found = self._by_uid.get(uid)
        return tuple(found.seconds.counts) if found else (0,) * len(DURATION_S)

    def _touch(self, function: str, uid: str) -> CallTotals:
        totals = self._by_uid.get(uid)
        if totals is None:
            totals = self._of(uid)
        self._unpublished[uid] = function
        if not self.changed.is_set():
            self.changed.set()
        return totals

    def _of(self, uid: str) -> CallTotals:
        return self._by_uid.setdefault(uid, CallTotals.empty())

    def totals(self, uid: str) -> Totals:
        """Of this slice, also what is not published yet."""
        found = self._by_uid.get(uid)
        return found.totals() if found else {}

    def take(self) -> dict[tuple[str, str], Totals]:
        """Totals that changed since the last take."""
        changed, self._unpublished = self._unpublished, {}
        return {(function, uid): self._by_uid[uid].totals() for uid, function in changed.items()}

    def give_back(self, totals: Mapping[tuple[str, str], Totals]) -> None:
        """`totals` were not stored; newer ones win."""
        for function, uid in totals:
            if uid in self._by_uid:
                self._unpublished[uid] = function
        self.changed.set()

    def forget(self, uid: str) -> None:
        """The function was deleted."""
        self._by_uid.pop(uid, None)
        self._unpublished.pop(uid, None)
